//! What the control side asked for: close an epoch, carry out an order, mind the lease.

use super::Lane;
use crate::class::DropReason;
use crate::ear::LESSONS_A_POLL;
use crate::gate::{Closed, Order};
use crate::guest::Mode;
use crate::port::{BURST, Port};
use crate::tsc::Clock;

/// Bursts that a close takes from one queue at most: 4096 frames, four times QEMU's largest ring. A guest
/// that keeps filling its ring is not paused; what is left over belongs to the next epoch, which is safe.
const DRAIN_BURSTS: usize = 4096 / BURST;

impl<G: Port, W: Port<Frame = G::Frame>, C: Clock> Lane<G, W, C>
where
    G::Frame: Send + 'static,
{
    /// Looks at the gate's words and does what they ask. `now`: TSC.
    #[inline]
    pub fn obey(&mut self, now: u64) {
        if self.shared.gate.wanted_close() >= self.epoch {
            self.close();
        }
        if self.shared.gate.order_number() != self.orders_done {
            self.carry_out();
        }
        if now >= self.shared.gate.lease() && !self.fenced {
            self.fall_fence();
        }
        if self.listener.is_taught() {
            self.learn(now);
        }
        if self.inbox.is_given() {
            self.take_inbox(now);
        }
    }

    /// What signalling said of the guest's ports. A packet that came before it was known leaves at once.
    #[cold]
    fn learn(&mut self, now: u64) {
        for _ in 0..LESSONS_A_POLL {
            let Some(lesson) = self.listener.lesson() else { return };
            self.classifier.learn(&lesson, now);
            // Behind a fence what is held stays where it is.
            while !self.fenced
                && let Some(stream) = self.classifier.vouched(&lesson)
            {
                self.promote(stream);
            }
        }
    }

    /// Drains the guest's rings, stamps that with the open epoch, and only then opens the next (I2).
    fn close(&mut self) {
        let wanted = self.shared.gate.wanted_close();
        self.drain();
        self.shared.gate.answer_closed(Closed {
            epoch: wanted,
            frames: self.open_frames,
            bytes: self.open_bytes,
        });
        self.epoch = wanted + 1;
        (self.open_frames, self.open_bytes) = (0, 0);
        self.classifier.epoch_closed();
        self.paused = self.mode == Mode::Protected && !self.config.rings_tell;
        self.dirty = true;
    }

    fn drain(&mut self) {
        if !self.listens() {
            return;
        }
        for queue in 0..self.guest.queues() {
            for _ in 0..DRAIN_BURSTS {
                if self.receive_burst(queue) == 0 {
                    break;
                }
                self.send_bypass();
            }
        }
    }

    fn carry_out(&mut self) {
        let (number, order) = self.shared.gate.ordered();
        // The close that belongs to this order was stored before it, and the order is visible now.
        if self.shared.gate.wanted_close() >= self.epoch {
            self.close();
        }
        match order {
            Some(Order::Protect) => self.protect(),
            Some(Order::UnprotectRelease) => self.open(),
            Some(Order::UnprotectDrop) => {
                self.discard_held();
                self.open();
            }
            Some(Order::Mute) => {
                self.discard_held();
                self.empty_egress(DropReason::Muted);
                self.mode = Mode::Muted;
                self.paused = false;
                self.set_fenced(false);
            }
            Some(Order::UnmuteOpen) => {
                self.unmute();
                self.open();
            }
            Some(Order::UnmuteProtected) => {
                self.unmute();
                self.mode = Mode::Protected;
                self.free_up_to = 0;
            }
            Some(Order::Resumed) => self.paused = false,
            Some(Order::Policy) => {
                let classifier = &mut self.classifier;
                self.shared.policy.take(|new| classifier.set_policy(new));
            }
            Some(Order::Unfence) => {
                self.discard_held();
                self.empty_egress(DropReason::Fenced);
                self.set_fenced(false);
                self.protect();
            }
            Some(Order::JoinOpen) => self.join(Mode::Open),
            Some(Order::JoinProtected) => self.join(Mode::Protected),
            Some(Order::JoinMuted) => self.join(Mode::Muted),
            Some(Order::Leave) => {
                self.drain();
                self.joined = false;
            }
            None => {}
        }
        self.orders_done = number;
        self.dirty = true;
        self.shared.gate.answer_order(number);
    }

    /// The open epoch, begun by the close that came with the order, is the first to be held.
    fn protect(&mut self) {
        if self.mode == Mode::Open {
            self.free_up_to = self.epoch - 1;
        }
        self.mode = Mode::Protected;
        self.paused = !self.config.rings_tell;
    }

    /// The lane takes over all that its guest is: the epoch came with the close, the lease with its word.
    fn join(&mut self, mode: Mode) {
        self.joined = true;
        self.mode = mode;
        self.set_fenced(self.clock.now() >= self.shared.gate.lease());
    }

    /// The lease's word was stored before the order: [`Lane::obey`] compares it before anything is received.
    fn unmute(&mut self) {
        self.firsts.begin(self.clock.now(), &self.shared.counters);
        self.set_fenced(false);
    }

    fn open(&mut self) {
        self.mode = Mode::Open;
        self.paused = false;
        self.set_fenced(false);
    }

    /// The lease has ended: nothing leaves any more, bypassed frames included. What is held stays until
    /// somebody decides; what was on its way out is dropped.
    pub(super) fn fall_fence(&mut self) {
        self.set_fenced(true);
        self.empty_egress(DropReason::Fenced);
    }

    fn set_fenced(&mut self, fenced: bool) {
        self.fenced = fenced;
        self.shared.gate.tell_fenced(fenced);
    }

    /// Marks everything held as to be dropped; [`Lane::release`] frees it in chunks (I8).
    fn discard_held(&mut self) {
        self.discard_before = self.hold.end();
    }

    /// True while the lane may touch the guest's port.
    pub(super) fn listens(&self) -> bool {
        self.joined && !self.paused
    }
}
