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

impl Output {
    /// From what waits, whether it urges, and whether media left. A guest that speaks is not idle: as old as the newest
    /// checkpoint is when it dies, so much of its calls its successor says again before anybody hears something new.
    pub fn of(held_frames: u64, urged: bool, media: bool) -> Output {
        match (held_frames > 0, urged, media) {
            (false, _, false) => Output::Idle,
            (true, true, _) => Output::Urges,
            _ => Output::Waits,
        }
    }
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
    fn a_guest_whose_media_bypasses_is_not_idle() {
        assert_eq!(Output::of(0, false, true), Output::Waits);
        assert_eq!([false, true].map(|urged| Output::of(0, urged, false)), [Output::Idle; 2]);
        assert_eq!([false, true].map(|urged| Output::of(1, urged, true)), [Output::Waits, Output::Urges]);
    }

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
