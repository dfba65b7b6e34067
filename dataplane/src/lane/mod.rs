//! One guest NIC: a guest port, a wire port, the hold queue between them, and what becomes of a frame.
//!
//! The phases that [`crate::lcore`] calls, in its order: [`Lane::obey`] (what the control side asked for),
//! [`Lane::receive`], [`Lane::send_bypass`], [`Lane::release`], [`Lane::guestward`], [`Lane::publish`].
//! Nothing here allocates, waits, logs, or makes a system call that the port driver does not make.

mod commits;
mod firsts;
mod guestward;
mod inbox;
mod obey;
mod receive;
mod release;
mod shared;

pub use shared::{LaneShared, Latencies, PolicyMailbox};

use crate::arena::Arena;
use crate::burst::Burst;
use crate::class::{Class, DropReason};
use crate::classify::{Ahead, Classifier};
use crate::ear::Listener;
use crate::egress::{Backlog, Egress, Pace};
use crate::guest::Mode;
use crate::hold::{HoldQueue, Quota};
use crate::identities::Identities;
use crate::inbox::InboxReader;
use crate::port::{BURST, Port};
use crate::tsc::{Clock, TscRate};
use commits::CommitWatch;
use firsts::Firsts;
use std::sync::Arc;

/// What a lane is built with.
#[derive(Clone, Copy, Debug)]
pub struct LaneConfig {
    /// What the hold queue may keep.
    pub quota: Quota,
    /// Released frames leave at this many bits a second of wire time at most; `None`: as the wire takes them.
    pub pace_bits_per_s: Option<u64>,
    /// Largest payload of a frame on the wire, bytes.
    pub mtu: u32,
    /// Verify each frame's checksums before it may leave.
    pub verify_checksums: bool,
    /// The mode the lane starts in.
    pub mode: Mode,
    /// The guest port tells when the guest stops (vhost rings). Where it does not (a vif), the lane
    /// leaves the guest alone from each close until `resumed`.
    pub rings_tell: bool,
    /// The lane takes part from the start; otherwise it waits for its `Join`.
    pub joined: bool,
    /// Frames from the wire that may wait for the guest.
    pub guestward_backlog: usize,
    /// Record latencies (off only to measure what recording costs).
    pub histograms: bool,
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self {
            quota: Quota { mbufs: 32768, bytes: 64 << 20 },
            pace_bits_per_s: None,
            mtu: 1500,
            verify_checksums: true,
            mode: Mode::Protected,
            rings_tell: true,
            joined: true,
            guestward_backlog: 1024,
            histograms: true,
        }
    }
}

/// See the module's head.
pub struct Lane<G: Port, W: Port<Frame = G::Frame>, C: Clock>
where
    G::Frame: Send + 'static,
{
    guest: G,
    wire: W,
    clock: C,
    shared: Arc<LaneShared>,
    config: LaneConfig,
    classifier: Classifier,
    listener: Listener,
    inbox: InboxReader,
    identities: Identities,

    mode: Mode,
    /// Latched once the lease has ended; only an order undoes it (I9).
    fenced: bool,
    joined: bool,
    /// The guest stands still and its rings do not tell: hands off until `resumed`.
    paused: bool,
    /// The open epoch: the stamp of what is received now.
    epoch: u64,
    /// Everything stamped up to this may leave without a commit: it was received in mode `open`, or
    /// `unprotect release` said so, before protection began (anew).
    free_up_to: u64,
    /// Held frames before this position of the hold queue are to be dropped.
    discard_before: u64,
    /// Number of the last order carried out.
    orders_done: u64,

    rx: Burst<G::Frame>,
    /// What was read of the frames in `rx` ahead of their turn.
    ahead: [Ahead; BURST],
    hold: HoldQueue<G::Frame>,
    egress: Egress<G::Frame>,
    commits: CommitWatch,
    firsts: Firsts,
    /// Frames and bytes held under the open epoch's stamp.
    open_frames: u64,
    open_bytes: u64,

    inward: Burst<G::Frame>,
    inward_queue: u16,
    inward_backlog: Backlog<(u16, G::Frame)>,

    polls: u64,
    /// The queues' lengths have changed since they were last published.
    dirty: bool,
}

impl<G: Port, W: Port<Frame = G::Frame>, C: Clock> Lane<G, W, C>
where
    G::Frame: Send + 'static,
{
    /// A lane in the epoch that its gate says is open. All memory it will ever use is taken here.
    #[allow(clippy::too_many_arguments)] // each is one noun of the lane; a builder would only rename them
    pub fn new(
        guest: G,
        wire: W,
        clock: C,
        rate: TscRate,
        shared: Arc<LaneShared>,
        classifier: Classifier,
        config: LaneConfig,
        arena: &mut impl Arena,
    ) -> Self {
        let epoch = shared.gate.wanted_close() + 1;
        let fenced = shared.gate.lease() <= clock.now();
        shared.gate.tell_fenced(fenced);
        Self {
            guest,
            wire,
            clock,
            classifier,
            listener: Listener::new(Arc::clone(&shared.ear)),
            inbox: InboxReader::new(Arc::clone(&shared.inbox)),
            identities: Identities::new(Arc::clone(&shared.identities), rate, arena),
            mode: config.mode,
            fenced,
            joined: config.joined,
            paused: false,
            epoch,
            free_up_to: 0,
            discard_before: 0,
            orders_done: shared.gate.order_number(),
            rx: Burst::new(),
            ahead: [Ahead::Any; BURST],
            hold: HoldQueue::new(config.quota, arena),
            egress: Egress::new(Pace::new(config.pace_bits_per_s, rate), arena),
            commits: CommitWatch::new(epoch - 1),
            firsts: Firsts::default(),
            open_frames: 0,
            open_bytes: 0,
            inward: Burst::new(),
            inward_queue: 0,
            inward_backlog: Backlog::new(config.guestward_backlog, arena),
            polls: 0,
            dirty: false,
            shared,
            config,
        }
    }

    /// One drop, counted.
    fn count_drop(shared: &LaneShared, class: Class, reason: DropReason) {
        shared.counters.class[class as usize].dropped[reason as usize].add(1);
    }

    /// Publishes what a poll has changed: one word always, the queues' lengths when they moved.
    pub fn publish(&mut self) {
        self.polls += 1;
        self.shared.gate.tell_poll(self.polls, self.open_frames);
        if !self.dirty {
            return;
        }
        // What waits on its way out may leave in a poll that changes nothing else: look again then.
        self.dirty = !self.egress.is_empty();
        let counters = &self.shared.counters;
        let waiting = self.egress.waiting();
        for class in Class::ALL {
            let held = self.hold.frames(class) + waiting[class as usize];
            counters.class[class as usize].held.set(held);
        }
        counters.held_oldest_epoch.set(self.hold.oldest_epoch().unwrap_or(0));
        counters.held_mbufs.set(self.hold.mbufs());
        counters.held_bytes.set(self.hold.bytes());
        if self.hold.bytes() > counters.held_bytes_peak.get() {
            counters.held_bytes_peak.set(self.hold.bytes());
        }
        counters.guestward_queued.set((self.inward_backlog.len() + self.inward.len()) as u64);
    }

    /// Ends the lane: everything that waits is dropped and counted, nothing is sent (I4).
    pub fn stop(&mut self) {
        self.discard_before = self.hold.end();
        while let Some(held) = self.hold.pop_before(self.discard_before) {
            Self::count_drop(&self.shared, held.class, DropReason::Discarded);
        }
        self.empty_egress(DropReason::Discarded);
        let mut inward = 0;
        while self.inward.pop().is_some() || self.inward_backlog.pop().is_some() {
            inward += 1;
        }
        self.shared.counters.guestward_dropped.add(inward);
        self.dirty = true;
        self.publish();
    }

    fn empty_egress(&mut self, reason: DropReason) {
        let shared = &self.shared;
        self.egress.discard(|about| Self::count_drop(shared, about.class, reason));
        self.dirty = true;
    }
}
