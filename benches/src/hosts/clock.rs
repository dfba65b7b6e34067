//! How far two hosts' clocks are apart, by asking over the control port: the answer that came quickest tells most.

use serde::{Deserialize, Serialize};
use tidegate_tests::wall_clock::now_ns;

/// What an agent's clock shows, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Nanoseconds since 1970.
    pub now_ns: u64,
    /// The kernel's boot: the same on one machine, whatever its namespaces.
    pub boot: String,
}

impl Reading {
    /// Of this host.
    pub fn here() -> Reading {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Reading { now_ns: now_ns(), boot: boot.trim().to_owned() }
    }
}

/// How far a clock is ahead of the coordinator's.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Offset {
    /// Nanoseconds.
    pub ns: i64,
    /// It may be wrong by so much: half of the quickest answer's time.
    pub unsure_ns: u64,
    /// See [`Reading::boot`].
    pub boot: String,
}

impl Offset {
    /// Of questions, each with the moments before and after it.
    pub fn of(asked: impl IntoIterator<Item = (u64, Reading, u64)>) -> Offset {
        let quickest = asked.into_iter().min_by_key(|(before, _, after)| after.saturating_sub(*before));
        let Some((before, reading, after)) = quickest else { return Offset::default() };
        let half = after.saturating_sub(before) / 2;
        let ns = i128::from(reading.now_ns) - i128::from(before + half);
        Offset { ns: i64::try_from(ns).unwrap_or(0), unsure_ns: half, boot: reading.boot }
    }

    /// What is to be added to a moment of `self`'s host to have it on `other`'s clock, and how unsure that is. One
    /// machine has one clock.
    pub fn to(&self, other: &Offset) -> (i64, u64) {
        if self.boot == other.boot && !self.boot.is_empty() {
            return (0, 0);
        }
        (other.ns.saturating_sub(self.ns), self.unsure_ns + other.unsure_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(now_ns: u64, boot: &str) -> Reading {
        Reading { now_ns, boot: boot.into() }
    }

    #[test]
    fn the_quickest_answer_tells() {
        let asked = [
            (100, reading(9_000, "a"), 900),
            (2_000, reading(7_020, "a"), 2_040),
            (5_000, reading(1, "a"), 6_000),
        ];
        assert_eq!(Offset::of(asked), Offset { ns: 5_000, unsure_ns: 20, boot: "a".into() });
        assert_eq!(Offset::of([]), Offset::default());
    }

    #[test]
    fn two_hosts_differ_and_one_machine_does_not() {
        let offset = |ns, boot: &str| Offset { ns, unsure_ns: 30, boot: boot.into() };
        assert_eq!(offset(500, "a").to(&offset(-200, "b")), (-700, 60));
        assert_eq!(offset(500, "a").to(&offset(-200, "a")), (0, 0));
        assert_eq!(offset(500, "").to(&offset(400, "")), (-100, 60));
    }
}
