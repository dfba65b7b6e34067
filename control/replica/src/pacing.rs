//! When the next checkpoint is due: the interval, earlier when output waits and asks for it, later while nothing waits.

use crate::cadence::{Bounds, Cadence, Cost, Seen, Why};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tidegate_control::cli::Interval;

/// Where `auto` begins, as long as nothing is measured.
const BEGIN: Duration = Duration::from_millis(100);

/// See the module's head. All are counted from the moment in which the VM ran again.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    pace: Pace,
    bounds: Bounds,
}

#[derive(Clone, Copy, Debug)]
enum Pace {
    Fixed(Duration),
    Auto(Cadence),
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
    pub fn new(interval: Interval, floor: Duration, ceiling: Duration) -> Result<Pacing, String> {
        let Interval::Fixed(interval) = interval else {
            if floor < Duration::from_millis(1) || floor > ceiling {
                return Err(
                    "--interval auto moves between --floor and --ceiling: the floor is a millisecond at \
                            least, and not above the ceiling; 40ms and 400ms are usual"
                        .into(),
                );
            }
            let bounds = Bounds { floor, ceiling };
            return Ok(Pacing { pace: Pace::Auto(Cadence::new(bounds, BEGIN)), bounds });
        };
        if interval < Duration::from_millis(1) {
            return Err("--interval must be a millisecond at least; 40ms to 400ms are usual, or auto".into());
        }
        // Whoever moves the interval alone gets bounds that go with it.
        let bounds = Bounds { floor: floor.min(interval), ceiling: ceiling.max(interval) };
        Ok(Pacing { pace: Pace::Fixed(interval), bounds })
    }

    /// When the next one is due after the VM `ran` again.
    pub fn due(&self, ran: Instant, output: Output) -> Instant {
        ran + match (output, &self.pace) {
            (Output::Idle, _) => self.bounds.ceiling,
            (Output::Waits, _) => self.interval(),
            (Output::Urges, Pace::Fixed(_)) => self.bounds.floor,
            (Output::Urges, Pace::Auto(cadence)) => cadence.urged(),
        }
    }

    /// From one checkpoint to the next, while output waits.
    pub fn interval(&self) -> Duration {
        match &self.pace {
            Pace::Fixed(interval) => *interval,
            Pace::Auto(cadence) => cadence.interval(),
        }
    }

    /// A checkpoint was acknowledged, so long after the VM ran again.
    pub fn acknowledged(&mut self, after: Duration) {
        if let Pace::Auto(cadence) = &mut self.pace {
            cadence.acknowledged(after);
        }
    }

    /// A checkpoint was taken. True when that has changed the interval.
    pub fn taken(&mut self, seen: &Seen, now: Instant) -> bool {
        match &mut self.pace {
            Pace::Fixed(_) => false,
            Pace::Auto(cadence) => cadence.taken(seen, now),
        }
    }

    /// The interval, and what decided about it, for people and logs.
    pub fn report(&self) -> Value {
        let ms = crate::chronicle::ms;
        let Pace::Auto(cadence) = &self.pace else {
            return json!({ "interval_ms": ms(self.interval()), "why": "fixed" });
        };
        let Cost { pause, acknowledged } = cadence.cost();
        let stands_still = pause.as_secs_f64() / (pause + cadence.interval()).as_secs_f64();
        json!({
            "interval_ms": ms(cadence.interval()), "why": cadence.why(), "means": words(cadence.why()),
            "pause_ms": ms(pause), "acknowledged_after_ms": ms(acknowledged),
            "stands_still_percent": (stands_still * 1e4).round() / 1e2,
        })
    }
}

/// For who reads a status.
fn words(why: Why) -> &'static str {
    match why {
        Why::Start => "nothing was measured yet",
        Why::Idle => "nothing waits and no media flows",
        Why::Balance => "what a pause costs is balanced against what a wait costs",
        Why::Signalling => "calls are set up: an answer must come before SIP asks again",
        Why::HoldQueue => "the hold queue fills quickly",
        Why::Link => "acknowledgements come late",
        Why::StandStill => "pauses are long: more checkpoints would stop the guest too much",
        Why::Floor => "no shorter than --floor",
        Why::Ceiling => "no longer than --ceiling",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(interval: u64) -> Result<Pacing, String> {
        let ms = Duration::from_millis;
        Pacing::new(Interval::Fixed(ms(interval)), ms(40), ms(400))
    }

    #[test]
    fn a_guest_whose_media_bypasses_is_not_idle() {
        assert_eq!(Output::of(0, false, true), Output::Waits);
        assert_eq!([false, true].map(|urged| Output::of(0, urged, false)), [Output::Idle; 2]);
        assert_eq!([false, true].map(|urged| Output::of(1, urged, true)), [Output::Waits, Output::Urges]);
    }

    #[test]
    fn output_that_urges_brings_it_forward_and_an_idle_guest_may_wait() {
        let ms = Duration::from_millis;
        let pacing = fixed(100).unwrap();
        let ran = Instant::now();
        let after = |output| pacing.due(ran, output) - ran;
        assert_eq!([Output::Urges, Output::Waits, Output::Idle].map(after), [ms(40), ms(100), ms(400)]);
        let short = fixed(20).unwrap();
        assert_eq!(short.due(ran, Output::Urges) - ran, ms(20), "the floor is never above the interval");
        let long = fixed(500).unwrap();
        assert_eq!(long.due(ran, Output::Idle) - ran, ms(500));
        assert!(fixed(0).unwrap_err().contains("--interval"));
    }

    #[test]
    fn auto_follows_what_is_measured_between_floor_and_ceiling_and_says_why() {
        let ms = Duration::from_millis;
        let auto = |floor, ceiling| Pacing::new(Interval::Auto, ms(floor), ms(ceiling));
        assert!(auto(50, 40).unwrap_err().contains("--floor") && auto(0, 40).is_err());
        let mut pacing = auto(40, 400).unwrap();
        let ran = Instant::now();
        assert_eq!(
            (pacing.due(ran, Output::Waits) - ran, pacing.report()["why"].as_str()),
            (ms(100), Some("start"))
        );
        let seen =
            Seen { pause: ms(20), filled: 0.1, since: ms(100), waits: true, media: true, signalling: false };
        for n in 0..50 {
            pacing.acknowledged(ms(10));
            pacing.taken(&seen, ran + ms(100 * n));
        }
        let report = pacing.report();
        assert!(pacing.interval().abs_diff(ms(380)) < ms(8), "{report}");
        assert_eq!(report["why"], "stand-still", "{report}");
        assert!(report["stands_still_percent"].as_f64().unwrap() <= 5.1, "{report}");
        assert_eq!(pacing.due(ran, Output::Urges) - ran, ms(180), "not so often that it stands still");
        assert_eq!(pacing.due(ran, Output::Idle) - ran, ms(400));
        assert_eq!(fixed(70).unwrap().report(), json!({ "interval_ms": 70.0, "why": "fixed" }));
    }
}
