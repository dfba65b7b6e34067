//! Two hosts' wires at one bridge, and the peer behind it.
//!
//! ```text
//! hosts[0]: plane A -- wire0 ==== veth ==== port0 --+   outside: br0 10.9.0.1: clients, iperf3, sipp
//!   | replicate --127.0.0.1--> standby                |
//!   across 10.7.0.1 ==== veth ==== across 10.7.0.2     |
//! hosts[1]: plane B -- wire1 ==== veth ==== port1 --+
//! ```
//! The standby is beside the primary unless the link between the hosts is what a test is about.
//! Each plane has a namespace of its own: the number by which a packet socket shares its frames (pid and interface
//! mixed) can be the same for two.
//!
//! The bridge learns addresses and speaks no spanning tree: until the promoted guest is heard, frames for it go to the
//! dead one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::failure::{Context, Result};
use crate::namespace::{Namespace, OFFLOADS_OFF};
use crate::process::run;

/// The peer's address, with its prefix.
const PEER: &str = "10.9.0.1/24";

/// The hosts' addresses on the link between them.
const LINK: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 7, 0, 1), Ipv4Addr::new(10, 7, 0, 2)];
/// Its interface in either host.
pub const LINK_PORT: &str = "across";

/// See the module's head.
pub struct Network {
    /// Where the planes run; the link of the replication is the first one's loopback, or [`LINK_PORT`].
    pub hosts: [Namespace; 2],
    /// Where the peer is.
    pub outside: Namespace,
}

/// A host's number: 0 for the one that dies, 1 for the one that takes over.
pub type Side = usize;

/// The interface that is a host's wire port, in its namespace.
pub fn wire(side: Side) -> String {
    format!("wire{side}")
}

/// The bridge's port behind that wire.
pub fn port(side: Side) -> String {
    format!("port{side}")
}

impl Network {
    /// Makes it.
    pub fn new() -> Result<Network> {
        let network =
            Network { hosts: [Namespace::bare()?, Namespace::bare()?], outside: Namespace::bare()? };
        let (hosts, outside) = (&network.hosts, &network.outside);
        // A fixed address: guests that are restored know it.
        outside.run("ip link add br0 address 52:54:00:09:00:01 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        quiet(outside, "br0")?;
        for side in [0, 1] {
            let (hosts, wire, port) = (&hosts[side], wire(side), port(side));
            run(&format!(
                "ip link add {wire} netns {} type veth peer name {port} netns {}",
                hosts.name(),
                outside.name()
            ))
            .context(|| "cannot make a wire".to_owned())?;
            for (namespace, interface) in [(hosts, &wire), (outside, &port)] {
                quiet(namespace, interface)?;
                namespace.run(&format!("ethtool -K {interface} {OFFLOADS_OFF}"))?;
                namespace.run(&format!("ip link set {interface} up"))?;
            }
            outside.run(&format!("ip link set {port} master br0"))?;
        }
        run(&format!(
            "ip link add {LINK_PORT} netns {} type veth peer name {LINK_PORT} netns {}",
            hosts[0].name(),
            hosts[1].name()
        ))
        .context(|| "cannot make the link between the hosts".to_owned())?;
        for (host, address) in hosts.iter().zip(LINK) {
            quiet(host, LINK_PORT)?;
            host.run(&format!("ip address add {address}/24 dev {LINK_PORT}"))?;
            host.run(&format!("ip link set {LINK_PORT} up"))?;
        }
        outside.run("ip link set br0 up")?;
        outside.run(&format!("ip address add {PEER} dev br0"))?;
        Ok(network)
    }

    /// A port of the first host's loopback that nobody listens at.
    pub fn free_address(&self) -> Result<SocketAddr> {
        free(&self.hosts[0], Ipv4Addr::LOCALHOST)
    }

    /// The same of the second host, on the link between them.
    pub fn free_link_address(&self) -> Result<SocketAddr> {
        free(&self.hosts[1], LINK[1])
    }

    /// Forgets where the guest was last: a new trial begins on host A.
    pub fn forget(&self) -> Result<()> {
        for side in [0, 1] {
            self.outside.run(&format!("ip link set {} type bridge_slave fdb_flush", port(side)))?;
        }
        Ok(())
    }
}

fn free(host: &Namespace, address: Ipv4Addr) -> Result<SocketAddr> {
    host.enter(move || {
        let listener = TcpListener::bind((address, 0)).context(|| format!("no port of {address} is free"))?;
        listener.local_addr().context(|| "a listener without an address".to_owned())
    })
}

/// The kernel has nothing of its own to say there.
fn quiet(namespace: &Namespace, interface: &str) -> Result<()> {
    namespace.run(&format!("sysctl -q -e -w net.ipv6.conf.{interface}.disable_ipv6=1")).map(drop)
}
