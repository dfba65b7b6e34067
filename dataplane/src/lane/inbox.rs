//! What the control side handed over: a primary's streams and identities, and announcements for the wire.

use super::Lane;
use crate::class::Class;
use crate::egress::{self, Leaving, Sent, Stage};
use crate::guest::Mode;
use crate::inbox::{A_POLL, Handed};
use crate::port::Port;
use crate::tsc::Clock;

impl<G: Port, W: Port<Frame = G::Frame>, C: Clock> Lane<G, W, C>
where
    G::Frame: Send + 'static,
{
    #[cold]
    pub(super) fn take_inbox(&mut self, now: u64) {
        let inbox = &self.shared.inbox;
        for _ in 0..A_POLL {
            let Some(handed) = self.inbox.handed() else { break };
            match handed {
                Handed::Identity(identity) => self.identities.note(identity, now),
                // What the guest has sent here is known better than what anybody tells of it.
                Handed::Stream(stream)
                    if self.mode == Mode::Muted && self.classifier.inherit(&stream, now) =>
                {
                    inbox.inherited.add(1);
                }
                Handed::Stream(_) => inbox.not_inherited.add(1),
            }
        }
        self.announce();
        self.inbox.answer();
    }

    /// Announcements wait for nothing and are under no policy, but the fence and the muting hold for them too (I9). What
    /// does not leave at once is dropped: it is said again anyway.
    fn announce(&mut self) {
        let (inbox, now) = (&self.shared.inbox, self.clock.now());
        let mut stage = Stage::new();
        for _ in 0..A_POLL {
            let Some(announcement) = self.inbox.announcement() else { break };
            let bytes = announcement.bytes();
            let silent = self.fenced || self.mode == Mode::Muted || !self.joined;
            let frame = if silent { None } else { self.wire.compose(bytes) };
            let about = Leaving { epoch: self.epoch, received_tsc: now, media: None, class: Class::Announce };
            if frame.is_none_or(|frame| stage.push(frame, about).is_err()) {
                inbox.not_announced.add(1);
            }
        }
        if stage.is_empty() {
            return;
        }
        let lease = self.shared.gate.lease();
        let sent = egress::send(&mut stage, &mut self.wire, now, lease, |gone| {
            inbox.announced.add(gone.runs().map(|(_, frames)| frames).sum());
        });
        inbox.not_announced.add(stage.len() as u64);
        if sent == Sent::Late {
            self.fall_fence();
        }
    }
}
