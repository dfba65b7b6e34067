//! The clock that all processes of the demo share.

use nix::time::{ClockId, clock_gettime};
use smoltcp::time::Instant;

/// CLOCK_MONOTONIC, nanoseconds: the same in every process and network namespace of one host.
pub(super) fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CLOCK_REALTIME, nanoseconds: what the kernel stamps captured frames with.
pub(super) fn wall_ns() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux.
    clock_gettime(clock).map(|t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64).unwrap_or_default()
}

/// As smoltcp counts time.
pub(super) fn instant(ns: u64) -> Instant {
    Instant::from_micros((ns / 1000) as i64)
}

/// Milliseconds, for people.
pub(super) fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
