//! The clock that captures and commits have in common: CLOCK_REALTIME in nanoseconds.
//!
//! The kernel stamps captured frames with it, so the log of commits uses it too. Both are read on
//! one machine; a step of the clock during a test would show as an early or a very late frame.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Asks `done` every `pause` until it says yes or `timeout` is over; the last answer.
pub fn wait_until(timeout: Duration, pause: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
    }
}
