//! The gate: the few atomic words through which the control side and one lane's lcore talk.
//!
//! Two cache lines. The first is written by the control side and read by the lcore at each poll; the
//! second is written by the lcore. Nobody waits on a lock and the lcore never waits at all. Epochs only
//! rise, so a reader that sees an old word does less, never more (I1).
//!
//! Who may write what:
//!
//! | word | writer | meaning |
//! |---|---|---|
//! | `close` | control, under the guest's lock | close every epoch up to this one |
//! | `commit` | control, under the guest's lock | every frame stamped up to this epoch may leave |
//! | `lease` | control | TSC moment at which the fence falls; 0 = fenced, `u64::MAX` = no lease (I9) |
//! | `media` | control | TSC moment from which bypassed frames wait for a renewal; never after `lease` |
//! | `order` | control, under the guest's lock | a change of mode, numbered |
//! | `closed` | lcore | last epoch closed: its frames and bytes were stored before |
//! | `done` | lcore | number of the last order carried out |

use crate::sync::{AtomicU64, Ordering};
use crossbeam::utils::CachePadded;

/// A lease word that never ends: the guest has no lease.
pub const NO_LEASE: u64 = u64::MAX;
/// A lease word that has always ended.
pub const FENCE: u64 = 0;

/// A lease as the lanes keep it, in moments of their clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// From here on nothing bypasses until a renewal: what the guest says waits in its lane. A standby that promotes
    /// guards against what may have bypassed since it last heard, so this is what makes its guess short.
    pub media: u64,
    /// From here on nothing leaves at all, committed or not, and no renewal helps (I9).
    pub end: u64,
}

impl Lease {
    /// Bypassing until `media`, and for no longer than the lease itself.
    pub fn new(media: u64, end: u64) -> Lease {
        Lease { media: media.min(end), end }
    }

    /// The later of two, each moment by itself: answers may come out of order, and a lease never shrinks.
    pub fn or_later(self, other: Lease) -> Lease {
        Lease { media: self.media.max(other.media), end: self.end.max(other.end) }
    }
}

impl From<u64> for Lease {
    /// Bypassing to its end.
    fn from(end: u64) -> Lease {
        Lease { media: end, end }
    }
}

/// A change that the lcore carries out between two bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Drain the rings as before, then hold: epoch `close + 1` begins.
    Protect = 1,
    /// Let everything held go, in order, then pass everything.
    UnprotectRelease = 2,
    /// Discard everything held, then pass everything.
    UnprotectDrop = 3,
    /// Discard everything held, then whatever the guest sends.
    Mute = 4,
    /// Pass everything again (a promoted standby that has no backup yet).
    UnmuteOpen = 5,
    /// Hold again (a promoted standby that has a backup at once).
    UnmuteProtected = 6,
    /// The guest runs again (ports whose rings do not tell).
    Resumed = 7,
    /// Take the policy out of the lane's mailbox.
    Policy = 8,
    /// A new lease in a new generation: discard what was held behind the fence, then hold.
    Unfence = 9,
    /// Begin to poll, everything passes.
    JoinOpen = 10,
    /// Begin to poll and hold: epoch `close + 1` is open.
    JoinProtected = 11,
    /// Begin to poll and discard.
    JoinMuted = 12,
    /// Drain, then poll no more; what is held stays held.
    Leave = 13,
}

impl Order {
    const ALL: [Order; 13] = [
        Order::Protect,
        Order::UnprotectRelease,
        Order::UnprotectDrop,
        Order::Mute,
        Order::UnmuteOpen,
        Order::UnmuteProtected,
        Order::Resumed,
        Order::Policy,
        Order::Unfence,
        Order::JoinOpen,
        Order::JoinProtected,
        Order::JoinMuted,
        Order::Leave,
    ];

    fn from_code(code: u8) -> Option<Order> {
        Order::ALL.into_iter().find(|order| *order as u8 == code)
    }
}

/// What a lane says of an epoch that it closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// The epoch.
    pub epoch: u64,
    /// Frames held under its stamp.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
}

#[derive(Debug)]
struct FromControl {
    close: AtomicU64,
    commit: AtomicU64,
    commit_tsc: AtomicU64,
    lease: AtomicU64,
    media: AtomicU64,
    order: AtomicU64,
}

#[derive(Debug)]
struct FromLcore {
    closed: AtomicU64,
    closed_frames: AtomicU64,
    closed_bytes: AtomicU64,
    done: AtomicU64,
    fenced: AtomicU64,
    open_frames: AtomicU64,
    polls: AtomicU64,
}

/// See the module's head. One for each lane.
#[derive(Debug)]
pub struct Gate {
    control: CachePadded<FromControl>,
    lcore: CachePadded<FromLcore>,
}

impl Gate {
    /// A gate whose lane is in epoch `open` (from 1), with everything before it committed.
    pub fn new(open: u64, lease: u64) -> Self {
        let before = open.saturating_sub(1);
        Self {
            control: CachePadded::new(FromControl {
                close: AtomicU64::new(before),
                commit: AtomicU64::new(before),
                commit_tsc: AtomicU64::new(0),
                lease: AtomicU64::new(lease),
                media: AtomicU64::new(lease),
                order: AtomicU64::new(0),
            }),
            lcore: CachePadded::new(FromLcore {
                closed: AtomicU64::new(before),
                closed_frames: AtomicU64::new(0),
                closed_bytes: AtomicU64::new(0),
                done: AtomicU64::new(0),
                fenced: AtomicU64::new(0),
                open_frames: AtomicU64::new(0),
                polls: AtomicU64::new(0),
            }),
        }
    }

    // ---- the control side ----

    /// Asks the lane to close every epoch up to `epoch`.
    pub fn request_close(&self, epoch: u64) {
        self.control.close.store(epoch, Ordering::Release);
    }

    /// Lets every frame stamped up to `epoch` leave; `tsc` is the moment the commit arrived.
    pub fn commit(&self, epoch: u64, tsc: u64) {
        self.control.commit_tsc.store(tsc, Ordering::Relaxed);
        self.control.commit.store(epoch, Ordering::Release);
    }

    /// Sets the moments from which bypassed frames wait and at which the fence falls. [`FENCE`] drops it now. Each word
    /// says all there is to say: in between the lcore may see one of them only, and then it does less. An order that
    /// goes with them is given after them.
    pub fn set_lease(&self, lease: impl Into<Lease>) {
        let Lease { media, end } = lease.into();
        self.control.lease.store(end, Ordering::Relaxed);
        self.control.media.store(media, Ordering::Relaxed);
    }

    /// Gives an order; returns its number. The caller waits for [`Gate::done`] to reach it before it
    /// gives the next one.
    pub fn order(&self, order: Order) -> u64 {
        let number = (self.control.order.load(Ordering::Relaxed) >> 8) + 1;
        self.control.order.store(number << 8 | order as u64, Ordering::Release);
        number
    }

    /// Number of the last order that the lane carried out.
    pub fn done(&self) -> u64 {
        self.lcore.done.load(Ordering::Acquire)
    }

    /// The last epoch the lane closed, with its frames and bytes.
    pub fn closed(&self) -> Closed {
        // The next close is only asked for once this one is known, so the three belong together.
        let epoch = self.lcore.closed.load(Ordering::Acquire);
        let frames = self.lcore.closed_frames.load(Ordering::Relaxed);
        Closed { epoch, frames, bytes: self.lcore.closed_bytes.load(Ordering::Relaxed) }
    }

    /// Frames the lane has received since it closed its last epoch.
    pub fn open_frames(&self) -> u64 {
        self.lcore.open_frames.load(Ordering::Relaxed)
    }

    /// True once the lane has seen its lease end. Only [`Order::Unfence`] and `unprotect` undo it.
    pub fn is_fenced(&self) -> bool {
        self.lcore.fenced.load(Ordering::Acquire) != 0
    }

    /// The lane's poll counter: a sign of life.
    pub fn polls(&self) -> u64 {
        self.lcore.polls.load(Ordering::Relaxed)
    }

    // ---- the lcore's side ----

    /// The highest epoch whose close was asked for.
    #[inline]
    pub fn wanted_close(&self) -> u64 {
        self.control.close.load(Ordering::Acquire)
    }

    /// The highest committed epoch.
    #[inline]
    pub fn committed(&self) -> u64 {
        self.control.commit.load(Ordering::Acquire)
    }

    /// When that commit arrived, TSC.
    pub fn commit_tsc(&self) -> u64 {
        self.control.commit_tsc.load(Ordering::Relaxed)
    }

    /// The moment at which the fence falls, TSC.
    #[inline]
    pub fn lease(&self) -> u64 {
        self.control.lease.load(Ordering::Relaxed)
    }

    /// The moment from which bypassed frames wait, TSC.
    #[inline]
    pub fn media(&self) -> u64 {
        self.control.media.load(Ordering::Relaxed)
    }

    /// The lease as it stands: for the control side, which alone changes it.
    pub fn whole_lease(&self) -> Lease {
        Lease { media: self.media(), end: self.lease() }
    }

    /// The last order given: its number, and what it says (`None` for none yet).
    #[inline]
    pub fn ordered(&self) -> (u64, Option<Order>) {
        let word = self.control.order.load(Ordering::Acquire);
        (word >> 8, Order::from_code(word as u8))
    }

    /// The number alone: what the lcore compares at each poll.
    #[inline]
    pub fn order_number(&self) -> u64 {
        self.control.order.load(Ordering::Acquire) >> 8
    }

    /// Answers a close: everything the lane had received is stamped up to `closed.epoch`.
    pub fn answer_closed(&self, closed: Closed) {
        self.lcore.closed_frames.store(closed.frames, Ordering::Relaxed);
        self.lcore.closed_bytes.store(closed.bytes, Ordering::Relaxed);
        self.lcore.open_frames.store(0, Ordering::Relaxed);
        self.lcore.closed.store(closed.epoch, Ordering::Release);
    }

    /// Answers an order.
    pub fn answer_order(&self, number: u64) {
        self.lcore.done.store(number, Ordering::Release);
    }

    /// Tells whether the fence has fallen.
    pub fn tell_fenced(&self, fenced: bool) {
        self.lcore.fenced.store(fenced.into(), Ordering::Release);
    }

    /// Tells how many frames the open epoch has, and that the lane lives.
    #[inline]
    pub fn tell_poll(&self, polls: u64, open_frames: u64) {
        self.lcore.polls.store(polls, Ordering::Relaxed);
        self.lcore.open_frames.store(open_frames, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn orders_are_numbered_and_told_apart() {
        let gate = Gate::new(1, NO_LEASE);
        assert_eq!(gate.ordered(), (0, None));
        for (n, order) in Order::ALL.into_iter().enumerate() {
            assert_eq!(gate.order(order), n as u64 + 1);
            assert_eq!(gate.ordered(), (n as u64 + 1, Some(order)));
        }
        gate.answer_order(13);
        assert_eq!(gate.done(), gate.order_number());
    }

    #[test]
    fn a_new_gate_has_committed_what_came_before_it() {
        let gate = Gate::new(7, FENCE);
        assert_eq!((gate.wanted_close(), gate.committed(), gate.closed().epoch), (6, 6, 6));
        assert_eq!(gate.lease(), FENCE);
        assert!(std::mem::align_of::<Gate>() >= 64, "the two sides write to different cache lines");
    }
}

/// Every interleaving and every reordering the memory model allows:
/// `RUSTFLAGS="--cfg loom" cargo test -p tidegate-dataplane --no-default-features --lib --profile quick loom`.
///
/// What this does not cover: frames themselves never cross threads (one lcore owns them); what the vhost
/// library shares with the guest is its own.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// I1 and I2 in small. The guest makes one frame before the pause and one after it ran on; the control
    /// side commits the epoch it closed. The lcore polls. The second frame must not leave.
    #[test]
    fn loom_a_frame_of_the_next_epoch_stays() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(1, NO_LEASE));
            let ring = Arc::new(AtomicU64::new(1)); // frames made available so far
            let lcore = {
                let (gate, ring) = (gate.clone(), ring.clone());
                thread::spawn(move || {
                    let (mut epoch, mut taken, mut stamps) = (1, 0, [0; 2]);
                    for _ in 0..2 {
                        let mut receive = |epoch| {
                            let made = ring.load(Ordering::Acquire);
                            while taken < made {
                                stamps[taken as usize] = epoch;
                                taken += 1;
                            }
                        };
                        if gate.wanted_close() >= epoch {
                            receive(epoch);
                            gate.answer_closed(Closed { epoch, frames: 1, bytes: 0 });
                            epoch += 1;
                        }
                        receive(epoch);
                        let committed = gate.committed();
                        if taken == 2 {
                            assert!(stamps[1] > committed, "the frame made after the pause would leave");
                        }
                    }
                })
            };
            gate.request_close(1);
            if gate.closed().epoch >= 1 {
                ring.store(2, Ordering::Release); // the guest runs on
                gate.commit(1, 5);
            }
            lcore.join().unwrap();
        });
    }

    /// An order is seen together with the close that belongs to it.
    #[test]
    fn loom_an_order_brings_its_close_along() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(1, NO_LEASE));
            let lcore = {
                let gate = gate.clone();
                thread::spawn(move || {
                    if gate.order_number() == 1 {
                        assert_eq!(gate.ordered(), (1, Some(Order::Protect)));
                        assert_eq!(gate.wanted_close(), 1, "protection would begin in the old epoch");
                        gate.answer_order(1);
                    }
                })
            };
            gate.request_close(1);
            gate.order(Order::Protect);
            lcore.join().unwrap();
        });
    }

    /// An order is seen together with the lease that belongs to it; and once it is done, what the lane says of its
    /// fence is what the order made of it.
    #[test]
    fn loom_an_order_brings_its_lease_along_and_its_answer_the_fence() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(1, FENCE));
            gate.tell_fenced(true);
            let lcore = {
                let gate = gate.clone();
                thread::spawn(move || {
                    if gate.order_number() == 1 {
                        assert_eq!(
                            gate.lease(),
                            100,
                            "the fence would be lifted under the old lease, and fall again"
                        );
                        gate.tell_fenced(false);
                        gate.answer_order(1);
                    }
                })
            };
            gate.set_lease(100_u64);
            gate.order(Order::Unfence);
            if gate.done() == 1 {
                assert!(!gate.is_fenced(), "the order is done, and its guest would be told to be fenced");
            }
            lcore.join().unwrap();
        });
    }

    /// Who sees the fence sees all that the lane sent before it: the account is final then.
    #[test]
    fn loom_behind_the_fence_the_account_is_final() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(1, NO_LEASE));
            let sent = Arc::new(AtomicU64::new(0));
            let lcore = {
                let (gate, sent) = (gate.clone(), sent.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        if gate.lease() == FENCE {
                            gate.tell_fenced(true);
                            return;
                        }
                        sent.store(sent.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    }
                    gate.tell_fenced(true);
                })
            };
            gate.set_lease(FENCE);
            let before = gate.is_fenced().then(|| sent.load(Ordering::Relaxed));
            lcore.join().unwrap();
            if let Some(before) = before {
                assert_eq!(before, sent.load(Ordering::Relaxed), "something left behind the fence");
            }
        });
    }

    /// What is told of a closed epoch was complete when it was told, and a commit brings its moment.
    #[test]
    fn loom_an_answer_is_complete() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(1, NO_LEASE));
            let lcore = {
                let gate = gate.clone();
                thread::spawn(move || {
                    gate.answer_closed(Closed { epoch: 1, frames: 3, bytes: 4 });
                    if gate.committed() == 1 {
                        assert_eq!(gate.commit_tsc(), 9);
                    }
                })
            };
            let closed = gate.closed();
            if closed.epoch == 1 {
                assert_eq!((closed.frames, closed.bytes), (3, 4));
            }
            gate.commit(1, 9);
            lcore.join().unwrap();
        });
    }
}
