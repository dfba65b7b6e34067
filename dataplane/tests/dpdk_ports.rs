//! Real DPDK ports in this process: no huge pages, no PCI, root or not.
//!
//! EAL starts once a process, so each test must be a process of its own: run with `cargo nextest run`.
#![cfg(feature = "dpdk")]

mod dpdk_bench;

use dpdk_bench::{Bench, frame, payload, udp};
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{
    Eal, EalConfig, EalError, Mbuf, Memory, Mempool, MempoolConfig, MempoolError, PortError, Role, Tsc,
};
use tidegate_dataplane::port::{Frame, Port};
use tidegate_dataplane::tsc::Clock;

#[test]
fn frames_go_out_and_come_back_and_no_mbuf_is_lost() {
    let bench = Bench::start();
    let mut port = bench.open("net_ring0", Role::Wire);
    assert_eq!((port.driver(), port.is_vhost(), port.rings_running()), ("net_ring", false, true));
    assert!(port.link().up);
    let mut lane = port.lane_port().unwrap();
    assert!(port.lane_port().is_none(), "one lcore's end at a time");
    assert_eq!(port.close(), Err(PortError::Lent("net_ring0".into())));

    let mut burst = Burst::new();
    for n in 0..32 {
        burst.push(frame(&bench.pool, n, 60)).unwrap();
    }
    assert_eq!(lane.transmit(0, &mut burst), 32);
    assert!(burst.is_empty());
    assert_eq!(bench.pool.in_use(), 32, "the ring has them");
    assert_eq!(lane.receive(0, &mut burst), 32);
    let numbers: Vec<u32> = burst.iter().map(|f| payload(f.head())).collect();
    assert_eq!(numbers, (0..32).collect::<Vec<_>>());
    assert_eq!(lane.receive(0, &mut burst), 0, "a full burst has no room");
    drop(burst);
    assert_eq!(bench.pool.in_use(), 0);

    assert_eq!(lane.receive(9, &mut Burst::new()), 0, "a queue that does not exist gives nothing");
    drop(lane);
    assert_eq!(port.close(), Ok(()));
    assert_eq!(port.close(), Ok(()), "a second call does nothing");
    let again = bench.open("net_ring0", Role::Wire);
    assert!(again.lane_port().is_some(), "the name is free again");
}

#[test]
fn a_port_composes_a_frame_of_its_own_until_its_pool_is_empty() {
    let bench = Bench::start();
    let port = bench.open("net_ring0", Role::Wire);
    let mut lane = port.lane_port().unwrap();
    let bytes: Vec<u8> = (0..98).collect();
    let mut burst = Burst::new();
    burst.push(lane.compose(&bytes).expect("there are mbufs")).unwrap();
    assert_eq!((lane.transmit(0, &mut burst), lane.receive(0, &mut burst)), (1, 1));
    let back = burst.pop().expect("it comes back");
    assert_eq!((back.head(), back.len(), back.segments()), (&bytes[..], 98, 1));
    assert!(lane.compose(&[0; 4096]).is_none(), "longer than an mbuf has room");
    drop(back);
    let mut all = Vec::new();
    all.extend(std::iter::from_fn(|| lane.compose(&bytes)));
    assert_eq!(bench.pool.available(), 0, "{} were made", all.len());
    drop(all);
    assert_eq!(bench.pool.in_use(), 0);
}

#[test]
fn what_a_full_port_does_not_take_stays_in_the_burst_in_order() {
    let bench = Bench::start();
    let port = bench.open("net_ring0", Role::Wire);
    let mut lane = port.lane_port().unwrap();
    let (mut sent, mut n) = (0usize, 0);
    let mut burst = Burst::new();
    for _ in 0..1000 {
        while !burst.is_full() {
            burst.push(frame(&bench.pool, n, 60)).unwrap();
            n += 1;
        }
        let taken = lane.transmit(0, &mut burst);
        sent += taken;
        if taken < 32 {
            break;
        }
    }
    assert!(!burst.is_empty(), "the ring filled up at {sent}");
    assert_eq!(burst.len() + sent, n as usize);
    let left: Vec<u32> = burst.iter().map(|f| payload(f.head())).collect();
    assert_eq!(left, (sent as u32..n).collect::<Vec<_>>());
    assert_eq!(lane.transmit(0, &mut burst), 0);
    assert_eq!(bench.pool.in_use() as usize, n as usize, "nothing was freed twice or lost");
    drop(burst);
    assert_eq!(bench.pool.in_use() as usize, sent);
    let mut back = Burst::new();
    for _ in 0..1000 {
        if lane.receive(0, &mut back) == 0 {
            break;
        }
        while back.pop().is_some() {}
    }
    assert_eq!(bench.pool.in_use(), 0);
}

#[test]
fn a_port_that_swallows_frames_gives_their_buffers_back() {
    let bench = Bench::start();
    let port = bench.open("net_null0,no-rx=1", Role::Wire);
    let mut lane = port.lane_port().unwrap();
    for round in 0..200 {
        let mut burst = Burst::new();
        for n in 0..32 {
            burst.push(frame(&bench.pool, n, 1000)).unwrap();
        }
        assert_eq!(lane.transmit(0, &mut burst), 32, "round {round}");
    }
    assert_eq!(bench.pool.in_use(), 0);
    assert_eq!(port.stats().tx_frames, 6400);
}

#[test]
fn an_mbuf_is_what_was_put_into_it() {
    let bench = Bench::start();
    let pool = &bench.pool;
    let bytes: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    let mut jumbo = Mbuf::from_bytes(pool, &bytes).unwrap();
    assert_eq!((jumbo.len(), jumbo.segments(), jumbo.head().len()), (5000, 3, 2048));
    let mut seen = Vec::new();
    jumbo.each_segment(&mut |part| seen.extend_from_slice(part));
    assert_eq!(seen, bytes);
    jumbo.prefetch();
    jumbo.head_mut()[0] = 77;
    assert_eq!(jumbo.head()[0], 77);
    assert!(!jumbo.unfinished());
    assert_eq!(pool.in_use(), 3);
    drop(jumbo);
    assert_eq!(pool.in_use(), 0, "every segment of a chain comes home");

    let parts = Mbuf::from_parts(pool, &[&bytes[..14], &bytes[14..20], &bytes[20..21]]).unwrap();
    assert_eq!((parts.len(), parts.segments(), parts.head().len()), (21, 3, 14));
    let mut empty = Mbuf::from_bytes(pool, &[]).unwrap();
    assert!(empty.is_empty() && empty.head().is_empty() && empty.head_mut().is_empty());
    assert!(Mbuf::from_bytes(pool, &vec![0; 70_000_000]).is_none(), "more than the pool has");
    drop((parts, empty));
    assert_eq!(pool.in_use(), 0, "a frame that could not be built leaves nothing behind");

    let mut asked = udp(pool, 1, 20);
    asked.ask_checksum(14, 20, false, tidegate_dataplane::dpdk::L4::Udp);
    assert!(asked.unfinished(), "its checksum is still to be put in");
}

#[test]
fn a_pool_is_freed_only_when_nobody_has_any_of_it() {
    let bench = Bench::start();
    let pool = Mempool::new(&bench.eal, MempoolConfig::new("small", 64)).unwrap();
    assert_eq!(pool.available(), 64);
    let refused = Mempool::new(&bench.eal, MempoolConfig::new("small", 64)).unwrap_err();
    assert_eq!(refused, MempoolError::Exists("small".into()));
    let held = Mbuf::from_bytes(&pool, b"frame").unwrap();
    let other = pool.clone();
    let pool = pool.free().expect_err("an mbuf and a handle are out");
    drop(other);
    let pool = pool.free().expect_err("an mbuf is out");
    drop(held);
    pool.free().unwrap();
    Mempool::new(&bench.eal, MempoolConfig::new("small", 64)).unwrap();
    let huge = Mempool::new(&bench.eal, MempoolConfig::new("huge", 1 << 20)).unwrap_err();
    assert!(matches!(huge, MempoolError::Memory { mb: 2000.., .. }), "{huge:?}");
}

#[test]
fn lcores_run_on_their_cpu_and_the_caller_keeps_its_own() {
    let cpus = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let allowed = |status: String| {
        status.lines().find(|line| line.starts_with("Cpus_allowed_list")).map(str::to_owned).unwrap()
    };
    let before = allowed(cpus());
    let bench = Bench::start();
    assert_eq!(allowed(cpus()), before, "the control thread is not pinned");
    let lcore = bench.eal.lcores()[0];
    let (tell, told) = std::sync::mpsc::channel();
    bench.eal.launch(lcore, Box::new(move || tell.send(allowed(cpus())).unwrap())).unwrap();
    bench.eal.wait(lcore).unwrap();
    assert_eq!(told.recv().unwrap(), format!("Cpus_allowed_list:\t{lcore}"));

    let (release, wait) = std::sync::mpsc::channel::<()>();
    bench
        .eal
        .launch(
            lcore,
            Box::new(move || {
                let _ = wait.recv();
            }),
        )
        .unwrap();
    assert_eq!(bench.eal.launch(lcore, Box::new(|| ())), Err(EalError::Busy(lcore)));
    drop(release);
    bench.eal.wait(lcore).unwrap();
    assert_eq!(bench.eal.launch(100, Box::new(|| ())), Err(EalError::NotAWorker(100)));

    let again = Eal::init(&EalConfig::new(vec![lcore], Memory::NoHuge { mb: 64 })).unwrap_err();
    assert_eq!(again, EalError::Once);
    let (rate, start) = (bench.eal.tsc_rate(), Tsc.now());
    std::thread::sleep(std::time::Duration::from_millis(20));
    let ns = rate.ns(Tsc.now() - start);
    assert!((19_000_000..500_000_000).contains(&ns), "{ns} ns for 20 ms");
    assert!(bench.eal.version().starts_with("DPDK "), "{}", bench.eal.version());
}

#[test]
fn wrong_ports_are_refused_with_what_to_do() {
    let bench = Bench::start();
    let refused = |spec: &str| bench.try_open(spec, Role::Guest).unwrap_err().to_string();
    let expect = |spec: &str, words: &[&str]| {
        let error = refused(spec);
        for word in words {
            assert!(error.contains(word), "{spec}: {error}");
        }
    };
    expect("net_nosuch0", &["no such driver", "net_vhost"]);
    expect("eth0", &["neither a PCI address"]);
    expect("net_vhost0", &["iface= is missing"]);
    expect("net_af_packet0,iface=nosuch0", &["no network interface nosuch0", "ip link"]);
    expect("ffff:ff:1f.7", &["no PCI device", "lspci"]);
    expect("net_virtio_user0,path=/nonexistent/x.sock", &["does not exist", "start its server"]);
    expect("net_vhost0,iface=/nonexistent/x.sock", &["directory does not exist", "mkdir"]);
    expect(&format!("net_vhost0,iface=/tmp/{}", "x".repeat(120)), &["longer than 107"]);
    let file = bench.dir.join("file");
    std::fs::write(&file, "precious").unwrap();
    expect(&format!("net_vhost0,iface={}", file.display()), &["no socket", "remove it"]);
    assert!(file.exists(), "a file that is no socket is left alone");

    let live = bench.dir.join("live.sock");
    let listener = std::os::unix::net::UnixListener::bind(&live).unwrap();
    let spec = format!("net_vhost0,iface={}", live.display());
    expect(&spec, &["another process listens", "ss -xlp"]);
    drop(listener);
    assert!(live.exists(), "it is stale now");
    let port = bench.open(&spec, Role::Guest);
    expect("net_vhost0,iface=/tmp/other", &["open already", "net_vhost1"]);
    drop(port);
    assert!(!live.exists(), "a closed port leaves no socket behind");
    let wide = bench.try_open_wide("net_null7", 5000).unwrap_err();
    assert!(wide.to_string().contains("lower `queues`"), "{wide}");
    assert_eq!(bench.pool.in_use(), 0);
}
