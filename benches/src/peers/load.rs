//! What goes through a peer in a turn: a voice, TCP beside it, a flood of frames.

use super::wires::{GUEST, WORLD, Wires};
use crate::failure::{Context, Failure, Result};
use crate::testbed::hiccups::{Noise, Watch};
use crate::testbed::panel::Part;
use crate::testbed::stream::streams;
use serde_json::Value;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidegate_control::classify::Arrival;
use tidegate_tests::capture::Capture;
use tidegate_tests::process::Program;
use tidegate_tests::survival::mark::voice;
use tidegate_tests::wall_clock::now_ns;

const MEDIA: u16 = 6400;
const HEARD: u16 = 6300;
const FLOOD: u16 = 6600;
/// From one packet of a voice to the next: 20 ms of G.711.
const PACKET: Duration = Duration::from_millis(20);
/// Before anything is measured: addresses are learned, a stream is recognised.
const SETTLES: Duration = Duration::from_millis(1500);
/// Streams that the flood consists of.
const STREAMS: u32 = 64;
const FLOODS: Duration = Duration::from_secs(1);
/// iperf3's own messages are TCP, and held.
const TCP_AROUND: Duration = Duration::from_secs(30);

/// What came of a turn.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The voice alone.
    pub alone: Heard,
    /// The voice beside TCP.
    pub beside_tcp: Heard,
    /// TCP from the guest, as the world received it.
    pub tcp_mbit: f64,
    /// Frames of the flood, where that says something.
    pub flood: Option<Flood>,
}

/// A voice in some span of time.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Its packets.
    pub arrivals: Vec<Arrival>,
    /// What a receiver makes of them.
    pub part: Part,
    /// Packets sent in that time.
    pub sent: u64,
    /// The machine meanwhile.
    pub noise: Noise,
    /// Its beginning, nanoseconds since 1970.
    pub begin_ns: u64,
    /// Its end.
    pub end_ns: u64,
}

/// Frames a second.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// That left the guest.
    pub offered: f64,
    /// That the world received.
    pub delivered: f64,
}

/// How much of each.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// The voice alone, and again TCP once it is in its stride.
    pub seconds: f64,
    /// TCP before that: where it waits a whole interval for each answer, it is slow to start.
    pub starts: Duration,
}

/// Runs a turn; the device forwards already.
pub fn turn(wires: &Wires, measure: Measure, ssrc: u32, floods: bool) -> Result<Turn> {
    wires.answer()?;
    let _sinks = [sink(wires, HEARD)?, sink(wires, FLOOD)?];
    let capture =
        Capture::start_on("eth0", &format!("udp and port {HEARD}"), &wires.world, &wires.scratch, "heard")?;
    let talker = Talker::start(wires, ssrc)?;
    std::thread::sleep(SETTLES);
    let alone = Span::begin();
    std::thread::sleep(Duration::from_secs_f64(measure.seconds));
    let alone = alone.end();
    let beside = Span::begin();
    let tcp_mbit = tcp(wires, measure)?;
    let beside = beside.end();
    drop(talker);
    // What is held at last is not waited for: it would be of no span.
    let frames = capture.finish()?;
    let found = streams(&frames, GUEST.into());
    let arrivals = found.into_iter().find(|stream| stream.ssrc == ssrc).map(|stream| stream.arrivals);
    let arrivals = arrivals.ok_or_else(|| Failure::new("no packet of the voice came through"))?;
    let (alone, beside_tcp) = (alone.heard(&arrivals), beside.heard(&arrivals));
    let flood = if floods { Some(flood(wires)?) } else { None };
    Ok(Turn { alone, beside_tcp, tcp_mbit, flood })
}

/// A socket of the world that takes what comes and leaves it.
fn sink(wires: &Wires, port: u16) -> Result<UdpSocket> {
    Ok(wires.world.enter(move || {
        UdpSocket::bind((WORLD, port)).map_err(|error| {
            tidegate_tests::failure::Failure::new(format!("cannot open port {port} of the world: {error}"))
        })
    })?)
}

/// A socket of the guest that sends to a port of the world.
fn source(wires: &Wires, own: u16, port: u16) -> Result<UdpSocket> {
    Ok(wires.guest.enter(move || {
        UdpSocket::bind((GUEST, own))
            .and_then(|socket| socket.connect((WORLD, port)).map(|()| socket))
            .map_err(|error| {
                tidegate_tests::failure::Failure::new(format!("cannot open port {own} of the guest: {error}"))
            })
    })?)
}

/// A voice that goes on until it is dropped.
struct Talker {
    end: Arc<AtomicBool>,
}

impl Talker {
    fn start(wires: &Wires, ssrc: u32) -> Result<Talker> {
        let socket = source(wires, MEDIA, HEARD)?;
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        std::thread::spawn(move || {
            let begin = Instant::now();
            for number in 0u32.. {
                // From the intended moment: what is late once does not shift all that follows.
                std::thread::sleep((begin + PACKET * number).saturating_duration_since(Instant::now()));
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let _ = socket.send(&voice(ssrc, number as u16, number.wrapping_mul(160), 0));
            }
        });
        Ok(Talker { end })
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// A time in which a voice is listened to.
struct Span {
    begin_ns: u64,
    watch: Watch,
}

/// One that is over.
struct Past {
    begin_ns: u64,
    end_ns: u64,
    noise: Noise,
}

impl Span {
    fn begin() -> Span {
        Span { begin_ns: now_ns(), watch: Watch::start() }
    }

    fn end(self) -> Past {
        Past { begin_ns: self.begin_ns, end_ns: now_ns(), noise: self.watch.finish() }
    }
}

impl Past {
    fn heard(self, arrivals: &[Arrival]) -> Heard {
        let Past { begin_ns, end_ns, noise } = self;
        let within = |arrival: &&Arrival| (begin_ns..=end_ns).contains(&arrival.at_ns);
        let arrivals: Vec<Arrival> = arrivals.iter().filter(within).copied().collect();
        let part = Part::of("from the guest", &arrivals, &noise);
        let sent = (end_ns - begin_ns) / PACKET.as_nanos() as u64;
        Heard { arrivals, part, sent, noise, begin_ns, end_ns }
    }
}

/// Mbit/s of TCP from the guest to the world, as fast as it goes.
fn tcp(wires: &Wires, measure: Measure) -> Result<f64> {
    let Measure { seconds, starts } = measure;
    let starts_s = starts.as_secs_f64().ceil();
    let mut server = Program::new("iperf3")
        .args(&format!("-s -1 -B {WORLD} --forceflush"))
        .inside(&wires.world)
        .start(&wires.scratch, "iperf3-server")?;
    server.wait_for_line("listening", Duration::from_secs(10))?;
    let limit = Duration::from_secs_f64(seconds + starts_s) + TCP_AROUND;
    let report = Program::new("iperf3")
        .args(&format!("-c {WORLD} -O {starts_s:.0} -t {seconds:.0} -J"))
        .inside(&wires.guest)
        .run(&wires.scratch, "iperf3", limit)?;
    let report: Value = serde_json::from_str(&report).context(|| "iperf3's report is no JSON".into())?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.map(|bits| bits / 1e6).ok_or_else(|| Failure::new("iperf3 reports no bits that were received"))
}

/// Sends RTP of several streams as fast as one thread can.
fn flood(wires: &Wires) -> Result<Flood> {
    let socket = source(wires, FLOOD, FLOOD)?;
    let end = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&end);
    let sender = std::thread::spawn(move || {
        for number in 0u32.. {
            for stream in 0..STREAMS {
                let _ = socket.send(&voice(stream + 1, number as u16, number.wrapping_mul(160), 0));
            }
            if ends.load(Ordering::Relaxed) {
                return;
            }
        }
    });
    // Streams are recognised, queues fill.
    std::thread::sleep(FLOODS / 2);
    let look = || -> Result<(Instant, u64, u64)> {
        let counts = (Wires::count(&wires.guest, "tx_packets")?, Wires::count(&wires.world, "rx_packets")?);
        Ok((Instant::now(), counts.0, counts.1))
    };
    let before = look();
    std::thread::sleep(FLOODS);
    let after = look();
    end.store(true, Ordering::Relaxed);
    let _ = sender.join();
    let (before, after) = (before?, after?);
    let took = after.0.duration_since(before.0).as_secs_f64();
    let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / took;
    Ok(Flood { offered: rate(before.1, after.1), delivered: rate(before.2, after.2) })
}
