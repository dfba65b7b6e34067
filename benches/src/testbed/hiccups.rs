//! What the machine itself did while it measured: moments at which a thread that wanted to run could not, and how busy
//! its CPUs were. A late packet beside such a moment says nothing about the gate.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidegate_tests::wall_clock::now_ns;

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(1);
/// A look that comes so much too late is a hiccup.
const HICCUP: Duration = Duration::from_millis(2);
/// What it held up is there so long after it.
const WAKE_NS: u64 = 2_000_000;
/// More of them are counted and not kept.
const KEPT: usize = 100_000;

/// One of them: a thread was due at `due_ns` and ran at `at_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hiccup {
    /// Nanoseconds since 1970.
    pub due_ns: u64,
    /// The same.
    pub at_ns: u64,
}

/// All of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// The hiccups, in order.
    pub hiccups: Vec<Hiccup>,
    /// How many there were.
    pub count: usize,
    /// The longest, milliseconds.
    pub worst_ms: f64,
    /// Share of all CPUs' time in which they worked, per cent.
    pub busy_percent: f64,
    /// Share that the machine below took away, per cent.
    pub stolen_percent: f64,
}

impl Noise {
    fn add(&mut self, hiccup: Hiccup) {
        self.count += 1;
        self.worst_ms = self.worst_ms.max((hiccup.at_ns - hiccup.due_ns) as f64 / 1e6);
        if self.hiccups.len() < KEPT {
            self.hiccups.push(hiccup);
        }
    }

    /// True when a packet of that moment may have been held up by the machine.
    pub fn touches(&self, at_ns: u64) -> bool {
        // Only the last one that was due before it can.
        let behind = self.hiccups.partition_point(|hiccup| hiccup.due_ns <= at_ns);
        behind.checked_sub(1).is_some_and(|last| at_ns <= self.hiccups[last].at_ns + WAKE_NS)
    }
}

/// Looks until it is told to stop.
pub struct Watch {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Noise>,
    before: CpuTime,
}

impl Watch {
    /// Begins.
    pub fn start() -> Watch {
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut noise = Noise::default();
            while !ends.load(Ordering::Relaxed) {
                let due = Instant::now() + EVERY;
                std::thread::sleep(EVERY);
                let late = due.elapsed();
                if late >= HICCUP {
                    let at_ns = now_ns();
                    noise.add(Hiccup { due_ns: at_ns - late.as_nanos() as u64, at_ns });
                }
            }
            noise
        });
        Watch { end, thread, before: CpuTime::now() }
    }

    /// Ends; what was seen.
    pub fn finish(self) -> Noise {
        self.end.store(true, Ordering::Relaxed);
        let mut noise = self.thread.join().unwrap_or_default();
        let (now, before) = (CpuTime::now(), self.before);
        let all = now.all.saturating_sub(before.all).max(1) as f64;
        noise.busy_percent = 100.0 - 100.0 * now.idle.saturating_sub(before.idle) as f64 / all;
        noise.stolen_percent = 100.0 * now.stolen.saturating_sub(before.stolen) as f64 / all;
        noise
    }
}

/// Ticks of all CPUs since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTime {
    all: u64,
    idle: u64,
    stolen: u64,
}

impl CpuTime {
    fn now() -> CpuTime {
        CpuTime::parse(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; the last two are in the first two.
    fn parse(stat: &str) -> CpuTime {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
        let tick = |at: usize| ticks.get(at).copied().unwrap_or(0);
        CpuTime { all: ticks.iter().take(8).sum(), idle: tick(3) + tick(4), stolen: tick(7) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_within_a_hiccup_and_just_after_it_are_touched() {
        let mut noise = Noise::default();
        noise.add(Hiccup { due_ns: 100_000_000, at_ns: 105_000_000 });
        noise.add(Hiccup { due_ns: 200_000_000, at_ns: 203_000_000 });
        let touched = |ms: u64| noise.touches(ms * 1_000_000);
        assert_eq!(
            [99, 100, 104, 107, 108, 199, 201, 206].map(touched),
            [false, true, true, true, false, false, true, false]
        );
        assert_eq!((noise.count, noise.worst_ms), (2, 5.0));
        assert!(!Noise::default().touches(5));
    }

    #[test]
    fn the_kernels_line_is_read() {
        let time = CpuTime::parse("cpu  10 0 20 60 5 1 2 2 9 9\ncpu0 1 2 3 4\n");
        assert_eq!(time, CpuTime { all: 100, idle: 65, stolen: 2 });
        assert_eq!(CpuTime::parse(""), CpuTime::default());
    }

    #[test]
    fn a_watch_sees_time_pass() {
        let watch = Watch::start();
        std::thread::sleep(Duration::from_millis(30));
        let noise = watch.finish();
        assert!((0.0..=100.0).contains(&noise.busy_percent), "{noise:?}");
    }
}
