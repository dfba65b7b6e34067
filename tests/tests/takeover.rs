//! How a standby takes over: from a primary that lives and gives no sign of it, by order from one that is well, and not
//! at all when what it holds cannot be loaded.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tidegate_tests::ensure;
use tidegate_tests::failure::{Failure, Result};
use tidegate_tests::scratch::Scratch;
use tidegate_tests::survival::blow::signal_all;
use tidegate_tests::survival::call::Call;
use tidegate_tests::survival::frozen::Frozen;
use tidegate_tests::survival::pair::{Pair, Wish, World, guests};

/// Longer than anything needs that would happen if it did.
const A_WHILE: Duration = Duration::from_millis(1500);
/// The thread that is the planes' lcore.
const LCORE: &str = "rte-worker-1";

fn world() -> Result<World> {
    World::open(Path::new(env!("CARGO_BIN_EXE_teller")))
}

/// The standby has taken over because it heard nothing, not because somebody told it something.
fn succeeds_in_silence(pair: &mut Pair<'_>, what: &str) -> Result<()> {
    let promoted = pair.told(1, "promoted", 0)?;
    println!("{what} stood still: {promoted}");
    ensure!(promoted["cause"]["why"] == "silence", "{what} stood still, and it was not silence: {promoted}");
    pair.goes_on()
}

/// What stood still goes on, learns that it is late, and has discarded what it held.
fn is_late(pair: &mut Pair<'_>, what: &str) -> Result<()> {
    pair.told(0, "superseded", 0)?;
    ensure!(pair.ends(0)? == Some(1), "{what}: a late primary's end is no failure");
    let late = pair.pulse(0)?;
    ensure!(
        late["mode"] == "muted" && late["held_frames"] == 0,
        "{what}: the late primary has not discarded all: {late}"
    );
    std::thread::sleep(Duration::from_millis(500));
    pair.goes_on()
}

/// A beat says that QEMU answers and that the lcore polls. `tidegate replicate` itself lives all the time, and its link
/// is whole.
#[test]
fn no_beat_goes_out_for_a_qemu_or_a_plane_that_stands_still() -> Result<()> {
    let world = world()?;
    let mut pair = Pair::start(&world, Wish::default())?;
    let [_, qemu, _] = pair.first_host();
    signal_all(&[qemu], Signal::SIGSTOP);
    succeeds_in_silence(&mut pair, "QEMU")?;
    signal_all(&[qemu], Signal::SIGCONT);
    is_late(&mut pair, "QEMU")?;
    pair.finish()?;

    let mut pair = Pair::start(&world, Wish::default())?;
    let [_, _, plane] = pair.first_host();
    signal_all(&[plane], Signal::SIGSTOP);
    succeeds_in_silence(&mut pair, "the plane")?;
    signal_all(&[plane], Signal::SIGCONT);
    is_late(&mut pair, "the plane")?;
    pair.finish()?;

    // The rest of the plane answers all that it is asked: only the counter of polls tells.
    let mut pair = Pair::start(&world, Wish::default())?;
    let [_, _, plane] = pair.first_host();
    let lcore = Frozen::thread(plane.unwrap_or(0), LCORE)?;
    let polls = [pair.pulse(0)?["polls"].clone(), pair.pulse(0)?["polls"].clone()];
    ensure!(polls[0] == polls[1] && polls[0].is_u64(), "the lcore polls: {polls:?}");
    succeeds_in_silence(&mut pair, "the lcore")?;
    drop(lcore);
    is_late(&mut pair, "the lcore")?;
    pair.finish()?;
    Ok(())
}

/// `tidegate failover` of a primary that is well: it waits until that one's lease is over. Media, which nothing holds,
/// never comes from both; and the plane lets the guest speak before the guest runs.
#[test]
fn a_planned_switch_lets_never_both_speak_and_unmutes_first() -> Result<()> {
    let world = world()?;
    let scratch = Scratch::new()?;
    let mut pair = Pair::start(&world, Wish::default())?;
    let call = Call::start(&world.network.outside, &scratch, Duration::from_secs(60))?;
    pair.goes_on()?;
    ensure!(call.heard() > 0, "there is no call");
    let mut plane = pair.hosts[1].plane.control()?;
    plane.execute("subscribe", json!({ "events": ["unmuted"] }))?;
    let mut qemu = pair.hosts[1].guest.second_monitor()?;

    let (done, said) = pair.desk(1, "failover --json")?;
    ensure!(done && said.contains("promoted"), "{said}");
    let promoted = pair.told(1, "promoted", 0)?;
    println!("{promoted}");
    ensure!(promoted["cause"]["why"] == "order", "it was no order: {promoted}");
    let unmuted = plane.event(Duration::from_secs(10))?.ok_or_else(|| Failure::new("nothing was unmuted"))?;
    let runs = qemu.wait_for_event("RESUME", Duration::from_secs(10))?;
    println!("it ran {} us after it might speak", (runs.at_ns as i64 - unmuted.at_ns as i64) / 1000);
    ensure!(unmuted.at_ns < runs.at_ns, "the VM ran before its plane was unmuted");
    let heard = call.heard();
    is_late(&mut pair, "the switch")?;
    ensure!(call.heard() > heard, "the call went silent");
    let [a, b] = pair.finish()?;
    ensure!(guests(&a) > 0 && guests(&b) > 0, "one of both was never seen");
    scratch.passed();
    Ok(())
}

/// The newest checkpoint is loaded, or none is.
#[test]
fn a_promotion_that_fails_says_so_and_runs_nothing() -> Result<()> {
    let world = world()?;
    let mut pair = Pair::start(&world, Wish { guest: "on_backup_lost = \"stay\"\n", ..Wish::default() })?;
    pair.standby.signal(Signal::SIGTERM);
    ensure!(pair.ends(1)? == Some(0), "the standby's end is a failure");
    // Its NIC cannot do what the guest has agreed upon with the first one's: QEMU ends while it loads.
    let mark = pair.mark();
    pair.take_in_one_with(",mrg_rxbuf=off")?;
    pair.told(0, "protected", mark[0])?;
    pair.goes_on()?;
    pair.kill_first_host();
    let failed = pair.told(1, "promotion-failed", 0)?;
    println!("{failed}");
    let reason = failed["reason"].as_str().unwrap_or("");
    ensure!(!reason.is_empty(), "it does not say why: {failed}");
    ensure!(pair.ends(1)? == Some(1), "a promotion that failed is no failure");
    let log = pair.standby.output();
    ensure!(log.contains("the promotion failed") && log.contains(reason), "it failed quietly: {log:?}");
    std::thread::sleep(A_WHILE);
    ensure!(pair.backup.count("promoted") == 0, "it was promoted all the same");
    let plane = pair.pulse(1)?;
    ensure!(plane["mode"] == "muted", "a plane whose VM was not loaded speaks: {plane}");
    let [_, b] = pair.finish()?;
    ensure!(guests(&b) == 0, "the standby's guest spoke");
    Ok(())
}
