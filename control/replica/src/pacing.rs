//! When the next checkpoint is due: the interval, earlier when output waits and asks for it, later while nothing waits.

use std::time::{Duration, Instant};

/// See the module's head. All are counted from the moment in which the VM ran again.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    interval: Duration,
    floor: Duration,
    ceiling: Duration,
}

/// What is known of the guest's output since the last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nothing waits for a commit that this checkpoint would bring.
    Idle,
    /// Something waits.
    Waits,
    /// The hold queue fills, or signalling waits in it.
    Urges,
}

impl Pacing {
    /// Refuses what contradicts itself, in words for the command line.
    pub fn new(interval: Duration, floor: Duration, ceiling: Duration) -> Result<Pacing, String> {
        if interval < Duration::from_millis(1) {
            return Err("--interval must be a millisecond at least; 40ms to 400ms are usual".into());
        }
        // Whoever moves the interval alone gets bounds that go with it.
        Ok(Pacing { interval, floor: floor.min(interval), ceiling: ceiling.max(interval) })
    }

    /// When the next one is due after the VM `ran` again.
    pub fn due(&self, ran: Instant, output: Output) -> Instant {
        ran + match output {
            Output::Idle => self.ceiling,
            Output::Waits => self.interval,
            Output::Urges => self.floor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_urges_brings_it_forward_and_an_idle_guest_may_wait() {
        let ms = Duration::from_millis;
        let pacing = Pacing::new(ms(100), ms(40), ms(400)).unwrap();
        let ran = Instant::now();
        let after = |output| pacing.due(ran, output) - ran;
        assert_eq!([Output::Urges, Output::Waits, Output::Idle].map(after), [ms(40), ms(100), ms(400)]);
        let short = Pacing::new(ms(20), ms(40), ms(400)).unwrap();
        assert_eq!(short.due(ran, Output::Urges) - ran, ms(20), "the floor is never above the interval");
        let long = Pacing::new(ms(500), ms(40), ms(400)).unwrap();
        assert_eq!(long.due(ran, Output::Idle) - ran, ms(500));
        assert!(Pacing::new(Duration::ZERO, ms(40), ms(400)).unwrap_err().contains("--interval"));
    }
}
