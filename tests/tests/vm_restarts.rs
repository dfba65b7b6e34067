//! What happens to a protected guest when something beside it restarts: the guest itself, the plane
//! (asked to, or killed), QEMU's connection. Traffic resumes each time, and no frame is ever early.

use std::path::Path;
use std::time::Duration;

use tidegate_tests::ensure;
use tidegate_tests::failure::Result;
use tidegate_tests::laboratory::{Laboratory, Setting, from_guest, tidegate};
use tidegate_tests::outcome::Policy;
use tidegate_tests::plane::Source;
use tidegate_tests::tool_stack::{Parts, Rhythm, ToolStack};
use tidegate_tests::wall_clock::now_ns;

const RHYTHM: Rhythm = Rhythm { interval: Duration::from_millis(200), delay: Duration::from_millis(50) };
const SETTLE: Duration = Duration::from_millis(500);
const POLICY: Policy = Policy::Realtime;

fn open(plane_is_client: bool) -> Result<Laboratory> {
    let setting =
        Setting { kind: tidegate()?, policy: POLICY.name(), source: Source::Socket, plane_is_client };
    Laboratory::open(&setting, Path::new(env!("CARGO_BIN_EXE_beacon")))
}

#[test]
fn a_guest_that_reboots_or_starts_anew_stays_held_and_its_traffic_resumes() -> Result<()> {
    let mut laboratory = open(false)?;
    let capture = laboratory.capture("reboots")?;
    let stack = laboratory.tool_stack(RHYTHM)?;
    laboratory.ping("10.9.0.2", 3)?;

    // By its own will: the driver resets the device, which is no pause.
    let _never_answers = laboratory.guest.command("reboot -f", Duration::from_millis(100));
    laboratory.follow_reboot(2, &stack)?;
    laboratory.ping("10.9.0.2", 3)?;

    // By the reset button, at any moment of an epoch.
    laboratory.guest.second_monitor()?.reset()?;
    laboratory.follow_reboot(3, &stack)?;
    laboratory.ping("10.9.0.2", 3)?;
    laboratory.ping("fd09::2", 3)?;

    // QEMU itself: another process, another machine; the plane takes it for the same guest and holds on.
    let ended = stack.stop()?;
    laboratory.restart_guest()?;
    let (qmp, page) = (laboratory.guest.monitor()?, laboratory.guest.counter_page(1)?);
    let stack = ToolStack::start(Parts { qmp, page, ..ended }, RHYTHM);
    laboratory.guest.start_beacon()?;
    laboratory.resumes()?;
    laboratory.ping("10.9.0.2", 3)?;
    laboratory.ping("fd09::2", 3)?;

    let parts = stack.stop()?;
    std::thread::sleep(SETTLE);
    let frames = capture.finish()?;
    let verdict = parts.log.judge(&frames, POLICY.held_carriers());
    ensure!(verdict.early.is_empty(), "{}", verdict.summary());
    ensure!(verdict.boots.len() == 4, "numbered frames came from {} of 4 boots", verdict.boots.len());
    println!("{} epochs; {}", parts.log.epochs().len(), verdict.summary());
    laboratory.plane.stop()?;
    laboratory.passed();
    Ok(())
}

#[test]
fn a_plane_that_restarts_goes_on_holding_and_qemu_reconnects() -> Result<()> {
    plane_restarts(false)
}

#[test]
fn a_plane_that_restarts_as_vhost_user_client_goes_on_holding() -> Result<()> {
    plane_restarts(true)
}

fn plane_restarts(plane_is_client: bool) -> Result<()> {
    let mut laboratory = open(plane_is_client)?;
    let capture = laboratory.capture("restarts")?;
    let mut parts = laboratory.tool_stack(RHYTHM)?;
    laboratory.ping("10.9.0.2", 3)?;
    let mut silences = Vec::new();
    for crash in [false, true] {
        let ended = parts.stop()?;
        std::thread::sleep(SETTLE);
        // All that was closed is committed and out. From here on nothing may leave: not while the plane
        // ends with frames in its queue, not while it is away, not when it is back.
        let silent_from = now_ns();
        std::thread::sleep(Duration::from_millis(300));
        if crash {
            laboratory.plane.kill()
        } else {
            laboratory.plane.stop()?
        }
        std::thread::sleep(Duration::from_millis(300));
        laboratory.restart_plane()?;
        // QEMU tries again every second.
        std::thread::sleep(Duration::from_millis(2500));
        silences.push((silent_from, now_ns()));
        let control = laboratory.plane.control()?;
        parts = ToolStack::start(Parts { control, ..ended }, RHYTHM);
        laboratory.resumes()?;
        laboratory.ping("10.9.0.2", 5)?;
        laboratory.ping("fd09::2", 3)?;
        laboratory.iperf3(1, "10M", true)?;
    }
    let parts = parts.stop()?;
    std::thread::sleep(SETTLE);
    let frames = capture.finish()?;
    let verdict = parts.log.judge(&frames, POLICY.held_carriers());
    ensure!(verdict.early.is_empty(), "{}", verdict.summary());
    ensure!(verdict.seen.values().all(|&seen| seen > 100), "{}", verdict.summary());
    for (from, to) in silences {
        let seen = frames
            .iter()
            .find(|frame| from_guest(frame) && POLICY.holds(frame) && (from..to).contains(&frame.at_ns));
        ensure!(seen.is_none(), "{:?} left while the plane restarted", seen.map(|frame| frame.kind));
    }
    let mut generations: Vec<u64> = parts.log.epochs().iter().map(|epoch| epoch.generation).collect();
    generations.dedup();
    ensure!(generations.len() == 3, "three planes named the generations {generations:?}");
    println!("{} epochs; {}", parts.log.epochs().len(), verdict.summary());
    laboratory.plane.stop()?;
    laboratory.passed();
    Ok(())
}
