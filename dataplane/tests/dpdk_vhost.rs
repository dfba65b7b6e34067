//! A vhost-user port and its guests: DPDK's virtio_user in this process, and a hypervisor's end that does
//! what QEMU does when it pauses a VM. Run with `cargo nextest run`: one process a test.
#![cfg(feature = "dpdk")]

mod dpdk_bench;

use dpdk_bench::hypervisor::{F_CSUM, Hypervisor, Offload, RING};
use dpdk_bench::{Bench, Diary, frame, payload, receive_all, udp, udp_checksum_is_right, until};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::checksum;
use tidegate_dataplane::dpdk::{EthPort, L4, Mbuf, PortBurst, PortConfig, REFUSED_FEATURES, Role};
use tidegate_dataplane::port::{Frame, Port};
use tidegate_dataplane::wire::Headers;

/// A vhost port in server mode, its events written down, and the path of its socket.
fn vhost(bench: &Bench, queues: u16) -> (EthPort, Arc<Diary>, String) {
    let (path, diary) = (bench.socket(), Arc::new(Diary::default()));
    let spec = format!("net_vhost,iface={path}");
    let events: Option<Arc<dyn tidegate_dataplane::dpdk::VhostEvents>> = Some(diary.clone());
    let config = PortConfig { queues, events, ..PortConfig::new(&spec, Role::Guest, bench.pool.clone()) };
    (EthPort::open(&bench.eal, config).unwrap(), diary, path)
}

fn send(lane: &mut PortBurst, queue: u16, frames: Vec<Mbuf>) {
    for frame in frames {
        let mut burst = Burst::new();
        burst.push(frame).unwrap();
        until("room in the ring", || lane.transmit(queue, &mut burst) == 1);
    }
}

fn receive(lane: &mut PortBurst, queue: u16, n: usize) -> Vec<Mbuf> {
    let mut got = Vec::new();
    until("frames", || {
        got.extend(receive_all(lane, queue));
        got.len() >= n
    });
    got
}

fn bytes_of(frame: &Mbuf) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.each_segment(&mut |part| bytes.extend_from_slice(part));
    bytes
}

#[test]
fn a_guest_in_this_process_talks_both_ways_on_every_queue_and_nothing_leaks() {
    let bench = Bench::start();
    let (host, diary, path) = vhost(&bench, 2);
    assert!(host.is_vhost() && !host.rings_running() && !host.link().up);
    assert_eq!(host.link().mbit, None, "a ring has no speed");
    let spec = format!("net_virtio_user,path={path},queue_size=256");
    let config = PortConfig { queues: 2, ..PortConfig::new(&spec, Role::Wire, bench.pool.clone()) };
    let mut guest = EthPort::open(&bench.eal, config).unwrap();
    until("the rings run", || host.rings_running());
    assert!(host.link().up);
    let (mut out, mut inside) = (host.lane_port().unwrap(), guest.lane_port().unwrap());
    let idle = bench.pool.in_use(); // What the guest's receive ring pins.
    for queue in 0..2 {
        let jumbo: Vec<u8> = (0..9000u32).map(|n| (n / 7) as u8).collect();
        let long = || Mbuf::from_bytes(&bench.pool, &jumbo).unwrap();
        send(&mut inside, queue, vec![frame(&bench.pool, 7, 60), long()]);
        let got = receive(&mut out, queue, 2);
        assert_eq!(payload(got[0].head()), 7);
        assert!(got[1].segments() > 1 && got[1].len() == 9000);
        assert_eq!(bytes_of(&got[1]), jumbo, "a chain arrives whole, guest to host");
        drop(got);
        send(&mut out, queue, vec![frame(&bench.pool, 8, 60), long()]);
        let got = receive(&mut inside, queue, 2);
        assert_eq!(payload(got[0].head()), 8);
        assert_eq!(bytes_of(&got[1]), jumbo, "and host to guest");
    }
    // The guest keeps sent frames in its ring until it needs the room.
    until("everything is home", || {
        assert!(bench.pool.in_use() <= idle + 16, "{} in use, {idle} idle", bench.pool.in_use());
        true
    });
    drop(inside);
    guest.close().unwrap();
    until("told of the end", || diary.says("stopped"));
    assert!(!host.rings_running());
    assert_eq!(bench.pool.in_use(), 0, "no mbuf is lost");
}

/// On packed rings the driver takes mbufs for a whole burst and gives back those it did not fill, but leaves its pointers to
/// them in the array: who frees those as well hands one buffer to two frames.
#[test]
fn a_driver_that_leaves_pointers_behind_gives_no_buffer_twice() {
    let bench = Bench::start();
    let (host, _diary, path) = vhost(&bench, 1);
    let spec = format!("net_virtio_user,path={path},queue_size=256,packed_vq=1");
    let guest = EthPort::open(&bench.eal, PortConfig::new(&spec, Role::Wire, bench.pool.clone())).unwrap();
    until("the rings run", || host.rings_running());
    let (mut out, mut inside) = (host.lane_port().unwrap(), guest.lane_port().unwrap());
    let idle = bench.pool.in_use();
    let mut held = Vec::new();
    for n in 0..100 {
        send(&mut inside, 0, vec![frame(&bench.pool, n, 60)]);
        held.extend(receive(&mut out, 0, 1));
    }
    let numbers: Vec<_> = held.iter().map(|frame| payload(frame.head())).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>(), "each frame held keeps its own bytes");
    assert!(bench.pool.in_use() >= idle + 100, "{} in use, {idle} idle", bench.pool.in_use());
}

#[test]
fn a_guests_partial_checksum_is_left_to_the_lane() {
    let bench = Bench::start();
    let (host, diary, path) = vhost(&bench, 1);
    let spec = format!("net_virtio_user,path={path}");
    let config = PortConfig { tx_checksums: true, ..PortConfig::new(&spec, Role::Wire, bench.pool.clone()) };
    let guest = EthPort::open(&bench.eal, config).unwrap();
    until("the rings run", || host.rings_running());
    assert_eq!(diary.features() & F_CSUM, F_CSUM, "the guest may leave checksums to us");
    let (mut out, mut inside) = (host.lane_port().unwrap(), guest.lane_port().unwrap());
    let mut asked = udp(&bench.pool, 5, 333);
    asked.ask_checksum(14, 20, false, L4::Udp);
    assert!(!udp_checksum_is_right(asked.head()));
    send(&mut inside, 0, vec![asked]);
    let mut got = receive(&mut out, 0, 1);
    assert!(got[0].owes_checksum() && !got[0].unfinished(), "it is left to the lane");
    settle(&mut got[0]);
    assert!(udp_checksum_is_right(got[0].head()));
}

fn settle(frame: &mut Mbuf) {
    let headers = Headers::parse(frame.head(), frame.len());
    checksum::settle(frame, &headers, true).unwrap();
}

#[test]
fn a_guest_that_lies_in_its_offload_header_harms_nobody_else() {
    let bench = Bench::start();
    let (host, _diary, path) = vhost(&bench, 1);
    let mut guest = Hypervisor::connect(&path, &bench.dir);
    guest.start(F_CSUM);
    until("the rings run", || host.rings_running());
    let mut out = host.lane_port().unwrap();
    let partial = udp(&bench.pool, 5, 333).head().to_vec();
    let needs = Offload { flags: 1, csum_start: 34, csum_offset: 6, ..Offload::default() };
    guest.send(&partial, needs);
    let mut got = receive(&mut out, 0, 1);
    assert!(got[0].owes_checksum() && !got[0].unfinished());
    settle(&mut got[0]);
    assert!(udp_checksum_is_right(got[0].head()));

    // Segmentation was never offered; a guest may ask for it all the same.
    let mut tcp = partial.clone();
    tcp[14 + 9] = 6;
    tcp[34 + 12] = 0x50; // A header of 20 bytes.
    let segment = Offload { gso_type: 1, hdr_len: 54, gso_size: 100, csum_offset: 16, ..needs };
    guest.send(&tcp, segment);
    assert!(receive(&mut out, 0, 1)[0].unfinished(), "it is for us to segment");
    // Lies: a sum that starts nowhere, a header longer than the frame, a type that does not exist, a
    // protocol that the driver cannot sum. What comes of them is a frame like one with a wrong checksum and no
    // request at all; the rings and we survive.
    for (frame, offload) in [
        (&partial[..], Offload { flags: 1, csum_start: 60000, csum_offset: 60000, ..Offload::default() }),
        (&tcp[..50], segment),
        (&partial[..], Offload { gso_type: 3, hdr_len: 42, gso_size: 100, ..needs }),
        (&partial[..], Offload { gso_type: 0x81, hdr_len: 42, gso_size: 0, ..needs }),
        (&partial[..20], needs),
        (&partial[..1], needs),
        (&partial[..], Offload { flags: 255, gso_type: 255, hdr_len: 65535, gso_size: 65535, ..needs }),
        (&frame(&bench.pool, 1, 60).head().to_vec()[..], needs),
    ] {
        guest.send(frame, offload);
        until("the frame is taken", || {
            for got in receive_all(&mut out, 0) {
                assert_eq!(got.len() as usize, frame.len(), "{offload:?}");
            }
            guest.taken() == guest.made_available()
        });
    }
    guest.send(&partial, needs);
    assert_eq!(receive(&mut out, 0, 1).len(), 1, "the ring still works");
}

#[test]
fn a_guest_is_never_offered_large_frames() {
    let bench = Bench::start();
    let (host, diary, path) = vhost(&bench, 1);
    let mut guest = Hypervisor::connect(&path, &bench.dir);
    assert_eq!(guest.offered & REFUSED_FEATURES, 0, "{:#x}", guest.offered);
    assert_eq!(guest.offered & F_CSUM, F_CSUM);
    guest.start(F_CSUM);
    until("the rings run", || host.rings_running());
    assert_eq!((diary.features() & REFUSED_FEATURES, diary.refused()), (0, 0));
    drop(guest);
    let mut greedy = Hypervisor::connect(&path, &bench.dir);
    greedy.tell(2, &(1u64 << 11 | 1 << 32).to_le_bytes());
    assert!(greedy.is_cut_off(), "one that takes what was not offered is sent away");
}

#[test]
fn the_hook_comes_before_the_rings_stop_and_the_lcore_drains_them_inside() {
    let bench = Bench::start();
    let (host, diary, path) = vhost(&bench, 1);
    let mut lane = host.lane_port().unwrap();
    let (ask, asked) = channel::<()>();
    let (tell, told) = channel::<Vec<u32>>();
    let (ask, told) = (Mutex::new(ask), Mutex::new(told));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let drained = Arc::clone(&seen);
    // The vhost thread asks the lcore to drain and waits for it, as the plane's barrier does.
    diary.on_stopping(Box::new(move || {
        ask.lock().unwrap().send(()).unwrap();
        let frames = told.lock().unwrap().recv_timeout(Duration::from_secs(5)).unwrap();
        drained.lock().unwrap().extend(frames);
    }));
    let lcore = bench.eal.lcores()[0];
    let work = move || {
        while asked.recv_timeout(Duration::from_secs(10)).is_ok() {
            let frames = receive_all(&mut lane, 0);
            tell.send(frames.iter().map(|frame| payload(frame.head())).collect()).unwrap();
        }
    };
    bench.eal.launch(lcore, Box::new(work)).unwrap();

    let mut guest = Hypervisor::connect(&path, &bench.dir);
    guest.start(F_CSUM);
    until("the rings run", || host.rings_running());
    for n in 0..100 {
        guest.send(frame(&bench.pool, n, 60).head(), Offload::default());
    }
    assert_eq!(guest.taken(), 0, "all of them wait in the ring");
    let bases = guest.pause();
    assert_eq!(bases[1], 100, "the hypervisor is told that every frame was taken");
    assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<_>>());
    assert_eq!(diary.lines(), ["negotiated", "started", "stopping", "stopped"], "one warning a pause");
    assert!(!host.rings_running());

    // The VM resumes where it stood, and is paused again.
    guest.resume(bases);
    until("the rings run", || host.rings_running());
    for n in 100..130 {
        guest.send(frame(&bench.pool, n, 60).head(), Offload::default());
    }
    assert_eq!(guest.pause()[1], 130);
    assert_eq!(seen.lock().unwrap().len(), 130);
    assert_eq!(diary.lines()[4..], ["negotiated", "started", "stopping", "stopped"]);
    diary.on_stopping(Box::new(|| ())); // Lets the lcore go.
    bench.eal.wait(lcore).unwrap();
    assert_eq!(bench.pool.in_use(), 0);
}

#[test]
fn the_hypervisor_waits_while_the_hook_does() {
    let bench = Bench::start();
    let (host, diary, path) = vhost(&bench, 1);
    let (release, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    diary.on_stopping(Box::new(move || {
        let _ = wait.lock().unwrap().recv_timeout(Duration::from_secs(5));
    }));
    let mut guest = Hypervisor::connect(&path, &bench.dir);
    guest.start(0);
    until("the rings run", || host.rings_running());
    guest.begin_pause();
    until("the hook is called", || diary.says("stopping"));
    std::thread::sleep(Duration::from_millis(100));
    assert!(!diary.says("stopped") && host.rings_running(), "rings are on while the hook waits");
    let mut lane = host.lane_port().unwrap();
    guest.send(frame(&bench.pool, 1, 60).head(), Offload::default());
    assert_eq!(receive(&mut lane, 0, 1).len(), 1, "and can be received from");
    drop(release);
    assert_eq!(guest.end_pause(), 1);
    assert!(diary.says("stopped"));
    guest.send(frame(&bench.pool, 2, 60).head(), Offload::default());
    std::thread::sleep(Duration::from_millis(50));
    assert!(receive_all(&mut lane, 0).is_empty(), "afterwards they cannot");
}

#[test]
fn a_broken_connection_is_a_stop_and_the_next_guest_a_start() {
    let bench = Bench::start();
    let (host, diary, path) = vhost(&bench, 1);
    let mut lane = host.lane_port().unwrap();
    for round in 0..20 {
        let mut guest = Hypervisor::connect(&path, &bench.dir);
        guest.start(0);
        until("the rings run", || host.rings_running());
        guest.send(frame(&bench.pool, round, 60).head(), Offload::default());
        assert_eq!(payload(receive(&mut lane, 0, 1)[0].head()), round);
        send(&mut lane, 0, vec![frame(&bench.pool, round + 1000, 60)]);
        assert_eq!(payload(&guest.receive().unwrap()), round + 1000);
        drop(guest); // As when QEMU is killed: no GET_VRING_BASE.
        until("the stop is told", || !host.rings_running());
        assert_eq!(diary.take(), ["negotiated", "started", "stopped"], "round {round}");
    }
    assert_eq!(bench.pool.in_use(), 0);
}

#[test]
fn two_guests_are_never_mistaken_for_each_other() {
    let bench = Bench::start();
    let (one, first, path_one) = vhost(&bench, 1);
    let (mut two, second, path_two) = vhost(&bench, 1);
    let mut guest_one = Hypervisor::connect(&path_one, &bench.dir);
    guest_one.start(0);
    until("one runs", || one.rings_running());
    let mut guest_two = Hypervisor::connect(&path_two, &bench.dir);
    guest_two.start(0);
    until("two runs", || two.rings_running());
    guest_two.pause();
    assert_eq!(second.take(), ["negotiated", "started", "stopping", "stopped"]);
    assert_eq!(first.take(), ["negotiated", "started"]);
    // The devices change places: numbers are given out again, lowest first.
    drop((guest_one, guest_two));
    until("one is gone", || !one.rings_running());
    let mut guest_two = Hypervisor::connect(&path_two, &bench.dir);
    guest_two.start(0);
    until("two runs", || two.rings_running());
    let mut guest_one = Hypervisor::connect(&path_one, &bench.dir);
    guest_one.start(0);
    until("one runs", || one.rings_running());
    guest_one.pause();
    assert_eq!(first.take(), ["stopped", "negotiated", "started", "stopping", "stopped"]);
    assert_eq!(second.take(), ["negotiated", "started"]);
    two.close().unwrap();
    assert_eq!(second.take(), ["stopped"], "closing the port is told too");
    assert!(guest_two.is_cut_off());
}

#[test]
fn a_client_port_connects_when_the_hypervisor_is_there_and_again_when_it_is_back() {
    let bench = Bench::start();
    let (path, diary) = (bench.socket(), Arc::new(Diary::default()));
    let spec = format!("net_vhost,iface={path},client=1");
    let config =
        PortConfig { events: Some(diary.clone()), ..PortConfig::new(&spec, Role::Guest, bench.pool.clone()) };
    let host = EthPort::open(&bench.eal, config).unwrap();
    assert!(!host.rings_running(), "nobody is there yet, and that is no error");
    let mut lane = host.lane_port().unwrap();
    for round in 0..2 {
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let mut guest = Hypervisor::accept(&listener, &bench.dir); // DPDK tries once a second.
        assert_eq!(guest.offered & REFUSED_FEATURES, 0);
        guest.start(0);
        until("the rings run", || host.rings_running());
        guest.send(frame(&bench.pool, round, 60).head(), Offload::default());
        assert_eq!(payload(receive(&mut lane, 0, 1)[0].head()), round);
        guest.pause();
        drop((guest, listener));
        assert_eq!(diary.take(), ["negotiated", "started", "stopping", "stopped"]);
    }
    drop(lane);
    drop(host);
    assert!(std::path::Path::new(&path).exists(), "a client does not remove the server's socket");
}

#[test]
fn a_guest_that_is_quicker_than_the_port_is_not_missed() {
    let bench = Bench::start();
    let path = bench.socket();
    let listener = UnixListener::bind(&path).unwrap();
    let dir = bench.dir.clone();
    let guests = std::thread::spawn(move || {
        // It brings its rings up while the port is still being opened, and stays until it is closed.
        for _ in 0..30 {
            let mut guest = Hypervisor::accept(&listener, &dir);
            guest.start(0);
            assert!(guest.is_cut_off());
        }
    });
    for round in 0..30 {
        let diary = Arc::new(Diary::default());
        let spec = format!("net_vhost3,iface={path},client=1");
        let config = PortConfig {
            events: Some(diary.clone()),
            ..PortConfig::new(&spec, Role::Guest, bench.pool.clone())
        };
        let mut host = EthPort::open(&bench.eal, config).unwrap();
        until("the rings run", || host.rings_running());
        host.close().unwrap();
        assert!(!host.rings_running());
        assert_eq!(diary.take(), ["negotiated", "started", "stopped"], "round {round}");
        assert_eq!(diary.refused(), 0);
    }
    guests.join().unwrap();
}

#[test]
fn a_guest_that_does_not_read_leaves_frames_with_the_lane() {
    let bench = Bench::start();
    let (host, _diary, path) = vhost(&bench, 1);
    let mut guest = Hypervisor::connect(&path, &bench.dir);
    let mut lane = host.lane_port().unwrap();
    let mut burst = Burst::new();
    burst.push(frame(&bench.pool, 0, 60)).unwrap();
    assert_eq!((lane.transmit(0, &mut burst), burst.len()), (0, 1), "no guest: the frame stays");
    guest.start(0);
    until("the rings run", || host.rings_running());
    let (mut sent, mut n) = (0, 1);
    for _ in 0..64 {
        while !burst.is_full() {
            burst.push(frame(&bench.pool, n, 60)).unwrap();
            n += 1;
        }
        sent += lane.transmit(0, &mut burst);
    }
    assert_eq!(sent, usize::from(RING), "as many as the guest has buffers for");
    assert_eq!(bench.pool.in_use(), 32, "those sent were copied and freed, a burst is left");
    let got: Vec<u32> = std::iter::from_fn(|| guest.receive()).map(|frame| payload(&frame)).collect();
    assert_eq!(got, (0..u32::from(RING)).collect::<Vec<_>>());
}
