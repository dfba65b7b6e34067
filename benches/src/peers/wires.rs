//! The wires of one peer: a namespace that stands for the guest, one for the world, and the device in a third between them.
//!
//! ```text
//! guest: eth0 10.9.0.2 ==veth== in0 | device | out0 ==veth== eth0 10.9.0.1 :world
//! ```
//! Each peer has its own for the whole contest: nothing that one leaves in a table meets another.

use crate::failure::{Context, Result};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tidegate_tests::namespace::{Namespace, OFFLOADS_OFF};
use tidegate_tests::process::run;
use tidegate_tests::scratch::Scratch;

/// The guest's address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The world's.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The guest's MAC address.
pub const GUEST_MAC: &str = "52:54:00:0b:00:02";
/// The world's.
pub const WORLD_MAC: &str = "52:54:00:0b:00:01";
/// The device's end of the guest's wire.
pub const IN: &str = "in0";
/// The device's end of the world's wire.
pub const OUT: &str = "out0";

/// An answer may be held for two intervals, and a switch may have to learn first.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// See the module's head.
pub struct Wires {
    /// Who sends what may be held.
    pub guest: Namespace,
    /// Where the device is.
    pub middle: Namespace,
    /// Who hears it.
    pub world: Namespace,
    /// Logs, sockets, captures.
    pub scratch: Scratch,
}

impl Wires {
    /// Makes them.
    pub fn new() -> Result<Wires> {
        let wires = Wires {
            guest: Namespace::bare()?,
            middle: Namespace::bare()?,
            world: Namespace::bare()?,
            scratch: Scratch::new()?,
        };
        for (end, address, mac, device) in
            [(&wires.guest, GUEST, GUEST_MAC, IN), (&wires.world, WORLD, WORLD_MAC, OUT)]
        {
            run(&format!(
                "ip link add eth0 netns {} address {mac} type veth peer name {device} netns {}",
                end.name(),
                wires.middle.name()
            ))
            .context(|| "cannot make a wire".into())?;
            for (namespace, interface) in [(end, "eth0"), (&wires.middle, device)] {
                wires.plain(namespace, interface)?;
                namespace.run(&format!("ip link set {interface} up"))?;
            }
            end.run(&format!("ip address add {address}/24 dev eth0"))?;
        }
        Ok(wires)
    }

    /// An interface on which the kernel has nothing of its own to say, and leaves nothing to a device that is none.
    pub fn plain(&self, namespace: &Namespace, interface: &str) -> Result<()> {
        namespace.run(&format!("sysctl -q -e -w net.ipv6.conf.{interface}.disable_ipv6=1"))?;
        namespace.run(&format!("ethtool -K {interface} {OFFLOADS_OFF}"))?;
        Ok(())
    }

    /// A bridge in the middle without ports.
    pub fn bridge(&self, name: &str) -> Result<()> {
        let kind = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
        self.middle.run(&format!("ip link add {name} {kind}"))?;
        self.middle.run(&format!("sysctl -q -e -w net.ipv6.conf.{name}.disable_ipv6=1"))?;
        self.middle.run(&format!("ip link set {name} up"))?;
        Ok(())
    }

    /// Makes an interface of the middle a port of that bridge.
    pub fn join(&self, bridge: &str, interface: &str) -> Result<()> {
        Ok(self.middle.run(&format!("ip link set {interface} master {bridge}")).map(drop)?)
    }

    /// Takes these away again, those that are there.
    pub fn remove(&self, interfaces: &[&str]) {
        for interface in interfaces {
            let _ = self.middle.run(&format!("ip link delete {interface}"));
        }
    }

    /// Waits until the guest and the world hear each other.
    pub fn answer(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let answer = self.guest.run(&format!("ping -q -c 1 -W 2 {WORLD}"));
            match answer {
                Ok(_) => return Ok(()),
                Err(_) if begin.elapsed() < ANSWERS_WITHIN => {}
                Err(_) => {
                    return Err(crate::failure::Failure::new(format!(
                        "it lets nothing through: no answer to a ping within {} s",
                        ANSWERS_WITHIN.as_secs()
                    )));
                }
            }
        }
    }

    /// Frames that the kernel counts at `eth0`: `rx_packets` or `tx_packets`.
    pub fn count(namespace: &Namespace, what: &str) -> Result<u64> {
        let text = namespace.run(&format!("cat /sys/class/net/eth0/statistics/{what}"))?;
        text.trim().parse().context(|| format!("{what} is {text:?}"))
    }
}
