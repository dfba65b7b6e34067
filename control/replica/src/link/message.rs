//! The small messages: JSON in an envelope, unknown fields refused.

use crate::checkpoint::{CheckpointId, RamDigest};
use serde::{Deserialize, Serialize};
use tidegate_control::cli::Decide;
use tidegate_control::protocol::GuardReport;

/// Version of the protocol; both sides must speak the same.
pub const VERSION: u16 = 3;

/// Longest guest or node name, bytes.
pub const NAME_MAX: usize = 64;

/// Longest reason in a message, bytes; longer ones are cut by the sender.
pub const REASON_MAX: usize = 1024;

/// A reason as it may be sent: cut at [`REASON_MAX`].
pub fn reason(why: impl std::fmt::Display) -> String {
    let mut why = why.to_string();
    if why.len() > REASON_MAX {
        let end = (0..=REASON_MAX).rev().find(|end| why.is_char_boundary(*end)).unwrap_or(0);
        why.truncate(end);
    }
    why
}

/// Whether this may name a guest or a node: letters, digits, `-`, `_`, `.`, at most [`NAME_MAX`].
pub fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=NAME_MAX).contains(&name.len()) && name.chars().all(good) && !name.starts_with(['-', '.'])
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the dialer: [`Up`].
    Up,
    /// To the dialer: [`Down`].
    Down,
    /// From the dialer: seed and checkpoints.
    Bulk,
}

/// What the dialer is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It runs the VM.
    Primary,
    /// It would take over.
    Standby,
}

/// The first message on each connection, from the dialer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// What this connection is for.
    pub direction: Direction,
    /// What the dialer is.
    pub role: Role,
    /// Who decides that a standby takes over, as the dialer was told: both hosts must say the same.
    pub decide: Decide,
    /// The dialer's disks are kept in step by a hook, so a standby needs one.
    pub disk_hook: bool,
    /// Which VM.
    pub guest: String,
    /// Who dials; with TLS the name in its certificate.
    pub node: String,
    /// Random per start of the dialing process.
    pub incarnation: u64,
    /// The session that [`Welcome`] named; 0 on `up`.
    pub session: u64,
}

/// The newest complete checkpoint of a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Newest {
    /// Which.
    pub id: CheckpointId,
    /// What its RAM file holds; none after a whole `migrate`.
    pub digest: Option<RamDigest>,
}

/// The listener, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// [`VERSION`].
    pub version: u16,
    /// Who answers.
    pub node: String,
    /// Random per start of the answering process.
    pub incarnation: u64,
    /// The token that the other connections present.
    pub session: u64,
    /// What the standby holds.
    pub newest: Option<Newest>,
    /// Length of the leases it grants, milliseconds.
    pub term_ms: u64,
    /// Why it cannot take over now; none if it can, or will once it has a checkpoint.
    pub not_ready: Option<String>,
    /// It has taken the guest over: whoever dials must not go on with it.
    #[serde(default)]
    pub taken_over: bool,
}

/// What answers a [`Hello`] on `up`, and on `down` once the session is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// Come in.
    Welcome(Welcome),
    /// Stay out.
    Unwelcome {
        /// What is wrong and what to do.
        reason: String,
    },
}

/// A beat: "I live", and the request for a lease that its grant answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beat {
    /// Rises with each beat of one incarnation, across its sessions. From [`crate::lease::Tenant::request`].
    pub seq: u64,
    /// The sender's guest speaks now under a lease that has not run out: a renewal, not a fresh lease.
    pub renewal: bool,
    /// Answers that QEMU has given so far.
    pub qmp_answers: u64,
    /// Polls of the lanes' lcores so far.
    pub polls: u64,
    /// To a witness, from a primary: the standby that holds every committed checkpoint. Nobody else may take over, so
    /// a grant that answers a beat naming none is evidence that no standby can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<String>,
}

/// From the dialer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Up {
    /// I live; grant me a lease.
    Beat(Beat),
    /// What the plane's replay guard says.
    Guard(GuardReport),
    /// The same, and nothing leaves any more.
    Settled(GuardReport),
    /// My plane is fenced, or never used a grant later than `upto`: do not wait for my lease.
    Surrender {
        /// The last request it ever made.
        upto: u64,
        /// Why.
        reason: String,
    },
    /// To a witness, from a standby: may I take over? A `yes` is also the grant that answers `seq`.
    Claim {
        /// As in [`Beat::seq`].
        seq: u64,
    },
    /// To a witness, from a standby: I cannot take over.
    Withdraw {
        /// Why.
        reason: String,
    },
    /// To a standby: I end and need no backup any more. It answers [`Down::GivenBack`].
    Dismiss {
        /// Why.
        reason: String,
    },
    /// I end in order; no lease is given up by this.
    Bye {
        /// Why.
        reason: String,
    },
}

/// A witness's answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verdict {
    /// Take over; the lease is yours.
    Yes {
        /// Its length, milliseconds, from when the claim was sent.
        term_ms: u64,
    },
    /// Ask again then: the holder's lease may still run.
    Wait {
        /// Milliseconds.
        ms: u64,
    },
    /// Not at all as things are.
    No {
        /// Why.
        reason: String,
    },
}

/// What a witness knows of the other node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Standing {
    /// It beats.
    Alive,
    /// It has not been heard for so long.
    Silent {
        /// Milliseconds.
        ms: u64,
    },
    /// It said itself that it cannot take over, or has given up its lease.
    Withdrawn {
        /// Why.
        reason: String,
    },
}

/// To the dialer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Down {
    /// The lease that beat `seq` asked for.
    Grant {
        /// Of the beat.
        seq: u64,
        /// Milliseconds from when the beat was sent.
        term_ms: u64,
        /// Milliseconds from then on for which frames may bypass, no more than `term_ms`.
        media_ms: u64,
    },
    /// No lease for beat `seq`.
    Denied {
        /// Of the beat.
        seq: u64,
        /// Why.
        reason: String,
    },
    /// From a witness: beat `seq` was heard; its sender holds no lease and asked for none.
    Noted {
        /// Of the beat.
        seq: u64,
    },
    /// The complete checkpoint is here, verified and applied: it may be committed.
    Acked {
        /// Which.
        id: CheckpointId,
        /// Bytes received, as [`crate::link::bulk::Sent::length`].
        length: u64,
        /// As [`crate::link::bulk::Sent::checksum`].
        checksum: u128,
        /// What RAM holds now.
        digest: Option<RamDigest>,
    },
    /// The checkpoint was not taken.
    Refused {
        /// Which.
        id: CheckpointId,
        /// Why.
        reason: String,
    },
    /// The seed is in place.
    Seeded {
        /// What RAM holds now.
        digest: RamDigest,
    },
    /// The standby cannot take over and will not: evidence.
    GivenBack {
        /// Why.
        reason: String,
    },
    /// From a witness: its answer to a claim.
    Verdict {
        /// Of the claim.
        seq: u64,
        /// See there.
        verdict: Verdict,
    },
    /// From a witness: how the other node stands, when that changes.
    Peer {
        /// Who.
        node: String,
        /// See there.
        standing: Standing,
    },
    /// I end in order.
    Bye {
        /// Why.
        reason: String,
    },
}
