//! `pulse`: what whoever replicates a guest asks every few milliseconds.

use serde::{Deserialize, Serialize};

/// Answer to `pulse`: words that are at hand, for one guest. Moments are `CLOCK_MONOTONIC` of this host, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Pulse {
    /// The guest.
    pub guest: String,
    /// `open`, `protected` or `muted`.
    pub mode: String,
    /// Nothing leaves: the lease ran out, or somebody said `fence`.
    pub fenced: bool,
    /// What is left of the lease, milliseconds; `null` without one.
    pub lease_left_ms: Option<u64>,
    /// A commit names it.
    pub generation: u64,
    /// The open epoch.
    pub epoch: u64,
    /// The last committed epoch, 0 for none.
    pub committed: u64,
    /// Polls of the lane that has polled least: it moves while every lcore of the guest lives.
    pub polls: u64,
    /// Frames that wait.
    pub held_frames: u64,
    /// Bytes in the hold queues.
    pub held_bytes: u64,
    /// RTP that went to the wire without waiting for a commit, frames since the process started.
    #[serde(default)]
    pub media_frames: u64,
    /// Frames of the guest's signalling that had to wait, since the process started.
    pub signalling: u64,
    /// The epoch of the last of them, 0 for none.
    pub signalled_epoch: u64,
    /// When all lanes were unmuted last; `null` for never.
    pub unmuted_ns: Option<u64>,
    /// When the guest's first frame left after that, on any lane.
    pub first_frame_ns: Option<u64>,
    /// When that frame had been taken from its ring: what lies between is the plane's own doing.
    #[serde(default)]
    pub first_taken_ns: Option<u64>,
    /// When its first RTP left after that.
    pub first_rtp_ns: Option<u64>,
}
