//! The hold queue: frames waiting for a commit, in arrival order, each stamped with its epoch.
//!
//! A ring that one lcore alone writes and reads, so it needs no lock; the commit crosses threads in one
//! word of the gate. Stamps never fall from front to back, so committing an epoch costs nothing here: the
//! lane pops while the front's stamp is committed (O(1) an epoch, any number of epochs in flight).
//!
//! Bounded twice, in mbufs and in bytes, and taken whole at start. A frame that leaves early from the
//! middle (its stream passed probation) leaves a hole that the front skips. Positions rise for ever and
//! are never used again, so a position remembered too long finds nothing, never another frame.

use crate::arena::{Arena, Slice};
use crate::class::{Class, Media};

/// A frame on its way, with what must be known when it leaves.
#[derive(Debug)]
pub struct Held<F> {
    /// The frame.
    pub frame: F,
    /// The epoch it was received in: its stamp.
    pub epoch: u64,
    /// When its burst was taken from the guest, TSC.
    pub received_tsc: u64,
    /// What it is.
    pub class: Class,
    /// Set for RTP of a known stream.
    pub media: Option<Media>,
    /// Bytes, without FCS.
    pub len: u32,
    /// Mbufs it pins.
    pub mbufs: u16,
}

/// See the module's head.
#[derive(Debug)]
pub struct HoldQueue<F: 'static> {
    slots: Slice<Option<Held<F>>>,
    /// Position of the oldest slot in use; the slot is `position & mask`.
    head: u64,
    /// Position of the next push.
    tail: u64,
    frames: [u64; Class::ALL.len()],
    mbufs: u64,
    bytes: u64,
    quota: Quota,
}

/// What a hold queue may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Mbufs (a chained frame counts each of its segments).
    pub mbufs: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

impl<F: Send + 'static> HoldQueue<F> {
    /// An empty queue in `arena`. The ring has a quarter more slots than mbufs, for holes.
    pub fn new(quota: Quota, arena: &mut impl Arena) -> Self {
        let slots = (quota.mbufs + quota.mbufs / 4).max(2).next_power_of_two();
        Self {
            slots: arena.slice(slots as usize, || None),
            head: 0,
            tail: 0,
            frames: [0; Class::ALL.len()],
            mbufs: 0,
            bytes: 0,
            quota,
        }
    }

    fn slot(&mut self, position: u64) -> &mut Option<Held<F>> {
        let mask = self.slots.len() as u64 - 1;
        &mut self.slots[(position & mask) as usize]
    }

    /// Appends a frame; returns its position, or the frame when a quota or the ring is full.
    /// The stamp must not be older than that of the newest frame.
    pub fn push(&mut self, held: Held<F>) -> Result<u64, Held<F>> {
        let full = self.tail - self.head == self.slots.len() as u64
            || self.mbufs + u64::from(held.mbufs) > self.quota.mbufs
            || self.bytes + u64::from(held.len) > self.quota.bytes;
        if full {
            return Err(held);
        }
        self.frames[held.class as usize] += 1;
        self.mbufs += u64::from(held.mbufs);
        self.bytes += u64::from(held.len);
        let position = self.tail;
        *self.slot(position) = Some(held);
        self.tail += 1;
        Ok(position)
    }

    /// Takes the oldest frame if it is stamped `epoch` or older.
    #[inline]
    pub fn pop_up_to(&mut self, epoch: u64) -> Option<Held<F>> {
        while self.head < self.tail {
            let head = self.head;
            match self.slot(head) {
                Some(held) if held.epoch > epoch => return None,
                slot => {
                    let held = slot.take();
                    self.head += 1;
                    if let Some(held) = held {
                        self.forget(&held);
                        return Some(held);
                    }
                }
            }
        }
        None
    }

    /// Takes the oldest frame if it was pushed before `position`, whatever its stamp: for discarding.
    pub fn pop_before(&mut self, position: u64) -> Option<Held<F>> {
        while self.head < self.tail.min(position) {
            let head = self.head;
            let held = self.slot(head).take();
            self.head += 1;
            if let Some(held) = held {
                self.forget(&held);
                return Some(held);
            }
        }
        None
    }

    /// The stamp of the oldest frame.
    pub fn oldest_epoch(&mut self) -> Option<u64> {
        while self.head < self.tail {
            let head = self.head;
            if let Some(held) = self.slot(head) {
                return Some(held.epoch);
            }
            self.head += 1;
        }
        None
    }

    /// The position of the next push.
    pub fn end(&self) -> u64 {
        self.tail
    }

    /// Takes the frame at `position`, wherever in the queue, leaving a hole. `None` when it has left.
    pub fn take(&mut self, position: u64) -> Option<Held<F>> {
        if position < self.head || position >= self.tail {
            return None;
        }
        let held = self.slot(position).take()?;
        self.forget(&held);
        Some(held)
    }

    fn forget(&mut self, held: &Held<F>) {
        self.frames[held.class as usize] -= 1;
        self.mbufs -= u64::from(held.mbufs);
        self.bytes -= u64::from(held.len);
    }

    /// The position of the oldest slot that may hold a frame.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// True when no frame waits.
    pub fn is_empty(&self) -> bool {
        self.mbufs == 0
    }

    /// Frames waiting, of one class.
    pub fn frames(&self, class: Class) -> u64 {
        self.frames[class as usize]
    }

    /// Mbufs pinned.
    pub fn mbufs(&self) -> u64 {
        self.mbufs
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn held(id: u32, epoch: u64, len: u32, mbufs: u16) -> Held<u32> {
        Held { frame: id, epoch, received_tsc: 0, class: Class::Tcp, media: None, len, mbufs }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { len: u32, mbufs: u16 },
        Close,
        Commit { back: u64 },
        Pop(u8),
        Take { back: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1u32..200, 1u16..4).prop_map(|(len, mbufs)| Step::Push { len, mbufs }),
            2 => Just(Step::Close),
            2 => (0u64..4).prop_map(|back| Step::Commit { back }),
            3 => (1u8..40).prop_map(Step::Pop),
            1 => (0u64..20).prop_map(|back| Step::Take { back }),
        ]
    }

    /// A frame of the reference: position, id, epoch, bytes, mbufs.
    type Plain = (u64, u32, u64, u64, u64);

    proptest! {
        // The promise: the queue behaves as a plain list of (position, frame) would.
        #[test]
        fn behaves_like_a_plain_list(steps in proptest::collection::vec(step(), 1..400)) {
            let quota = Quota { mbufs: 24, bytes: 2000 };
            let mut queue = HoldQueue::new(quota, &mut Heap);
            let slots = queue.slots.len() as u64;
            let mut plain: VecDeque<Plain> = VecDeque::new();
            let (mut id, mut epoch, mut committed) = (0u32, 1u64, 0u64);
            let mut next = 0u64; // position of the next push
            let mut oldest = 0u64; // oldest slot in use, holes in front of an uncommitted frame too
            for step in steps {
                match step {
                    Step::Push { len, mbufs } => {
                        id += 1;
                        let bytes: u64 = plain.iter().map(|p| p.3).sum();
                        let pinned: u64 = plain.iter().map(|p| p.4).sum();
                        let fits = bytes + u64::from(len) <= quota.bytes
                            && pinned + u64::from(mbufs) <= quota.mbufs
                            && next - oldest < slots;
                        match queue.push(held(id, epoch, len, mbufs)) {
                            Ok(position) => {
                                prop_assert!(fits);
                                prop_assert_eq!(position, next);
                                plain.push_back((position, id, epoch, len.into(), mbufs.into()));
                                next += 1;
                            }
                            Err(back) => {
                                prop_assert!(!fits);
                                prop_assert_eq!(back.frame, id, "the newest frame is the one refused");
                            }
                        }
                    }
                    Step::Close => epoch += 1,
                    Step::Commit { back } => committed = committed.max((epoch - 1).saturating_sub(back)),
                    Step::Pop(n) => {
                        for _ in 0..n {
                            let due = plain.front().filter(|p| p.2 <= committed).copied();
                            prop_assert_eq!(queue.pop_up_to(committed).map(|h| h.frame), due.map(|p| p.1));
                            match due {
                                Some(p) => {
                                    plain.pop_front();
                                    oldest = p.0 + 1;
                                }
                                None => {
                                    oldest = plain.front().map_or(next, |p| p.0);
                                    break;
                                }
                            }
                        }
                    }
                    Step::Take { back } => {
                        let position = next.saturating_sub(back);
                        let found = plain.iter().position(|p| p.0 == position);
                        let taken = queue.take(position).map(|h| h.frame);
                        prop_assert_eq!(taken, found.map(|n| plain.remove(n).unwrap().1));
                    }
                }
                prop_assert_eq!(queue.frames(Class::Tcp), plain.len() as u64);
                prop_assert_eq!(queue.bytes(), plain.iter().map(|p| p.3).sum::<u64>());
                prop_assert_eq!(queue.mbufs(), plain.iter().map(|p| p.4).sum::<u64>());
                prop_assert_eq!(queue.is_empty(), plain.is_empty());
            }
        }
    }

    #[test]
    fn an_old_position_finds_nothing_after_the_ring_went_round() {
        let mut queue = HoldQueue::new(Quota { mbufs: 4, bytes: 1000 }, &mut Heap);
        let first = queue.push(held(1, 1, 10, 1)).unwrap();
        assert_eq!(queue.pop_up_to(1).unwrap().frame, 1);
        for id in 2..40 {
            let position = queue.push(held(id, 1, 10, 1)).unwrap();
            assert_ne!(position, first);
            assert!(queue.take(first).is_none(), "a stale position must not let another frame go");
            queue.pop_up_to(1).unwrap();
        }
    }
}
