//! What the standby says: grants go to the plane, acknowledgements become commits, and what ends the session is news.

use super::flight::Receipt;
use super::{News, Primary};
use crate::link::LinkError;
use crate::link::message::Down;
use crate::link::wire::Receiver;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tidegate_control::cli::Decide;

/// Listens until the session ends.
pub fn listen(primary: &Primary, mut down: Receiver<Down>) {
    let mut heard = Instant::now();
    loop {
        match down.receive() {
            Ok(message) => {
                heard = Instant::now();
                if let Err(why) = hear(primary, message) {
                    return primary.tell(News::LinkLost(why));
                }
            }
            Err(LinkError::Quiet) => {
                // Nobody promotes on this: the lease says who may speak. It only makes the primary dial again.
                let silent = heard.elapsed();
                if silent > primary.args.link.dead_after * 10 {
                    return primary
                        .tell(News::LinkLost(format!("nothing heard for {} ms", silent.as_millis())));
                }
            }
            Err(error) => return primary.tell(News::LinkLost(error.to_string())),
        }
    }
}

fn hear(primary: &Primary, message: Down) -> Result<(), String> {
    match message {
        Down::Grant { .. } if primary.args.link.decide == Decide::Witness => {
            return Err(
                "the standby grants leases, and a witness is to: say --decide witness on both hosts".into()
            );
        }
        Down::Grant { seq, term_ms, media_ms } => granted(primary, seq, term_ms, media_ms),
        Down::Denied { reason, .. } => log::debug!("no lease: {reason}"),
        Down::Acked { id, length, checksum, digest } => {
            primary.chronicle.step("acknowledged", id.epoch);
            let landed = primary.flight.landed(Receipt { id, length, checksum, digest })?;
            if landed.commits {
                // A refusal (a fence, a generation that ended) leaves the frames held: nothing to undo.
                match primary.plane.commit(id) {
                    Ok(()) => {}
                    Err(error) => log::warn!("epoch {} is acknowledged and not committed: {error}", id.epoch),
                }
            }
            primary.tell(News::Landed(landed));
        }
        Down::Seeded { digest } => primary.tell(News::Seeded(digest)),
        Down::Refused { id, reason } => {
            return Err(format!("the standby refused epoch {}: {reason}", id.epoch));
        }
        Down::GivenBack { reason } => primary.tell(News::GivenBack(reason)),
        Down::Bye { reason } => return Err(format!("the standby ended: {reason}")),
        Down::Verdict { .. } | Down::Peer { .. } | Down::Noted { .. } => {
            return Err("the standby speaks as a witness".into());
        }
    }
    Ok(())
}

/// A lease came: the plane is told, where the guest is under one.
pub fn granted(primary: &Primary, seq: u64, term_ms: u64, media_ms: u64) {
    let Some(lease) = primary.tenant().granted(seq, term_ms, media_ms) else { return };
    *primary.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    let _binding = primary.binding();
    if !primary.leased.load(Relaxed) {
        return;
    }
    match primary.plane.lease(primary.generation.load(Relaxed), lease) {
        Ok(()) => primary.bound.store(true, Relaxed),
        // Too late: the fence has fallen. The next pause begins a new generation.
        Err(error) => log::debug!("the lease came and was not taken: {error}"),
    }
}
