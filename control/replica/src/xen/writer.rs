//! xl as the one sign that there is of a domain's life: it writes, and its pipe has an end.

use crate::plane::monotonic_ns;
use crate::vm::SignsOfLife;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// See the module's head.
#[derive(Debug)]
pub struct Writer {
    wrote_ns: AtomicU64,
    ended: AtomicBool,
    /// Silence that is no life.
    stalled_after: Duration,
}

impl Writer {
    /// It lives, for all that is known.
    pub fn new(stalled_after: Duration) -> Writer {
        Writer { wrote_ns: AtomicU64::new(monotonic_ns()), ended: AtomicBool::new(false), stalled_after }
    }

    /// It wrote something.
    pub fn wrote(&self) {
        self.wrote_ns.store(monotonic_ns(), Relaxed);
    }

    /// Its end of the pipe is closed.
    pub fn ended(&self) {
        self.ended.store(true, Relaxed);
    }
}

impl SignsOfLife for Writer {
    fn who(&self) -> &'static str {
        "xl remus"
    }

    fn look(&self, _: Duration) -> Option<Result<(), String>> {
        let silent = self.silent_for();
        Some(match silent <= self.stalled_after {
            true => Ok(()),
            false => Err(format!("xl has written nothing for {} ms", silent.as_millis())),
        })
    }

    fn silent_for(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.wrote_ns.load(Relaxed)))
    }

    fn is_gone(&self) -> bool {
        self.ended.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_says_nothing_for_too_long_gives_no_sign_of_life() {
        let writer = Writer::new(Duration::from_millis(30));
        assert_eq!(writer.look(Duration::ZERO), Some(Ok(())));
        std::thread::sleep(Duration::from_millis(40));
        assert!(writer.look(Duration::ZERO).unwrap().is_err() && !writer.is_gone(), "it may come back");
        writer.wrote();
        assert_eq!(writer.look(Duration::ZERO), Some(Ok(())));
        writer.ended();
        assert!(writer.is_gone());
    }
}
