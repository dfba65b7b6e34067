//! What a lane counts: one writer (its lcore), any number of readers.
//!
//! I6: at every step `received = sent + held + dropped` holds per class, in frames. `held` is what the
//! hold queue and the egress queue own at that moment.

use crate::class::{Class, DropReason};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that one lcore adds to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. One writer: load and store, no locked instruction.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets the number (for gauges).
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number as it stands.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The fate of one class of frames.
#[derive(Debug, Default)]
pub struct ClassCounters {
    /// Frames taken from the guest.
    pub received: Counter,
    /// Bytes of those.
    pub received_bytes: Counter,
    /// Frames that went to the wire at once (promoted ones too).
    pub bypassed: Counter,
    /// Frames that went to the wire after their commit, or with `unprotect release`.
    pub released: Counter,
    /// Frames in the hold queue or waiting for the wire.
    pub held: Counter,
    /// Frames dropped, by [`DropReason`].
    pub dropped: [Counter; DropReason::ALL.len()],
}

/// All numbers of a lane.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the guest to the wire, by [`Class`].
    pub class: [ClassCounters; Class::ALL.len()],
    /// Streams that passed their probation.
    pub promotions: Counter,
    /// Mbufs in the hold queue.
    pub held_mbufs: Counter,
    /// Bytes in the hold queue.
    pub held_bytes: Counter,
    /// Most bytes the hold queue ever had.
    pub held_bytes_peak: Counter,
    /// The epoch of the oldest frame in the hold queue, 0 for none.
    pub held_oldest_epoch: Counter,
    /// Frames taken from the wire.
    pub guestward_received: Counter,
    /// Frames given to the guest.
    pub guestward_sent: Counter,
    /// Frames from the wire that the guest did not take in time.
    pub guestward_dropped: Counter,
    /// Frames from the wire that wait for the guest.
    pub guestward_queued: Counter,
    /// Polls of this lane.
    pub polls: Counter,
    /// Frames of the guest's signalling that went into the hold queue.
    pub signalling: Counter,
    /// The epoch of the last of them, 0 for none.
    pub signalled_epoch: Counter,
    /// When the lane was last unmuted, TSC; 0 for never.
    pub unmuted_tsc: Counter,
    /// When the first frame of the guest left after that, TSC; 0 while none has.
    pub first_frame_tsc: Counter,
    /// When that frame was taken from the guest, TSC.
    pub first_taken_tsc: Counter,
    /// When the first RTP left.
    pub first_rtp_tsc: Counter,
}

/// A copy of [`ClassCounters`]. All in frames but `received_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassTotals {
    /// See [`ClassCounters::received`].
    pub received: u64,
    /// See [`ClassCounters::received_bytes`].
    pub received_bytes: u64,
    /// See [`ClassCounters::bypassed`].
    pub bypassed: u64,
    /// See [`ClassCounters::released`].
    pub released: u64,
    /// See [`ClassCounters::held`].
    pub held: u64,
    /// See [`ClassCounters::dropped`].
    pub dropped: [u64; DropReason::ALL.len()],
}

impl ClassTotals {
    /// Frames dropped for whatever reason.
    pub fn dropped_all(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// I6 for this class.
    pub fn balanced(&self) -> bool {
        self.received == self.bypassed + self.released + self.held + self.dropped_all()
    }
}

impl std::ops::AddAssign for ClassTotals {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.bypassed += other.bypassed;
        self.released += other.released;
        self.held += other.held;
        for (mine, theirs) in self.dropped.iter_mut().zip(other.dropped) {
            *mine += theirs;
        }
    }
}

impl Counters {
    /// The numbers of one class as they stand. Read while the lcore runs they may be a few frames
    /// apart; read after it stopped they balance (I6).
    pub fn totals(&self, class: Class) -> ClassTotals {
        let c = &self.class[class as usize];
        ClassTotals {
            received: c.received.get(),
            received_bytes: c.received_bytes.get(),
            bypassed: c.bypassed.get(),
            released: c.released.get(),
            held: c.held.get(),
            dropped: std::array::from_fn(|n| c.dropped[n].get()),
        }
    }

    /// The sum over all classes.
    pub fn total(&self) -> ClassTotals {
        let mut sum = ClassTotals::default();
        Class::ALL.iter().for_each(|class| sum += self.totals(*class));
        sum
    }
}
