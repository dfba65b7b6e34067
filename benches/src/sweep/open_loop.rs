//! Requests at intended moments, whatever became of those before: a latency counts from the intended moment, so that a
//! server that stands still is late for every request that fell into it.

use std::fmt::Write;
use std::time::{Duration, Instant};
use tidegate_tests::wall_clock::now_ns;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was to be sent, nanoseconds since 1970.
    pub intended_ns: u64,
    /// When its answer came; nothing for none.
    pub answered_ns: Option<u64>,
}

impl Sample {
    /// From one to the other, milliseconds.
    pub fn ms(&self) -> Option<f64> {
        self.answered_ns.map(|at| at.saturating_sub(self.intended_ns) as f64 / 1e6)
    }
}

/// Moments one after the other.
#[derive(Debug)]
pub struct Ticks {
    begin: Instant,
    begin_ns: u64,
    every: Duration,
    n: u32,
}

impl Ticks {
    /// The first is now.
    pub fn every(every: Duration) -> Ticks {
        Ticks { begin: Instant::now(), begin_ns: now_ns(), every, n: 0 }
    }

    /// Waits for the next; it, nanoseconds since 1970. One that has passed is not waited for, and none is left out.
    pub fn wait(&mut self) -> u64 {
        let since = self.every * self.n;
        self.n += 1;
        std::thread::sleep((self.begin + since).saturating_duration_since(Instant::now()));
        self.begin_ns + since.as_nanos() as u64
    }
}

/// As they are kept: a line each, `intended_ns,answered_ns`.
pub fn to_csv(samples: &[Sample]) -> String {
    let mut text = "intended_ns,answered_ns\n".to_owned();
    for sample in samples {
        let answered = sample.answered_ns.map(|at| at.to_string()).unwrap_or_default();
        let _ = writeln!(text, "{},{answered}", sample.intended_ns);
    }
    text
}

/// What [`to_csv`] wrote; lines that are not whole are left out.
pub fn from_csv(text: &str) -> Vec<Sample> {
    let sample = |line: &str| {
        let (intended, answered) = line.split_once(',')?;
        let answered_ns = if answered.is_empty() { None } else { Some(answered.parse().ok()?) };
        Some(Sample { intended_ns: intended.parse().ok()?, answered_ns })
    };
    text.lines().filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_as_they_were_written() {
        let samples = [
            Sample { intended_ns: 5, answered_ns: Some(2_000_005) },
            Sample { intended_ns: 6, answered_ns: None },
        ];
        assert_eq!(from_csv(&to_csv(&samples)), samples);
        assert_eq!(samples.map(|sample| sample.ms()), [Some(2.0), None]);
    }

    #[test]
    fn a_moment_that_has_passed_is_not_left_out() {
        let mut ticks = Ticks::every(Duration::from_millis(5));
        let first = ticks.wait();
        std::thread::sleep(Duration::from_millis(18));
        let begin = Instant::now();
        let late: Vec<u64> = (0..3).map(|_| ticks.wait() - first).collect();
        assert_eq!(late, [5_000_000, 10_000_000, 15_000_000]);
        assert!(begin.elapsed() < Duration::from_millis(500));
    }
}
