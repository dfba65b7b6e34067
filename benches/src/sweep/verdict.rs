//! The recommendation: what the rule of `tidegate replicate --interval auto` says to the costs that were measured, and
//! beside it what cost least as it was measured.
//!
//! A pause depends on its interval (more pages change in a longer one), so of the fixed intervals that one speaks whose
//! own cost makes the rule say nearly the same interval again. What cost least is found without the model: the share in
//! which the VM stood still, and the mean signalling latency against
//! [`WORTH_SIGNALLING`](tidegate_replica::cadence::WORTH_SIGNALLING).

use super::cell::Numbers;
use crate::stats::Spread;
use serde::Serialize;
use std::time::Duration;
use tidegate_replica::cadence::{Bounds, Demand, WORTH_SIGNALLING, Why, cost, interval};

/// For one number of calls and one load.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// Calls at once.
    pub calls: u16,
    /// TCP beside them.
    pub load: &'static str,
    /// What the rule says while calls are set up, milliseconds.
    pub calls_come_ms: f64,
    /// What decided.
    pub calls_come_why: Why,
    /// What it says while calls last and none is set up.
    pub calls_last_ms: f64,
    /// What decided.
    pub calls_last_why: Why,
    /// The fixed interval that cost least as measured.
    pub measured_best: String,
    /// Its cost.
    pub measured_cost: f64,
    /// The cost of the fixed interval nearest to what the rule says.
    pub rule_cost: f64,
    /// Where `auto` was measured: its mean interval, milliseconds.
    pub auto_ms: Option<f64>,
    /// Its cost.
    pub auto_cost: Option<f64>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// A line for each number of calls and load.
    pub advice: Vec<Advice>,
    /// What the rule says while calls are set up: over all lines.
    pub calls_come_ms: Option<Spread>,
    /// While none is.
    pub calls_last_ms: Option<Spread>,
    /// The bounds that were kept, milliseconds.
    pub bounds_ms: [f64; 2],
}

/// As measured: see the module's head.
fn measured(numbers: &Numbers) -> f64 {
    let wait = Duration::from_secs_f64(numbers.signalling.mean_ms.max(0.0) / 1e3);
    cost(numbers.stands_still_percent / 100.0, wait, WORTH_SIGNALLING)
}

fn fixed_ms(numbers: &Numbers) -> Option<f64> {
    let span = tidegate_control::quantity::span(&numbers.pace).ok()?;
    Some(span.as_secs_f64() * 1e3)
}

/// How far the rule's answer to what an interval cost is from that interval: a ratio of 1 is 0.
fn distance(ms: f64, numbers: &Numbers) -> f64 {
    fixed_ms(numbers).map_or(f64::MAX, |fixed| (ms / fixed).ln().abs())
}

impl Verdict {
    /// Of cells; `bounds` as `auto` had them.
    pub fn of(cells: &[Numbers], bounds: Bounds) -> Verdict {
        let mut kinds: Vec<(u16, &'static str)> = cells.iter().map(|cell| (cell.calls, cell.load)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let advice: Vec<Advice> = kinds
            .into_iter()
            .filter_map(|kind| {
                let of: Vec<&Numbers> = cells.iter().filter(|cell| (cell.calls, cell.load) == kind).collect();
                Advice::of(&of, bounds)
            })
            .collect();
        let spread = |of: fn(&Advice) -> f64| Spread::of(advice.iter().map(of));
        Verdict {
            calls_come_ms: spread(|advice| advice.calls_come_ms),
            calls_last_ms: spread(|advice| advice.calls_last_ms),
            bounds_ms: [bounds.floor, bounds.ceiling].map(|bound| bound.as_secs_f64() * 1e3),
            advice,
        }
    }
}

impl Advice {
    /// Of the cells of one kind; nothing without a fixed interval among them.
    fn of(cells: &[&Numbers], bounds: Bounds) -> Option<Advice> {
        let fixed: Vec<&Numbers> = cells.iter().copied().filter(|cell| fixed_ms(cell).is_some()).collect();
        let auto = cells.iter().find(|cell| fixed_ms(cell).is_none());
        // The rule's answer that agrees best with the interval it was measured at.
        let says = |signalling: bool| {
            let demand = Demand { waits: true, media: true, signalling, fill_a_second: 0.0 };
            let answers = fixed.iter().map(|cell| {
                let (span, why) = interval(cell.cost(), demand, bounds);
                let ms = span.as_secs_f64() * 1e3;
                (ms, why, distance(ms, cell))
            });
            answers.min_by(|a, b| a.2.total_cmp(&b.2))
        };
        let (come, last) = (says(true)?, says(false)?);
        let best = fixed.iter().min_by(|a, b| measured(a).total_cmp(&measured(b)))?;
        let nearest = fixed.iter().min_by(|a, b| distance(come.0, a).total_cmp(&distance(come.0, b)))?;
        Some(Advice {
            calls: best.calls,
            load: best.load,
            calls_come_ms: come.0,
            calls_come_why: come.1,
            calls_last_ms: last.0,
            calls_last_why: last.1,
            measured_best: best.pace.clone(),
            measured_cost: measured(best),
            rule_cost: measured(nearest),
            auto_ms: auto.map(|auto| auto.interval_ms),
            auto_cost: auto.map(|auto| measured(auto)),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::cell::{Holding, Latency, Voice};
    use super::super::plan::{Cell, Load, Pace};
    use super::super::samples::Meta;
    use super::*;
    use crate::testbed::conditions::Conditions;
    use tidegate_control::cli::Interval;

    /// A cell whose pause is `pause` ms at every interval, and whose answers wait for half of it.
    pub(crate) fn numbers(pace: Interval, interval_ms: f64, pause: f64, calls: u16) -> Numbers {
        let cell = Cell { pace: Pace(pace), calls, load: Load::Full };
        let one = |value: f64| Spread { median: value, min: value, max: value, n: 9 };
        let wait = interval_ms / 2.0 + pause + 5.0;
        let latency = Latency {
            mean_ms: wait,
            p50_ms: wait,
            p99_ms: 2.0 * wait,
            max_ms: 2.0 * wait,
            n: 20,
            unanswered: 0,
        };
        Numbers {
            pace: cell.pace.to_string(),
            calls,
            load: "full",
            interval_ms,
            checkpoints: 9,
            pause_ms: one(pause),
            stands_still_percent: 100.0 * pause / (pause + interval_ms),
            committed_after_ms: Some(one(5.0)),
            checkpoint_bytes: one(1e6),
            tcp_outward_mbit: Some(30.0),
            tcp_inward_mbit: None,
            transaction: latency.clone(),
            signalling: latency,
            held: Holding { mean_bytes: 1e5, p99_bytes: 2e5, max_bytes: 250_000, max_frames: 200 },
            voice: Voice {
                heard: usize::from(calls),
                mos_60: one(4.3),
                mos_concealed: 4.0,
                jitter_ms: one(1.0),
                gap_ms: one(25.0),
                pdv_ms_p99: one(8.0),
                late_60_percent: one(0.0),
                lost: 0,
            },
            meta: Meta::new(&cell, 5000, Conditions::default()),
        }
    }

    pub(crate) fn fixed(ms: u64) -> Interval {
        Interval::Fixed(Duration::from_millis(ms))
    }

    const BOUNDS: Bounds = Bounds { floor: Duration::from_millis(25), ceiling: Duration::from_millis(400) };

    #[test]
    fn the_rule_and_what_was_measured_agree_where_the_model_holds() {
        let mut cells: Vec<Numbers> =
            [25, 50, 100, 200, 400].into_iter().map(|ms| numbers(fixed(ms), ms as f64, 2.0, 4)).collect();
        cells.push(numbers(Interval::Auto, 41.0, 2.0, 4));
        let verdict = Verdict::of(&cells, BOUNDS);
        let [advice] = verdict.advice.as_slice() else { panic!("{verdict:?}") };
        // sqrt(2 * 2 ms * 250 ms) is 31.6; the guest speaks, so it may stand still for a twentieth: 38.
        assert!(
            (advice.calls_come_ms - 38.0).abs() < 0.5 && advice.calls_come_why == Why::StandStill,
            "{advice:?}"
        );
        // sqrt(2 * 2 ms * 1 s).
        assert!(
            (advice.calls_last_ms - 63.2).abs() < 0.5 && advice.calls_last_why == Why::Balance,
            "{advice:?}"
        );
        assert_eq!(advice.measured_best, "25ms");
        assert!(
            advice.auto_ms == Some(41.0) && advice.auto_cost.unwrap() < measured(&cells[2]),
            "{advice:?}"
        );
        assert_eq!(verdict.calls_come_ms.unwrap().n, 1);
    }

    #[test]
    fn each_number_of_calls_is_advised_for_itself_and_auto_alone_is_none() {
        let cells = [numbers(fixed(100), 100.0, 5.0, 1), numbers(fixed(100), 100.0, 30.0, 16)];
        let verdict = Verdict::of(&cells, BOUNDS);
        let advised: Vec<_> =
            verdict.advice.iter().map(|advice| (advice.calls, advice.calls_last_why)).collect();
        assert_eq!(advised, [(1, Why::Balance), (16, Why::Ceiling)]);
        let alone = [numbers(Interval::Auto, 50.0, 5.0, 1)];
        assert!(Verdict::of(&alone, BOUNDS).advice.is_empty());
    }
}
