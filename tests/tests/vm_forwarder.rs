//! The laboratory proves itself on a plane without a gate: DPDK's testpmd. Traffic of every kind must
//! come through, and the oracle must call its frames early; an oracle that could not would prove nothing
//! in the other tests.

use std::path::Path;
use std::time::{Duration, Instant};

use tidegate_tests::commit_log::{Closed, CommitLog};
use tidegate_tests::ensure;
use tidegate_tests::failure::Result;
use tidegate_tests::laboratory::{Laboratory, MEDIA, Setting};
use tidegate_tests::media::{echoed_streams, percentile};
use tidegate_tests::outcome::{CARRIERS, as_sent};
use tidegate_tests::plane::{Kind, Source};
use tidegate_tests::wall_clock::now_ns;

#[test]
fn every_kind_of_traffic_passes_a_plain_forwarder_and_the_oracle_calls_it_early() -> Result<()> {
    let started = Instant::now();
    let setting = Setting {
        kind: Kind::Forwarder,
        policy: "bypass-all",
        source: Source::Socket,
        plane_is_client: false,
    };
    let mut laboratory = Laboratory::open(&setting, Path::new(env!("CARGO_BIN_EXE_beacon")))?;
    println!("ready after {:?}", started.elapsed());
    let capture = laboratory.capture("all")?;
    // Pauses as a tool stack makes them, with commits that come 100 ms after: nobody waits for them.
    let mut log = CommitLog::default();
    let mut page = laboratory.guest.counter_page(1)?;
    laboratory.guest.start_beacon()?;
    let mut monitor = laboratory.guest.monitor()?;
    for epoch in 1..=10 {
        monitor.stop()?;
        ensure!(monitor.status()? == "paused", "the guest runs though it was stopped");
        let (first, boot) = (page.read()?, page.boot());
        std::thread::sleep(Duration::from_millis(20));
        ensure!(page.read()? == first, "the counter moved while the guest was paused");
        log.close(Closed {
            generation: 1,
            epoch,
            closed_ns: now_ns(),
            boot,
            counter: first,
            committed_ns: None,
        });
        monitor.resume()?;
        std::thread::sleep(Duration::from_millis(100));
        log.commit(1, epoch, now_ns());
    }
    // The forwarder drops what comes for a paused guest, so the calls come after the pauses.
    let calls = laboratory.calls(2)?;
    laboratory.ping("10.9.0.2", 5)?;
    laboratory.ping("fd09::2", 5)?;
    println!("iperf3 into the guest {:.0} bit/s", laboratory.iperf3(2, "50M", false)?);
    println!("iperf3 out of the guest {:.0} bit/s", laboratory.iperf3(2, "50M", true)?);
    calls.succeed()?;
    laboratory.check_sinks()?;
    let frames = capture.finish()?;

    let verdict = log.judge(&frames, &CARRIERS);
    println!("{}", verdict.summary());
    for carrier in CARRIERS {
        let seen = verdict.seen.get(&carrier).copied().unwrap_or(0);
        let early = verdict.early.iter().filter(|early| early.record.carrier == carrier).count();
        ensure!(seen > 100, "only {seen} numbered frames came by {carrier:?}");
        ensure!(early > 30, "only {early} of {seen} frames by {carrier:?} were found early");
    }
    as_sent(&frames)?;
    let streams = echoed_streams(&frames, MEDIA);
    ensure!(streams.len() == 4, "{} RTP streams for 2 calls, each with voice and an event", streams.len());
    for ((caller, ssrc), stream) in &streams {
        let (gaps, delays) = (stream.gaps_ns(), stream.delays_ns());
        println!(
            "{caller} {ssrc:08x}: {} sent, {} lost, {} reordered, median gap {} us, delay {} us, largest {} us",
            stream.sent.len(),
            stream.lost(),
            stream.reordered(),
            percentile(&gaps, 0.5) / 1000,
            percentile(&delays, 0.5) / 1000,
            percentile(&delays, 1.0) / 1000,
        );
        ensure!(stream.lost() == 0, "{} packets of the stream from {caller} never came back", stream.lost());
    }
    laboratory.passed();
    Ok(())
}
