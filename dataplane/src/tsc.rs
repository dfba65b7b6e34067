//! Time on an lcore: the TSC, in ticks, and the one place that turns ticks into nanoseconds.

/// A source of TSC ticks. DPDK's on an lcore, a counter in the simulator.
pub trait Clock {
    /// Ticks since some fixed moment. Never goes backwards on one lcore.
    fn now(&self) -> u64;
}

/// Ticks per second, measured once at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscRate {
    hz: u64,
}

impl TscRate {
    /// `hz`: ticks per second; 0 is taken as 1 so that no conversion can divide by it.
    pub const fn new(hz: u64) -> Self {
        Self { hz: if hz == 0 { 1 } else { hz } }
    }

    /// Ticks per second.
    pub const fn hz(self) -> u64 {
        self.hz
    }

    /// Ticks to nanoseconds, exact to the nanosecond, saturating.
    pub const fn ns(self, ticks: u64) -> u64 {
        let ns = ticks as u128 * 1_000_000_000 / self.hz as u128;
        if ns > u64::MAX as u128 { u64::MAX } else { ns as u64 }
    }

    /// Nanoseconds to ticks, rounded up, saturating: a wait is never shorter than asked.
    pub const fn ticks(self, ns: u64) -> u64 {
        let ticks = (ns as u128 * self.hz as u128).div_ceil(1_000_000_000);
        if ticks > u64::MAX as u128 { u64::MAX } else { ticks as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_nanoseconds_agree() {
        let rate = TscRate::new(2_600_000_000);
        assert_eq!(rate.ns(26), 10);
        assert_eq!(rate.ticks(10), 26);
        assert_eq!(rate.ns(u64::MAX), 7_094_901_566_811_366_005);
        assert_eq!(rate.ticks(u64::MAX), u64::MAX, "saturates instead of wrapping to an early deadline");
        assert_eq!(TscRate::new(0).hz(), 1);
    }
}
