//! How far apart two CPUs are: the time for a cache line to go to the other one and back.
//!
//! On a virtual machine the host may move the CPUs between caches at any time: 25 ns and 300 ns were seen on one machine
//! within seconds. Where cores are far apart, moving a frame between them costs more than anything that is done with
//! it, and all forwarders look alike; so a ratio means little without this number.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Round trips in a block; the quickest block counts, because others may run on these CPUs too.
const BLOCK: u32 = 500;
const BLOCKS: u32 = 40;
/// The longest that the measurement may take.
const LIMIT: Duration = Duration::from_millis(500);
const END: u32 = u32::MAX;

/// Nanoseconds for a round trip between the two CPUs; `None` when they cannot be had.
pub fn round_trip_ns(here: u32, there: u32) -> Option<f64> {
    let word = Arc::new(AtomicU32::new(0));
    let echo = {
        let word = Arc::clone(&word);
        std::thread::spawn(move || {
            let pinned = pin(there);
            let mut expected = 1;
            loop {
                match word.load(Ordering::Acquire) {
                    END => return pinned,
                    number if number == expected => {
                        word.store(number + 1, Ordering::Release);
                        expected += 2;
                    }
                    _ => std::hint::spin_loop(),
                }
            }
        })
    };
    let ask = std::thread::spawn(move || {
        let (pinned, start, mut best) = (pin(here), Instant::now(), f64::MAX);
        let mut number = 1;
        'blocks: for _ in 0..BLOCKS {
            let block = Instant::now();
            for _ in 0..BLOCK {
                word.store(number, Ordering::Release);
                let mut spins = 0u32;
                while word.load(Ordering::Acquire) != number + 1 {
                    spins = spins.wrapping_add(1);
                    if spins.is_multiple_of(4096) && start.elapsed() > LIMIT {
                        break 'blocks;
                    }
                }
                number += 2;
            }
            best = best.min(block.elapsed().as_nanos() as f64 / f64::from(BLOCK));
        }
        word.store(END, Ordering::Release);
        (pinned && best < f64::MAX).then_some(best)
    });
    let (there, here) = (echo.join().ok()?, ask.join().ok()?);
    here.filter(|_| there).map(f64::round)
}

fn pin(cpu: u32) -> bool {
    let mut set = CpuSet::new();
    set.set(cpu as usize).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Cpus;

    #[test]
    fn a_round_trip_takes_more_than_nothing_and_a_cpu_that_is_not_there_is_told() {
        if let Ok(cpus) = Cpus::choose() {
            let ns = round_trip_ns(cpus.generator, cpus.dut);
            assert!(ns.is_none_or(|ns| (5.0..100_000.0).contains(&ns)), "{ns:?}");
        }
        assert_eq!(round_trip_ns(0, 1023), None);
    }
}
