//! `decide = witness`: whether this standby takes over is for a third host to say, which lends the lease.

use super::Standby;
use crate::link::LinkError;
use crate::link::dial::Dial;
use crate::link::message::{Beat, Down, Up, Verdict};
use crate::link::wire::{Receiver, Sender};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// From one attempt to reach the witness to the next.
const AGAIN: Duration = Duration::from_millis(100);
/// The same after a promotion.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// How often a claim is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// A witness that says nothing for so long says no.
const VERDICT_WITHIN: Duration = Duration::from_secs(2);

/// What is asked of the witness, and what it said.
#[derive(Debug, Default)]
pub struct Claim {
    /// Somebody waits for a verdict.
    wanted: AtomicBool,
    verdict: std::sync::Mutex<Option<Verdict>>,
}

/// Keeps in touch with the witness until the process ends. After a promotion too: it holds the lease then, and as long as it
/// beats nobody else is lent it.
pub fn attend(standby: &Standby, dial: &Dial) {
    let mut seq = 0;
    while !standby.stop.load(Relaxed) {
        if let Ok(dialed) = dial.witness() {
            standby.longest_term_ms.fetch_max(dialed.welcome.term_ms, Relaxed);
            standby.chronicle.tell("witness", json!({ "node": dialed.welcome.node }));
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    hear(standby, dialed.down);
                    over.store(true, Relaxed);
                });
                speak(standby, dialed.up, &over, &mut seq);
                dialed.stopper.stop();
            });
        }
        // Whoever replicates the guest from here now may have taken the session: it is let in first.
        std::thread::sleep(if standby.promoted.load(Relaxed) { AFTERWARDS } else { AGAIN });
    }
}

fn speak(standby: &Standby, mut up: Sender<Up>, over: &AtomicBool, seq: &mut u64) {
    let mut next = Instant::now();
    while !over.load(Relaxed) && !standby.stop.load(Relaxed) {
        let claims = standby.claim.wanted.swap(false, Relaxed);
        if claims || Instant::now() >= next {
            *seq += 1;
            let able = standby.able.load(Relaxed);
            let message = match claims {
                true => Up::Claim { seq: *seq },
                false if able => {
                    Up::Beat(Beat { seq: *seq, renewal: standby.promoted.load(Relaxed), ..Beat::default() })
                }
                false => Up::Withdraw { reason: "its QEMU or its plane does not answer".into() },
            };
            if up.send(&message).is_err() {
                return;
            }
            next = Instant::now() + standby.args.link.beat;
        }
        std::thread::sleep(LOOK);
    }
    if standby.stop.load(Relaxed) && !standby.promoted.load(Relaxed) {
        let _ = up.send(&Up::Withdraw { reason: "the standby was told to stop".into() });
    }
}

fn hear(standby: &Standby, mut down: Receiver<Down>) {
    loop {
        match down.receive() {
            Ok(Down::Verdict { verdict, .. }) => *super::locked(&standby.claim.verdict) = Some(verdict),
            Ok(_) | Err(LinkError::Quiet) => {}
            Err(_) => return,
        }
    }
}

/// Asks until the witness says yes (`Ok`) or no (`Err`, with its reason).
pub fn claim(standby: &Standby) -> Result<(), String> {
    let deadline = Instant::now() + VERDICT_WITHIN;
    super::locked(&standby.claim.verdict).take();
    standby.claim.wanted.store(true, Relaxed);
    while Instant::now() < deadline && !standby.stop.load(Relaxed) {
        match super::locked(&standby.claim.verdict).take() {
            Some(Verdict::Yes { .. }) => return Ok(()),
            Some(Verdict::No { reason }) => return Err(reason),
            Some(Verdict::Wait { ms }) => {
                std::thread::sleep(Duration::from_millis(ms.clamp(1, 200)));
                standby.claim.wanted.store(true, Relaxed);
            }
            None => std::thread::sleep(LOOK),
        }
    }
    Err("the witness is not reached".into())
}
