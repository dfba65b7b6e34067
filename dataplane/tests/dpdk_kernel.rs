//! Ports on the kernel's interfaces: a veth pair in a network namespace of the test's own, which ends with
//! the process. Needs root, and says so when it has not got it. Run with `cargo nextest run`.
#![cfg(feature = "dpdk")]

#[macro_use]
mod dpdk_bench;

use dpdk_bench::{Bench, frame, payload, receive_all, until};
use nix::sched::{CloneFlags, unshare};
use std::process::Command;
use std::time::{Duration, Instant};
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{
    EthPort, Mbuf, Mempool, MempoolConfig, PortBurst, PortConfig, PortError, Role, data_room_for,
};
use tidegate_dataplane::port::{Frame, Port};

/// Moves this thread, and those it starts, to a new namespace with a veth pair in it. False without root.
fn namespace(mtu: u16) -> bool {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        skipped!("a network namespace needs root: {error}");
        return false;
    }
    run(&format!("ip link add guest0 mtu {mtu} type veth peer name wire0 mtu {mtu}"));
    for name in ["guest0", "wire0"] {
        // No IPv6: the kernel would send its own frames.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        run(&format!("ip link set {name} addrgenmode none up"));
    }
    true
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let out = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
}

fn send(lane: &mut PortBurst, frames: Vec<Mbuf>) {
    for frame in frames {
        let mut burst = Burst::new();
        burst.push(frame).unwrap();
        until("room", || lane.transmit(0, &mut burst) == 1);
    }
}

fn receive(lane: &mut PortBurst, n: usize) -> Vec<Mbuf> {
    let mut got = Vec::new();
    until("frames", || {
        got.extend(receive_all(lane, 0).into_iter().filter(|frame| frame.head()[12..] != [0x86, 0xdd]));
        got.len() >= n
    });
    got
}

/// Frames of all sizes, a VLAN tag among them, both ways.
fn both_ways(pool: &Mempool, one: &EthPort, other: &EthPort, longest: usize) {
    let (mut one, mut other) = (one.lane_port().unwrap(), other.lane_port().unwrap());
    for round in 0..2 {
        for (number, len) in [(1u32, 60), (2, 1514), (3, longest)] {
            send(&mut one, vec![frame(pool, number, len)]);
            let got = receive(&mut other, 1);
            assert_eq!((payload(got[0].head()), got[0].len() as usize), (number, len), "round {round}");
        }
        let mut tagged = frame(pool, 0, 64).head().to_vec();
        tagged.splice(12..12, [0x81, 0x00, 0x20, 0x05]);
        send(&mut one, vec![Mbuf::from_bytes(pool, &tagged).unwrap()]);
        assert_eq!(receive(&mut other, 1)[0].head(), tagged, "a VLAN tag stays in the frame");
        let parts = [&tagged[..20], &tagged[20..40], &tagged[40..]];
        send(&mut one, vec![Mbuf::from_parts(pool, &parts).unwrap()]);
        assert_eq!(receive(&mut other, 1)[0].head(), tagged, "a chain goes out whole");
        std::mem::swap(&mut one, &mut other);
    }
}

#[test]
fn af_packet_carries_frames_both_ways_and_leaks_none() {
    if !namespace(1500) {
        return;
    }
    let bench = Bench::start();
    let mut guest = bench.open("net_af_packet0,iface=guest0", Role::Guest);
    let mut wire = bench.open("net_af_packet1,iface=wire0", Role::Wire);
    assert_eq!((guest.kernel_interface(), guest.driver()), (Some("guest0"), "net_af_packet"));
    assert!(!guest.is_vhost() && guest.rings_running(), "its rings do not tell");
    assert_eq!(wire.link().mbit, None, "a veth's speed means nothing");
    assert_ne!(guest.mac(), [0; 6]);
    both_ways(&bench.pool, &guest, &wire, 1514);
    guest.close().unwrap();
    wire.close().unwrap();
    assert_eq!(bench.pool.in_use(), 0);
}

#[test]
fn an_interface_is_promiscuous_for_as_long_as_its_port_is_open_unless_somebody_else_made_it_so() {
    if !namespace(1500) {
        return;
    }
    let bench = Bench::start();
    let flag = |interface: &str| {
        let out = Command::new("ip").args(["link", "show", interface]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).contains("PROMISC")
    };
    run("ip link set wire0 promisc on");
    for driver in ["net_af_packet", "net_af_xdp"] {
        for (interface, before) in [("guest0", false), ("wire0", true)] {
            let port = bench.try_open(&format!("{driver},iface={interface}"), Role::Wire);
            let Ok(mut port) = port else {
                skipped!("the part of {driver}: {}", port.unwrap_err());
                continue;
            };
            assert!(flag(interface), "{driver}: open, it receives everything");
            port.close().unwrap();
            assert_eq!(flag(interface), before, "{driver}: {interface} is as it was");
        }
    }
}

#[test]
fn af_packet_carries_jumbo_frames_when_the_pool_has_room_for_them() {
    if !namespace(9000) {
        return;
    }
    let bench = Bench::start();
    let spec = |end: &str| format!("net_af_packet,iface={end}");
    let small = PortConfig { mtu: 9000, ..PortConfig::new(&spec("wire0"), Role::Wire, bench.pool.clone()) };
    let refused = EthPort::open(&bench.eal, small).unwrap_err();
    assert!(matches!(refused, PortError::DataRoom { needs: 16384, has: 2048, .. }), "{refused:?}");
    assert!(refused.to_string().contains("data_room = 16384"), "{refused}");
    let data_room = data_room_for(&spec("wire0"), 9000).unwrap();
    let pool = MempoolConfig { data_room, ..MempoolConfig::new("jumbo", 1024) };
    let pool = Mempool::new(&bench.eal, pool).unwrap();
    let open = |end: &str, role| {
        let config = PortConfig { mtu: 9000, ..PortConfig::new(&spec(end), role, pool.clone()) };
        EthPort::open(&bench.eal, config).unwrap()
    };
    let (guest, wire) = (open("guest0", Role::Guest), open("wire0", Role::Wire));
    both_ways(&pool, &guest, &wire, 9014);
}

#[test]
fn a_guest_that_does_not_read_never_blocks_the_lcore_nor_the_end_of_the_process() {
    if !namespace(1500) {
        return;
    }
    // The kernel keeps every frame for seconds: af_packet's ring stays full and its driver blocks in poll.
    run("tc qdisc replace dev guest0 root tbf rate 64bit burst 2kb limit 100mb");
    let bench = Bench::start();
    let mut guest = bench.open("net_af_packet0,iface=guest0,qdisc_bypass=0", Role::Guest);
    let mut lane = guest.lane_port().unwrap();
    let mut burst = Burst::new();
    let (mut taken, mut made, mut longest) = (0, 0u32, Duration::ZERO);
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        while !burst.is_full() {
            burst.push(frame(&bench.pool, made, 60)).unwrap();
            made += 1;
        }
        let start = Instant::now();
        taken += lane.transmit(0, &mut burst);
        longest = longest.max(start.elapsed());
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(taken > 512 && taken < 2048, "{taken}: the ring and the queue, not more");
    assert_eq!(taken + burst.len(), made as usize, "what was not taken stays with the lane");
    let left: Vec<u32> = burst.iter().map(|frame| payload(frame.head())).collect();
    assert_eq!(left, (taken as u32..made).collect::<Vec<_>>(), "in order");
    assert!(longest < Duration::from_millis(100), "{longest:?} in one transmit");
    drop(lane);
    let start = Instant::now();
    assert!(matches!(guest.close(), Err(PortError::Stuck(_))));
    assert!(start.elapsed() < Duration::from_secs(2));
    drop(burst);
    drop(guest); // Logs; the process ends all the same, as this test does.
}

#[test]
fn a_transmit_thread_that_is_not_stuck_ends_with_its_port() {
    if !namespace(1500) {
        return;
    }
    let bench = Bench::start();
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks
            .filter(|task| {
                let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                name.starts_with("courier-")
            })
            .count()
    };
    for _ in 0..3 {
        let mut guest = bench.open("net_af_packet0,iface=guest0", Role::Guest);
        until("the thread has its name", || threads() == 1);
        let mut lane = guest.lane_port().unwrap();
        send(&mut lane, (0..100).map(|n| frame(&bench.pool, n, 60)).collect());
        drop(lane);
        guest.close().unwrap();
        assert_eq!((threads(), bench.pool.in_use()), (0, 0));
    }
    let wire = bench.open("net_af_packet0,iface=wire0", Role::Wire);
    assert_eq!(threads(), 0, "a wire port transmits on its lcore");
    drop(wire);
}

#[test]
fn tap_and_af_xdp_are_ports_too() {
    if !namespace(1500) {
        return;
    }
    let bench = Bench::start();
    if std::path::Path::new("/dev/net/tun").exists() {
        let tap = bench.open("net_tap0,iface=tgtap0", Role::Guest);
        assert_eq!((tap.kernel_interface(), tap.driver()), (Some("tgtap0"), "net_tap"));
    } else {
        skipped!("the tap part: there is no /dev/net/tun");
    }
    let config = PortConfig::new("net_af_xdp0,iface=wire0,start_queue=0", Role::Wire, bench.pool.clone());
    match EthPort::open(&bench.eal, config) {
        Ok(wire) => {
            let guest = bench.open("net_af_packet0,iface=guest0", Role::Guest);
            assert_eq!((wire.kernel_interface(), wire.driver()), (Some("wire0"), "net_af_xdp"));
            let (mut outside, mut inside) = (wire.lane_port().unwrap(), guest.lane_port().unwrap());
            send(&mut inside, vec![frame(&bench.pool, 1, 200)]);
            assert_eq!(payload(receive(&mut outside, 1)[0].head()), 1);
            send(&mut outside, vec![frame(&bench.pool, 2, 200)]);
            assert_eq!(payload(receive(&mut inside, 1)[0].head()), 2);
        }
        Err(error) => skipped!("the af_xdp part: {error}"),
    }
}
