//! A whole plane on ports that it shares with the kernel, as a Xen `vif` is one: the guest is a network namespace
//! behind a veth or a tap, the world another one, and a real kernel's ping and TCP go between them. There is no
//! hypervisor, so the source vouches for the pauses.
//!
//! ```text
//! guest namespace            root namespace                       world namespace
//!   eth0 --veth-- (af_packet) guest port | plane | wire port (af_packet, af_xdp, tap) --veth-- eth0
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tidegate_tests::capture::Capture;
use tidegate_tests::control_client::{ControlClient, Event};
use tidegate_tests::ensure;
use tidegate_tests::failure::{Context, Result};
use tidegate_tests::laboratory::tidegate;
use tidegate_tests::namespace::Namespace;
use tidegate_tests::plane::Kind;
use tidegate_tests::process::{Program, Running, run};
use tidegate_tests::scratch::Scratch;
use tidegate_tests::wall_clock::wait_until;

const SOON: Duration = Duration::from_secs(20);
const GUEST: &str = "10.10.0.2";
const WORLD: &str = "10.10.0.1";

/// One at a time: each plane polls on both CPUs of a small machine.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One plane, with as many lanes as there are pairs of ports, on two lcores in turns.
struct Bench {
    plane: Running,
    control: ControlClient,
    scratch: Scratch,
}

impl Bench {
    fn start(guests: &[Vec<(String, String)>], source: &str) -> Result<Bench> {
        Bench::start_with(guests, source, "hold_frames = 8192")
    }

    /// The same with these keys in each lane.
    fn start_with(guests: &[Vec<(String, String)>], source: &str, keys: &str) -> Result<Bench> {
        let scratch = Scratch::new()?;
        let socket = scratch.file("control.sock");
        let mut text = format!(
            "[eal]\ncontrol_cpus = [0]\nmemory_mb = 256\nhugepages = \"no\"\nidle = \"backoff\"\n\
             file_prefix = \"{}\"\n[control]\nsocket = \"{}\"\n",
            scratch.path().file_name().unwrap_or_default().to_string_lossy(),
            socket.display()
        );
        let mut lcore = 0;
        for (number, lanes) in guests.iter().enumerate() {
            text += &format!(
                "[[guest]]\nname = \"g{number}\"\npolicy = \"hold-all\"\nmode = \"protected\"\n{source}\n"
            );
            for (guest, wire) in lanes {
                lcore = 1 - lcore;
                text += &format!(
                    "[[guest.lane]]\nguest_port = \"{guest}\"\nwire_port = \"{wire}\"\nlcore = {lcore}\n{keys}\n"
                );
            }
        }
        let file = scratch.file("tidegate.toml");
        std::fs::write(&file, text).context(|| "cannot write the configuration".to_owned())?;
        let Kind::Tidegate(binary) = tidegate()? else { unreachable!("there is no other kind of tidegate") };
        let program = Program::new(binary).args("run --config").arg(file.display().to_string());
        let plane = program.start(&scratch, "plane")?;
        let control = ControlClient::connect(&socket, SOON).map_err(|e| plane.failure(&e.to_string()))?;
        Ok(Bench { plane, control, scratch })
    }

    /// Closes the open epoch of a guest and commits it: what was held until now may leave.
    fn checkpoint(&mut self, guest: &str) -> Result<()> {
        let closed = self.control.execute("close", json!({ "guest": guest, "vouched": true }))?;
        self.control.execute("resumed", json!({ "guest": guest }))?;
        let commit = json!({ "guest": guest, "epoch": closed["epoch"], "generation": closed["generation"] });
        self.control.execute("commit", commit).map(drop)
    }

    fn event(&mut self, what: &str) -> Result<Event> {
        self.control
            .event(SOON)?
            .ok_or_else(|| self.plane.failure(&format!("told nothing: expected was {what}")))
    }

    fn passed(mut self) -> Result<()> {
        let status = self.plane.stop(Signal::SIGTERM, SOON)?;
        ensure!(status.success(), "the plane ended with {status}");
        self.scratch.passed();
        Ok(())
    }
}

/// A namespace that has `address`, with the other end's interface in the root namespace.
fn namespace(address: &str) -> Result<Namespace> {
    let namespace = Namespace::new()?;
    namespace.address(&format!("{address}/24"))?;
    Ok(namespace)
}

/// One ping out of `guest` is held until checkpoints let its frames go.
fn held_until_committed(bench: &mut Bench, name: &str, guest: &Namespace, world: &Namespace) -> Result<()> {
    let mac = mac_of(guest)?;
    // Its ARP is held as well, and on a busy machine three tries of a second each are soon over.
    guest.run("sysctl -qw net.ipv4.neigh.eth0.mcast_solicit=15")?;
    let capture = Capture::start(world, &bench.scratch, &format!("held-{name}"))?;
    let ping = format!("-c 1 -W 20 {WORLD}");
    let mut pinging = Program::new("ping").args(&ping).inside(guest).start(&bench.scratch, "ping")?;
    std::thread::sleep(Duration::from_millis(600));
    let of_guest = |capture: &Capture| -> Result<usize> {
        Ok(capture.frames()?.iter().filter(|frame| frame.source_mac == mac).count())
    };
    ensure!(of_guest(&capture)? == 0, "a frame of {name} left without a commit");
    // ARP asks, then comes the ping itself: each waits for a commit of its own.
    let mut refused = None;
    let done = wait_until(SOON, Duration::from_millis(100), || {
        refused = bench.checkpoint(name).err();
        refused.is_some() || pinging.ended().is_some()
    });
    if let Some(failure) = refused {
        return Err(failure);
    }
    ensure!(done, "the ping of {name} found no way out\n{}", pinging.output());
    pinging.succeed(SOON)?;
    ensure!(of_guest(&capture)? >= 1, "the capture saw nothing of {name}");
    capture.finish().map(drop)
}

fn mac_of(namespace: &Namespace) -> Result<[u8; 6]> {
    let text = namespace.run("cat /sys/class/net/eth0/address")?;
    let mut mac = [0; 6];
    for (byte, part) in mac.iter_mut().zip(text.trim().split(':')) {
        *byte = u8::from_str_radix(part, 16).context(|| format!("no MAC address: {text}"))?;
    }
    Ok(mac)
}

/// TCP between two real kernels, whose sums are checked in software.
fn tcp_flows(guest: &Namespace, world: &Namespace, scratch: &Scratch) -> Result<()> {
    let server = format!("-s -1 -B {WORLD} --forceflush");
    let mut server = Program::new("iperf3").args(&server).inside(world).start(scratch, "iperf3-server")?;
    server.wait_for_line("listening", SOON)?;
    // Several connections: where a port has several queues, they spread over them.
    let client = format!("-c {WORLD} -t 2 -b 5M -P 4 -J");
    let report = Program::new("iperf3").args(&client).inside(guest).run(scratch, "iperf3", SOON)?;
    let report: serde_json::Value = serde_json::from_str(&report).context(|| "iperf3's report".to_owned())?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
    println!("TCP out of the guest: {:.1} Mbit/s", bits / 1e6);
    ensure!(bits > 1e6, "only {bits} bit/s came through");
    Ok(())
}

/// An address of the host itself, in the guest's network but on another device: its kernel answers ARP for it on any.
struct HostAddress;

impl HostAddress {
    const ADDRESS: &str = "10.10.0.77";

    fn new() -> Result<HostAddress> {
        run(&format!("ip address add {}/32 dev lo", Self::ADDRESS)).map(|_| HostAddress)
    }

    fn answers(&self, guest: &Namespace) -> bool {
        let _ = guest.run("ip neighbour flush dev eth0");
        guest.run(&format!("ping -c 1 -W 1 {}", Self::ADDRESS)).is_ok()
            || guest
                .run(&format!("ip neighbour show {}", Self::ADDRESS))
                .is_ok_and(|seen| seen.contains("lladdr"))
    }
}

impl Drop for HostAddress {
    fn drop(&mut self) {
        let _ = run(&format!("ip address delete {}/32 dev lo", Self::ADDRESS));
    }
}

fn af_packet(number: usize, namespace: &Namespace) -> String {
    format!("net_af_packet{number},iface={}", namespace.wire())
}

const SOCKET: &str = "source = \"socket\"";
const TIMER: &str = "source = \"timer\"\ntimer = { interval_ms = 20, commit_delay_ms = 5 }";

#[test]
fn a_veth_is_held_and_tells_its_link_and_leaks_nothing_when_the_plane_dies() -> Result<()> {
    let _alone = alone();
    let (guest, world) = (namespace(GUEST)?, namespace(WORLD)?);
    let host = HostAddress::new()?;
    ensure!(host.answers(&guest), "nothing can leak here, so the test proves nothing");
    let ports = vec![(af_packet(0, &guest), af_packet(1, &world))];
    let mut bench = Bench::start(&[ports], SOCKET)?;
    ensure!(!host.answers(&guest), "the host's own kernel answers a guest whose output is held");
    held_until_committed(&mut bench, "g0", &guest, &world)?;

    bench.control.execute("subscribe", json!({ "events": ["link", "leak"] }))?;
    world.run("ip link set eth0 down")?;
    let event = bench.event("an event for a wire that is down")?;
    ensure!(event.name == "link" && event.data["port"] == "wire" && event.data["up"] == false, "{event:?}");
    world.run("ip link set eth0 up")?;
    let event = bench.event("an event for a wire that is up")?;
    ensure!(event.name == "link" && event.data["up"] == true, "{event:?}");
    run(&format!("ip address add 192.0.2.7/32 dev {}", guest.wire()))?;
    let event = bench.event("an event for a guest port that leaks")?;
    let remedy = format!("ip addr flush dev {}", guest.wire());
    ensure!(
        event.name == "leak" && event.data["problems"][0].as_str().is_some_and(|p| p.contains(&remedy)),
        "{event:?}"
    );
    run(&remedy)?;
    let event = bench.event("an event for one that is mended")?;
    ensure!(event.name == "leak" && event.data["problems"] == json!([]), "{event:?}");

    // What is held dies with the plane, and what the guest sends then goes nowhere.
    let mac = mac_of(&guest)?;
    let capture = Capture::start(&world, &bench.scratch, "death")?;
    let ping = format!("-c 20 -i 0.1 -W 1 {WORLD}");
    let mut pinging = Program::new("ping").args(&ping).inside(&guest).start(&bench.scratch, "ping-on")?;
    std::thread::sleep(Duration::from_millis(700));
    bench.plane.kill();
    pinging.wait(SOON)?;
    let frames = capture.finish()?;
    ensure!(frames.iter().all(|frame| frame.source_mac != mac), "frames went past a plane that is dead");
    ensure!(!host.answers(&guest), "the host's own kernel answers a guest whose plane is dead");
    bench.scratch.passed();
    Ok(())
}

#[test]
fn two_guests_with_three_lanes_on_two_lcores_do_not_share_epochs() -> Result<()> {
    let _alone = alone();
    let guests = [namespace(GUEST)?, namespace(GUEST)?, namespace(GUEST)?];
    let worlds = [namespace(WORLD)?, namespace(WORLD)?, namespace(WORLD)?];
    let lane = |n: usize| (af_packet(2 * n, &guests[n]), af_packet(2 * n + 1, &worlds[n]));
    let mut bench = Bench::start(&[vec![lane(0), lane(1)], vec![lane(2)]], SOCKET)?;
    // Guest g1 is never checkpointed: its ping stays.
    let mac = mac_of(&guests[2])?;
    let capture = Capture::start(&worlds[2], &bench.scratch, "other")?;
    let ping = format!("-c 1 -W 60 {WORLD}");
    let other = Program::new("ping").args(&ping).inside(&guests[2]).start(&bench.scratch, "ping-other")?;
    for lane in 0..2 {
        held_until_committed(&mut bench, "g0", &guests[lane], &worlds[lane])?;
    }
    let frames = capture.finish()?;
    ensure!(frames.iter().all(|frame| frame.source_mac != mac), "a commit of g0 let a frame of g1 go");
    drop(other);
    held_until_committed(&mut bench, "g1", &guests[2], &worlds[2])?;
    bench.passed()
}

#[test]
fn a_lane_with_several_queue_pairs_holds_them_all_and_carries_tcp() -> Result<()> {
    let _alone = alone();
    let (guest, world) = (namespace(GUEST)?, namespace(WORLD)?);
    let ports = || vec![(af_packet(0, &guest), af_packet(1, &world))];
    let keys = "hold_frames = 8192\nqueues = 4";
    let mut bench = Bench::start_with(&[ports()], SOCKET, keys)?;
    for _ in 0..3 {
        held_until_committed(&mut bench, "g0", &guest, &world)?;
    }
    bench.passed()?;
    let bench = Bench::start_with(&[ports()], TIMER, keys)?;
    tcp_flows(&guest, &world, &bench.scratch)?;
    bench.passed()
}

#[test]
fn af_xdp_is_a_guest_port_and_a_wire_port() -> Result<()> {
    let _alone = alone();
    let (guest, world) = (namespace(GUEST)?, namespace(WORLD)?);
    let xdp = |number: usize, of: &Namespace| format!("net_af_xdp{number},iface={}", of.wire());
    let mut bench = Bench::start(&[vec![(xdp(0, &guest), xdp(1, &world))]], SOCKET)?;
    held_until_committed(&mut bench, "g0", &guest, &world)?;
    bench.passed()?;
    let bench = Bench::start(&[vec![(xdp(0, &guest), xdp(1, &world))]], TIMER)?;
    tcp_flows(&guest, &world, &bench.scratch)?;
    bench.passed()
}

/// A ping of `len` bytes, the ICMP header included, that must not be cut into fragments, answered.
fn ping_of(len: usize, guest: &Namespace, scratch: &Scratch) -> Result<()> {
    let ping = format!("-c 3 -i 0.2 -W 10 -M do -s {} {WORLD}", len - 8);
    Program::new("ping").args(&ping).inside(guest).run(scratch, &format!("ping-{len}"), SOON).map(drop)
}

#[test]
fn jumbo_frames_go_through_af_packet_ports_and_long_ones_through_af_xdp() -> Result<()> {
    let _alone = alone();
    let (guest, world) = (namespace(GUEST)?, namespace(WORLD)?);
    let set_mtu = |mtu: usize| -> Result<()> {
        for namespace in [&guest, &world] {
            run(&format!("ip link set {} mtu {mtu}", namespace.wire()))?;
            namespace.run(&format!("ip link set eth0 mtu {mtu}"))?;
        }
        Ok(())
    };
    let ports = |driver: &str| {
        let port = |number: usize, of: &Namespace| format!("net_{driver}{number},iface={}", of.wire());
        [vec![(port(0, &guest), port(1, &world))]]
    };
    for (driver, mtu, frames) in [("af_packet", 9000, 2048), ("af_xdp", 3430, 8192)] {
        set_mtu(mtu)?;
        let keys = format!("mtu = {mtu}\nhold_frames = {frames}");
        let bench = Bench::start_with(&ports(driver), TIMER, &keys)?;
        for len in [64, 1480, mtu - 20] {
            ping_of(len, &guest, &bench.scratch)?;
        }
        bench.passed()?;
    }
    Ok(())
}

#[test]
fn a_tap_is_a_guest_port_and_a_wire_port() -> Result<()> {
    let _alone = alone();
    let (guest, world) = (Namespace::new()?, Namespace::new()?);
    for source in [SOCKET, TIMER] {
        let pid = std::process::id();
        let (inner, outer) = (format!("tgt{pid}g"), format!("tgt{pid}w"));
        let ports = (format!("net_tap0,iface={inner}"), format!("net_tap1,iface={outer}"));
        let mut bench = Bench::start(&[vec![ports]], source)?;
        // The kernel's end of each tap goes to the namespace that is to use it, in place of the veth there.
        for (tap, namespace, address) in [(&inner, &guest, GUEST), (&outer, &world, WORLD)] {
            let _ = namespace.run("ip link set eth0 name veth0");
            run(&format!("ip link set {tap} netns {}", namespace.name()))?;
            namespace.run(&format!("ip link set {tap} name eth0"))?;
            namespace.run("ethtool -K eth0 tx off sg off tso off gso off gro off")?;
            namespace.run("ip link set eth0 up")?;
            namespace.address(&format!("{address}/24"))?;
        }
        if source == SOCKET {
            held_until_committed(&mut bench, "g0", &guest, &world)?;
        } else {
            tcp_flows(&guest, &world, &bench.scratch)?;
        }
        bench.passed()?;
    }
    Ok(())
}
