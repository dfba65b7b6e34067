//! When the machine took the CPU from a thread that polls: looks at the clock that lie too far apart.

use tidegate_dataplane::tsc::TscRate;

/// All that was seen. Moments and lengths are ticks.
#[derive(Clone, Copy, Debug)]
pub struct Gaps {
    limit: u64,
    last: u64,
    /// Begin and end of the last one.
    hiccup: (u64, u64),
    /// How many there were.
    pub count: u64,
    /// How long they were together.
    pub all: u64,
    /// The longest.
    pub worst: u64,
}

impl Gaps {
    /// Two looks so many nanoseconds apart are a hiccup.
    pub fn new(limit_ns: u64, rate: TscRate) -> Gaps {
        Gaps { limit: rate.ticks(limit_ns), last: u64::MAX, hiccup: (0, 0), count: 0, all: 0, worst: 0 }
    }

    /// Forgets what was seen; `now` is the last look.
    pub fn begin(&mut self, now: u64) {
        *self = Gaps { limit: self.limit, last: now, hiccup: (0, 0), count: 0, all: 0, worst: 0 };
    }

    /// A look at the clock.
    #[inline]
    pub fn look(&mut self, now: u64) {
        let gap = now.saturating_sub(self.last);
        if gap > self.limit {
            self.hiccup = (self.last, now);
            self.count += 1;
            self.all += gap;
            self.worst = self.worst.max(gap);
        }
        self.last = now;
    }

    /// A hiccup may have held up what was due then: that lay in it, or came while what had piled up in it was cleared,
    /// for which it has as long again.
    #[inline]
    pub fn touched(&self, due: u64) -> bool {
        let (begin, end) = self.hiccup;
        due <= end + (end - begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_in_a_hiccup_and_for_as_long_again_is_touched() {
        let mut gaps = Gaps::new(10_000, TscRate::new(1_000_000_000));
        gaps.begin(50_000);
        gaps.look(59_000);
        assert_eq!((gaps.count, gaps.touched(55_000)), (0, false), "a burst's work");
        gaps.look(89_000);
        assert_eq!((gaps.count, gaps.all, gaps.worst), (1, 30_000, 30_000));
        assert!(gaps.touched(60_000) && gaps.touched(119_000) && !gaps.touched(119_001));
        gaps.begin(200_000);
        assert_eq!((gaps.count, gaps.touched(110_000)), (0, false));
    }
}
