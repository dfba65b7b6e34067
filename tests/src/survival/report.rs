//! The sums over all trials of a run.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::aims;
use super::blow::{ANY_MOMENT, STEPS};
use super::outcome::Outcome;

/// So many deaths of one plan meet every moment.
pub const EVERY_MOMENT: usize = STEPS.len() + 1;
/// At least this share of the kills must find something held.
pub const HELD_SHARE: f64 = 0.8;

/// All trials of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Under the policy that is tried.
    pub trials: Vec<Outcome>,
    /// Under `bypass-all`.
    pub unsafe_trials: Vec<Outcome>,
    /// Without a death.
    pub control: Option<Outcome>,
    /// From one checkpoint to the next, milliseconds.
    pub interval_ms: u64,
}

/// Median and largest; null without values.
fn spread(values: impl Iterator<Item = f64>) -> Value {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let round = |value: f64| (value * 1e3).round() / 1e3;
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(&median), Some(&max)) => {
            json!({ "median": round(median), "max": round(max), "count": sorted.len() })
        }
        _ => Value::Null,
    }
}

/// What a run without a death came to.
fn quiet(control: &Outcome) -> Value {
    json!({
        "seconds": control.protected_ms / 1000,
        "promotions": control.promotions,
        "fences": control.fences + usize::from(control.fenced_at_end),
        "lost_acks": control.lost_acks,
        "broken_tcp": control.broken.len(),
        "acknowledged": control.acknowledged,
        "checkpoints": control.pauses_ms.len(),
        "pause_ms": spread(control.pauses_ms.iter().copied()),
        "checkpoint_bytes": spread(control.bytes.iter().copied()),
    })
}

impl Report {
    fn sum(trials: &[Outcome], of: impl Fn(&Outcome) -> usize) -> usize {
        trials.iter().map(of).sum()
    }

    fn reported(&self, key: &'static str) -> Value {
        spread(self.trials.iter().filter_map(|trial| trial.reported(key)))
    }

    /// Of the kills the share that found something held.
    pub fn held_share(&self) -> f64 {
        let held = self.trials.iter().filter(|trial| trial.held()).count();
        if self.trials.is_empty() { 1.0 } else { held as f64 / self.trials.len() as f64 }
    }

    /// Moments at which a run of this length should have killed, and did not.
    pub fn unmet(&self) -> Vec<&'static str> {
        let tells_steps = self.trials.iter().any(|trial| trial.guarded);
        if self.trials.len() < EVERY_MOMENT || !tells_steps {
            return Vec::new();
        }
        let met = |moment: &&'static str| self.trials.iter().any(|trial| trial.moment == *moment);
        STEPS.into_iter().chain([ANY_MOMENT]).filter(|moment| !met(moment)).collect()
    }

    /// Of two parts of the outage that follow each other, their sum in each trial.
    fn together(&self, first: &str, second: &str) -> Value {
        spread(self.trials.iter().filter_map(|trial| Some(trial.reported(first)? + trial.reported(second)?)))
    }

    /// What was promised and is not so.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (at, trial) in self.trials.iter().enumerate() {
            let victim = trial.blow.map_or("none", |blow| blow.victim.name());
            let logs = if trial.logs.is_empty() {
                String::new()
            } else {
                format!(" (logs: {})", trial.logs.join(" "))
            };
            faults.extend(
                trial
                    .faults()
                    .iter()
                    .map(|fault| format!("trial {at}, {victim} at {}: {fault}{logs}", trial.moment)),
            );
        }
        for fault in self.control.iter().flat_map(Outcome::faults) {
            faults.push(format!("control run: {fault}"));
        }
        if self.held_share() < HELD_SHARE {
            faults.push(format!("only {:.0} % of the kills found something held", self.held_share() * 100.0));
        }
        faults.extend(self.unmet().into_iter().map(|moment| {
            format!("no kill fell at {moment:?}, and with {EVERY_MOMENT} kills one falls at every step")
        }));
        let lost: u64 = self.unsafe_trials.iter().map(|trial| trial.lost_acks).sum();
        let broken = Report::sum(&self.unsafe_trials, |trial| trial.broken.len());
        if !self.unsafe_trials.is_empty() && (lost == 0 || broken == 0) {
            faults.push(format!(
                "bypass-all must lose acknowledgements and break connections, and has {lost} and {broken}: this test sees nothing"
            ));
        }
        faults
    }

    /// The last line of `--json`.
    pub fn to_json(&self) -> Value {
        let trials = &self.trials;
        let mut moments: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let mut victims: BTreeMap<&str, usize> = BTreeMap::new();
        for trial in trials {
            moments.entry(trial.moment).or_default().push(trial.struck.map_or(0, |struck| struck.held));
            *victims.entry(trial.blow.map_or("none", |blow| blow.victim.name())).or_default() += 1;
        }
        let moments: BTreeMap<_, _> = moments
            .into_iter()
            .map(|(moment, held)| {
                let with = held.iter().filter(|held| **held > 0).count();
                let frames = spread(held.iter().map(|held| *held as f64));
                (moment, json!({ "kills": held.len(), "with_frames_held": with, "frames_held": frames }))
            })
            .collect();
        let lost = |trials: &[Outcome]| trials.iter().map(|trial| trial.lost_acks).sum::<u64>();
        let unsafe_trials = &self.unsafe_trials;
        let mut told = json!({
            "kills": trials.len(),
            "lost_acks": lost(trials),
            "broken_tcp": Report::sum(trials, |trial| trial.broken.len()),
            "early_releases": Report::sum(trials, |trial| trial.early.len()),
            "outage_ms": spread(trials.iter().filter_map(Outcome::outage_ms)),
            "detect_ms": self.reported("detection_ms"),
            "load_ms": self.reported("load_ms"),
            "pause_ms": spread(trials.iter().flat_map(|trial| trial.pauses_ms.iter().copied())),
            "checkpoint_bytes": spread(trials.iter().flat_map(|trial| trial.bytes.iter().copied())),
            "rtp_seen_twice": Report::sum(trials, |trial| trial.heard.twice),
            "bypass_all": {
                "kills": unsafe_trials.len(),
                "lost_acks": lost(unsafe_trials),
                "broken_tcp": Report::sum(unsafe_trials, |trial| trial.broken.len()),
                "early_releases": Report::sum(unsafe_trials, |trial| trial.early.len()),
                "dialogs_broken": unsafe_trials.iter().filter(|trial| trial.dialog.is_some()).count(),
            },
            "interval_ms": self.interval_ms,
            "detect_decide_ms": self.together("detection_ms", "decision_ms"),
            "load_run_ms": self.together("load_ms", "run_ms"),
            "missed_steps": trials.iter().filter_map(Outcome::missed).collect::<Vec<_>>(),
            "decision_ms": self.reported("decision_ms"),
            "run_ms": self.reported("run_ms"),
            "first_frame_ms": self.reported("first_frame_ms"),
            "own_share_ms": self.reported("own_share_ms"),
            "first_rtp_ms": self.reported("first_rtp_ms"),
            "promotions": trials.iter().filter(|trial| trial.promotion.is_some()).count(),
            "both_spoke": Report::sum(trials, |trial| trial.both_spoke),
            "calls_broken": trials.iter().filter(|trial| trial.call.is_some()).count(),
            "dialogs_broken": trials.iter().filter(|trial| trial.dialog.is_some()).count(),
            "srtp_seen_twice": Report::sum(trials, |trial| trial.secured.twice),
            "srtcp_seen_twice": Report::sum(trials, |trial| trial.secured.reports_twice),
            "replays_refused": trials.iter().map(|trial| trial.replayed).sum::<u64>(),
            "srtp_after": Report::sum(trials, |trial| trial.secured.after),
            "acknowledged": trials.iter().map(|trial| trial.acknowledged).sum::<u64>(),
            "held_share": (self.held_share() * 1e3).round() / 1e3,
            "by_moment": moments,
            "by_victim": victims,
            "trial_ms": spread(trials.iter().map(|trial| trial.all_ms as f64)),
            "faults": self.faults(),
        });
        told["control"] = json!(self.control.as_ref().map(quiet));
        told["aims"] = aims::beside(&told);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survival::blow::{Struck, plan};
    use crate::survival::seen::{Heard, Secured};

    fn trials(count: usize, held: usize) -> Vec<Outcome> {
        let good = |(at, blow)| Outcome {
            blow: Some(blow),
            moment: "save",
            struck: Some(Struck { at_ns: 1, held: u64::from(at < held) }),
            promotion: Some(
                json!({ "load_ms": at, "run_ms": 1.0, "detection_ms": 50.0, "decision_ms": 40.0 }),
            ),
            numbered: [10, 10],
            heard: Heard { packets: 10, twice: 0, gap_ns: 100_000_000, after: 5 },
            secured: Secured { packets: 10, after: 5, reports: 1, ..Secured::default() },
            pauses_ms: vec![10.0, 20.0],
            ..Outcome::default()
        };
        plan(count, 0).into_iter().enumerate().map(good).collect()
    }

    fn harmless_bypass() -> Vec<Outcome> {
        let mut trials = trials(1, 1);
        trials[0].lost_acks = 2;
        trials[0].broken = vec!["reset".to_owned()];
        trials
    }

    #[test]
    fn a_good_run_has_the_agreed_keys_and_no_faults() {
        let report = Report {
            trials: trials(10, 8),
            unsafe_trials: harmless_bypass(),
            interval_ms: 50,
            ..Report::default()
        };
        assert_eq!(report.faults(), Vec::<String>::new());
        let told = report.to_json();
        assert_eq!(
            (&told["kills"], &told["load_ms"]["median"], &told["load_ms"]["max"]),
            (&json!(10), &json!(5.0), &json!(9.0))
        );
        for key in ["lost_acks", "broken_tcp", "early_releases", "rtp_seen_twice"] {
            assert_eq!(told[key], 0, "{key}");
        }
        assert_eq!(told["outage_ms"]["median"], 100.0);
        assert_eq!(told["pause_ms"]["max"], 20.0);
        assert_eq!(
            (&told["bypass_all"]["lost_acks"], &told["bypass_all"]["broken_tcp"]),
            (&json!(2), &json!(1))
        );
        let held = json!({ "median": 1.0, "max": 1.0, "count": 10 });
        assert_eq!(
            told["by_moment"]["save"],
            json!({ "kills": 10, "with_frames_held": 8, "frames_held": held })
        );
        assert_eq!((&told["interval_ms"], &told["detect_decide_ms"]["max"]), (&json!(50), &json!(90.0)));
        assert_eq!(
            told["aims"][3],
            json!({ "figure": "load_run_ms", "of": "max", "aim": 60.0, "is": 10.0, "met": true })
        );
    }

    #[test]
    fn a_run_in_which_no_kill_fell_at_a_step_is_a_fault() {
        let met = |count| {
            let mut trials = trials(count, count);
            for trial in &mut trials {
                (trial.guarded, trial.moment) = (true, trial.blow.expect("a death").moment);
                let parts = json!({
                    "detection_ms": 1.0, "decision_ms": 1.0, "load_ms": 1.0, "run_ms": 1.0, "first_frame_ms": 1.0,
                    "first_rtp_ms": 1.0,
                });
                trial.promotion = Some(parts);
            }
            Report { trials, unsafe_trials: harmless_bypass(), ..Report::default() }
        };
        assert_eq!(met(8).faults(), Vec::<String>::new());
        let mut missed = met(8);
        let trial = missed.trials.iter_mut().find(|trial| trial.moment == "save").expect("one each");
        trial.moment = ANY_MOMENT;
        assert_eq!(missed.unmet(), ["save"]);
        assert!(missed.faults().len() == 1 && missed.faults()[0].contains("save"), "{:?}", missed.faults());
        assert_eq!(missed.to_json()["missed_steps"], json!(["save"]));
        missed.trials.pop();
        assert_eq!(missed.unmet(), [""; 0], "too few to meet all");
    }

    #[test]
    fn a_run_with_too_little_held_or_a_blind_comparison_is_a_fault() {
        let thin = Report { trials: trials(10, 7), unsafe_trials: harmless_bypass(), ..Report::default() };
        assert!(thin.faults().iter().any(|fault| fault.contains("70 %")));
        let blind = Report { trials: trials(10, 10), unsafe_trials: trials(2, 2), ..Report::default() };
        assert!(blind.faults().iter().any(|fault| fault.contains("sees nothing")));
        let mut control = trials(1, 1).remove(0);
        (control.blow, control.fences) = (None, 1);
        let fenced = Report { trials: trials(10, 10), control: Some(control), ..Report::default() };
        assert!(fenced.faults()[0].starts_with("control run"));
        let mut lost = trials(10, 10);
        lost[4].lost_acks = 1;
        let lost = Report { trials: lost, ..Report::default() };
        assert!(lost.faults()[0].contains("trial 4") && lost.to_json()["lost_acks"] == 1);
    }
}
