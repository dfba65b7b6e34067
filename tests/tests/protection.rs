//! What a protected guest's peers and operators are promised while nothing dies: a first copy that stalls nobody,
//! checkpoints that come when output wants them, and a link that is nobody else's.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::capture::{Capture, Frame, Kind};
use tidegate_tests::ensure;
use tidegate_tests::failure::{Context, Failure, Result};
use tidegate_tests::scratch::Scratch;
use tidegate_tests::survival::host::Host;
use tidegate_tests::survival::mark::Mark;
use tidegate_tests::survival::network::LINK_PORT;
use tidegate_tests::survival::pair::{Link, Pair, Wish, World};
use tidegate_tests::survival::relay::Relay;
use tidegate_tests::survival::telling::Telling;

const SOON: Duration = Duration::from_secs(20);
const MS: u64 = 1_000_000;

fn world() -> Result<World> {
    World::open(Path::new(env!("CARGO_BIN_EXE_teller")))
}

fn at_ns(event: &Value) -> u64 {
    event["at_ns"].as_u64().unwrap_or(0)
}

/// From a checkpoint, right after which `act` is done, to the next one, milliseconds.
fn next_after(pair: &mut Pair<'_>, act: impl FnOnce() -> Result<()>) -> Result<u64> {
    let from = pair.mark()[0];
    let first = pair.told(0, "checkpoint", from)?;
    act()?;
    let known = pair.primary.events().iter().position(|event| at_ns(event) == at_ns(&first));
    let second = pair.told(0, "checkpoint", known.map_or(from, |at| at + 1))?;
    Ok((at_ns(&second) - at_ns(&first)) / MS)
}

/// The longest time without a mark of the guest between two moments, and how many there were.
fn longest_gap(frames: &[Frame], from: u64, to: u64) -> (u64, usize) {
    let marks = frames.iter().filter(|frame| matches!(frame.kind, Kind::Udp(_)));
    let marks = marks.filter(|frame| Mark::parse(&frame.payload).is_some()).map(|frame| frame.at_ns);
    let within: Vec<u64> = marks.filter(|at| (from..to).contains(at)).collect();
    let edges: Vec<u64> = [from].into_iter().chain(within.iter().copied()).chain([to]).collect();
    (edges.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0), within.len())
}

const OPTIONS: &str = "OPTIONS sip:voice@10.9.0.2:5080 SIP/2.0\r\nVia: SIP/2.0/UDP 10.9.0.1:5060;branch=z9hG4bK-urge;rport\r\n\
    Max-Forwards: 70\r\nFrom: <sip:peer@10.9.0.1>;tag=urge\r\nTo: <sip:voice@10.9.0.2>\r\nCall-ID: urge@10.9.0.1\r\n\
    CSeq: 1 OPTIONS\r\nContact: <sip:peer@10.9.0.1:5060>\r\nContent-Length: 0\r\n\r\n";

/// The bounds below are the options': an interval is never cut short for less than what may cut it, and the floor and
/// the ceiling are kept. A quota of 64 frames is under pressure at 48: half a second of the guest's marks.
#[test]
fn the_first_copy_stalls_nobody_and_output_that_waits_brings_a_checkpoint_forward() -> Result<()> {
    let world = world()?;
    let (floor, interval, ceiling) = (150, 1500, 3000);
    let pace = format!("--floor {floor}ms --interval {interval}ms --ceiling {ceiling}ms");
    // Nothing dies here, on however busy a machine.
    let (both, standby) = ("--dead-after 1s", "--term 900ms");
    let wish =
        Wish { both, primary: &pace, standby, link: Link::Slow, hold_frames: Some(64), ..Wish::default() };
    let mut pair = Pair::start(&world, wish)?;
    let (begun, seeded) = (pair.told(0, "session", 0)?, pair.told(0, "seeded", 0)?);
    pair.cut()?.heal();
    let mut plane = pair.hosts[0].plane.control()?;

    // Output under pressure: the guest's marks alone.
    plane.execute("subscribe", json!({ "events": ["pressure"] }))?;
    let pressed = next_after(&mut pair, || {
        let told = plane.event(SOON)?;
        told.map(drop).ok_or_else(|| Failure::new("the plane told of no pressure"))
    })?;

    // A guest that says nothing.
    pair.hosts[0].guest.command("killall -STOP teller", SOON)?;
    for _ in 0..2 {
        next_after(&mut pair, || Ok(()))?;
    }
    let idle = next_after(&mut pair, || Ok(()))?;
    let [stranger, phone] = ["10.9.0.1:0", "10.9.0.1:5060"].map(|own| {
        world.network.outside.enter(move || UdpSocket::bind(own).context(|| format!("cannot bind {own}")))
    });
    let (stranger, phone) = (stranger?, phone?);
    let say = |socket: &UdpSocket, what: &str, to: &str| {
        socket.send_to(what.as_bytes(), to).map(drop).context(|| format!("cannot send to {to}"))
    };
    // It answers that nobody listens there: that waits, and urges nothing.
    let waits = next_after(&mut pair, || say(&stranger, "who?", "10.9.0.2:9"))?;
    let signals = next_after(&mut pair, || say(&phone, OPTIONS, "10.9.0.2:5080"))?;
    phone.set_read_timeout(Some(SOON)).context(|| "cannot wait".to_owned())?;
    let mut answer = [0; 64];
    phone.recv(&mut answer).context(|| "the guest's phone did not answer".to_owned())?;
    ensure!(answer.starts_with(b"SIP/2.0 "), "that is no answer: {:?}", String::from_utf8_lossy(&answer));
    println!("idle {idle} ms, output waits {waits} ms, SIP waits {signals} ms, under pressure {pressed} ms");
    // A millisecond is lost in rounding, another between two clocks.
    ensure!(idle + 2 >= ceiling, "an idle guest was paused after {idle} ms");
    ensure!((interval - 2..ceiling).contains(&waits), "output waited for {waits} ms");
    ensure!((floor - 2..interval).contains(&signals), "signalling waited for {signals} ms");
    ensure!((floor - 2..interval).contains(&pressed), "a queue under pressure waited for {pressed} ms");

    pair.hosts[0].guest.command("killall -CONT teller", SOON)?;
    pair.goes_on()?;
    let [a, _] = pair.finish()?;
    let (from, to) = (at_ns(&begun), at_ns(&seeded));
    let (gap, marks) = longest_gap(&a, from, to);
    println!(
        "the first copy took {} ms; {marks} marks, {} ms at most without one",
        (to - from) / MS,
        gap / MS
    );
    ensure!(to - from > 1000 * MS, "the first copy was too quick to stall anybody");
    ensure!(gap < (to - from) / 4, "the guest was not heard for {} ms of the first copy", gap / MS);
    Ok(())
}

/// What `scp` would bring to one host: the CA's certificate, and the node's own with its key, under the name `called`.
fn handed_out(
    scratch: &Scratch,
    name: &str,
    ca: &Path,
    own: &Path,
    node: &str,
    called: &str,
) -> Result<PathBuf> {
    let to = scratch.file(name);
    fs::create_dir(&to).context(|| format!("cannot make {}", to.display()))?;
    let files = [
        (ca.join("ca.pem"), "ca.pem".to_owned()),
        (own.join(format!("{node}.pem")), format!("{called}.pem")),
        (own.join(format!("{node}.key")), format!("{called}.key")),
    ];
    for (from, name) in files {
        fs::copy(&from, to.join(name)).context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(to)
}

/// A primary that the standby does not let in, and what its operator is told.
fn is_kept_out(world: &World, host: &Host, label: &str, words: &str, why: &str) -> Result<()> {
    let program = world.beside(host, "replicate").args(words);
    let (mut intruder, told) = program.start_telling(host.scratch(), label)?;
    let told = Telling::read(told, &host.scratch().file(&format!("{label}.jsonl")));
    let refused = told.wait("unreachable", SOON);
    let reason = refused.as_ref().and_then(|event| event["reason"].as_str()).unwrap_or_default().to_owned();
    println!("{label}: {reason}");
    ensure!(told.count("session") == 0, "{label} was let in");
    intruder.kill();
    if reason.contains(why) {
        Ok(())
    } else {
        Err(intruder.failure(&format!("was told {refused:?}, not {why:?}")))
    }
}

/// A program that does not even begin.
fn is_wrong_use(world: &World, host: &Host, verb: &str, words: &str) -> Result<()> {
    let mut running = world.beside(host, verb).args(words).start(host.scratch(), "wrong")?;
    let status = running.wait(SOON)?;
    let said = running.output();
    println!("{verb}: {}", said.trim());
    ensure!(!status.success(), "{verb} began without certificates");
    let tells = ["loopback", "tidegate certs", "--certs"].iter().all(|word| said.contains(word));
    ensure!(tells, "{verb} does not say what to do: {said:?}");
    Ok(())
}

/// The first words of the link's protocol, as a capture would show them.
fn in_the_clear(frames: &[Frame]) -> usize {
    let shows = |frame: &&Frame| frame.payload.windows(11).any(|words| words == b"incarnation");
    frames.iter().filter(shows).count()
}

#[test]
fn the_link_between_two_hosts_is_encrypted_and_lets_nobody_else_in() -> Result<()> {
    let world = world()?;
    let scratch = Scratch::new()?;
    let certs = |name: &str, nodes: &str| -> Result<PathBuf> {
        let dir = scratch.file(name);
        let program = world.tidegate("certs").arg(dir.display().to_string()).args(nodes);
        program.run(&scratch, name, SOON)?;
        Ok(dir)
    };
    let (ca, other) = (certs("ca", "host-a host-b stranger")?, certs("other", "host-a")?);
    let host_a = handed_out(&scratch, "a", &ca, &ca, "host-a", "host-a")?;
    let host_b = handed_out(&scratch, "b", &ca, &ca, "host-b", "host-b")?;
    let stranger = handed_out(&scratch, "s", &ca, &ca, "stranger", "stranger")?;
    let liar = handed_out(&scratch, "l", &ca, &ca, "stranger", "host-a")?;
    let foreign = handed_out(&scratch, "f", &ca, &other, "host-a", "host-a")?;
    let words =
        |dir: &Path, node: &str, peer: &str| format!("--certs {} --node {node} --peer {peer}", dir.display());
    let (primary, standby) = (words(&host_a, "host-a", "host-b"), words(&host_b, "host-b", "host-a"));
    let wish = Wish {
        both: "--dead-after 300ms",
        primary: &primary,
        standby: &standby,
        link: Link::Wire,
        ..Wish::default()
    };

    let mut on_the_wire = None;
    let capture = |label: &str, most: &str| {
        Capture::start_on(LINK_PORT, most, &world.network.hosts[1], &scratch, label)
    };
    let mut pair = Pair::start_after(&world, wish, |host, to: SocketAddr| {
        is_wrong_use(&world, host, "replicate", &format!("--to {to}"))?;
        is_wrong_use(&world, host, "standby", &format!("--listen {to}"))?;
        let seen = capture("refused", "-c 2000")?;
        let to_it = |words: String| format!("--to {to} {words}");
        for (label, words, why) in [
            ("stranger", words(&stranger, "stranger", "host-b"), "not the peer that is configured here"),
            ("liar", words(&liar, "host-a", "host-b"), "its certificate does not"),
            ("foreign", words(&foreign, "host-a", "host-b"), "from another CA"),
            ("believes-another-ca", words(&other, "host-a", "host-b"), "from another CA"),
            ("looks-for-another", words(&host_a, "host-a", "host-c"), "another node"),
        ] {
            is_kept_out(&world, host, label, &to_it(words), why)?;
        }
        ensure!(in_the_clear(&seen.frames()?) == 0, "who has certificates spoke in the clear");
        // To this one the standby is on loopback: it speaks without TLS.
        let (_relay, near) = Relay::open(&world.network.hosts[0], to)?;
        is_kept_out(&world, host, "plain", &format!("--to {near}"), "")?;
        let plain = in_the_clear(&seen.finish()?);
        ensure!(plain > 0, "the capture would not show what is in the clear");
        on_the_wire = Some(capture("link", "-c 3000")?);
        Ok(())
    })?;
    let log = pair.standby.output();
    ensure!(
        log.contains("does not speak TLS"),
        "the standby's operator is not told of a plain client: {log:?}"
    );
    let acknowledged = pair.told(1, "checkpoint", 0)?;
    println!("{acknowledged}");
    pair.goes_on()?;
    let seen = on_the_wire.ok_or_else(|| Failure::new("nothing was captured"))?.finish()?;
    let carried = seen.iter().filter(|frame| !frame.payload.is_empty()).count();
    ensure!(
        carried > 100 && in_the_clear(&seen) == 0,
        "of {carried} frames {} were in the clear",
        in_the_clear(&seen)
    );

    // The cable is pulled, and comes back when the standby has taken over.
    let across = |state: &str| world.network.hosts[1].run(&format!("ip link set {LINK_PORT} {state}"));
    across("down")?;
    let promoted = pair.told(1, "promoted", 0)?;
    println!("{promoted}");
    ensure!(promoted["cause"]["why"] == "silence", "a cable that was pulled is silence: {promoted}");
    pair.goes_on()?;
    across("up")?;
    pair.told(0, "superseded", 0)?;
    ensure!(pair.ends(0)? == Some(1), "a late primary's end is no failure");
    pair.goes_on()?;
    pair.finish()?;
    scratch.passed();
    Ok(())
}
