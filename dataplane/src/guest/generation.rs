//! Generations: numbers that no other node and no other start of this process ever gives.

/// Makes generations. Each is drawn when it is needed, from the millisecond and 13 random bits, and rises
/// within a process; never from configuration, which two nodes, or two starts, could share.
/// Below 2^53, so that tools which read JSON numbers as doubles keep them exact.
#[derive(Debug, Default)]
pub struct Generations {
    last: u64,
}

/// 2020-01-01T00:00:00Z, in milliseconds since 1970.
const EPOCH_2020_MS: u64 = 1_577_836_800_000;
const RANDOM_BITS: u32 = 13;
const MS_BITS: u32 = 40; // 34 years

impl Generations {
    /// The next generation. `unix_ms`: the wall clock, milliseconds since 1970; `random`: from the
    /// system's generator, anew for each call.
    pub fn next(&mut self, unix_ms: u64, random: u64) -> u64 {
        let ms = unix_ms.saturating_sub(EPOCH_2020_MS) & ((1 << MS_BITS) - 1);
        let drawn = ms << RANDOM_BITS | random & ((1 << RANDOM_BITS) - 1);
        self.last = drawn.max(self.last + 1);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_starts_differ_and_one_start_rises() {
        let (mut first, mut second) = (Generations::default(), Generations::default());
        let now = 1_795_000_000_123;
        let (a, b) = (first.next(now, 0x1234), first.next(now - 5000, 0x1234));
        assert!(b > a && b < 1 << 53, "rises although the wall clock was set back");
        assert_ne!(a, second.next(now, 0x0235));
        assert_ne!(a, Generations::default().next(now + 1, 0x1234));
    }
}
