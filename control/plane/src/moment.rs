//! Moments of the lcores' clock as `CLOCK_MONOTONIC`, which other processes of this host can compare with their own.

use std::time::Duration;
use tidegate_dataplane::tsc::TscRate;

/// `CLOCK_MONOTONIC`, nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.ok().and_then(|now| u64::try_from(Duration::from(now).as_nanos()).ok()).unwrap_or(0)
}

/// Both clocks, read one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    tsc: u64,
    monotonic_ns: u64,
    rate: TscRate,
}

impl Moment {
    /// Now; `tsc` was read just before.
    pub fn now(tsc: u64, rate: TscRate) -> Moment {
        Moment { tsc, monotonic_ns: monotonic_ns(), rate }
    }

    /// An earlier moment.
    pub fn ns(&self, tsc: u64) -> u64 {
        self.monotonic_ns.saturating_sub(self.rate.ns(self.tsc.saturating_sub(tsc)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_lies_as_far_back_on_one_clock_as_on_the_other() {
        let moment = Moment { tsc: 10_000, monotonic_ns: 500_000, rate: TscRate::new(2_000_000_000) };
        assert_eq!((moment.ns(10_000), moment.ns(9_000), moment.ns(10_001)), (500_000, 499_500, 500_000));
        assert!(monotonic_ns() > 0);
    }
}
