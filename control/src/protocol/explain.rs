//! `explain`: which rule decides about a live stream, and why.

use super::StreamReport;
use serde::{Deserialize, Serialize};

/// Which streams: those from one address and port of the guest, or one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// See [`super::Which`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The guest's address and port, `10.0.0.5:40000` or `[2001:db8::5]:40000`.
    pub stream: String,
    /// Only this SSRC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssrc: Option<u32>,
}

/// Answer to `explain`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Explanations {
    /// The guest.
    pub guest: String,
    /// Its mode.
    pub mode: String,
    /// Nothing leaves.
    pub fenced: bool,
    /// Its policy's name.
    pub policy: String,
    /// One for each stream that was meant.
    pub streams: Vec<StreamExplanation>,
}

/// Why one stream goes the way it goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct StreamExplanation {
    /// What it is.
    #[serde(flatten)]
    pub stream: StreamReport,
    /// `bypass`, `hold` or `refuse`: the next packet's, if it is in the stream's window. The mode comes on top.
    pub verdict: String,
    /// `rule`, `media_ports`, `probation` or `policy`.
    pub decided_by: String,
    /// The rule's number, from 1, if one decided.
    pub rule: Option<usize>,
    /// Its text.
    pub rule_text: Option<String>,
    /// Rules in front of it that name a VLAN or a DSCP and would match with it; a stream's record has neither.
    pub unless: Vec<String>,
    /// The packet from which on the verdict holds, from 1, where that is known.
    pub since_packet: Option<u64>,
    /// In words.
    pub why: String,
    /// What would change it, each a sentence.
    pub changes: Vec<String>,
}
