//! A router VM on the way of a wire: Debian's kernel bridges two NICs, and what comes from the guest's side goes through
//! sch_plug on an IFB first, as in a Remus host. A VM because the kernel of the machine may have neither.
//!
//! ```text
//! NEAR --bridge-- plug-in (tap) -- eth0 | mirred > ifb0 + plug > br0 | eth1 -- plug-out (tap) --BRIDGE
//! ```
//! All of it in one namespace: NEAR is an interface there, BRIDGE a bridge of which it was a port.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::guest_image::GuestImage;
use crate::namespace::{Namespace, OFFLOADS_OFF};
use crate::plug::Plug;
use crate::process::run;
use crate::qemu::{Guest, Plan};
use crate::scratch::Scratch;

const MEMORY_MIB: u32 = 96;
const BOOTS_WITHIN: Duration = Duration::from_secs(90);
const COMMANDS_WITHIN: Duration = Duration::from_secs(20);
/// The tap that is the router's guest side.
const INSIDE: &str = "plug-in";
/// The tap that is the router's world side: where its frames are captured.
pub const OUTSIDE: &str = "plug-out";
const NEAR_BRIDGE: &str = "br-plug";

/// What of the guest's output the router holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// All IPv4: unmodified Remus.
    All,
    /// TCP: the paper's proposal.
    Tcp,
    /// Nothing goes to the IFB.
    Nothing,
}

impl Takes {
    fn word(self) -> &'static str {
        match self {
            Takes::All => "all",
            Takes::Tcp => "tcp",
            Takes::Nothing => "nothing",
        }
    }
}

/// See the module's head. When it is dropped, the wire is as it was.
pub struct Router {
    guest: Guest,
    socket: PathBuf,
    way: Way,
    scratch: Scratch,
}

/// The taps and what they are tied to.
struct Way {
    namespace: String,
    near: String,
    bridge: String,
}

impl Router {
    /// Boots it between the interface `near` and the bridge `bridge`, and waits until it forwards.
    pub fn between(
        image: &GuestImage,
        takes: Takes,
        namespace: &Namespace,
        near: &str,
        bridge: &str,
    ) -> Result<Router> {
        let way = Way::make(namespace, near, bridge)?;
        let scratch = Scratch::new()?;
        let socket = scratch.file("plug.sock");
        let plan = Plan {
            image: image.clone(),
            memory_mib: MEMORY_MIB,
            nics: Vec::new(),
            words: format!("tg.router={}", takes.word()),
            waits: false,
        };
        let mut more = vec![
            "-chardev".to_owned(),
            format!("socket,id=plug,path={},server=on,wait=off", socket.display()),
            "-serial".to_owned(),
            "chardev:plug".to_owned(),
        ];
        for (number, tap) in [INSIDE, OUTSIDE].iter().enumerate() {
            more.extend([
                "-netdev".to_owned(),
                // Without vnet_hdr nobody leaves a checksum to the next one.
                format!("tap,id=tap{number},ifname={tap},script=no,downscript=no,vnet_hdr=off"),
                "-device".to_owned(),
                format!("virtio-net-pci,netdev=tap{number},mac=52:54:00:0a:00:0{number},romfile="),
            ]);
        }
        let guest = Guest::start_among(&plan, &scratch, "router", Some(namespace), &more)?;
        let mut router = Router { guest, socket, way, scratch };
        let deadline = Instant::now() + BOOTS_WITHIN;
        while !router.guest.ready(1)? {
            if Instant::now() > deadline {
                return Err(router
                    .guest
                    .complaint(&format!("that is the router was not ready within {BOOTS_WITHIN:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(router)
    }

    /// Its sch_plug. One at a time.
    pub fn plug(&self) -> Result<Plug> {
        let mut plug = Plug::connect(&self.socket)?;
        // What was there before is over.
        plug.pass()?;
        plug.done.clear();
        Ok(plug)
    }

    /// Holds something else from now on.
    pub fn takes(&mut self, takes: Takes) -> Result<()> {
        self.guest.command(&format!("router_takes {}", takes.word()), COMMANDS_WITHIN).map(drop)
    }

    /// Its own counters of what the plug did, as `tc` shows them.
    pub fn counters(&mut self) -> Result<String> {
        let told = self.guest.command("tc -s qdisc show dev ifb0", COMMANDS_WITHIN)?;
        Ok(told.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; "))
    }

    /// Stands still and takes no CPU until [`Router::wake`].
    pub fn sleep(&self) -> Result<()> {
        self.guest.second_monitor()?.stop()
    }

    /// Goes on.
    pub fn wake(&self) -> Result<()> {
        self.guest.second_monitor()?.resume()
    }

    /// The kernel that it runs.
    pub fn kernel(&mut self) -> Result<String> {
        Ok(self
            .guest
            .command("uname -r", COMMANDS_WITHIN)?
            .lines()
            .last()
            .unwrap_or_default()
            .trim()
            .to_owned())
    }

    /// Nobody will want to read its logs.
    pub fn passed(&mut self) {
        self.scratch.forget();
    }

    /// Its QEMU's log and serial line, for a failure.
    pub fn complaint(&self, what: &str) -> Failure {
        self.guest.complaint(what)
    }

    /// Where its taps are.
    pub fn namespace(&self) -> &str {
        &self.way.namespace
    }
}

impl Way {
    fn make(namespace: &Namespace, near: &str, bridge: &str) -> Result<Way> {
        let way =
            Way { namespace: namespace.name().to_owned(), near: near.to_owned(), bridge: bridge.to_owned() };
        // From here on it goes with the value.
        let bridged = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
        namespace.run(&format!("ip link add {NEAR_BRIDGE} {bridged}"))?;
        for tap in [INSIDE, OUTSIDE] {
            namespace.run(&format!("ip tuntap add dev {tap} mode tap"))?;
            namespace.run(&format!("ethtool -K {tap} {OFFLOADS_OFF}"))?;
        }
        for device in [NEAR_BRIDGE, INSIDE, OUTSIDE] {
            namespace.run(&format!("sysctl -q -e -w net.ipv6.conf.{device}.disable_ipv6=1"))?;
            namespace.run(&format!("ip link set {device} up"))?;
        }
        namespace.run(&format!("ip link set {OUTSIDE} master {bridge}"))?;
        namespace.run(&format!("ip link set {INSIDE} master {NEAR_BRIDGE}"))?;
        namespace.run(&format!("ip link set {near} master {NEAR_BRIDGE}"))?;
        Ok(way)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        let inside = |line: &str| run(&format!("ip netns exec {} {line}", self.namespace));
        let _ = inside(&format!("ip link set {} master {}", self.near, self.bridge));
        for device in [INSIDE, OUTSIDE, NEAR_BRIDGE] {
            let _ = inside(&format!("ip link delete {device}"));
        }
    }
}
