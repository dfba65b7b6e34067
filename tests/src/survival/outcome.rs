//! What one trial came to, and what is wrong with it.

use serde_json::{Value, json};

use super::blow::{ANY_MOMENT, Blow, Struck};
use super::seen::{Heard, Saying, Secured};

/// The parts of an outage, as a standby reports them.
const PARTS: [&str; 6] =
    ["detection_ms", "decision_ms", "load_ms", "run_ms", "first_frame_ms", "first_rtp_ms"];

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The death, if it was one.
    pub blow: Option<Blow>,
    /// The moment at which it fell.
    pub moment: &'static str,
    /// How.
    pub struck: Option<Struck>,
    /// The standby's report.
    pub promotion: Option<Value>,
    /// Why there is none.
    pub not_promoted: Option<String>,
    /// What did not go on.
    pub stands: Option<String>,
    /// Acknowledged transactions.
    pub acknowledged: u64,
    /// Forgotten or contradicted ones.
    pub lost_acks: u64,
    /// Connections that were reset or did not go on.
    pub broken: Vec<String>,
    /// Why the call was not whole.
    pub call: Option<String>,
    /// Why the call by TLS was not.
    pub dialog: Option<String>,
    /// What left the dead host and its successor does not know.
    pub early: Vec<Saying>,
    /// Frames of the late primary after its successor had begun.
    pub both_spoke: usize,
    /// Numbered things seen on either wire.
    pub numbered: [usize; 2],
    /// The successor's plane knows what the voice had said: no packet may come twice.
    pub guarded: bool,
    /// Packets that it refused because of that.
    pub replayed: u64,
    /// The call at the peer.
    pub heard: Heard,
    /// The media of the call by TLS at the peer.
    pub secured: Secured,
    /// Of the checkpoints: the pause, milliseconds.
    pub pauses_ms: Vec<f64>,
    /// Their bytes.
    pub bytes: Vec<f64>,
    /// Promotions that the standby told.
    pub promotions: usize,
    /// Fences that the primary's plane told.
    pub fences: usize,
    /// It was fenced when the trial ended.
    pub fenced_at_end: bool,
    /// How long the guest was protected.
    pub protected_ms: u64,
    /// How long the traffic took to get going.
    pub set_up_ms: u64,
    /// All of it.
    pub all_ms: u64,
    /// Where the logs are kept.
    pub logs: Vec<String>,
}

impl Outcome {
    /// Takes what it needs of what both sides told.
    pub fn take_events(&mut self, primary: &[Value], backup: &[Value]) {
        // A primary that is frozen in the middle of a pause tells a long one when it is thawed.
        let until = self.struck.map_or(u64::MAX, |struck| struck.at_ns);
        let alive = |event: &&Value| event["at_ns"].as_u64().is_none_or(|at_ns| at_ns <= until);
        for event in primary.iter().filter(|event| event["event"] == "checkpoint").filter(alive) {
            self.pauses_ms.extend(event["pause_ms"].as_f64());
            self.bytes.extend(event["bytes"].as_f64());
        }
        let count =
            |events: &[Value], name: &str| events.iter().filter(|event| event["event"] == name).count();
        self.promotions = count(backup, "promoted");
        self.fences = count(primary, "fenced");
    }

    /// The step that the blow was meant for and did not meet.
    pub fn missed(&self) -> Option<&'static str> {
        let wanted = self.blow?.moment;
        (self.guarded && wanted != self.moment).then_some(wanted)
    }

    /// Something was held when it struck.
    pub fn held(&self) -> bool {
        self.struck.is_some_and(|struck| struck.held > 0)
    }

    /// A number of the standby's report.
    pub fn reported(&self, key: &str) -> Option<f64> {
        self.promotion.as_ref()?[key].as_f64()
    }

    /// From the last packet of the old voice to the first of the new, milliseconds.
    pub fn outage_ms(&self) -> Option<f64> {
        (self.heard.after > 0).then(|| self.heard.gap_ns as f64 / 1e6)
    }

    /// What is wrong with it, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |wrong: bool, what: String| faults.extend(wrong.then_some(what));
        fault(self.lost_acks > 0, format!("{} acknowledged transactions were lost", self.lost_acks));
        fault(!self.broken.is_empty(), format!("broken connections: {}", self.broken.join("; ")));
        fault(!self.early.is_empty(), format!("left before the backup knew it: {:?}", self.early));
        fault(self.both_spoke > 0, format!("{} frames of the late primary", self.both_spoke));
        fault(self.guarded && self.heard.twice > 0, format!("{} RTP packets came twice", self.heard.twice));
        if let Some(why) = &self.call {
            fault(true, format!("the call: {why}"));
        }
        if let Some(why) = &self.dialog {
            fault(true, format!("the dialog by TLS: {why}"));
        }
        let Secured { packets, twice, reports, reports_twice, handshakes, .. } = self.secured;
        fault(self.guarded && twice > 0, format!("{twice} SRTP packets came twice"));
        fault(self.guarded && reports_twice > 0, format!("{reports_twice} SRTCP indices came twice"));
        fault(
            handshakes > 0,
            format!("{handshakes} DTLS handshake messages after the blow: its keys were made anew"),
        );
        fault(packets == 0, "no SRTP was seen".to_owned());
        fault(reports == 0, "no SRTCP was seen".to_owned());
        if let Some(stands) = &self.stands {
            fault(true, format!("{stands} did not go on"));
        }
        // What was not looked at cannot be praised.
        fault(self.numbered[0] == 0, "nothing was seen on the primary's wire".to_owned());
        match self.blow {
            Some(_) => {
                if let Some(why) = &self.not_promoted {
                    fault(true, format!("no promotion: {why}"));
                }
                fault(self.struck.is_none(), "nothing was killed".to_owned());
                let silent = self.promotion.is_some() && (self.numbered[1] == 0 || self.heard.after == 0);
                fault(silent, "nothing was seen on the successor's wire".to_owned());
                let told = self.guarded && self.promotion.is_some();
                for part in PARTS.iter().filter(|part| told && self.reported(part).is_none()) {
                    fault(true, format!("the report of the outage has no {part}"));
                }
            }
            None => {
                fault(self.promotions > 0, format!("{} promotions without a death", self.promotions));
                fault(
                    self.fences > 0 || self.fenced_at_end,
                    format!("{} fences without a death", self.fences),
                );
            }
        }
        faults
    }

    /// For `--json` and for the logs.
    pub fn to_json(&self) -> Value {
        json!({
            "event": "trial",
            "victim": self.blow.map_or("none", |blow| blow.victim.name()),
            "moment": if self.moment.is_empty() { ANY_MOMENT } else { self.moment },
            "missed_step": self.missed(),
            "held": self.struck.map(|struck| struck.held),
            "acknowledged": self.acknowledged,
            "lost_acks": self.lost_acks,
            "broken_tcp": self.broken.len(),
            "early_releases": self.early.len(),
            "both_spoke": self.both_spoke,
            "outage_ms": self.outage_ms(),
            "rtp_seen_twice": self.heard.twice,
            "rtp_packets": self.heard.packets,
            "replays_refused": self.replayed,
            "srtp_seen_twice": self.secured.twice,
            "srtcp_seen_twice": self.secured.reports_twice,
            "srtp_packets": self.secured.packets,
            "srtp_after": self.secured.after,
            "srtcp_packets": self.secured.reports,
            "dialog_broken": self.dialog,
            "numbered": self.numbered,
            "checkpoints": self.pauses_ms.len(),
            "promotion": self.promotion,
            "set_up_ms": self.set_up_ms,
            "protected_ms": self.protected_ms,
            "all_ms": self.all_ms,
            "faults": self.faults(),
            "logs": self.logs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survival::blow::Victim;

    fn good() -> Outcome {
        Outcome {
            blow: Some(Blow { victim: Victim::Host, moment: "save" }),
            moment: "save",
            guarded: true,
            struck: Some(Struck { at_ns: 5, held: 3 }),
            promotion: Some(json!({
                "detection_ms": 50.0, "decision_ms": 40.0, "load_ms": 20.5, "run_ms": 2.5, "first_frame_ms": 9.0,
                "first_rtp_ms": 30.0,
            })),
            acknowledged: 40,
            numbered: [100, 100],
            heard: Heard { packets: 100, twice: 0, gap_ns: 150_000_000, after: 50 },
            secured: Secured { packets: 100, after: 50, reports: 1, ..Secured::default() },
            ..Outcome::default()
        }
    }

    #[test]
    fn a_failover_that_nobody_noticed_has_no_fault() {
        assert_eq!(good().faults(), Vec::<String>::new());
        assert_eq!(
            (good().outage_ms(), good().reported("load_ms"), good().held()),
            (Some(150.0), Some(20.5), true)
        );
    }

    #[test]
    fn each_promise_has_a_fault_of_its_own() {
        type Harm = fn(&mut Outcome);
        let harms: [(Harm, &str); 18] = [
            (|o| o.lost_acks = 1, "lost"),
            (|o| o.broken.push("reset".to_owned()), "reset"),
            (|o| o.early.push(Saying::Mark(7)), "backup knew"),
            (|o| o.both_spoke = 1, "late primary"),
            (|o| o.heard.twice = 1, "twice"),
            (|o| o.call = Some("no BYE".to_owned()), "no BYE"),
            (|o| o.dialog = Some("481".to_owned()), "by TLS: 481"),
            (|o| o.secured.twice = 1, "SRTP packets came twice"),
            (|o| o.secured.reports_twice = 1, "SRTCP indices came twice"),
            (|o| o.secured.handshakes = 1, "made anew"),
            (|o| o.secured.packets = 0, "no SRTP"),
            (|o| o.secured.reports = 0, "no SRTCP"),
            (|o| o.promotion.as_mut().expect("one")["first_rtp_ms"] = Value::Null, "no first_rtp_ms"),
            (|o| o.stands = Some("client 0".to_owned()), "client 0"),
            (|o| o.numbered[0] = 0, "primary's wire"),
            (|o| o.heard.after = 0, "successor's wire"),
            (|o| o.struck = None, "nothing was killed"),
            (|o| o.not_promoted = Some("time".to_owned()), "no promotion"),
        ];
        for (harm, word) in harms {
            let mut outcome = good();
            harm(&mut outcome);
            let faults = outcome.faults();
            assert!(faults.len() == 1 && faults[0].contains(word), "{word}: {faults:?}");
        }
    }

    #[test]
    fn a_step_that_was_missed_is_told() {
        assert_eq!((good().missed(), &good().to_json()["missed_step"]), (None, &Value::Null));
        let late = Outcome { moment: ANY_MOMENT, ..good() };
        assert_eq!((late.missed(), &late.to_json()["missed_step"]), (Some("save"), &json!("save")));
        // By hand there are no steps to meet.
        assert_eq!(Outcome { guarded: false, ..late }.missed(), None);
    }

    #[test]
    fn pauses_after_the_blow_are_not_the_checkpoints_cost() {
        let mut outcome = good();
        let checkpoint =
            |at_ns: u64| json!({ "event": "checkpoint", "pause_ms": at_ns, "bytes": 1, "at_ns": at_ns });
        outcome.take_events(&[checkpoint(5), checkpoint(6)], &[]);
        assert_eq!(outcome.pauses_ms, [5.0]);
    }

    #[test]
    fn a_control_run_may_have_neither_promotions_nor_fences() {
        let mut quiet = Outcome { blow: None, struck: None, promotion: None, numbered: [9, 0], ..good() };
        assert_eq!(quiet.faults(), Vec::<String>::new());
        let fenced = json!({ "event": "fenced" });
        let promoted = json!({ "event": "promoted" });
        let checkpoint = json!({ "event": "checkpoint", "pause_ms": 12.5, "bytes": 1000 });
        quiet.take_events(&[checkpoint, fenced], &[promoted]);
        assert_eq!((quiet.pauses_ms.clone(), quiet.bytes.clone()), (vec![12.5], vec![1000.0]));
        assert_eq!(quiet.faults().len(), 2);
        let still = Outcome { fenced_at_end: true, fences: 0, promotions: 0, ..quiet };
        assert_eq!(still.faults().len(), 1);
    }
}
