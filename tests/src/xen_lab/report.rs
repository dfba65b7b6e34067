//! The sums of a run, and what of them is a fault.

use serde_json::{Value, json};

use super::verdict::Verdict;

/// What was seen under one policy, on one host.
#[derive(Debug, Clone)]
pub struct Phase {
    /// The policy.
    pub policy: &'static str,
    /// What its time shows.
    pub verdict: Verdict,
}

/// What a failover showed.
#[derive(Debug, Default, Clone)]
pub struct Failover {
    /// The policy.
    pub policy: String,
    /// Checkpoints and acknowledgements before it.
    pub verdict: Verdict,
    /// Numbered things that the dead host had let out and the backup does not know.
    pub early: usize,
    /// Acknowledgements that the domain has forgotten.
    pub lost_acks: u64,
    /// Connections that broke.
    pub broken: Vec<String>,
    /// From the death to the next answer to a client.
    pub outage_ms: f64,
    /// From the death to the backup's decision, by its own account.
    pub detection_ms: Option<f64>,
    /// The domain's frames from the dead host after the backup had begun to speak.
    pub both_spoke: usize,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Report {
    /// Hosts.
    pub hosts: usize,
    /// One host's policies, one after the other.
    pub phases: Vec<Phase>,
    /// Two hosts' failovers.
    pub failovers: Vec<Failover>,
    /// The same under a policy that holds nothing: these must be noticed.
    pub unsafe_failovers: Vec<Failover>,
    /// On one host: what the clients met.
    pub lost_acks: u64,
    /// The same.
    pub broken: Vec<String>,
    /// On one host: how long a domain stood still whose xl was killed while it was suspended.
    pub rescue_ms: Option<f64>,
}

fn spread(values: impl Iterator<Item = f64>) -> Value {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(median), Some(max)) => json!({ "median": round(*median), "max": round(*max) }),
        _ => Value::Null,
    }
}

fn round(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

/// The policy that holds nothing.
pub const UNSAFE: &str = "bypass-all";

impl Report {
    fn verdicts(&self) -> impl Iterator<Item = &Verdict> + Clone {
        let phases = self.phases.iter().filter(|phase| phase.policy != UNSAFE).map(|phase| &phase.verdict);
        phases.chain(self.failovers.iter().map(|failover| &failover.verdict))
    }

    fn sum(&self, of: impl Fn(&Verdict) -> usize) -> usize {
        self.verdicts().map(of).sum()
    }

    fn early(&self) -> usize {
        self.sum(|verdict| verdict.early.len())
            + self.failovers.iter().map(|failover| failover.early).sum::<usize>()
    }

    fn lost_acks(&self) -> u64 {
        self.lost_acks + self.failovers.iter().map(|failover| failover.lost_acks).sum::<u64>()
    }

    fn broken(&self) -> usize {
        self.broken.len() + self.failovers.iter().map(|failover| failover.broken.len()).sum::<usize>()
    }

    /// What the policy that holds nothing let out too early, or lost.
    fn unsafe_noticed(&self) -> u64 {
        let phases = self.phases.iter().filter(|phase| phase.policy == UNSAFE);
        let early: usize = phases.map(|phase| phase.verdict.early.len()).sum();
        let lost = self.unsafe_failovers.iter().map(|failover| failover.early as u64 + failover.lost_acks);
        early as u64 + lost.sum::<u64>()
    }

    /// The last line.
    pub fn to_json(&self) -> Value {
        let modes = self.phases.iter().map(|phase| {
            let verdict = &phase.verdict;
            json!({
                "policy": phase.policy, "checkpoints": verdict.checkpoints, "judged": verdict.judged,
                "early_releases": verdict.early.len(), "voice_packets": verdict.voice.1,
                "voice_gap_ms": round(verdict.voice.0),
            })
        });
        json!({
            "hosts": self.hosts,
            "checkpoints": self.sum(|verdict| verdict.checkpoints),
            "commits": self.sum(|verdict| verdict.commits),
            "early_releases": self.early(),
            "lost_acks": self.lost_acks(),
            "broken_tcp": self.broken(),
            "pause_ms": spread(self.verdicts().flat_map(|verdict| verdict.pauses_ms.iter().copied())),
            "commit_after_end_ms": spread(self.verdicts().flat_map(|verdict| verdict.commits_ms.iter().copied())),
            "outage_ms": spread(self.failovers.iter().map(|failover| failover.outage_ms)),
            "detection_ms": spread(self.failovers.iter().filter_map(|failover| failover.detection_ms)),
            "first_byte_outside_suspend": self.sum(|verdict| verdict.outside_suspend),
            "judged": self.sum(|verdict| verdict.judged),
            "failovers": self.failovers.len(),
            "both_spoke": self.failovers.iter().map(|failover| failover.both_spoke).sum::<usize>(),
            "rescue_ms": self.rescue_ms.map(round),
            "unsafe_noticed": self.unsafe_noticed(),
            "modes": modes.collect::<Vec<_>>(),
        })
    }

    /// What must not be.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut none = |count: u64, what: &str| {
            if count > 0 {
                faults.push(format!("{count} {what}"));
            }
        };
        none(self.early() as u64, "frames left before the backup had acknowledged what they depend on");
        none(self.lost_acks(), "acknowledged transactions were lost");
        none(self.broken() as u64, "connections broke");
        none(
            self.sum(|verdict| verdict.outside_suspend) as u64,
            "epochs were closed while the domain was not suspended",
        );
        none(
            self.failovers.iter().map(|failover| failover.both_spoke as u64).sum(),
            "frames came from the dead host after the backup had begun to speak",
        );
        let (checkpoints, commits) =
            (self.sum(|verdict| verdict.checkpoints), self.sum(|verdict| verdict.commits));
        // The first of each protection commits nothing, the last may be on its way.
        let owed = checkpoints.saturating_sub(2 * (self.phases.len() + self.failovers.len()));
        if checkpoints == 0 || commits < owed {
            faults.push(format!("of {checkpoints} checkpoints only {commits} were committed"));
        }
        for phase in &self.phases {
            if phase.verdict.judged == 0 {
                faults.push(format!("nothing was judged under {}", phase.policy));
            }
        }
        let tried =
            self.phases.iter().any(|phase| phase.policy == UNSAFE) || !self.unsafe_failovers.is_empty();
        if tried && self.unsafe_noticed() == 0 {
            faults.push(format!("{UNSAFE} went unnoticed: so this laboratory notices nothing"));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survival::seen::Saying;

    fn phase(policy: &'static str, early: usize) -> Phase {
        let early = vec![Saying::Mark(1); early];
        Phase {
            policy,
            verdict: Verdict { checkpoints: 6, commits: 5, judged: 9, early, ..Verdict::default() },
        }
    }

    #[test]
    fn an_early_release_is_a_fault_and_one_that_is_not_seen_under_bypass_all_too() {
        let report = |phases: Vec<Phase>| Report { hosts: 1, phases, ..Report::default() };
        assert_eq!(report(vec![phase("realtime", 0), phase(UNSAFE, 3)]).faults(), [""; 0]);
        assert!(report(vec![phase("realtime", 1), phase(UNSAFE, 3)]).faults()[0].contains("left before"));
        assert!(report(vec![phase("realtime", 0), phase(UNSAFE, 0)]).faults()[0].contains("unnoticed"));
    }
}
