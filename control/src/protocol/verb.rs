//! The verbs and their arguments: one struct a verb, one sentence a field, unknown arguments refused.

use super::{Explain, Failure, Guard};
use crate::config::{PolicyName, PortRange, Rule};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Which guest is meant. May be left out where the plane has one only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Which {
    /// The guest's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
}

/// `protect`: holding begins, inside a pause; a new generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Protect {
    /// See [`Which`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The caller knows that the guest is paused, whatever its rings say.
    pub vouched: bool,
    /// Number the first epoch at least so.
    pub first_epoch: u64,
    /// Lease to begin with, milliseconds. A leased guest needs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term_ms: Option<u64>,
    /// See [`Lease::media_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_ms: Option<u64>,
    /// See [`Lease::since_ns`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ns: Option<u64>,
}

/// `close`: the guest is paused, its epoch ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Close {
    /// See [`Which`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The caller knows that the guest is paused, whatever its rings say.
    pub vouched: bool,
}

/// `seal`: the state of this epoch is saved; is it the state of the pause that closed it?
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// See [`Which`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The epoch.
    pub epoch: u64,
}

/// `commit`: the backup acknowledged the checkpoint that closed this epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// See [`Which`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The generation that `close` told.
    pub generation: u64,
    /// The epoch that `close` told.
    pub epoch: u64,
}

/// `unprotect`: the one way in which an uncommitted frame leaves (I4).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Unprotect {
    /// See [`Which`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// What becomes of the frames that wait.
    pub mode: UnprotectMode,
    /// Why no standby can take over. A leased guest needs it (I9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// See [`Unprotect::mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum UnprotectMode {
    /// They leave, in order.
    Release,
    /// They are discarded.
    Drop,
}

/// `backup-lost`: do as the guest's `on_backup_lost` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackupLost {
    /// See [`Which`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// Why no standby can take over.
    pub evidence: String,
}

/// `unmute`: a standby is promoted; a new generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Unmute {
    /// See [`Which`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// It has a backup of its own at once: hold.
    pub protected: bool,
    /// Number the first epoch at least so: epochs are counted on from those of the dead primary.
    pub first_epoch: u64,
    /// Lease to begin with, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term_ms: Option<u64>,
    /// See [`Lease::media_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_ms: Option<u64>,
    /// See [`Lease::since_ns`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ns: Option<u64>,
}

/// `lease`: let the guest speak for so long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// See [`Which`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The guest's generation.
    pub generation: u64,
    /// Length, milliseconds, at most an hour.
    pub term_ms: u64,
    /// For so long of it frames may bypass; behind that they wait for a renewal, and only what is committed leaves. The
    /// standby's replay guard need not allow for more. Default: the whole term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_ms: Option<u64>,
    /// When the term began: `CLOCK_MONOTONIC` of this host, nanoseconds, read *before* the lease was asked
    /// for. Then no delay on the way makes it longer. Default: when the plane reads the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ns: Option<u64>,
}

/// Longest term of a lease, milliseconds.
pub const TERM_MAX_MS: u64 = 3_600_000;

/// `policy`: what bypasses from now on. What is left out is kept as it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// See [`Which`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<PolicyName>,
    /// UDP ports that carry media for certain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_ports: Option<Vec<PortRange>>,
    /// Rules in front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Rule>>,
}

/// `histograms`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Histograms {
    /// See [`Which`]; here leaving it out means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// With each histogram's buckets.
    pub buckets: bool,
}

/// `subscribe`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Subscribe {
    /// Names of [`EVENTS`]. Default: all.
    pub events: Vec<String>,
}

/// The events there are.
pub const EVENTS: [&str; 14] = [
    "closed",
    "committed",
    "merged",
    "pressure",
    "signalling",
    "ring-started",
    "ring-stopped",
    "fenced",
    "mode",
    "unmuted",
    "controller-lost",
    "link",
    "leak",
    "shutdown",
];

/// A request that makes sense by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// Who is there: [`super::About`].
    Hello,
    /// Every guest as it stands: [`super::Guests`].
    Guests,
    /// One guest's words that change all the time: [`super::Pulse`].
    Pulse(Which),
    /// See [`Protect`].
    Protect(Protect),
    /// See [`Close`].
    Close(Close),
    /// See [`Seal`].
    Seal(Seal),
    /// The guest runs again, where its rings do not tell.
    Resumed(Which),
    /// See [`Commit`].
    Commit(Commit),
    /// See [`Unprotect`].
    Unprotect(Unprotect),
    /// See [`BackupLost`].
    BackupLost(BackupLost),
    /// Be a standby: discard what is held and what comes.
    Mute(Which),
    /// See [`Unmute`].
    Unmute(Unmute),
    /// Announce the guest to switches and neighbours.
    Announce(Which),
    /// See [`Guard`].
    Guard(Guard),
    /// See [`Lease`].
    Lease(Lease),
    /// Let nothing out from now on. Accepted from every session.
    Fence(Which),
    /// See [`Policy`].
    Policy(Policy),
    /// All counters: [`super::Stats`].
    Stats(Which),
    /// The RTP streams: [`super::Streams`].
    Streams(Which),
    /// The histograms: [`super::HistogramReport`].
    Histograms(Histograms),
    /// Which rule decides about a stream, and why: [`super::Explanations`].
    Explain(Explain),
    /// See [`Subscribe`].
    Subscribe(Subscribe),
    /// Become the guest's controller in place of whoever is.
    Takeover(Which),
    /// Stop the process; what is held is discarded, never flushed (I4).
    Shutdown,
}

/// Names of all verbs.
pub const VERBS: [&str; 24] = [
    "hello",
    "guests",
    "pulse",
    "protect",
    "close",
    "seal",
    "resumed",
    "commit",
    "unprotect",
    "backup-lost",
    "mute",
    "unmute",
    "announce",
    "guard",
    "lease",
    "fence",
    "policy",
    "stats",
    "streams",
    "histograms",
    "explain",
    "subscribe",
    "takeover",
    "shutdown",
];

fn arguments<T: DeserializeOwned>(verb: &str, arguments: Map<String, Value>) -> Result<T, Failure> {
    serde_json::from_value(Value::Object(arguments))
        .map_err(|e| Failure::new("bad-arguments", format!("{verb}: {e}")))
}

impl Verb {
    /// Its name, one of [`VERBS`].
    pub const fn name(&self) -> &'static str {
        match self {
            Verb::Hello => "hello",
            Verb::Guests => "guests",
            Verb::Pulse(_) => "pulse",
            Verb::Protect(_) => "protect",
            Verb::Close(_) => "close",
            Verb::Seal(_) => "seal",
            Verb::Resumed(_) => "resumed",
            Verb::Commit(_) => "commit",
            Verb::Unprotect(_) => "unprotect",
            Verb::BackupLost(_) => "backup-lost",
            Verb::Mute(_) => "mute",
            Verb::Unmute(_) => "unmute",
            Verb::Announce(_) => "announce",
            Verb::Guard(_) => "guard",
            Verb::Lease(_) => "lease",
            Verb::Fence(_) => "fence",
            Verb::Policy(_) => "policy",
            Verb::Stats(_) => "stats",
            Verb::Streams(_) => "streams",
            Verb::Histograms(_) => "histograms",
            Verb::Explain(_) => "explain",
            Verb::Subscribe(_) => "subscribe",
            Verb::Takeover(_) => "takeover",
            Verb::Shutdown => "shutdown",
        }
    }

    /// Reads a verb and its arguments.
    pub fn read(verb: &str, given: Map<String, Value>) -> Result<Verb, Failure> {
        if matches!(verb, "hello" | "guests" | "shutdown") && !given.is_empty() {
            return Err(Failure::new("bad-arguments", format!("{verb} takes no arguments")));
        }
        Ok(match verb {
            "hello" => Verb::Hello,
            "guests" => Verb::Guests,
            "pulse" => Verb::Pulse(arguments(verb, given)?),
            "protect" => Verb::Protect(arguments(verb, given)?),
            "close" => Verb::Close(arguments(verb, given)?),
            "seal" => Verb::Seal(arguments(verb, given)?),
            "resumed" => Verb::Resumed(arguments(verb, given)?),
            "commit" => Verb::Commit(arguments(verb, given)?),
            "unprotect" => Verb::Unprotect(arguments(verb, given)?),
            "backup-lost" => Verb::BackupLost(arguments(verb, given)?),
            "mute" => Verb::Mute(arguments(verb, given)?),
            "unmute" => Verb::Unmute(arguments(verb, given)?),
            "announce" => Verb::Announce(arguments(verb, given)?),
            "guard" => Verb::Guard(arguments(verb, given)?),
            "lease" => Verb::Lease(arguments(verb, given)?),
            "fence" => Verb::Fence(arguments(verb, given)?),
            "policy" => Verb::Policy(arguments(verb, given)?),
            "stats" => Verb::Stats(arguments(verb, given)?),
            "streams" => Verb::Streams(arguments(verb, given)?),
            "histograms" => Verb::Histograms(arguments(verb, given)?),
            "explain" => Verb::Explain(arguments(verb, given)?),
            "subscribe" => Verb::Subscribe(arguments(verb, given)?),
            "takeover" => Verb::Takeover(arguments(verb, given)?),
            "shutdown" => Verb::Shutdown,
            other => {
                let desc = format!("no verb `{other}`; there are {}", VERBS.join(", "));
                return Err(Failure::new("unknown-verb", desc));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(verb: &str, given: Value) -> Result<Verb, Failure> {
        let Value::Object(given) = given else { panic!("arguments are an object") };
        Verb::read(verb, given)
    }

    #[test]
    fn every_verb_of_the_list_is_read() {
        for verb in VERBS {
            match read(verb, json!({})) {
                Ok(read) => assert_eq!(read.name(), verb),
                Err(failure) => assert_ne!(failure.reason, "unknown-verb", "{verb}"),
            }
        }
        assert_eq!(read("flush", json!({})).unwrap_err().reason, "unknown-verb");
    }

    #[test]
    fn arguments_that_are_missing_unknown_or_of_a_wrong_kind_are_refused() {
        for (verb, given) in [
            ("commit", json!({"guest": "pbx", "epoch": 1})),
            ("commit", json!({"generation": 1, "epoch": -1})),
            ("commit", json!({"generation": 1, "epoch": 1, "force": true})),
            ("close", json!({"vouched": "yes"})),
            ("unprotect", json!({})),
            ("unprotect", json!({"mode": "flush"})),
            ("policy", json!({"name": "fast"})),
            ("guests", json!({"guest": "pbx"})),
        ] {
            let failure = read(verb, given.clone()).unwrap_err();
            assert_eq!(failure.reason, "bad-arguments", "{verb} {given}");
            assert!(failure.desc.contains(verb), "{failure}");
        }
    }
}
