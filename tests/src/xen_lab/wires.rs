//! What the emulated hosts are plugged into: the wire behind their planes, with the peers on it, and the link between them.
//!
//! ```text
//! host 0: eth1 == wire0 --+ br0  10.9.0.1: clients, sipp, captures
//! host 1: eth1 == wire1 --+
//! host 0: eth0 == link0 --+ br1  10.7.0.254: takes files
//! host 1: eth0 == link1 --+
//! ```

use std::io::Read;
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use crate::failure::{Context, Failure, Result};
use crate::namespace::{Namespace, OFFLOADS_OFF};

/// The end of the link that takes files, and the peers' address.
const FAR: &str = "10.7.0.254";
const PEER: &str = "10.9.0.1";
/// A file of a host may take so long.
const FETCHED_WITHIN: Duration = Duration::from_secs(30);

/// See the module's head.
pub struct Wires {
    /// Everything outside the hosts, and QEMU itself.
    pub outside: Namespace,
}

/// A host's address on the link.
pub fn link_address(host: usize) -> String {
    format!("10.7.0.{}", host + 1)
}

impl Wires {
    /// For so many hosts.
    pub fn new(hosts: usize) -> Result<Wires> {
        let outside = Namespace::bare()?;
        for (bridge, kind, address) in [("br0", "wire", PEER), ("br1", "link", FAR)] {
            // A fixed address: a domain that is restored knows it.
            outside.run(&format!(
                "ip link add {bridge} address 52:54:00:09:00:0{} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                if kind == "wire" { 1 } else { 9 }
            ))?;
            for host in 0..hosts {
                let tap = format!("{kind}{host}");
                outside.run(&format!("ip tuntap add {tap} mode tap"))?;
                outside.run(&format!("sysctl -q -e -w net.ipv6.conf.{tap}.disable_ipv6=1"))?;
                outside.run(&format!("ip link set {tap} master {bridge} up"))?;
            }
            outside.run(&format!("sysctl -q -e -w net.ipv6.conf.{bridge}.disable_ipv6=1"))?;
            outside.run(&format!("ethtool -K {bridge} {OFFLOADS_OFF}"))?;
            outside.run(&format!("ip link set {bridge} up"))?;
            outside.run(&format!("ip address add {address}/24 dev {bridge}"))?;
        }
        Ok(Wires { outside })
    }

    /// Takes a file that the task has a host send: it is told the command to do it with.
    pub fn fetch(&self, send: impl FnOnce(&dyn Fn(&str) -> String) -> Result<()>) -> Result<Vec<u8>> {
        let listener = self
            .outside
            .enter(|| TcpListener::bind((FAR, 0)).context(|| format!("cannot listen at {FAR}")))?;
        let port = listener.local_addr().context(|| "a listener without an address".to_owned())?.port();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let taken = listener.accept().and_then(|(mut stream, _)| {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).map(|_| bytes)
            });
            let _ = tell.send(taken);
        });
        send(&|file| format!("nc {FAR} {port} < {file}"))?;
        match told.recv_timeout(FETCHED_WITHIN) {
            Ok(taken) => taken.context(|| "cannot take a file of a host".to_owned()),
            Err(_) => Err(Failure::new(format!("a host's file did not come within {FETCHED_WITHIN:?}"))),
        }
    }
}
