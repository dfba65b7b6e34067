//! What the primary says: beats are answered with a lease, guard reports go to the plane, a surrender is noted.

use super::{Standby, grants};
use crate::lease::Answer;
use crate::link::LinkError;
use crate::link::message::{Beat, Down, Up};
use crate::link::wire::Receiver;
use crate::plane::monotonic_ns;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use tidegate_control::protocol::GuardReport;

/// Hears until the session ends.
pub fn hear(standby: &Standby, mut up: Receiver<Up>, session: u64, incarnation: u64) {
    let (reason, orderly) = loop {
        match up.receive() {
            Ok(Up::Beat(beat)) => beat_of(standby, &beat, incarnation),
            Ok(Up::Guard(mut report)) => {
                let margin_ms = margin_ms(standby);
                standby.reports().told(&mut report, margin_ms, monotonic_ns());
                inherit(standby, &report, margin_ms);
            }
            Ok(Up::Settled(report)) => {
                standby.reports().settled(&report, monotonic_ns());
                inherit(standby, &report, 0);
            }
            Ok(Up::Surrender { upto, reason }) => surrendered(standby, incarnation, upto, reason),
            Ok(Up::Dismiss { reason }) => {
                standby.give_back(&format!("dismissed by the primary: {reason}"));
            }
            Ok(Up::Bye { reason }) => break (reason, true),
            Ok(Up::Claim { .. } | Up::Withdraw { .. }) => break ("it speaks to a witness".into(), true),
            Err(LinkError::Quiet) => {}
            Err(error) => break (error.to_string(), false),
        }
    };
    let mut view = standby.view();
    if view.session == session {
        view.link_ended = !orderly && !view.refused;
        view.down = None;
        drop(view);
        standby.chronicle.tell("session-ended", json!({ "reason": reason, "in_order": orderly }));
    }
}

/// Hands a part of a report to the plane. What that does not take it is owed: nothing that goes out of the primary then is
/// sure to be guarded against here.
fn inherit(standby: &Standby, report: &GuardReport, margin_ms: u64) {
    if let Err(error) = standby.plane.inherit(report, margin_ms) {
        let first = !std::mem::replace(&mut standby.reports().owed, true);
        if first {
            standby.chronicle.tell("unguarded", json!({ "problem": error.to_string() }));
        }
    }
}

/// Whether the plane has all that was told; what it is owed it is given again.
fn has_all(standby: &Standby) -> bool {
    let owed = {
        let reports = standby.reports();
        reports.owed.then(|| reports.again(standby.plane.guest(), margin_ms(standby)).0)
    };
    let Some(owed) = owed else { return true };
    let taken = standby.plane.inherit(&owed, 0).is_ok();
    standby.reports().owed = !taken;
    taken
}

/// How long frames may have bypassed since the primary made a report: until the moment that the lease of its next beat
/// has for them, which is asked for before the report is made. A witness's leases have no such moment, and without a
/// lease there is none at all: a promotion tells the plane again.
fn margin_ms(standby: &Standby) -> u64 {
    let terms = standby.landlord().terms();
    if grants(standby.rules.decide) { terms.media_ms } else { standby.longest_term_ms.load(Relaxed) }
}

fn beat_of(standby: &Standby, beat: &Beat, incarnation: u64) {
    let now = monotonic_ns();
    {
        let mut view = standby.view();
        view.beat_ns = Some(now);
        view.bound |= beat.renewal;
    }
    if !grants(standby.rules.decide) {
        standby
            .say(&Down::Denied { seq: beat.seq, reason: "leases do not come from this standby here".into() });
        return;
    }
    if !has_all(standby) {
        let reason = "the standby's plane does not take what was told of RTP: is it alive, and does it have the same lanes?";
        standby.say(&Down::Denied { seq: beat.seq, reason: reason.into() });
        return;
    }
    let answer = standby.landlord().ask(now, incarnation, beat.seq);
    match answer {
        Answer::Grant { seq, term_ms } => {
            let media_ms = standby.landlord().terms().media_ms;
            standby.say(&Down::Grant { seq, term_ms, media_ms });
            standby.landlord().sent(monotonic_ns());
        }
        Answer::Denied { seq, reason } => {
            standby.say(&Down::Denied { seq, reason });
        }
        Answer::Ignored => {}
    }
}

fn surrendered(standby: &Standby, incarnation: u64, upto: u64, reason: String) {
    standby.chronicle.tell("surrender", json!({ "reason": reason }));
    let mut landlord = standby.landlord();
    let covered = landlord.surrendered(monotonic_ns(), incarnation, upto);
    // It never had a lease, and says that it is fenced.
    if !covered && landlord.may_promote_at().is_none() {
        landlord.vouch_nobody();
    }
    drop(landlord);
    let mut view = standby.view();
    view.surrendered_ns = Some(monotonic_ns());
    view.surrender = Some(reason);
}
