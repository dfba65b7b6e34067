//! From the guest's ring to a verdict: bypass, hold, or a counted drop.

use super::{Lane, LaneShared};
use crate::burst::Burst;
use crate::checksum::{self, Bad};
use crate::class::{Class, Decision, DropReason, Media, StreamRef, Verdict};
use crate::classify::{Ahead, Lookout, Shot, class_of};
use crate::egress::Leaving;
use crate::guest::Mode;
use crate::hold::Held;
use crate::port::{Frame, Port};
use crate::tsc::Clock;
use crate::wire::express::Express;
use crate::wire::{Headers, tcp, udp};

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
    /// A single frame.
    fn of(class: Class, len: u32) -> Tally {
        Tally { class, frames: 1, bytes: len.into() }
    }

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

/// What the frames of a burst share.
#[derive(Clone, Copy)]
struct Arrival {
    /// Their stamp.
    epoch: u64,
    /// TSC.
    now: u64,
    /// Bytes that a frame without tags may have; none where nothing may leave.
    longest: u32,
}

/// What each frame is.
#[inline(always)]
fn look_at<const RULED: bool, F: Frame>(lookout: Lookout<'_>, ahead: &mut [Ahead], frames: &[Option<F>]) {
    for (ahead, frame) in ahead.iter_mut().zip(frames) {
        *ahead = match frame {
            Some(frame) => lookout.look::<RULED>(frame.head(), frame.len()),
            None => Ahead::Any,
        };
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
        let mut burst = Burst::new();
        let got = self.guest.receive(queue, &mut burst);
        if got == 0 {
            return 0;
        }
        // I2: the stamp and the time are read after the dequeue, by the thread that dequeues.
        let now = self.clock.now();
        let epoch = self.epoch;
        let frames = burst.queued();
        frames.iter().flatten().for_each(Frame::prefetch);
        if let Some(Some(frame)) = frames.first() {
            self.identities.sample(frame.head(), frame.len(), now);
        }
        self.look_ahead(frames);
        let nothing_leaves = self.fenced || self.mode == Mode::Muted;
        let longest = if nothing_leaves { 0 } else { self.config.mtu + ETHERNET };
        let arrival = Arrival { epoch, now, longest };
        let mut tally = Tally::default();
        for (n, frame) in frames.iter_mut().enumerate() {
            // There are never more frames than places to look ahead.
            let Some(&ahead) = self.ahead.get(n) else { break };
            if let Some(frame) = frame.take() {
                self.take_in(frame, ahead, arrival, &mut tally);
            }
        }
        tally.count(&self.shared);
        if self.config.histograms {
            self.shared.latency.burst.record(got as u64);
        }
        got
    }

    /// Steps for all frames at once, each short: the memory that one waits for comes while others are looked at.
    #[inline(always)]
    fn look_ahead(&mut self, frames: &[Option<G::Frame>]) {
        let (lookout, ahead) = (self.classifier.lookout(), &mut self.ahead);
        let Some(lookout) = lookout else {
            return ahead.fill(Ahead::Any);
        };
        if lookout.is_ruled() {
            look_at::<true, _>(lookout, ahead, frames);
        } else {
            look_at::<false, _>(lookout, ahead, frames);
        }
        for (ahead, _) in ahead.iter_mut().zip(frames) {
            lookout.find(ahead);
        }
    }

    /// A frame, and what was seen of it.
    #[inline(always)]
    fn take_in(&mut self, mut frame: G::Frame, ahead: Ahead, arrival: Arrival, tally: &mut Tally) {
        let len = frame.len();
        match ahead {
            Ahead::Rtp(shot) => {
                if let Some(media) = self.express(&mut frame, &shot, len, arrival) {
                    tally.add(Class::Rtp, len, &self.shared);
                    let Arrival { epoch, now, .. } = arrival;
                    let about = Leaving { epoch, received_tsc: now, media: Some(media), class: Class::Rtp };
                    return self.bypass(frame, about);
                }
            }
            Ahead::Tcp if self.may_express_tcp(&mut frame, len, arrival) => {
                tally.add(Class::Tcp, len, &self.shared);
                return self.go(frame, len, self.classifier.tcp(), arrival, false);
            }
            _ => {}
        }
        self.take_any(frame, len, arrival);
    }

    /// Any frame.
    #[inline(never)]
    fn take_any(&mut self, mut frame: G::Frame, len: u32, arrival: Arrival) {
        let headers = Headers::parse(frame.head(), len);
        // First what may leave at all: a frame that may not proves no stream.
        if let Some(reason) = self.unfit(&mut frame, &headers, len) {
            let class = class_of(headers.kind);
            Tally::of(class, len).count(&self.shared);
            return Self::count_drop(&self.shared, class, reason);
        }
        let signals = self.listener.listens() && self.listener.hear(&frame, &headers, true);
        let decision = self.classifier.judge(&headers, frame.head(), len, arrival.now);
        Tally::of(decision.class, len).count(&self.shared);
        if decision.class == Class::Announce {
            self.identities.announced(&headers, frame.head(), arrival.now);
        }
        self.go(frame, len, decision, arrival, signals);
    }

    /// A frame that may leave at all goes where it was decided. `signals`: a copy of it is to be read as signalling.
    #[inline(always)]
    fn go(&mut self, frame: G::Frame, len: u32, decision: Decision, arrival: Arrival, signals: bool) {
        let Decision { verdict, class, media } = decision;
        let about = Leaving { epoch: arrival.epoch, received_tsc: arrival.now, media, class };
        match (self.mode, verdict) {
            (_, Verdict::Bypass) => self.bypass(frame, about),
            (_, Verdict::Refuse) => {
                let reason = if media.is_some() { DropReason::Replayed } else { DropReason::Refused };
                Self::count_drop(&self.shared, class, reason);
            }
            (Mode::Open, Verdict::Promote(_)) => self.bypass(frame, about),
            // Held frames of the same flow may still be on their way out: line up behind them (I3).
            (Mode::Open, _) if !self.hold.is_empty() || !self.egress.release.is_empty() => {
                self.keep(frame, len, about);
            }
            (Mode::Open, _) => self.bypass(frame, about),
            (_, Verdict::Hold) => {
                if self.keep(frame, len, about).is_some() && signals {
                    self.signalled(arrival.epoch);
                }
            }
            (_, Verdict::Probation(stream)) => {
                if let Some(position) = self.keep(frame, len, about) {
                    self.classifier.waiting(stream, position);
                }
            }
            (_, Verdict::Promote(stream)) => {
                self.promote(stream);
                self.bypass(frame, about);
            }
        }
    }

    /// A packet of a proven stream that may leave at once, found the short way; whatever else a frame is, the long way
    /// says.
    #[inline(always)]
    fn express(&mut self, frame: &mut G::Frame, shot: &Shot, len: u32, arrival: Arrival) -> Option<Media> {
        let packet = Express::of(frame.head())?;
        if !self.classifier.express(shot, &packet, arrival.now)
            || !self.fits(frame, len, arrival)
            || !checksum::settle_express(frame, udp::PROTOCOL, self.config.verify_checksums)
        {
            return None;
        }
        let packet = Express::of(frame.head())?;
        Some(self.classifier.pass_express(shot, &packet, arrival.now))
    }

    /// A plain TCP segment that may leave and is no signalling: SIP goes by TCP, too.
    #[inline(always)]
    fn may_express_tcp(&self, frame: &mut G::Frame, len: u32, arrival: Arrival) -> bool {
        !Express::of(frame.head()).is_none_or(|segment| self.listener.hears_tcp(segment.ports()))
            && self.fits(frame, len, arrival)
            && checksum::settle_express(frame, tcp::PROTOCOL, self.config.verify_checksums)
    }

    /// True for a frame without tags that may leave if its checksums are right.
    #[inline(always)]
    fn fits(&self, frame: &G::Frame, len: u32, arrival: Arrival) -> bool {
        len <= arrival.longest && !frame.unfinished()
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
        let class = about.class;
        if self.egress.bypass(frame, about).is_err() {
            Self::count_drop(&self.shared, class, DropReason::WireFull);
        }
    }

    /// Into the hold queue; at the quota the newest frame, this one, is dropped.
    #[inline]
    fn keep(&mut self, frame: G::Frame, len: u32, about: Leaving) -> Option<u64> {
        let Leaving { epoch, received_tsc, media, class } = about;
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
