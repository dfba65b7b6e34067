//! What the plane tells of itself: the numbers, in one place, for the socket, the command and the logs.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Answer to `guests`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Guests {
    /// In the order of the configuration.
    pub guests: Vec<GuestReport>,
}

/// One guest as it stands.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct GuestReport {
    /// Its name.
    pub guest: String,
    /// `open`, `protected` or `muted`.
    pub mode: String,
    /// Nothing leaves: the lease ran out, or somebody said `fence`.
    pub fenced: bool,
    /// A lease governs it.
    pub leased: bool,
    /// What is left of the lease, milliseconds.
    pub lease_left_ms: Option<u64>,
    /// A commit names it.
    pub generation: u64,
    /// The open epoch.
    pub open_epoch: u64,
    /// The last committed epoch, 0 for none.
    pub committed_epoch: u64,
    /// Epochs that await their commit, oldest first.
    pub in_flight: Vec<ClosedReport>,
    /// Most of them.
    pub max_epochs_in_flight: usize,
    /// The policy's name.
    pub policy: String,
    /// `socket` or `timer`.
    pub source: String,
    /// False: epochs are closed without a pause (the timer), so nothing here is a consistent cut.
    pub source_pauses: bool,
    /// Who controls it.
    pub controller: Option<Peer>,
    /// Epochs since the process started.
    pub epochs: EpochTally,
    /// Its lanes.
    pub lanes: Vec<LaneReport>,
}

/// A connection to the control socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Peer {
    /// Numbers rise.
    pub session: u64,
    /// Process at the other end.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// Answer to `close`; also the data of the event `closed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ClosedReport {
    /// The guest.
    pub guest: String,
    /// The epoch.
    pub epoch: u64,
    /// The generation that its commit must name.
    pub generation: u64,
    /// Frames held under its stamp.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Counts the pauses; two epochs of one pause have the same.
    pub pause: u64,
}

/// What the ledger counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct EpochTally {
    /// Epochs closed.
    pub closed: u64,
    /// Epochs committed.
    pub committed: u64,
    /// Closes that were not answered in time, or came at the limit of epochs in flight.
    pub merged: u64,
    /// Commits refused.
    pub commits_refused: u64,
    /// Checkpoints found void.
    pub void: u64,
}

/// One lane as it stands.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct LaneReport {
    /// Devargs of the guest's side.
    pub guest_port: String,
    /// Address or devargs of the network's side.
    pub wire_port: String,
    /// The CPU that runs it.
    pub lcore: usize,
    /// `running`, `stopped`, or `untold` where the port cannot tell.
    pub rings: String,
    /// This lane has seen its lease end.
    pub fenced: bool,
    /// Mbufs in the hold queue.
    pub held_mbufs: u64,
    /// Bytes in the hold queue.
    pub held_bytes: u64,
    /// Most bytes it ever had.
    pub held_bytes_peak: u64,
    /// Stamp of the oldest frame in it, 0 for none.
    pub held_oldest_epoch: u64,
    /// Its quota, mbufs.
    pub hold_frames: u64,
    /// Its quota, bytes.
    pub hold_bytes: u64,
    /// Polls: a sign of life.
    pub polls: u64,
}

/// Answer to `stats`. Frames, unless a name says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Stats {
    /// In the order of the configuration.
    pub guests: Vec<GuestStats>,
    /// The lcores.
    pub lcores: Vec<LcoreStats>,
    /// The control socket.
    pub control: ControlStats,
}

/// One guest's counters.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct GuestStats {
    /// Its name.
    pub guest: String,
    /// Epochs since the process started.
    pub epochs: EpochTally,
    /// The sum over its lanes and classes.
    pub frames: FrameCounts,
    /// Its lanes.
    pub lanes: Vec<LaneStats>,
}

/// What a lane overheard of signalling, and what it was taught.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct SignallingCounts {
    /// Frames copied, in both directions.
    pub copied: u64,
    /// Frames that were not: more at once than there is room for.
    pub skipped: u64,
    /// Lessons: a port opened, opened again or closed.
    pub lessons: u64,
}

/// What a lane took over as a standby, and what it sent of the plane's own; those frames are in no other count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct HandoverCounts {
    /// Streams taken over, each as often as it was told.
    pub inherited: u64,
    /// Streams that were not.
    pub not_inherited: u64,
    /// Announcements that went to the wire.
    pub announced: u64,
    /// Announcements that did not: a fence, mode `muted`, or a wire that took nothing.
    pub not_announced: u64,
}

/// One lane's counters.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct LaneStats {
    /// From the guest to the wire, all classes.
    pub frames: FrameCounts,
    /// The same by class.
    pub classes: BTreeMap<String, FrameCounts>,
    /// Streams that passed their probation.
    pub promotions: u64,
    /// Signalling overheard.
    #[serde(default)]
    pub signalling: SignallingCounts,
    /// What came from a primary, and what the plane announced.
    #[serde(default)]
    pub handover: HandoverCounts,
    /// Mbufs in the hold queue.
    pub held_mbufs: u64,
    /// Bytes in the hold queue.
    pub held_bytes: u64,
    /// Most bytes it ever had.
    pub held_bytes_peak: u64,
    /// From the wire to the guest.
    pub guestward: GuestwardCounts,
    /// Polls.
    pub polls: u64,
}

/// I6: received = bypassed + released + held + dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct FrameCounts {
    /// Taken from the guest.
    pub received: u64,
    /// Bytes of those.
    pub received_bytes: u64,
    /// To the wire at once.
    pub bypassed: u64,
    /// To the wire after their commit, or with `unprotect release`.
    pub released: u64,
    /// Waiting.
    pub held: u64,
    /// Dropped, all reasons.
    pub dropped: u64,
    /// Dropped, by reason; reasons that never happened are left out.
    pub dropped_by: BTreeMap<String, u64>,
}

/// The other way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct GuestwardCounts {
    /// Taken from the wire.
    pub received: u64,
    /// Given to the guest.
    pub sent: u64,
    /// Waiting for the guest.
    pub queued: u64,
    /// Not taken by the guest in time.
    pub dropped: u64,
}

/// One lcore's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct LcoreStats {
    /// The CPU.
    pub lcore: usize,
    /// Rounds of its loop.
    pub polls: u64,
    /// Sleeps, under `backoff`.
    pub sleeps: u64,
}

/// The socket's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ControlStats {
    /// Connections now.
    pub sessions: u64,
    /// Connections refused: too many, or a user that may not.
    pub sessions_refused: u64,
    /// Requests refused.
    pub requests_refused: u64,
    /// Events that slow subscribers lost.
    pub events_lost: u64,
}

/// Answer to `streams`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Streams {
    /// One for each RTP stream that a lane remembers.
    pub streams: Vec<StreamReport>,
}

/// How the number of a TURN channel is written.
pub fn channel(number: u16) -> String {
    format!("{number:#06x}")
}

/// One RTP stream as it left towards the wire. Jitter saturates (38 ms for a gap of 400 ms): read it with the
/// largest delta.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct StreamReport {
    /// The guest.
    pub guest: String,
    /// Index of its lane.
    pub lane: usize,
    /// Synchronisation source, `0x` and eight hex digits.
    pub ssrc: String,
    /// Where from, address and port.
    pub source: String,
    /// Where to, address and port.
    pub destination: String,
    /// The TURN channel that it goes through, as 0x and four digits; `destination` is the server then.
    #[serde(default)]
    pub channel: Option<String>,
    /// RTP payload type.
    pub payload_type: u8,
    /// Media clock, units a second, where it is known.
    pub clock_rate: Option<u32>,
    /// `probation` or `promoted`.
    pub state: String,
    /// Number of the packet at which it was promoted, from 1.
    pub promoted_at: Option<u64>,
    /// SIP named its port before it had proven itself.
    pub named_by_sip: bool,
    /// Packets taken from the guest.
    pub packets: u64,
    /// Packets that did not wait for a commit.
    pub bypassed: u64,
    /// Packets that did.
    pub held: u64,
    /// Since the last packet, milliseconds.
    pub silent_ms: u64,
    /// Packets that left, without duplicates.
    pub departed: u64,
    /// Sequence numbers missing between the first that left and the highest.
    pub lost: u64,
    /// Packets that left behind one with a higher number.
    pub reordered: u64,
    /// Packets that had left before.
    pub duplicates: u64,
    /// Smoothed interarrival jitter (RFC 3550, 6.4.1), milliseconds.
    pub jitter_ms: f64,
    /// Mean time between two packets, milliseconds.
    pub delta_mean_ms: f64,
    /// Longest time between two packets, milliseconds.
    pub delta_max_ms: f64,
    /// Spread of one-way delays (RFC 5481, 4.2), milliseconds.
    pub delay_variation_ms: f64,
    /// Share of the packets that a playout buffer of 60 ms could not play, per cent. `null` where the delays spread
    /// wider: the lcore keeps their extremes only, and `tidegate classify` on a capture tells more.
    pub unplayed_percent_60: Option<f64>,
    /// The same of 200 ms.
    pub unplayed_percent_200: Option<f64>,
    /// R of the E-model (G.107) for G.711 with concealment behind a buffer that is just deep enough for every packet
    /// that came: its delay is `delay_variation_ms`, and only what is lost is lost.
    pub r: f64,
    /// The mean opinion score that it stands for.
    pub mos: f64,
}

/// Answer to `histograms`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct HistogramReport {
    /// How long they have been recorded, milliseconds.
    pub recorded_ms: u64,
    /// All of them.
    pub histograms: Vec<HistogramEntry>,
}

/// One histogram.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct HistogramEntry {
    /// The guest; empty for an lcore's own.
    pub guest: String,
    /// Index of its lane, or the lcore.
    pub lane: usize,
    /// `bypass`, `hold`, `commit_to_first`, `commit_to_last`, `burst`, `guest_pause`, `poll_gap`.
    pub name: String,
    /// `ns`, or `frames` for bursts.
    pub unit: String,
    /// Values recorded since the process started.
    pub count: u64,
    /// Percentiles and the exact maximum, in `unit`.
    pub quantiles: Quantiles,
    /// (value, how often), rising. Only when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<(u64, u64)>,
}

/// See [`HistogramEntry::quantiles`]; absent without values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Quantiles {
    /// Half of the values are no larger.
    pub p50: Option<u64>,
    /// 90 %.
    pub p90: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
    /// 99.9 %.
    pub p999: Option<u64>,
    /// The largest.
    pub max: Option<u64>,
}
