//! Decides, and promotes: loads the newest acknowledged checkpoint while the primary's lease runs out, then lets the
//! guest speak and run. The moments are kept, so that the outage can be told in parts.

use super::claim::claim;
use super::decide::{Cause, Sight};
use super::{Loaded, Standby};
use crate::chronicle::ms;
use crate::plane::monotonic_ns;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tidegate_control::cli::Decide;

/// How often it is looked whether the primary lives.
const LOOK: Duration = Duration::from_millis(2);
/// A plane forgets a stream of which it has not heard for half a minute.
const GUARD_LASTS: Duration = Duration::from_secs(10);
/// How long the first frames of the promoted guest are waited for, for the report.
const FIRSTS_WITHIN: Duration = Duration::from_secs(2);

/// Looks until there is a reason to take over, then does.
pub fn decide(standby: &Standby) {
    while !standby.stop.load(Relaxed) {
        let sight = sight(standby);
        if let Some(cause) = standby.rules.cause(&sight) {
            match promote(standby, &cause, &sight) {
                Ok(()) => return,
                Err(Hindrance::Refused(reason)) => {
                    standby.promoting.store(false, Relaxed);
                    standby.chronicle.tell("refused-by-witness", json!({ "reason": reason }));
                    std::thread::sleep(standby.rules.dead_after);
                }
                Err(Hindrance::Failed(reason)) => {
                    standby.backup.give_up();
                    standby.chronicle.tell("promotion-failed", json!({ "reason": reason }));
                    return standby.fail(format!("the promotion failed: {reason}"));
                }
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn sight(standby: &Standby) -> Sight {
    let holds = standby.holds();
    let able = standby.able.load(Relaxed);
    let view = standby.view();
    Sight {
        silent_ns: view.beat_ns.map(|at| monotonic_ns().saturating_sub(at)),
        link_ended: view.link_ended,
        surrender: view.surrender.clone(),
        order: view.order,
        holds,
        bound: view.bound,
        able,
    }
}

/// Why there is no promotion.
enum Hindrance {
    /// The witness says no: nothing has been done.
    Refused(String),
    /// Something is broken.
    Failed(String),
}

impl From<String> for Hindrance {
    fn from(reason: String) -> Hindrance {
        Hindrance::Failed(reason)
    }
}

impl From<&str> for Hindrance {
    fn from(reason: &str) -> Hindrance {
        Hindrance::Failed(reason.to_owned())
    }
}

fn promote(standby: &Standby, cause: &Cause, sight: &Sight) -> Result<(), Hindrance> {
    let decided = monotonic_ns();
    let silent_ns = sight.silent_ns.unwrap_or(0);
    let witness = standby.rules.decide == Decide::Witness;
    let (mut bounded, mut silent_from) = (false, decided);
    if !witness {
        standby.promoting.store(true, Relaxed);
        let mut landlord = standby.landlord();
        bounded = sight.bound && landlord.may_promote_at().is_some();
        if sight.order.is_some_and(|order| order.primary_is_off) {
            landlord.vouch_nobody();
        }
        landlord.decide();
        if landlord.may_promote_at().is_none() {
            return Err("no lease was ever granted: nothing says when the primary is silent".into());
        }
    }
    if witness && !sight.order.is_some_and(|order| order.primary_is_off) {
        // It answers when the primary's lease has run out; until then nothing is loaded, for it may say no.
        claim(standby).map_err(Hindrance::Refused)?;
        silent_from = monotonic_ns();
    }
    if witness {
        // From here on nobody can be told any more that this standby has given up.
        let mut landlord = standby.landlord();
        landlord.vouch_nobody();
        landlord.decide();
        let promoted = landlord.promote(monotonic_ns());
        promoted.map_err(|_| Hindrance::Refused("this standby has given up".into()))?;
        standby.promoting.store(true, Relaxed);
    }
    standby.chronicle.tell("deciding", json!({ "cause": cause, "silent_ms": silent_ns / 1_000_000 }));
    // While the lease runs out: the VM does not run yet, and its plane is muted.
    let Loaded { id, apply, load } = standby.backup.load()?;
    let loaded = monotonic_ns();
    if !witness {
        wait_out(standby)?;
    }
    let silent_from = standby.view().surrendered_ns.unwrap_or(silent_from);
    guard_again(standby, (!bounded).then_some(silent_from))?;
    let free = monotonic_ns();
    let became = standby.plane.unmute(standby.args.protected, id.epoch + 1).map_err(|e| e.to_string())?;
    let unmuted = monotonic_ns();
    standby.backup.run()?;
    let running = monotonic_ns();
    standby.promoted.store(true, Relaxed);
    if let Some(stopper) = standby.view().stopper.take() {
        stopper.stop();
    }
    let Firsts { taken, frame, rtp } = firsts(standby, unmuted);
    standby.backup.promoted();
    let span = |from: u64, to: u64| ms(Duration::from_nanos(to.saturating_sub(from)));
    let since = |at: Option<u64>| at.map(|at| span(running, at));
    standby.chronicle.tell(
        "promoted",
        json!({
            "guest": standby.plane.guest(), "cause": cause, "epoch": id.epoch, "of_generation": id.generation,
            "generation": became.generation,
            "detection_ms": silent_ns as f64 / 1e6, "decision_ms": span(decided, free),
            "apply_ms": ms(apply), "load_ms": ms(load), "loaded_after_ms": span(decided, loaded),
            "unmute_ms": span(free, unmuted), "run_ms": span(unmuted, running),
            "first_frame_ms": since(frame), "first_rtp_ms": since(rtp),
            // The plane's alone: from the moment at which it had that frame to the wire's driver.
            "own_share_ms": frame.zip(taken).map(|(frame, taken)| span(taken, frame)),
            "all_ms": silent_ns as f64 / 1e6 + span(decided, running),
        }),
    );
    Ok(())
}

/// Tells the plane's replay guard once more how far each stream may have come: where no lease bounded what bypasses until the
/// primary was silent for certain (`until_ns`), and where the guard is so old that the plane may have forgotten it.
fn guard_again(standby: &Standby, until_ns: Option<u64>) -> Result<(), String> {
    let terms = standby.landlord().terms();
    let (all, since_ms, beyond) = {
        let reports = standby.reports();
        let Some(last_ns) = reports.last_ns() else { return Ok(()) };
        let silent = |until: u64| Duration::from_nanos(until.saturating_sub(last_ns));
        let since_ms = match until_ns {
            // A report may have been as long on its way as a lease is.
            Some(until) => ms_of(silent(until)) + standby.longest_term_ms.load(Relaxed),
            None if silent(monotonic_ns()) < GUARD_LASTS && !reports.owed => return Ok(()),
            None => terms.media_ms,
        };
        let (all, beyond) = reports.again(standby.plane.guest(), since_ms);
        (all, since_ms, beyond)
    };
    let data = json!({ "streams": all.streams.len(), "margin_ms": since_ms, "beyond_any_margin": beyond });
    standby.plane.inherit(&all, 0).map_err(|e| format!("the plane does not take its replay guard: {e}"))?;
    standby.chronicle.tell("guarded", data);
    Ok(())
}

fn ms_of(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX / 2)
}

/// Waits until the primary's lease has run out, whatever its clock says.
fn wait_out(standby: &Standby) -> Result<(), Hindrance> {
    loop {
        let told = standby.landlord().promote(monotonic_ns());
        match told {
            Ok(()) => return Ok(()),
            Err(Some(left)) => std::thread::sleep(left.min(Duration::from_millis(5))),
            Err(None) => return Err("the lease was given back".into()),
        }
    }
}

/// Moments of the plane after the promotion.
#[derive(Default)]
struct Firsts {
    /// The first frame was taken from its ring.
    taken: Option<u64>,
    /// It left.
    frame: Option<u64>,
    /// The first RTP left.
    rtp: Option<u64>,
}

fn firsts(standby: &Standby, unmuted: u64) -> Firsts {
    let deadline = Instant::now() + FIRSTS_WITHIN;
    let mut seen = Firsts::default();
    while Instant::now() < deadline && (seen.frame.is_none() || seen.rtp.is_none()) {
        if let Ok(pulse) = standby.plane.pulse() {
            let after = |at: Option<u64>| at.filter(|at| *at >= unmuted.saturating_sub(1_000_000_000));
            let (taken, frame) = (after(pulse.first_taken_ns), after(pulse.first_frame_ns));
            seen = Firsts { taken, frame, rtp: after(pulse.first_rtp_ns) };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    seen
}
