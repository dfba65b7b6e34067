//! From the guest's ring to a verdict: bypass, hold, or a counted drop.

use super::{Lane, LaneShared};
use crate::checksum::{self, Bad};
use crate::class::{Class, Decision, DropReason, Media, StreamRef, Verdict};
use crate::classify::class_of;
use crate::egress::Leaving;
use crate::guest::Mode;
use crate::hold::Held;
use crate::port::{Frame, Port};
use crate::tsc::Clock;
use crate::wire::Headers;

/// Bytes of an Ethernet header, and of each VLAN tag in it: the MTU does not count them.
const ETHERNET: u32 = 14;
const TAG: u32 = 4;

/// Received frames of one class that came one behind the other: counted together.
struct Tally {
    class: Class,
    frames: u64,
    bytes: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { class: Class::Other, frames: 0, bytes: 0 }
    }
}

impl Tally {
    #[inline(always)]
    fn add(&mut self, class: Class, len: u32, shared: &LaneShared) {
        if class != self.class {
            self.count(shared);
            *self = Tally { class, frames: 0, bytes: 0 };
        }
        self.frames += 1;
        self.bytes += u64::from(len);
    }

    #[inline]
    fn count(&self, shared: &LaneShared) {
        let counters = &shared.counters.class[self.class as usize];
        counters.received.add(self.frames);
        counters.received_bytes.add(self.bytes);
    }
}

impl<G: Port, W: Port<Frame = G::Frame>, C: Clock> Lane<G, W, C>
where
    G::Frame: Send + 'static,
{
    /// Takes one burst from each of the guest's queues. True when there was anything.
    #[inline]
    pub fn receive(&mut self) -> bool {
        if !self.listens() {
            return false;
        }
        let mut got = 0;
        for queue in 0..self.guest.queues() {
            got += self.receive_burst(queue);
        }
        got > 0
    }

    pub(super) fn receive_burst(&mut self, queue: u16) -> usize {
        let got = self.guest.receive(queue, &mut self.rx);
        if got == 0 {
            return 0;
        }
        // I2: the stamp and the time are read after the dequeue, by the thread that dequeues.
        let now = self.clock.now();
        let epoch = self.epoch;
        self.rx.iter().for_each(Frame::prefetch);
        // Steps for all frames at once, each short: the memory that one waits for comes while others are looked at.
        for (ahead, frame) in self.ahead.iter_mut().zip(self.rx.queued()) {
            *ahead = frame.as_ref().and_then(|frame| self.classifier.look_ahead(frame.head(), frame.len()));
        }
        for ahead in &mut self.ahead[..got] {
            self.classifier.find_ahead(ahead);
        }
        let mut tally = Tally::default();
        for n in 0..got {
            let Some(frame) = self.rx.pop() else { break };
            self.take_in(frame, n, epoch, now, &mut tally);
        }
        tally.count(&self.shared);
        if self.config.histograms {
            self.shared.latency.burst.record(got as u64);
        }
        got
    }

    #[inline(always)]
    fn take_in(&mut self, mut frame: G::Frame, n: usize, epoch: u64, now: u64, tally: &mut Tally) {
        let len = frame.len();
        if let Some(media) = self.express(&mut frame, n, len, now) {
            tally.add(Class::Rtp, len, &self.shared);
            let about = Leaving { epoch, received_tsc: now, media: Some(media), len, class: Class::Rtp };
            return self.bypass(frame, about);
        }
        self.take_any(frame, len, epoch, now, tally);
    }

    /// Any frame.
    #[inline(always)]
    fn take_any(&mut self, mut frame: G::Frame, len: u32, epoch: u64, now: u64, tally: &mut Tally) {
        let headers = Headers::parse(frame.head(), len);
        // First what may leave at all: a frame that may not proves no stream.
        if let Some(reason) = self.unfit(&mut frame, &headers, len) {
            let class = class_of(headers.kind);
            tally.add(class, len, &self.shared);
            return Self::count_drop(&self.shared, class, reason);
        }
        let signals = self.listener.listens() && self.listener.hear(&frame, &headers, true);
        let Decision { verdict, class, media } = self.classifier.judge(&headers, frame.head(), len, now);
        tally.add(class, len, &self.shared);
        let about = Leaving { epoch, received_tsc: now, media, len, class };
        match (self.mode, verdict) {
            (_, Verdict::Bypass) => self.bypass(frame, about),
            (_, Verdict::Refuse) => Self::count_drop(&self.shared, class, DropReason::Refused),
            (Mode::Open, Verdict::Promote(_)) => self.bypass(frame, about),
            // Held frames of the same flow may still be on their way out: line up behind them (I3).
            (Mode::Open, _) if !self.hold.is_empty() || !self.egress.release.is_empty() => {
                self.keep(frame, about);
            }
            (Mode::Open, _) => self.bypass(frame, about),
            (_, Verdict::Hold) => {
                if self.keep(frame, about).is_some() && signals {
                    self.signalled(epoch);
                }
            }
            (_, Verdict::Probation(stream)) => {
                if let Some(position) = self.keep(frame, about) {
                    self.classifier.waiting(stream, position);
                }
            }
            (_, Verdict::Promote(stream)) => {
                self.promote(stream);
                self.bypass(frame, about);
            }
        }
    }

    /// A packet of a proven stream that may leave at once, found the short way as the `n`th of its burst; whatever else
    /// a frame is, the long way says.
    #[inline(always)]
    fn express(&mut self, frame: &mut G::Frame, n: usize, len: u32, now: u64) -> Option<Media> {
        let ahead = self.ahead[n].as_ref()?;
        if !self.classifier.express(ahead, now)
            || self.fenced
            || self.mode == Mode::Muted
            || len > self.config.mtu + ETHERNET
            || frame.unfinished()
        {
            return None;
        }
        checksum::settle_express(frame, ahead.udp_len(), self.config.verify_checksums)
            .then(|| self.classifier.pass_express(ahead, now))
    }

    /// Why this frame may not reach the wire, whatever its verdict. Puts in a checksum that was left to us.
    #[inline]
    fn unfit(&self, frame: &mut G::Frame, headers: &Headers, len: u32) -> Option<DropReason> {
        if self.fenced {
            Some(DropReason::Fenced)
        } else if self.mode == Mode::Muted {
            Some(DropReason::Muted)
        } else if len > self.config.mtu + ETHERNET + TAG * u32::from(headers.tags) || frame.unfinished() {
            Some(DropReason::Oversize)
        } else {
            match checksum::settle(frame, headers, self.config.verify_checksums) {
                Ok(()) => None,
                Err(Bad::Unreadable) => Some(DropReason::Unreadable),
                Err(_) => Some(DropReason::Checksum),
            }
        }
    }

    #[inline(always)]
    fn bypass(&mut self, frame: G::Frame, about: Leaving) {
        if let Err((_, about)) = self.egress.bypass(frame, about) {
            Self::count_drop(&self.shared, about.class, DropReason::WireFull);
        }
    }

    /// Into the hold queue; at the quota the newest frame, this one, is dropped.
    #[inline]
    fn keep(&mut self, frame: G::Frame, about: Leaving) -> Option<u64> {
        let Leaving { epoch, received_tsc, media, len, class } = about;
        let mbufs = frame.segments();
        self.dirty = true;
        match self.hold.push(Held { frame, epoch, received_tsc, class, media, len, mbufs }) {
            Ok(position) => {
                self.open_frames += 1;
                self.open_bytes += u64::from(len);
                Some(position)
            }
            Err(held) => {
                Self::count_drop(&self.shared, held.class, DropReason::HoldFull);
                None
            }
        }
    }

    /// The guest's signalling waits in this epoch: its checkpoint may come early.
    #[cold]
    fn signalled(&self, epoch: u64) {
        self.shared.counters.signalling.add(1);
        self.shared.counters.signalled_epoch.set(epoch);
    }

    /// The stream is media: what it has waiting under probation leaves now, in order.
    #[cold]
    pub(super) fn promote(&mut self, stream: StreamRef) {
        self.shared.counters.promotions.add(1);
        self.dirty = true;
        let shared = &self.shared;
        self.egress.hasten(stream, |about| Self::count_drop(shared, about.class, DropReason::WireFull));
        for &position in self.classifier.take_waiting(stream).positions() {
            if position >= self.discard_before
                && let Some(held) = self.hold.take(position)
            {
                let about = Leaving::from(&held);
                self.bypass(held.frame, about);
            }
        }
    }
}
