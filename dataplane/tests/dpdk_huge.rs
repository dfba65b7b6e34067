//! With huge pages, where the machine has any free. Run with `cargo nextest run`: one process a test.
#![cfg(feature = "dpdk")]

#[macro_use]
mod dpdk_bench;

use dpdk_bench::{frame, last_cpu, payload, until};
use tidegate_dataplane::arena::{Arena, Slice};
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{
    Eal, EalConfig, EalError, EthPort, HugeArena, Memory, Mempool, MempoolConfig, PortConfig, Role,
};
use tidegate_dataplane::port::{Frame, Port};

/// Free 2 MiB pages.
fn free_pages() -> u64 {
    let text = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    text.unwrap_or_default().trim().parse().unwrap_or(0)
}

/// KiB of huge pages that this process has touched.
fn touched() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn enough(pages: u64) -> bool {
    let there = free_pages();
    if there < pages {
        skipped!("{pages} free huge pages of 2 MiB are needed and {there} are there");
    }
    there >= pages
}

#[test]
fn a_guest_reaches_us_through_huge_pages_and_no_file_stays_behind() {
    if !enough(48) {
        return;
    }
    let eal = Eal::init(&EalConfig::new(vec![last_cpu()], Memory::Huge { mb_per_node: vec![] })).unwrap();
    let pool = Mempool::new(&eal, MempoolConfig::new("frames", 4096)).unwrap();
    assert!(touched() >= 8 << 10, "the mbufs are in huge pages");
    let path = std::env::temp_dir().join(format!("tidegate-huge-{}.sock", std::process::id()));
    let path = path.display();
    let open = |spec: &str| EthPort::open(&eal, PortConfig::new(spec, Role::Guest, pool.clone())).unwrap();
    let host = open(&format!("net_vhost0,iface={path}"));
    let guest = open(&format!("net_virtio_user0,path={path}"));
    until("the rings run", || host.rings_running());
    let (mut out, mut inside) = (host.lane_port().unwrap(), guest.lane_port().unwrap());
    let mut burst = Burst::new();
    burst.push(frame(&pool, 7, 60)).unwrap();
    assert_eq!(inside.transmit(0, &mut burst), 1);
    until("the frame", || out.receive(0, &mut burst) == 1);
    assert_eq!(payload(burst.pop().unwrap().head()), 7);
    let prefix = format!("tidegate-{}", std::process::id());
    for dir in ["/dev/hugepages", "/var/run/dpdk"] {
        let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|file| file.file_name());
        let ours: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with(&prefix)).collect();
        assert!(ours.is_empty(), "{dir}: {ours:?}");
    }
}

#[test]
fn an_arena_lives_in_huge_pages_and_is_there_before_it_is_used() {
    if !enough(2) {
        return;
    }
    let mut arena = HugeArena::new(3 << 20);
    assert!(arena.is_huge());
    assert_eq!(touched(), 4 << 10, "touched, not only promised");
    let ring = arena.slice(1 << 18, || 5u64);
    assert!(matches!(ring, Slice::Arena(_)) && ring.iter().all(|&word| word == 5));
    assert_eq!(arena.left(), 1 << 20);
    assert!(matches!(arena.slice(1 << 18, || 5u64), Slice::Heap(_)), "what does not fit");
    assert!(!HugeArena::new(1 << 40).is_huge(), "more than there is: the heap");
}

#[test]
fn without_a_free_huge_page_the_refusal_says_what_to_do() {
    // Whatever is free is taken for the time of this test.
    let taken = HugeArena::new((free_pages() as usize) << 21);
    assert_eq!(free_pages(), 0, "{} taken", taken.left());
    let refused =
        Eal::init(&EalConfig::new(vec![last_cpu()], Memory::Huge { mb_per_node: vec![] })).unwrap_err();
    assert_eq!(refused, EalError::NoHugePages);
    assert!(refused.to_string().contains("scripts/hugepages"), "{refused}");
    // DPDK was not touched, so ordinary pages are still a way out.
    Eal::init(&EalConfig::new(vec![last_cpu()], Memory::NoHuge { mb: 64 })).unwrap();
}
