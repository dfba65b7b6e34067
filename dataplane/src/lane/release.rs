//! To the wire: bypassed frames first, then what the commits let go, in chunks.

use super::Lane;
use crate::class::DropReason;
use crate::egress::{self, Sent};
use crate::guest::Mode;
use crate::port::{BURST, Frame, Port};
use crate::tsc::Clock;

/// Frames that one poll frees when held ones are to be discarded: an lcore with other lanes must not
/// spend a millisecond on it (I8).
const DISCARD_CHUNK: usize = 256;

impl<G: Port, W: Port<Frame = G::Frame>, C: Clock> Lane<G, W, C>
where
    G::Frame: Send + 'static,
{
    /// Sends what bypasses. True when there was anything.
    #[inline]
    pub fn send_bypass(&mut self) -> bool {
        if self.egress.bypass.is_empty() {
            return false;
        }
        loop {
            let now = self.clock.now();
            let until = self.shared.gate.media();
            let (shared, classifier, clock) = (&self.shared, &mut self.classifier, &self.clock);
            let (firsts, histograms) = (&mut self.firsts, self.config.histograms);
            let sent = egress::send(&mut self.egress.bypass, &mut self.wire, now, until, |gone| {
                let sent_at = clock.now();
                firsts.see(&gone, sent_at, &shared.counters);
                for (run, n) in gone.runs() {
                    shared.counters.class[run.class as usize].bypassed.add(n);
                    if histograms {
                        shared.latency.bypass.record_n(sent_at.saturating_sub(run.received_tsc), n);
                    }
                }
                classifier.departed(gone.media(), sent_at);
            });
            match sent {
                Sent::Late => return self.bypass_late(now),
                // The wire is full: try again at the next poll.
                Sent::Frames(_) if !self.egress.bypass.is_empty() => {
                    self.dirty = true;
                    return true;
                }
                Sent::Frames(_) if self.egress.backlog.is_empty() => return true,
                Sent::Frames(_) => {
                    self.dirty = true;
                    self.egress.refill();
                }
            }
        }
    }

    /// The lease is not renewed as it should be: what bypasses waits until it is, or until it ends.
    #[cold]
    fn bypass_late(&mut self, now: u64) -> bool {
        if now >= self.shared.gate.lease() {
            self.fall_fence();
        }
        self.dirty = true;
        true
    }

    /// Sends a chunk of what is committed. True when anything was done.
    #[inline]
    pub fn release(&mut self) -> bool {
        let committed = self.shared.gate.committed();
        self.commits.see(committed, self.shared.gate.commit_tsc());
        if self.hold.is_empty() && self.egress.release.is_empty() {
            self.commits.all_sent(&self.shared.latency.commit_to_last);
            return false;
        }
        self.release_some(committed)
    }

    fn release_some(&mut self, committed: u64) -> bool {
        if self.hold.head() < self.discard_before {
            return self.discard_some();
        }
        // Nothing stands in front of a bypassed frame (not of one that waits for a renewal either: it may be of the same
        // flow), and nothing leaves behind a fence or a muting.
        if self.fenced || self.mode == Mode::Muted || !self.egress.bypass.is_empty() {
            return false;
        }
        let now = self.clock.now();
        let up_to = if self.mode == Mode::Open { u64::MAX } else { committed.max(self.free_up_to) };
        while self.egress.release_room(now) {
            let Some(held) = self.hold.pop_up_to(up_to) else {
                if self.egress.release.is_empty() {
                    self.commits.all_sent(&self.shared.latency.commit_to_last);
                    return false;
                }
                break;
            };
            self.dirty = true;
            held.frame.prefetch_held();
            if self.egress.release(held, now).is_err() {
                unreachable!("the stage said that it has room");
            }
        }
        if self.egress.release.is_empty() {
            return false;
        }
        let (now, lease) = (self.clock.now(), self.shared.gate.lease());
        let (shared, classifier, commits) = (&self.shared, &mut self.classifier, &mut self.commits);
        let (clock, firsts, histograms) = (&self.clock, &mut self.firsts, self.config.histograms);
        let sent = egress::send(&mut self.egress.release, &mut self.wire, now, lease, |gone| {
            let sent_at = clock.now();
            firsts.see(&gone, sent_at, &shared.counters);
            for (run, n) in gone.runs() {
                shared.counters.class[run.class as usize].released.add(n);
                if histograms {
                    let latency = &shared.latency;
                    latency.hold.record_n(sent_at.saturating_sub(run.received_tsc), n);
                    commits.sent(run.epoch, sent_at, &latency.commit_to_first, &latency.commit_to_last);
                }
            }
            classifier.departed(gone.media(), sent_at);
        });
        self.dirty = true;
        if sent == Sent::Late {
            self.fall_fence();
        }
        true
    }

    #[cold]
    fn discard_some(&mut self) -> bool {
        for _ in 0..DISCARD_CHUNK {
            let Some(held) = self.hold.pop_before(self.discard_before) else { break };
            Self::count_drop(&self.shared, held.class, DropReason::Discarded);
        }
        self.dirty = true;
        true
    }
}

// A released chunk is one burst: the stage holds no more.
const _: () = assert!(BURST <= 32);
