//! Calls between phones outside through a real proxy and a real media relay in the guest, with epochs of 300 ms:
//! signalling waits for its commits, media does not, from its first packet on where the plane can read the SIP, and
//! from its third on where it cannot.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_tests::capture::{Capture, Frame};
use tidegate_tests::ensure;
use tidegate_tests::failure::Result;
use tidegate_tests::guest_image::Service;
use tidegate_tests::laboratory::{GUEST_IP, Laboratory, MEDIA, MEDIA_BY_TCP, Setting, tidegate};
use tidegate_tests::media::{echoed_streams, payload_types, percentile, relayed_streams};
use tidegate_tests::outcome::Policy;
use tidegate_tests::phone::{Model, Phone, Transport};
use tidegate_tests::plane::Source;

const INTERVAL_MS: u64 = 300;
const MS: u64 = 1_000_000;
/// Held transactions, and a busy machine.
const EVENT_WITHIN: Duration = Duration::from_secs(20);

const fn phone(name: &'static str, number: u16, transport: Transport, account: &'static str) -> Model {
    Model { name, number, transport, account, video: false, registers: true, interface: "eth0" }
}

/// What kind of call, who calls, who answers.
struct Call {
    what: &'static str,
    caller: Model,
    callee: Model,
    /// Media streams that leave the guest, both directions.
    streams: usize,
}

impl Call {
    /// The plane can read its signalling.
    fn visible(&self) -> bool {
        self.caller.transport != Transport::Tls
    }
}

const CALLS: [Call; 4] = [
    Call {
        what: "G.711 by UDP",
        caller: phone("ada", 0, Transport::Udp, "audio_codecs=PCMA"),
        callee: phone("bob", 1, Transport::Udp, "audio_codecs=PCMA,PCMU"),
        streams: 2,
    },
    Call {
        what: "opus and video by TCP, SRTP",
        caller: Model {
            video: true,
            ..phone("cleo", 2, Transport::Tcp, "audio_codecs=opus/48000/2;mediaenc=srtp")
        },
        callee: Model {
            video: true,
            ..phone("dan", 3, Transport::Tcp, "audio_codecs=opus/48000/2;mediaenc=srtp")
        },
        streams: 4,
    },
    Call {
        what: "opus by UDP, ICE and DTLS-SRTP",
        caller: phone("eve", 4, Transport::Udp, "audio_codecs=opus/48000/2;mediaenc=dtls_srtp;medianat=ice"),
        callee: phone("finn", 5, Transport::Udp, "audio_codecs=opus/48000/2;mediaenc=dtls_srtp;medianat=ice"),
        streams: 2,
    },
    Call {
        what: "G.711 by TLS",
        caller: phone("gus", 6, Transport::Tls, "audio_codecs=PCMA"),
        callee: phone("hal", 7, Transport::Tls, "audio_codecs=PCMA"),
        streams: 2,
    },
];

#[test]
fn calls_through_a_proxy_in_the_guest_are_set_up_and_their_media_does_not_wait() -> Result<()> {
    let setting = Setting {
        kind: tidegate()?,
        policy: Policy::Realtime.name(),
        source: Source::Timer { interval_ms: INTERVAL_MS, delay_ms: 50 },
        plane_is_client: false,
    };
    let beacon = Path::new(env!("CARGO_BIN_EXE_beacon"));
    let mut laboratory = Laboratory::open_serving(&setting, beacon, Service::Relay)?;
    for call in &CALLS {
        let (mut caller, _callee) = (start(&laboratory, &call.caller)?, start(&laboratory, &call.callee)?);
        let capture = laboratory.capture(call.caller.name)?;
        caller.call(call.callee.name)?;
        talk(&capture, call.streams)?;
        caller.hang_up()?;
        judge(&laboratory, call.what, call.visible(), call.streams, &capture.finish()?)?;
    }
    a_call_with_everything(&laboratory)?;
    laboratory.plane.stop()?;
    laboratory.passed();
    Ok(())
}

/// The guest itself answers, by UDP and by TCP: its answer names the port, and waits for its commit. So the plane knows
/// the port long before there is media, and no packet waits.
#[test]
fn no_packet_of_a_call_that_the_guest_answers_waits_whether_by_udp_or_tcp() -> Result<()> {
    let setting = Setting {
        kind: tidegate()?,
        policy: Policy::Realtime.name(),
        source: Source::Timer { interval_ms: INTERVAL_MS, delay_ms: 50 },
        plane_is_client: false,
    };
    let mut laboratory = Laboratory::open(&setting, Path::new(env!("CARGO_BIN_EXE_beacon")))?;
    for (transport, media) in [("u1", MEDIA), ("t1", MEDIA_BY_TCP)] {
        let capture = laboratory.capture(transport)?;
        laboratory.calls_by(1, transport)?.succeed()?;
        let streams = echoed_streams(&capture.finish()?, media);
        let told = laboratory.plane.control()?.execute("streams", json!({}))?;
        let told = told["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
        for ((caller, ssrc), stream) in &streams {
            let ssrc = format!("0x{ssrc:08x}");
            let from = media.to_string();
            let report = told
                .iter()
                .find(|report| report["ssrc"] == ssrc.as_str() && report["source"] == from.as_str());
            let report = report.unwrap_or(&Value::Null);
            let delays = stream.delays_ns();
            println!(
                "{transport}: {ssrc} of {caller}: {} in, {} out, delay first {} ms, most {} ms, {report}",
                stream.sent.len(),
                stream.echoed.len(),
                delays.first().copied().unwrap_or_default() / MS,
                percentile(&delays, 1.0) / MS
            );
            ensure!(
                (stream.lost(), stream.reordered()) == (0, 0),
                "{transport}: packets lost or out of order"
            );
            ensure!(
                report["promoted_at"] == 1 && report["named_by_sip"] == true && report["held"] == 0,
                "{transport}: {report}"
            );
        }
        // The voice and the telephone event.
        ensure!(streams.len() == 2, "{transport}: {} streams", streams.len());
    }
    laboratory.plane.stop()?;
    laboratory.passed();
    Ok(())
}

fn start(laboratory: &Laboratory, model: &Model) -> Result<Phone> {
    Phone::start(model, &laboratory.outside, &laboratory.scratch)
}

/// Waits until so many streams leave the guest, each for half a second: keys are exchanged in messages that are held.
fn talk(capture: &Capture, count: usize) -> Result<()> {
    let deadline = Instant::now() + EVENT_WITHIN;
    loop {
        let streams = relayed_streams(&capture.frames()?, GUEST_IP.into());
        // The video has 10 frames a second.
        let flowing = streams.values().filter(|stream| stream.echoed.len() > 10).count();
        if flowing >= count {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{flowing} of {count} streams flow after {EVENT_WITHIN:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Digits, hold, a change of codec, a transfer: none of them makes media wait.
fn a_call_with_everything(laboratory: &Laboratory) -> Result<()> {
    let plain = |name, number, codecs| start(laboratory, &phone(name, number, Transport::Udp, codecs));
    let mut ida = plain("ida", 8, "audio_codecs=PCMA")?;
    let mut joe = plain("joe", 9, "audio_codecs=PCMA,PCMU")?;
    let mut kim = plain("kim", 10, "audio_codecs=PCMU")?;

    let capture = laboratory.capture("features")?;
    ida.call("joe")?;
    talk(&capture, 2)?;
    for digit in ["1", "#"] {
        ida.command("sndcode", digit)?;
        std::thread::sleep(Duration::from_millis(400));
    }
    ida.command("hold", "")?;
    std::thread::sleep(Duration::from_secs(1));
    ida.command("resume", "")?;
    std::thread::sleep(Duration::from_secs(1));
    ida.command("transfer", &format!("sip:kim@{GUEST_IP}"))?;
    kim.wait_for("CALL_ESTABLISHED", EVENT_WITHIN)?;
    talk(&capture, 4)?;
    joe.hang_up()?;
    let frames = capture.finish()?;
    // Both ways between ida and joe, and between joe and kim.
    judge(laboratory, "digits, hold and transfer", true, 4, &frames)?;
    let events = relayed_streams(&frames, GUEST_IP.into());
    let told = events.keys().any(|(to, _)| payload_types(&frames, *to).contains(&101));
    ensure!(told, "no telephone event left the guest");

    let _leo = plain("leo", 11, "audio_codecs=PCMA,PCMU")?;
    // What is still on its way of the call before does not belong to this one.
    drop((ida, joe, kim));
    std::thread::sleep(Duration::from_secs(1));
    let capture = laboratory.capture("codec")?;
    let media = laboratory.call_that_changes_its_codec("leo")?;
    let frames = capture.finish()?;
    judge(laboratory, "a change of codec", true, 2, &frames)?;
    let types = payload_types(&frames, media);
    ensure!(types == [8, 0], "the guest sent payload types {types:?}");
    Ok(())
}

/// Every stream that left the guest left whole, in order, and its first packet without waiting for a commit.
fn judge(laboratory: &Laboratory, what: &str, visible: bool, count: usize, frames: &[Frame]) -> Result<()> {
    let mut streams = relayed_streams(frames, GUEST_IP.into());
    streams.retain(|_, stream| stream.echoed.len() > 5);
    let answer = laboratory.plane.control()?.execute("streams", json!({}))?;
    let mut named_first = 0;
    let told = answer["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
    for ((to, ssrc), stream) in &streams {
        let delays = stream.delays_ns();
        let (first, most) = (delays.first().copied().unwrap_or_default(), percentile(&delays, 1.0));
        let ssrc = format!("0x{ssrc:08x}");
        let report = told.iter().find(|report| {
            report["ssrc"] == ssrc.as_str() && report["destination"] == to.to_string().as_str()
        });
        let promoted_at = report.and_then(|report| report["promoted_at"].as_u64());
        println!(
            "{what}: {ssrc} to {to}: {} in, {} out, promoted at {promoted_at:?} (by SIP: {}), delay first {} ms, median {} us, \
             most {} ms, largest gap {} ms",
            stream.sent.len(),
            stream.echoed.len(),
            report.map_or(&Value::Null, |report| &report["named_by_sip"]),
            first / MS,
            percentile(&delays, 0.5) / 1000,
            most / MS,
            percentile(&stream.gaps_ns(), 1.0) / MS,
        );
        ensure!(stream.reordered() == 0, "{what}: {} packets came out of order", stream.reordered());
        let in_time = promoted_at.is_some_and(|at| at <= 3);
        ensure!(in_time, "{what}: promoted at {promoted_at:?}: {report:?}");
        let named = report.is_some_and(|report| report["named_by_sip"] == true);
        ensure!(visible || !named, "{what}: nobody can have read its SIP");
        named_first += usize::from(named && promoted_at == Some(1));
        // Half an epoch: a packet that was held waits for its end and the commit.
        ensure!(first < INTERVAL_MS * MS / 2, "{what}: the first packet took {} ms", first / MS);
    }
    // The guest's offer names the port of the media to the callee, long before there is any. That of the media to the
    // caller its answer names, and an emulated relay may send the first packets before its proxy sends that.
    ensure!(
        !visible || named_first * 2 >= count,
        "{what}: of {count} streams {named_first} were let go from their first packet on"
    );
    ensure!(streams.len() == count, "{what}: {} streams left the guest, {count} expected", streams.len());
    Ok(())
}
