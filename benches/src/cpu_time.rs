//! How much of its CPU a polling thread really got: what tells a measurement from an accident.
//!
//! A thread that polls wants a whole CPU. When the scheduler gives some of it to others, its frames a second say
//! more about them than about the program measured.

use std::collections::HashMap;
use std::fs;

/// Nanoseconds on a CPU so far, of each thread of some processes.
#[derive(Clone, Debug, Default)]
pub struct CpuTimes(HashMap<(u32, u32), u64>);

impl CpuTimes {
    /// As it stands now, of the processes `pids`; threads and processes that are gone are left out.
    pub fn of(pids: &[u32]) -> CpuTimes {
        let mut times = HashMap::new();
        for &pid in pids {
            let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for thread in threads.flatten() {
                let Some(tid) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                // "on_cpu_ns waiting_ns slices"
                let line = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
                if let Some(ns) = line.split_whitespace().next().and_then(|word| word.parse().ok()) {
                    times.insert((pid, tid), ns);
                }
            }
        }
        CpuTimes(times)
    }

    /// The share (0 to 1) of one CPU that the busiest thread of `pid` got since `earlier`, `wall_ns` ago. `None` where
    /// the kernel does not say (no /proc/PID/task/TID/schedstat).
    pub fn busiest_since(&self, earlier: &CpuTimes, pid: u32, wall_ns: u64) -> Option<f64> {
        let threads = self.0.iter().filter(|((of, _), _)| *of == pid);
        let most =
            threads.map(|(thread, &now)| now - earlier.0.get(thread).copied().unwrap_or(0).min(now)).max()?;
        Some((most as f64 / wall_ns.max(1) as f64).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_busy_thread_is_seen_and_a_sleeping_one_is_not() {
        let pid = std::process::id();
        let (start, before) = (Instant::now(), CpuTimes::of(&[pid]));
        while start.elapsed() < Duration::from_millis(50) {}
        let wall = start.elapsed().as_nanos() as u64;
        let share = CpuTimes::of(&[pid]).busiest_since(&before, pid, wall).unwrap();
        assert!(share > 0.05, "{share}"); // other tests share the machine
        assert_eq!(CpuTimes::of(&[]).busiest_since(&before, pid, wall), None);
    }
}
