//! What a lane shares with the control side: its gate, its numbers, and the mailbox for a new policy.

use crate::arena::Arena;
use crate::counters::Counters;
use crate::ear::Ear;
use crate::gate::Gate;
use crate::histogram::Histogram;
use crate::identities::IdentityTable;
use crate::inbox::Inbox;
use crate::policy::CompiledPolicy;
use crate::streams::StreamTable;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

/// The histograms of a lane. In TSC ticks, but for `burst`.
#[derive(Debug)]
pub struct Latencies {
    /// Bypassed frames: from the dequeue of their burst to the return of the transmit call.
    pub bypass: Histogram,
    /// Held frames: the same.
    pub hold: Histogram,
    /// From the arrival of a commit to the first frame it let go.
    pub commit_to_first: Histogram,
    /// From the arrival of a commit to the last frame it let go.
    pub commit_to_last: Histogram,
    /// Frames in a burst from the guest, empty bursts not counted.
    pub burst: Histogram,
}

impl Latencies {
    /// Empty histograms in `arena`.
    pub fn new(arena: &mut impl Arena) -> Self {
        Self {
            bypass: Histogram::new(arena),
            hold: Histogram::new(arena),
            commit_to_first: Histogram::new(arena),
            commit_to_last: Histogram::new(arena),
            burst: Histogram::new(arena),
        }
    }

    /// All of them with the names used in JSON and `.hlog` files.
    pub fn named(&self) -> [(&'static str, &Histogram); 5] {
        [
            ("bypass", &self.bypass),
            ("hold", &self.hold),
            ("commit_to_first", &self.commit_to_first),
            ("commit_to_last", &self.commit_to_last),
            ("burst", &self.burst),
        ]
    }
}

/// Where a new policy waits for the lcore and an old one for whoever frees it: an lcore neither
/// allocates nor frees.
#[derive(Debug)]
pub struct PolicyMailbox {
    new: ArrayQueue<Box<CompiledPolicy>>,
    old: ArrayQueue<Box<CompiledPolicy>>,
}

impl Default for PolicyMailbox {
    fn default() -> Self {
        Self { new: ArrayQueue::new(1), old: ArrayQueue::new(2) }
    }
}

impl PolicyMailbox {
    /// Leaves `policy` for the lcore, who takes it on [`crate::gate::Order::Policy`]; frees what the lcore
    /// gave back. A policy still lying there is replaced.
    pub fn put(&self, policy: Box<CompiledPolicy>) {
        while self.old.pop().is_some() {}
        drop(self.new.force_push(policy));
    }

    /// The lcore's side: swaps `current` for the new policy, if there is one.
    pub(super) fn take(&self, swap: impl FnOnce(Box<CompiledPolicy>) -> Box<CompiledPolicy>) {
        if let Some(new) = self.new.pop()
            && let Err(old) = self.old.push(swap(new))
        {
            // `put` empties the queue before each policy, so it cannot be full; if it were, freeing
            // here is slow but right.
            drop(old);
        }
    }
}

/// See the module's head. One for each lane, in an `Arc`.
#[derive(Debug)]
pub struct LaneShared {
    /// The words; the guest's ledger has them too.
    pub gate: Arc<Gate>,
    /// The numbers.
    pub counters: Counters,
    /// The histograms.
    pub latency: Latencies,
    /// The RTP streams seen.
    pub streams: Arc<StreamTable>,
    /// Where a new policy is left.
    pub policy: PolicyMailbox,
    /// What the lcore overhears of signalling, and what it is taught.
    pub ear: Arc<Ear>,
    /// What the control side hands over beside.
    pub inbox: Arc<Inbox>,
    /// Who the guest is.
    pub identities: Arc<IdentityTable>,
}

impl LaneShared {
    /// For a lane with this gate and the stream table of its classifier.
    pub fn new(gate: Arc<Gate>, streams: Arc<StreamTable>, arena: &mut impl Arena) -> Arc<Self> {
        Self::with_ear(gate, streams, Ear::default(), arena)
    }

    /// The same for a lane that listens to signalling.
    pub fn with_ear(
        gate: Arc<Gate>,
        streams: Arc<StreamTable>,
        ear: Ear,
        arena: &mut impl Arena,
    ) -> Arc<Self> {
        Arc::new(Self {
            ear: Arc::new(ear),
            inbox: Arc::default(),
            identities: Arc::new(IdentityTable::new(arena)),
            gate,
            counters: Counters::default(),
            latency: Latencies::new(arena),
            streams,
            policy: PolicyMailbox::default(),
        })
    }
}
