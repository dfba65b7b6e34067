//! From the wire to the guest: never held, queued within bounds while the guest does not take it.

use super::Lane;
use crate::guest::Mode;
use crate::port::Port;
use crate::tsc::Clock;

impl<G: Port, W: Port<Frame = G::Frame>, C: Clock> Lane<G, W, C>
where
    G::Frame: Send + 'static,
{
    /// Moves one burst from each of the wire's queues towards the guest. True when there was anything.
    #[inline]
    pub fn guestward(&mut self) -> bool {
        let mut busy = self.deliver();
        for queue in 0..self.wire.queues() {
            let got = self.wire.receive(queue, &mut self.rx);
            if got == 0 {
                continue;
            }
            busy = true;
            self.shared.counters.guestward_received.add(got as u64);
            if self.mode == Mode::Muted || !self.joined {
                // The standby's VM does not run; what its predecessor was sent is not for it.
                let mut dropped = 0;
                while self.rx.pop().is_some() {
                    dropped += 1;
                }
                self.shared.counters.guestward_dropped.add(dropped);
                continue;
            }
            if self.listener.listens() {
                self.rx.iter().for_each(|frame| self.listener.overhear(frame));
            }
            let to = queue % self.guest.queues().max(1);
            if !self.paused && self.inward.is_empty() && self.inward_backlog.is_empty() {
                let sent = self.guest.transmit(to, &mut self.rx);
                self.shared.counters.guestward_sent.add(sent as u64);
            }
            while let Some(frame) = self.rx.pop() {
                self.dirty = true;
                if self.inward_backlog.push((to, frame)).is_err() {
                    self.shared.counters.guestward_dropped.add(1);
                }
            }
        }
        busy
    }

    /// Gives the guest what waits for it, oldest first.
    fn deliver(&mut self) -> bool {
        if !self.listens() || (self.inward.is_empty() && self.inward_backlog.is_empty()) {
            return false;
        }
        if self.inward.is_empty() {
            self.fill_inward();
        }
        let sent = self.guest.transmit(self.inward_queue, &mut self.inward);
        self.shared.counters.guestward_sent.add(sent as u64);
        self.dirty |= sent > 0;
        sent > 0
    }

    /// A burst of frames for one and the same queue.
    fn fill_inward(&mut self) {
        let Some((queue, frame)) = self.inward_backlog.pop() else { return };
        self.inward_queue = queue;
        let mut next = Some(frame);
        while let Some(frame) = next.take() {
            if self.inward.push(frame).is_err() || self.inward.is_full() {
                return;
            }
            if self.inward_backlog.iter().next().is_some_and(|(to, _)| *to == queue) {
                next = self.inward_backlog.pop().map(|(_, frame)| frame);
            }
        }
    }
}
