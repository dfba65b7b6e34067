//! `decide = witness`: the lease comes from a third host. Beats go there as long as the process lives, whether a standby
//! is there or not; they name the standby that has every committed checkpoint, and while they name none, a grant is the
//! evidence that nobody can take over.

use super::heart::{Life, life};
use super::{News, Primary, answers, session};
use crate::link::LinkError;
use crate::link::dial::Dial;
use crate::link::message::{Beat, Down, Role, Up};
use crate::link::wire::{Receiver, Sender};
use crate::plane::monotonic_ns;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tidegate_control::cli::LinkArgs;

/// From one attempt to reach the witness to the next.
const AGAIN: Duration = Duration::from_millis(100);

/// How the witness is dialed, where there is one.
pub fn dial(link: &LinkArgs, guest: &str, role: Role, incarnation: u64) -> Result<Option<Dial>, String> {
    let Some(address) = link.witness else { return Ok(None) };
    let node = session::node(link.node.as_deref())?;
    let keys = session::keys(link.certs.as_deref(), &node)?;
    let peer = if keys.is_some() { link.witness_name.clone() } else { String::new() };
    let patience = session::patience(link);
    let guest = guest.to_owned();
    Ok(Some(Dial {
        address: address.to_string(),
        peer,
        node,
        guest,
        role,
        decide: link.decide,
        disk_hook: false,
        incarnation,
        keys,
        patience,
    }))
}

/// Asks the witness for leases until the process ends.
pub fn ask(primary: &Primary, dial: &Dial) {
    let mut told = false;
    loop {
        match dial.witness() {
            Ok(_) if primary.vm.has_shut_down() => return,
            Ok(dialed) => {
                primary.chronicle.tell("witness", json!({ "node": dialed.welcome.node }));
                told = false;
                let over = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        hear(primary, dialed.down);
                        over.store(true, Relaxed);
                    });
                    beat(primary, dialed.up, &over);
                    dialed.stopper.stop();
                });
            }
            Err(error) if !told => {
                told = true;
                primary.chronicle.tell("witness-unreachable", json!({ "reason": error.to_string() }));
            }
            Err(_) => {}
        }
        std::thread::sleep(AGAIN);
    }
}

fn beat(primary: &Primary, mut up: Sender<Up>, over: &AtomicBool) {
    let mut next = Instant::now();
    let mut polls = None;
    while !over.load(Relaxed) {
        next += primary.args.link.beat;
        let message = match life(primary, &mut polls) {
            Life::Lives(pulse) => {
                let standby = primary.named();
                let seq = primary.tenant().request(monotonic_ns());
                let renewal = primary.speaks_under_a_lease(&pulse);
                // A lease that had lapsed may have been another's in between.
                if standby.is_none() && renewal {
                    primary.unnamed_from.fetch_min(seq, Relaxed);
                }
                Some(Up::Beat(Beat { seq, renewal, qmp_answers: seq, polls: pulse.polls, standby }))
            }
            Life::Unknown => None,
            // The standby is dismissed: there is nobody to give the lease to.
            Life::ShutDown => return,
            Life::Gone(reason) => Some(Up::Surrender { upto: primary.tenant().surrender(), reason }),
        };
        let last = matches!(message, Some(Up::Surrender { .. }));
        if message.is_some_and(|message| up.send(&message).is_err()) || last {
            return;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next = next.max(Instant::now());
    }
}

fn hear(primary: &Primary, mut down: Receiver<Down>) {
    loop {
        match down.receive() {
            Ok(Down::Grant { seq, term_ms, media_ms }) => {
                answers::granted(primary, seq, term_ms, media_ms);
                let alone = seq >= primary.unnamed_from.load(Relaxed) && primary.named().is_none();
                if alone && primary.bound.load(Relaxed) && !primary.alone.swap(true, Relaxed) {
                    primary.tell(News::GivenBack(
                        "the witness lends the lease while no standby is named".into(),
                    ));
                }
            }
            Ok(Down::Peer { node, standing }) => {
                primary.chronicle.tell("peer", json!({ "node": node, "standing": standing }));
            }
            Ok(Down::Denied { reason, .. }) => log::debug!("no lease from the witness: {reason}"),
            Ok(_) | Err(LinkError::Quiet) => {}
            Err(_) => return,
        }
    }
}
