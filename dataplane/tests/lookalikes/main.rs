//! What merely looks like media is never let go, however it is made.
//!
//! A generator makes frames on purpose to be taken for RTP (see [`frames::Scheme`]), and mutates them; an oracle that
//! shares no code with the plane reads each frame again and says whether it may go. What is asserted:
//!
//! - the first and the second packet of anything never leave by themselves (of a port where STUN, DTLS or RTCP was
//!   seen: the first);
//! - the third leaves only when all header checks hold of three in order, of one SSRC, to one peer. A counter at bytes
//!   2-3 with a constant at 8-11 behind a valid first byte *is* RTP for whoever sees the wire alone: that it is let go
//!   from its third packet on is the design, and asserted as well, so that this suite is not vacuous;
//! - whatever else leaves is an announcement, or RTCP beside a promoted stream;
//! - what looks like TURN channel data never leaves unless its channel is bound and RTP is in it;
//! - true streams go on by the short way all along, so a flood costs them nothing; the process does not grow.
//!
//! Deterministic: thread n of two has seed n. `TIDEGATE_LOOKALIKES=1000000000` sets the number of frames of both
//! together (2e7 without it: 3 s; 1e9: 2 to 7 minutes on two cores; built with `--profile quick`).

mod frames;
mod oracle;

use frames::{CHANNEL, CLIENT, Frames, SERVER, STREAMS};
use oracle::Oracle;
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::class::{Decision, Verdict};
use tidegate_dataplane::classify::{Ahead, Classifier};
use tidegate_dataplane::ear::{Learned, Lesson};
use tidegate_dataplane::policy::Policy;
use tidegate_dataplane::port::Frame;
use tidegate_dataplane::tsc::TscRate;
use tidegate_dataplane::wire::address_bytes;
use tidegate_dataplane::wire::express::Express;

/// Nanoseconds from one frame to the next.
const STEP: u64 = 20_000;
/// Frames between two packets of the true streams.
const BEAT: u64 = 1000;

/// A frame in one segment.
struct Bytes<'a>(&'a [u8]);

impl Frame for Bytes<'_> {
    fn head(&self) -> &[u8] {
        self.0
    }

    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn segments(&self) -> u16 {
        1
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        see(self.0);
    }
}

#[derive(Debug, Default)]
struct Tally {
    frames: u64,
    let_go: u64,
    promoted: u64,
    false_bypass: Vec<String>,
    true_streams_held: u64,
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0)
}

fn run(seed: u64, count: u64) -> Tally {
    let mut classifier =
        Classifier::new(Policy::default().compile().unwrap(), 4096, TscRate::new(1_000_000_000), &mut Heap);
    let (mut frames, mut oracle, mut tally) = (Frames::new(seed), Oracle::new(), Tally::default());
    let mut now = 1_000_000_000;
    let what =
        Learned::Channel { number: CHANNEL, server: address_bytes(SERVER.0.into()), server_port: SERVER.1 };
    let lesson = Lesson { address: address_bytes(CLIENT.0.into()), port: CLIENT.1, what, open: true };
    for round in 0..count / BEAT {
        classifier.learn(&lesson, now);
        for stream in 0..STREAMS {
            let frame = frames.true_packet(stream, round);
            now += STEP;
            let usual = {
                let lookout = classifier.lookout().unwrap();
                let mut ahead = lookout.look::<true>(frame, frame.len() as u32);
                lookout.find(&mut ahead);
                let packet = Express::of(frame).unwrap();
                matches!(ahead, Ahead::Rtp(shot) if classifier.express(&shot, &packet, now))
            };
            let decision = classifier.classify(&Bytes(frame), now);
            let goes = matches!(decision.verdict, Verdict::Bypass | Verdict::Promote(_));
            oracle.may_go(frame, goes);
            // The first round of a stream proves nothing; after the third it is known, by the short way.
            if round >= 2 && !goes || round >= 4 && !usual {
                tally.true_streams_held += 1;
            }
        }
        for _ in 0..BEAT {
            now += STEP;
            let frame = frames.next();
            let Decision { verdict, .. } = classifier.classify(&Bytes(frame), now);
            let goes = matches!(verdict, Verdict::Bypass | Verdict::Promote(_));
            let may_go = oracle.may_go(frame, goes);
            tally.frames += 1;
            tally.promoted += u64::from(matches!(verdict, Verdict::Promote(_)));
            if goes {
                tally.let_go += 1;
                if !may_go && tally.false_bypass.len() < 10 {
                    tally.false_bypass.push(format!("frame {}: {verdict:?} {frame:02x?}", tally.frames));
                }
            }
        }
    }
    assert_eq!(classifier.table().capacity(), 4096);
    tally
}

#[test]
fn nothing_that_merely_looks_like_media_is_let_go() {
    let wanted = std::env::var("TIDEGATE_LOOKALIKES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000_000);
    // What the tables take is taken by the first frames.
    run(9, 100_000);
    let (before, start) = (resident_kb(), std::time::Instant::now());
    let threads: Vec<_> = (1..=2).map(|seed| std::thread::spawn(move || run(seed, wanted / 2))).collect();
    let tallies: Vec<Tally> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let frames: u64 = tallies.iter().map(|tally| tally.frames).sum();
    let seconds = start.elapsed().as_secs_f64();
    println!("{frames} frames in {seconds:.1} s, {:.2e} a second", frames as f64 / seconds);
    for tally in tallies {
        println!("{} let go, {} streams promoted", tally.let_go, tally.promoted);
        assert!(tally.false_bypass.is_empty(), "{}", tally.false_bypass.join("\n"));
        assert_eq!(tally.true_streams_held, 0, "true streams leave by the short way all along");
        assert!(
            tally.promoted > 0,
            "a run of three with all header checks is media: the suite is not vacuous"
        );
    }
    // Two classifiers and two oracles of some MB each.
    let grown = resident_kb().saturating_sub(before);
    assert!(grown < 32_768, "the process has grown by {grown} kB");
}
