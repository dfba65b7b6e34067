//! How much memory the lanes need, from which pages it comes, and on which NUMA node.

use super::{Config, Hugepages, Lane};
use std::collections::BTreeMap;
use std::path::Path;
use tidegate_dataplane::streams::DEFAULT_STREAMS;
use tidegate_devargs::Devargs;

/// Mbufs that a lane needs beside the hold queue and the descriptors: bypass is never starved (I8).
pub const BYPASS_RESERVE: u32 = 1024;
/// Mbufs that net_af_xdp puts into a queue's fill ring, whatever `rx_desc` says. Where they take the whole pool, it
/// sends nothing: it copies each frame of another pool into an mbuf of its own.
const AF_XDP_FILL: u32 = 4096;

/// What is kept of a stream and of the port it comes from, bytes.
const STREAM_BYTES: u64 = 512;

/// Bytes of a small page.
const PAGE: u64 = 4096;

/// The kind of pages that mbufs lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Of 2 MiB or 1 GiB.
    Huge,
    /// Of 4 KiB.
    Plain,
}

impl Pages {
    /// The word used in messages and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Pages::Huge => "huge",
            Pages::Plain => "plain",
        }
    }

    /// Bytes that an mbuf with a data room of `room` bytes takes in a pool.
    fn mbuf_bytes(self, room: u32) -> u64 {
        // The pool's header, the mbuf's two lines, the headroom; in an odd number of lines of 64 bytes, so that mbufs
        // spread over the channels of the memory.
        let lines = (u64::from(room) + 64 + 128 + 128).div_ceil(64) | 1;
        match self {
            // A little more, for what does not fit in at the end of a page.
            Pages::Huge => lines * 64 + 128,
            // One behind the other.
            Pages::Plain => lines * 64,
        }
    }

    /// DPDK's own rings and tables, and the fragments between the pools; bytes.
    const fn overhead(self) -> u64 {
        match self {
            Pages::Huge => 24 << 20,
            Pages::Plain => 8 << 20,
        }
    }
}

impl Lane {
    /// Mbufs of the pool that the guest port fills: what may be held, what lies in descriptors, and the
    /// reserve for bypass.
    pub fn guest_pool(&self) -> u32 {
        self.hold_frames.saturating_add(self.in_flight(&self.guest_port))
    }

    /// Mbufs of the pool that the wire port fills.
    pub fn wire_pool(&self) -> u32 {
        self.in_flight(&self.wire_port)
    }

    fn in_flight(&self, port: &str) -> u32 {
        let own = u32::from(self.rx_desc) + u32::from(self.tx_desc);
        let af_xdp = Devargs::parse(port).is_ok_and(|devargs| devargs.kind() == "af_xdp");
        let queue = own + if af_xdp { AF_XDP_FILL } else { 0 };
        u32::from(self.queues).saturating_mul(queue).saturating_add(BYPASS_RESERVE)
    }

    /// Bytes of both pools, and of the streams beyond the usual number. A port that cannot be understood is refused elsewhere.
    fn bytes(&self, pages: Pages) -> u64 {
        let mbuf = |port: &str| pages.mbuf_bytes(Devargs::parse(port).map_or(0, |d| d.data_room(self.mtu)));
        u64::from(self.guest_pool()) * mbuf(&self.guest_port)
            + u64::from(self.wire_pool()) * mbuf(&self.wire_port)
            + u64::from(self.streams.next_power_of_two()).saturating_sub(DEFAULT_STREAMS as u64)
                * STREAM_BYTES
    }
}

/// A NUMA node without enough free huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The node.
    pub node: usize,
    /// MiB that are free there.
    pub free_mb: u64,
    /// MiB that are needed there.
    pub wanted_mb: u32,
}

impl Config {
    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.guests.iter().flat_map(|guest| &guest.lanes)
    }

    /// MiB that all frames and rings take in such pages.
    pub fn needed_mb(&self, pages: Pages) -> u64 {
        let pools: u64 = self.lanes().map(|lane| lane.bytes(pages)).sum();
        (pools + pages.overhead()).div_ceil(1 << 20)
    }

    /// The pages that the plane would take on the host below `root`.
    pub fn pages(&self, root: &Path) -> Pages {
        match self.eal.hugepages {
            Hugepages::Yes => Pages::Huge,
            Hugepages::No => Pages::Plain,
            Hugepages::Auto if self.lacking(root).is_some() => Pages::Plain,
            Hugepages::Auto => Pages::Huge,
        }
    }

    /// The first node that has fewer huge pages free than its lanes need.
    pub fn lacking(&self, root: &Path) -> Option<Lack> {
        let nodes = self.mb_per_node(root).into_iter().enumerate();
        let mut lacks = nodes.map(|(node, wanted_mb)| Lack { node, free_mb: free_mb(root, node), wanted_mb });
        lacks.find(|lack| lack.free_mb < u64::from(lack.wanted_mb))
    }

    /// `eal.memory_mb` for each node, in proportion to what its lanes hold.
    pub fn mb_per_node(&self, root: &Path) -> Vec<u32> {
        let mb = u32::try_from(self.eal.memory_mb).unwrap_or(u32::MAX);
        let mut needs: BTreeMap<usize, u64> = BTreeMap::new();
        for lane in self.lanes() {
            // Pages, so that the product below stays within 64 bits.
            *needs.entry(node_of(lane.lcore, root)).or_default() += lane.bytes(Pages::Huge).div_ceil(PAGE);
        }
        let total: u64 = needs.values().sum::<u64>().max(1);
        let nodes = needs.keys().last().map_or(1, |last| last + 1);
        let share = |node: usize| needs.get(&node).unwrap_or(&0).saturating_mul(mb.into()).div_ceil(total);
        (0..nodes).map(|node| u32::try_from(share(node)).unwrap_or(mb)).collect()
    }
}

/// The NUMA node of a CPU; 0 where the kernel does not say.
pub fn node_of(cpu: usize, root: &Path) -> usize {
    let dir = root.join(format!("sys/devices/system/cpu/cpu{cpu}"));
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_prefix("node")?.parse().ok()).next().unwrap_or(0)
}

/// Free huge pages of all sizes on a node, MiB.
fn free_mb(root: &Path, node: usize) -> u64 {
    let node = root.join(format!("sys/devices/system/node/node{node}/hugepages"));
    let host = root.join("sys/kernel/mm/hugepages");
    let dir = if node.is_dir() { node } else { host };
    let sizes = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let free = sizes.filter_map(|size| {
        let name = size.file_name().to_string_lossy().into_owned();
        let kb: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = std::fs::read_to_string(size.path().join("free_hugepages")).ok()?;
        Some(pages.trim().parse::<u64>().ok()? * kb / 1024)
    });
    free.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(more: &str) -> Config {
        let text = format!(
            "[eal]\nmemory_mb = 4096\n[[guest]]\nname = \"a\"\n[[guest.lane]]\nlcore = 1\n\
             guest_port = \"net_vhost0,iface=/run/a.sock\"\n{more}\n"
        );
        Config::parse(&text, "t").expect("good")
    }

    #[test]
    fn mbufs_lie_one_behind_the_other_in_plain_pages() {
        // As DPDK 22.11 was seen to lay them out.
        assert_eq!(Pages::Plain.mbuf_bytes(2048), 2368);
        assert_eq!(Pages::Huge.mbuf_bytes(2048), 2496);
    }

    #[test]
    fn long_frames_count_with_the_room_that_their_driver_wants() {
        let of = |mtu: u16, wire: &str| {
            lane(&format!("wire_port = \"{wire}\"\nmtu = {mtu}")).needed_mb(Pages::Huge)
        };
        let packet = |mtu| of(mtu, "net_af_packet0,iface=eth1");
        // The wire's 3072 mbufs grow by 14 KiB each, the guest's do not: vhost chains.
        assert_eq!(packet(9000) - packet(1500), 3072 * 14336 / (1 << 20));
        assert_eq!(of(9000, "net_null0"), of(1500, "net_null0"));
    }
}
