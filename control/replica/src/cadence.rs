//! `--interval auto`: the interval that goes with what a checkpoint costs and with what waits for it.
//!
//! A checkpoint stops the guest for a pause *p*; its output then waits for half an interval *i* in the mean. So the cost
//! of an interval is *p/i + (i/2)/T*, where *T* says how long a wait is worth as much as a guest that stands still
//! ([`WORTH`]). It is least at *i = sqrt(2 p T)*: Young's rule for checkpoints, with output in the place of work that
//! would be lost. That is then bounded, the later bound before the earlier one:
//!
//! | bound | because |
//! |---|---|
//! | signalling: *i + p + c* <= [`ANSWERS_WITHIN`] | *c* is the time to the acknowledgement; SIP repeats a request after 500 ms |
//! | a full hold queue: it fills to a half at most | what does not fit is lost |
//! | a link that is behind: *i >= c/2* | more checkpoints on their way only wait for each other |
//! | the guest stands still for [`MEDIA_SHARE`] at most while it speaks, else [`SHARE`] | a voice lacks as much |
//! | `--floor`, `--ceiling` | the operator says so |
//!
//! The same rule makes the recommendation of `scripts/bench sweep` from its measurements.

use serde::Serialize;
use std::time::{Duration, Instant};

/// A wait of so long is worth as much as a guest that stands still.
pub const WORTH: Duration = Duration::from_secs(1);
/// The same while calls are set up: people wait for the answer.
pub const WORTH_SIGNALLING: Duration = Duration::from_millis(250);
/// Half of SIP's T1 (RFC 3261, 17.1.1.1): the other half is the network's and the server's.
pub const ANSWERS_WITHIN: Duration = Duration::from_millis(250);
/// Largest share of its time in which a guest stands still.
pub const SHARE: f64 = 0.10;
/// The same while media leaves it: a voice runs slow by as much, and its receiver has to stretch it. One that conceals
/// instead loses 16 of R with G.711 at 5 % (G.113, Bpl 25.1), 27 at 10 %.
pub const MEDIA_SHARE: f64 = 0.05;
/// The share for a checkpoint that output asks for, as long as the guest stands still for less than [`SHARE`] in all.
pub const URGED_SHARE: f64 = 0.20;
/// How much of the hold queue an epoch may fill.
const FILL: f64 = 0.5;
/// Calls that are set up, and media that pauses: what was seen so recently counts as present.
const PRESENT: Duration = Duration::from_secs(3);
/// Weights of a new measurement: one that is worse counts at once, one that is better only when it stays.
const WORSE: f64 = 0.25;
const BETTER: f64 = 0.0625;
/// One checkpoint that is so much worse than the mean may be the machine's fault: it counts as no more.
const OUTLIER: f64 = 2.0;
/// The interval stays while another would differ by less.
const DEAD_BAND: f64 = 0.15;
/// The same where it breaks a bound of the rule.
const BROKEN_BAND: f64 = 0.02;
/// It moves by no more at one checkpoint.
const STEP: f64 = 1.5;

/// What a checkpoint costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// The guest stands still.
    pub pause: Duration,
    /// From the moment in which it runs again to the acknowledgement.
    pub acknowledged: Duration,
}

/// What waits for a checkpoint, or leaves beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Something is held.
    pub waits: bool,
    /// Media bypasses.
    pub media: bool,
    /// Signalling is held.
    pub signalling: bool,
    /// The share of the hold queue that fills in a second.
    pub fill_a_second: f64,
}

/// What decided about an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Nothing was measured yet.
    Start,
    /// Nothing waits, no media flows.
    Idle,
    /// What a pause costs and what a wait costs.
    Balance,
    /// Calls are set up.
    Signalling,
    /// The hold queue.
    HoldQueue,
    /// Acknowledgements come late.
    Link,
    /// A pause is long: the guest would stand still too much.
    StandStill,
    /// `--floor`.
    Floor,
    /// `--ceiling`.
    Ceiling,
}

/// What an operator allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// `--floor`.
    pub floor: Duration,
    /// `--ceiling`, not less.
    pub ceiling: Duration,
}

/// The shortest interval in which a guest stands still for no more than `share` of its time.
fn at_share(pause: Duration, share: f64) -> Duration {
    pause.mul_f64((1.0 - share) / share)
}

/// What an interval costs a second, as the rule counts it: the share in which the guest stands still, and the mean wait
/// against [`WORTH`]. The sweep puts what it measured in the place of both.
pub fn cost(stands_still: f64, mean_wait: Duration, worth: Duration) -> f64 {
    stands_still + mean_wait.as_secs_f64() / worth.as_secs_f64()
}

/// The rule: see the module's head. It remembers nothing.
pub fn interval(cost: Cost, demand: Demand, bounds: Bounds) -> (Duration, Why) {
    let Cost { pause, acknowledged } = cost;
    let Bounds { floor, ceiling } = bounds;
    if !(demand.waits || demand.media || demand.signalling) {
        return (ceiling, Why::Idle);
    }
    let worth = if demand.signalling { WORTH_SIGNALLING } else { WORTH };
    let balance = (2.0 * pause.as_secs_f64() * worth.as_secs_f64()).sqrt();
    let mut best = (Duration::from_secs_f64(balance), Why::Balance);
    let at_most = |best: &mut (Duration, Why), limit: Duration, why| {
        if best.0 > limit {
            *best = (limit, why);
        }
    };
    let at_least = |best: &mut (Duration, Why), limit: Duration, why| {
        if best.0 < limit {
            *best = (limit, why);
        }
    };
    if demand.signalling {
        at_most(&mut best, ANSWERS_WITHIN.saturating_sub(pause + acknowledged), Why::Signalling);
    }
    if demand.fill_a_second > 0.0 {
        // An hour is longer than any ceiling.
        let fills_in = Duration::from_secs_f64((FILL / demand.fill_a_second).min(3600.0));
        at_most(&mut best, fills_in, Why::HoldQueue);
    }
    at_least(&mut best, acknowledged / 2, Why::Link);
    let share = if demand.media { MEDIA_SHARE } else { SHARE };
    at_least(&mut best, at_share(pause, share), Why::StandStill);
    at_least(&mut best, floor, Why::Floor);
    at_most(&mut best, ceiling, Why::Ceiling);
    best
}

/// A mean that follows what becomes worse sooner than what becomes better, and no single outlier.
#[derive(Clone, Copy, Debug, Default)]
struct Smooth(Option<f64>);

impl Smooth {
    fn add(&mut self, span: Duration) {
        let seconds = span.as_secs_f64();
        let mean = self.0.unwrap_or(seconds);
        let seconds = seconds.min((mean * OUTLIER).max(0.001));
        let weight = if seconds > mean { WORSE } else { BETTER };
        self.0 = Some(mean + (seconds - mean) * weight);
    }

    fn get(self) -> Duration {
        Duration::from_secs_f64(self.0.unwrap_or(0.0))
    }
}

/// What one checkpoint showed.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The guest stood still.
    pub pause: Duration,
    /// How much of the hold queue its epoch filled, 0 to 1.
    pub filled: f64,
    /// The guest ran before it.
    pub since: Duration,
    /// Frames waited for it.
    pub waits: bool,
    /// Media bypassed in its epoch.
    pub media: bool,
    /// Signalling waited in it.
    pub signalling: bool,
}

/// The rule with a memory: measurements are smoothed, and the interval moves in steps, and only where that is worth it.
#[derive(Clone, Copy, Debug)]
pub struct Cadence {
    bounds: Bounds,
    interval: Duration,
    why: Why,
    pause: Smooth,
    acknowledged: Smooth,
    fill_a_second: f64,
    /// The share in which the guest stood still of late.
    stood: f64,
    waited: Option<Instant>,
    media: Option<Instant>,
    signalling: Option<Instant>,
}

impl Cadence {
    /// Begins with this interval, until something is measured.
    pub fn new(bounds: Bounds, begin: Duration) -> Cadence {
        Cadence {
            bounds,
            interval: begin.clamp(bounds.floor, bounds.ceiling),
            why: Why::Start,
            pause: Smooth::default(),
            acknowledged: Smooth::default(),
            fill_a_second: 0.0,
            stood: 0.0,
            waited: None,
            media: None,
            signalling: None,
        }
    }

    /// The interval now.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// What decided about it.
    pub fn why(&self) -> Why {
        self.why
    }

    /// The smoothed cost.
    pub fn cost(&self) -> Cost {
        Cost { pause: self.pause.get(), acknowledged: self.acknowledged.get() }
    }

    /// The earliest next checkpoint when output asks for it.
    pub fn urged(&self) -> Duration {
        // A guest that signals all the time urges all the time.
        let share = if self.stood > SHARE { SHARE } else { URGED_SHARE };
        at_share(self.pause.get(), share).clamp(self.bounds.floor, self.interval.max(self.bounds.floor))
    }

    /// A checkpoint was acknowledged, so long after the guest ran again.
    pub fn acknowledged(&mut self, after: Duration) {
        self.acknowledged.add(after);
    }

    /// A checkpoint was taken. True when the interval has changed.
    pub fn taken(&mut self, seen: &Seen, now: Instant) -> bool {
        self.pause.add(seen.pause);
        let period = (seen.since + seen.pause).as_secs_f64().max(0.001);
        self.stood += ((seen.pause.as_secs_f64() / period).min(1.0) - self.stood) * BETTER;
        let fill = seen.filled.clamp(0.0, 1.0) / seen.since.as_secs_f64().max(0.001);
        let weight = if fill > self.fill_a_second { WORSE } else { BETTER };
        self.fill_a_second += (fill - self.fill_a_second) * weight;
        for (is, last) in [
            (seen.waits, &mut self.waited),
            (seen.media, &mut self.media),
            (seen.signalling, &mut self.signalling),
        ] {
            if is {
                *last = Some(now);
            }
        }
        let present =
            |last: Option<Instant>| last.is_some_and(|at| now.saturating_duration_since(at) < PRESENT);
        let demand = Demand {
            waits: present(self.waited),
            media: present(self.media),
            signalling: present(self.signalling),
            fill_a_second: self.fill_a_second,
        };
        self.follow(interval(self.cost(), demand, self.bounds))
    }

    fn follow(&mut self, (target, why): (Duration, Why)) -> bool {
        self.why = why;
        // An idle guest's next checkpoint may wait for the ceiling; what it will say then shall not.
        if why == Why::Idle {
            return false;
        }
        let (from, to) = (self.interval.as_secs_f64(), target.as_secs_f64());
        let broken = match why {
            Why::StandStill | Why::Link => to > from,
            Why::Signalling | Why::HoldQueue => to < from,
            _ => false,
        };
        if (to - from).abs() <= from * if broken { BROKEN_BAND } else { DEAD_BAND } {
            return false;
        }
        let stepped = Duration::from_secs_f64(to.clamp(from / STEP, from * STEP));
        self.interval = stepped.clamp(self.bounds.floor, self.bounds.ceiling);
        self.interval.as_secs_f64() != from
    }
}

#[cfg(test)]
mod tests;
