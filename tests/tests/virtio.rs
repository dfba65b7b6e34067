//! A guest without a virtual machine, against a vhost-user port of the same process.
//!
//! DPDK starts once a process, so this file has one test.

use std::time::Duration;
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{Mbuf, Mempool, MempoolConfig, Role};
use tidegate_dataplane::port::Frame;
use tidegate_tests::virtio::{RingPath, VirtioPort, cpus, start_eal};

const SOON: Duration = Duration::from_secs(5);

fn pass(pool: &Mempool, from: &mut VirtioPort, to: &mut VirtioPort, mark: u8) {
    let mut burst = Burst::new();
    for number in 0..32 {
        burst.push(Mbuf::from_bytes(pool, &[[mark; 59].as_slice(), &[number]].concat()).unwrap()).unwrap();
    }
    assert_eq!(from.send(&mut burst), 32);
    let mut seen = Vec::new();
    for _ in 0..1000 {
        to.receive(&mut burst);
        while let Some(frame) = burst.pop() {
            assert_eq!((frame.len(), frame.head()[0]), (60, mark));
            seen.push(frame.head()[59]);
        }
        if seen.len() >= 32 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(seen, (0..32).collect::<Vec<_>>());
}

#[test]
fn frames_pass_both_ways_on_both_ring_paths_and_a_closed_guest_can_come_back() {
    let eal = start_eal(128, *cpus().last().unwrap()).unwrap();
    let pool = Mempool::new(&eal, MempoolConfig::new("frames", 8191)).unwrap();
    let dir = std::env::temp_dir().join(format!("virtio-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let socket = dir.join("guest.sock");
    let spec = format!("net_vhost0,iface={}", socket.display());
    let mut vhost = VirtioPort::open(&eal, &pool, &spec, Role::Guest).unwrap();
    for rings in [RingPath::Packed, RingPath::Split, RingPath::Packed] {
        let mut guest = VirtioPort::connect(&eal, &pool, 0, &socket, rings).unwrap();
        assert!(vhost.wait_up(SOON) && guest.wait_up(SOON), "{}", rings.name());
        pass(&pool, &mut guest, &mut vhost, 0xa1);
        pass(&pool, &mut vhost, &mut guest, 0xb2);
        guest.close().unwrap();
        assert!(!vhost.is_up(), "the rings have stopped before close returns");
    }
    vhost.close().unwrap();
    assert!(!socket.exists());
    std::fs::remove_dir_all(&dir).unwrap();
}
