//! What comes due, what has left, and when the machine took the CPU away meanwhile.

use super::gaps::Gaps;
use std::collections::VecDeque;
use tidegate_dataplane::tsc::TscRate;

/// Between two looks at the clock lies the work of one burst at most, a few microseconds. What takes longer is a
/// hiccup: the thread did not have its CPU. [`super::Ask::Spin`] tells how many there are without any work.
pub const HICCUP_NS: u64 = 10_000;
/// Delays that are kept; more are not.
const KEPT: usize = 4 << 20;

/// A TCP frame on its way.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: u64,
    epoch: u64,
}

/// See the module's head. All moments and lengths are ticks.
#[derive(Debug)]
pub struct Ledger {
    /// The hiccups.
    pub gaps: Gaps,
    /// Delays are written down.
    pub counts: bool,
    /// TCP frames too, see [`super::Load::follow_tcp`].
    pub follow_tcp: bool,
    rtp_due: VecDeque<u64>,
    /// Frames that were on their way when counting began, of RTP and of TCP: nobody's.
    before: (u64, u64),
    tcp: VecDeque<Waiting>,
    /// Delay of each RTP frame, and whether a hiccup touched it.
    pub rtp: Vec<(u64, bool)>,
    /// From a commit to its first frame, the same.
    pub first: Vec<(u64, bool)>,
    /// A commit that came due and has let nothing go so far.
    pub committed: Option<u64>,
    /// The open epoch, and when each epoch's commit came due, from the one of the first frame that waits.
    pub epoch: u64,
    /// Sums over followed frames: held, and what they would be held if nothing took any time.
    pub held: (u128, u128),
    /// How many.
    pub followed: u64,
    /// Followed frames that came in another order.
    pub reordered: u64,
    number: u32,
    /// When the first epoch ends; from one to the next; from an end to its commit.
    pub epochs: (u64, u64, u64),
    /// The guest stands still: nothing comes that was due later.
    pub paused: Option<u64>,
    /// Frames given, of RTP and of TCP.
    pub given: (u64, u64),
    /// Frames that left, likewise.
    pub sent: (u64, u64),
    /// When the last one left.
    pub last_sent: u64,
    /// Frames that could not be given, for there was no mbuf.
    pub starved: u64,
}

impl Ledger {
    /// An empty one. Its memory is there, so that no page is missing later.
    pub fn new(rate: TscRate) -> Ledger {
        let kept = vec![(1, true); KEPT];
        let mut ledger = Ledger {
            gaps: Gaps::new(HICCUP_NS, rate),
            counts: false,
            follow_tcp: false,
            rtp_due: VecDeque::with_capacity(1 << 17),
            before: (0, 0),
            tcp: VecDeque::with_capacity(1 << 17),
            rtp: kept,
            first: Vec::with_capacity(1 << 16),
            committed: None,
            epoch: 1,
            held: (0, 0),
            followed: 0,
            reordered: 0,
            number: 0,
            epochs: (0, 0, 0),
            paused: None,
            given: (0, 0),
            sent: (0, 0),
            last_sent: 0,
            starved: 0,
        };
        ledger.rtp.clear();
        ledger
    }

    /// From now on everything counts; `now` is the last look at the clock.
    pub fn begin(&mut self, now: u64) {
        self.counts = true;
        self.gaps.begin(now);
        self.rtp.clear();
        self.first.clear();
        self.rtp_due.clear();
        self.tcp.clear();
        (self.held, self.followed, self.reordered) = ((0, 0), 0, 0);
        let (given, sent) = (self.given, self.sent);
        self.before = (given.0.saturating_sub(sent.0), given.1.saturating_sub(sent.1));
        (self.given, self.sent, self.starved) = ((0, 0), (0, 0), 0);
    }

    /// A frame of RTP was given that was due then.
    #[inline]
    pub fn rtp_given(&mut self, due: u64) {
        self.given.0 += 1;
        if self.counts {
            self.rtp_due.push_back(due);
        }
    }

    /// One left.
    #[inline]
    pub fn rtp_sent(&mut self, now: u64) {
        self.sent.0 += 1;
        self.last_sent = now;
        if self.before.0 > 0 {
            self.before.0 -= 1;
            return;
        }
        if let Some(due) = self.rtp_due.pop_front()
            && self.rtp.len() < KEPT
        {
            let touched = self.gaps.touched(due);
            self.rtp.push((now.saturating_sub(due), touched));
        }
    }

    /// A frame of TCP was given.
    #[inline]
    pub fn tcp_given(&mut self, due: u64) {
        self.given.1 += 1;
        if self.counts && self.follow_tcp {
            self.tcp.push_back(Waiting { due, epoch: self.epoch });
        }
    }

    /// One left; `number` is its own where it is followed.
    #[inline]
    pub fn tcp_sent(&mut self, now: u64, number: Option<u32>) {
        self.sent.1 += 1;
        self.last_sent = now;
        if let Some(commit) = self.committed.take()
            && self.counts
        {
            let touched = self.gaps.touched(commit);
            self.first.push((now.saturating_sub(commit), touched));
        }
        if let Some(number) = number {
            self.reordered += u64::from(self.number > 0 && number != self.number.wrapping_add(1));
            self.number = number;
            if self.before.1 > 0 {
                self.before.1 -= 1;
                return;
            }
            let Some(Waiting { due, epoch }) = self.tcp.pop_front() else { return };
            let (first, every, delay) = self.epochs;
            let commit = first + (epoch - 1) * every + delay;
            // What held up the commit is what matters to a frame that waited for it.
            if !self.gaps.touched(commit) {
                self.held.0 += u128::from(now.saturating_sub(due));
                self.held.1 += u128::from(commit.saturating_sub(due));
                self.followed += 1;
            }
        }
    }

    /// RTP that was given and has not left.
    pub fn rtp_waiting(&self) -> usize {
        self.rtp_due.len()
    }

    /// Forgets frames that are on their way.
    pub fn forget(&mut self) {
        self.counts = false;
        (self.given, self.sent, self.before) = ((0, 0), (0, 0), (0, 0));
        self.rtp_due.clear();
        self.tcp.clear();
        self.number = 0;
        self.committed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_counted_from_the_moment_at_which_the_frame_was_due() {
        let mut ledger = Ledger::new(TscRate::new(1_000_000_000));
        ledger.begin(1_000);
        ledger.rtp_given(8_000);
        ledger.gaps.look(31_000);
        ledger.rtp_sent(31_100);
        ledger.rtp_given(70_000);
        ledger.rtp_sent(70_400);
        assert_eq!(ledger.rtp, [(23_100, true), (400, false)]);
        ledger.rtp_sent(70_500);
        assert_eq!((ledger.rtp.len(), ledger.sent.0), (2, 3), "one that came before is nobody's");
    }

    #[test]
    fn a_commit_has_one_first_frame_and_order_is_watched() {
        let mut ledger = Ledger::new(TscRate::new(1_000_000_000));
        (ledger.epochs, ledger.follow_tcp) = ((1_000, 1_000, 500), true);
        ledger.begin(100);
        for due in [200, 600, 700] {
            ledger.tcp_given(due);
        }
        ledger.committed = Some(1_500);
        ledger.tcp_sent(1_520, Some(1));
        ledger.tcp_sent(1_530, Some(3));
        ledger.tcp_sent(1_540, Some(2));
        assert_eq!((ledger.first.as_slice(), ledger.reordered), (&[(20, false)][..], 2));
        assert_eq!(ledger.held, (1_320 + 930 + 840, 1_300 + 900 + 800));
        // One is on its way when counting begins anew: the next one's times are its own.
        ledger.tcp_given(800);
        ledger.begin(850);
        ledger.tcp_given(900);
        ledger.tcp_sent(1_600, Some(3));
        ledger.tcp_sent(1_610, Some(4));
        assert_eq!((ledger.held, ledger.followed), ((710, 600), 1));
    }
}
