//! The primary's heart: a beat is a sign of life and asks for a lease, so it is sent only while the VM's QEMU answers
//! and the plane's lcores poll. When either is gone for certain, the standby is told: it need not wait.

use super::{News, Primary};
use crate::link::LinkError;
use crate::link::message::{Beat, Up};
use crate::link::wire::Sender;
use crate::plane::monotonic_ns;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;
use tidegate_control::protocol::{GuardReport, Pulse};

/// Beats until `stop`, or until the session or the VM has ended.
pub fn beat(primary: &Primary, mut up: Sender<Up>, stop: &AtomicBool) {
    let link = &primary.args.link;
    let mut next = Instant::now();
    let (mut polls, mut since) = (None, None);
    for n in 0u64.. {
        if stop.load(Relaxed) {
            let last = match primary.stopping.load(Relaxed) {
                true => Up::Dismiss { reason: "by order".into() },
                false => Up::Bye { reason: "the primary dials again".into() },
            };
            let _ = up.send(&last);
            return;
        }
        next += link.beat;
        let sent = match life(primary, &mut polls) {
            Life::Lives(pulse) => lives(primary, &mut up, &pulse, n, &mut since),
            Life::Unknown => Ok(()),
            Life::ShutDown => {
                // In this order: the standby's answer must find somebody who waits for it.
                primary.tell(News::ShutDown);
                let _ = up.send(&Up::Dismiss { reason: "the guest has shut down".into() });
                return;
            }
            Life::Gone(reason) => {
                // Behind the fence nothing leaves any more: what has left is known without a margin. A plane that has
                // ended tells nothing.
                if !primary.plane.is_dead() {
                    let _ = report(primary, &mut up, None, Up::Settled);
                }
                let upto = primary.tenant().surrender();
                let _ = up.send(&Up::Surrender { upto, reason: reason.clone() });
                primary.tell(News::Gone(reason));
                return;
            }
        };
        if let Err(error) = sent {
            primary.tell(News::LinkLost(error.to_string()));
            return;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        // What was missed is not made up for.
        next = next.max(Instant::now());
    }
}

/// What is known of the VM and its plane.
pub enum Life {
    /// Both gave a sign of it.
    Lives(Pulse),
    /// No sign of it now: no beat.
    Unknown,
    /// Nothing of the guest leaves this host any more.
    Gone(String),
    /// The guest has shut down: nobody shall bring it back.
    ShutDown,
}

/// Looks for signs of life. `polls`: what the plane said the last time.
pub fn life(primary: &Primary, polls: &mut Option<u64>) -> Life {
    // Asked first: whoever waits for its answer now learns of its end when the last of it is gone.
    if primary.plane.is_dead() {
        return Life::Gone("the plane has ended".into());
    }
    let dead_after = primary.args.link.dead_after;
    let looked = primary.vm.look(dead_after / 2);
    if primary.vm.has_shut_down() {
        return Life::ShutDown;
    }
    match looked {
        _ if primary.vm.is_gone() && looked.as_ref().is_none_or(Result::is_ok) => {
            return fenced(primary, &format!("{} has ended", primary.vm.who()));
        }
        Some(Ok(_)) => {}
        Some(Err(error)) if primary.vm.is_gone() => {
            return fenced(primary, &format!("{} has ended: {error}", primary.vm.who()));
        }
        Some(Err(_)) => return Life::Unknown,
        // Inside a checkpoint: it may take longer than an answer does.
        None if primary.vm.silent_for() < dead_after * 3 => {}
        None => return Life::Unknown,
    }
    let Ok(pulse) = primary.plane.pulse() else {
        return match primary.plane.is_dead() {
            true => Life::Gone("the plane has ended".into()),
            false => Life::Unknown,
        };
    };
    let moved = polls.replace(pulse.polls).is_none_or(|before| pulse.polls != before);
    if moved { Life::Lives(pulse) } else { Life::Unknown }
}

/// The VM is gone, and its plane is fenced so that it stays so whoever comes back.
fn fenced(primary: &Primary, why: &str) -> Life {
    match primary.plane.fence() {
        Ok(true) => Life::Gone(format!("{why}; the plane is fenced")),
        Ok(false) => Life::Unknown,
        Err(_) if primary.plane.is_dead() => Life::Gone(format!("{why}, and so has the plane")),
        Err(_) => Life::Unknown,
    }
}

fn lives(
    primary: &Primary,
    up: &mut Sender<Up>,
    pulse: &Pulse,
    n: u64,
    since: &mut Option<u64>,
) -> Result<(), LinkError> {
    primary.held_frames.store(pulse.held_frames, Relaxed);
    primary.media_frames.store(pulse.media_frames, Relaxed);
    primary.signalling.store(pulse.signalling, Relaxed);
    // The lease counts from here, and the standby hears what went out until later than this before it grants: so it
    // knows all that went out but what leaves within the term.
    let seq = primary.tenant().request(monotonic_ns());
    match report(primary, up, *since, Up::Guard)? {
        Some(token) => *since = Some(token),
        None => return Ok(()),
    }
    let renewal = primary.speaks_under_a_lease(pulse);
    up.send(&Up::Beat(Beat { seq, renewal, qmp_answers: n, polls: pulse.polls, standby: None }))
}

/// Tells the standby what went out since the report with this token (none: all of it); the new token, or none when the
/// plane did not say.
fn report(
    primary: &Primary,
    up: &mut Sender<Up>,
    since: Option<u64>,
    as_what: impl Fn(GuardReport) -> Up,
) -> Result<Option<u64>, LinkError> {
    let (mut token, mut from) = (None, None);
    loop {
        let Ok(report) = primary.plane.guard(since, from) else { return Ok(None) };
        token = token.or(Some(report.token));
        from = report.next;
        up.send(&as_what(report))?;
        if from.is_none() {
            return Ok(token);
        }
    }
}
