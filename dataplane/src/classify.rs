//! What is to become of a frame: rules, then the policy, with media recognised under every policy.
//!
//! The order of decision:
//!
//! 1. the plane's own announcement (RARP) passes, under every policy;
//! 2. the first rule of the operator that matches;
//! 3. a later fragment goes the way of its first one;
//! 4. the policy.
//!
//! A frame that nobody recognises is held. RTP is recognised under every policy, so that the quality of
//! held streams is known too; the verdict then follows the policy.

use crate::arena::Arena;
use crate::class::{Class, Decision, Media, StreamRef, Verdict};
use crate::ear::{Learned, Lesson};
use crate::fragments::{Fate, Fragments};
use crate::policy::{CompiledPolicy, PolicyName, RuleVerdict};
use crate::port::Frame;
use crate::rtp::{Inherited, Sighting, Stage, Streams, Waiting};
use crate::streams::StreamTable;
use crate::tsc::TscRate;
use crate::udptl;
use crate::wire::express::Express;
use crate::wire::rtp::{Packet, Rtp, is_plain_rtcp};
use crate::wire::{Headers, Kind, arp, icmpv6, ipv6};
use std::sync::Arc;

/// Judges the frames of one guest port. Owned by the lane's lcore; allocates only when it is made.
#[derive(Debug)]
pub struct Classifier {
    policy: Box<CompiledPolicy>,
    streams: Streams,
    fragments: Fragments,
    srtcp: Srtcp,
}

/// What becomes of RTCP that is not plain. After a failover the index of SRTCP would come round again, and nobody tells a
/// standby which was the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Srtcp {
    /// It goes with its media.
    Passes,
    /// It waits for its commit, where the guest is protected.
    Waits,
}

/// What a frame is, before rules and policy have their say.
struct Sight {
    class: Class,
    /// What `realtime` says of it.
    realtime: Verdict,
    media: Option<Media>,
}

impl Sight {
    const fn held(class: Class) -> Sight {
        Sight { class, realtime: Verdict::Hold, media: None }
    }

    const fn passed(class: Class) -> Sight {
        Sight { class, realtime: Verdict::Bypass, media: None }
    }

    fn media(stream: StreamRef, stage: Stage, rtp: &Rtp) -> Sight {
        let (class, realtime) = match stage {
            Stage::Media => (Class::Rtp, Verdict::Bypass),
            Stage::Proof => (Class::Rtp, Verdict::Promote(stream)),
            Stage::Run => (Class::Udp, Verdict::Probation(stream)),
            Stage::Idle => (Class::Udp, Verdict::Hold),
            Stage::Replayed => (Class::Rtp, Verdict::Refuse),
        };
        let media = Media { stream, sequence: rtp.sequence, timestamp: rtp.timestamp };
        Sight { class, realtime, media: Some(media) }
    }
}

impl Classifier {
    /// `streams`: RTP streams to keep track of, see [`crate::streams::DEFAULT_STREAMS`]. `rate` is that of
    /// the clock that `now` is read from in all calls.
    pub fn new(policy: Box<CompiledPolicy>, streams: usize, rate: TscRate, arena: &mut impl Arena) -> Self {
        Classifier {
            policy,
            streams: Streams::new(streams, rate, arena),
            fragments: Fragments::new(rate, arena),
            srtcp: Srtcp::Passes,
        }
    }

    /// Sets what becomes of SRTCP.
    pub fn set_srtcp(&mut self, srtcp: Srtcp) {
        self.srtcp = srtcp;
    }

    /// Takes a stream over from the dead primary; false when there is no room for it.
    pub fn inherit(&mut self, stream: &Inherited, now: u64) -> bool {
        self.streams.inherit(stream, now)
    }

    /// Replaces the policy and gives the old one back, for the control thread to free. Promoted streams stay
    /// promoted; which frames wait under probation is forgotten: a change of policy moves no frame that is
    /// already held.
    pub fn set_policy(&mut self, policy: Box<CompiledPolicy>) -> Box<CompiledPolicy> {
        self.streams.forget_waiting();
        self.fragments.forget();
        std::mem::replace(&mut self.policy, policy)
    }

    /// The policy in force.
    pub fn policy(&self) -> &CompiledPolicy {
        &self.policy
    }

    /// The streams, for anybody to read.
    pub fn table(&self) -> Arc<StreamTable> {
        self.streams.table()
    }

    /// Judges a frame received at `now` (TSC).
    pub fn classify(&mut self, frame: &impl Frame, now: u64) -> Decision {
        let (head, len) = (frame.head(), frame.len());
        let lookout = self.lookout();
        let mut ahead = lookout.map_or(Ahead::Any, |lookout| lookout.look::<true>(head, len));
        if let Some(lookout) = lookout {
            lookout.find(&mut ahead);
        }
        if let Ahead::Rtp(shot) = ahead
            && let Some(packet) = Express::of(head)
            && self.express(&shot, &packet, now)
        {
            let media = Some(self.pass_express(&shot, &packet, now));
            return Decision { verdict: Verdict::Bypass, class: Class::Rtp, media };
        }
        self.judge(&Headers::parse(head, len), head, len, now)
    }

    /// The short way, for nearly all frames: those that can be read at fixed places, TCP or of a stream that has nothing
    /// left to prove, unless a rule wants something else of them. `None` where media is held. No step but the last
    /// changes anything.
    #[inline(always)]
    pub fn lookout(&self) -> Option<Lookout<'_>> {
        self.policy.passes_media().then(|| Lookout {
            scout: self.streams.scout(),
            rules: self.policy.has_rules().then_some(&*self.policy),
            tcp: self.tcp().verdict,
        })
    }

    /// The third, when it is its turn: true if it may pass, after all that came before it.
    #[inline(always)]
    pub fn express(&self, Shot(aim): &Shot, packet: &Express<'_>, now: u64) -> bool {
        self.streams.is_usual_express(aim, packet, packet.rtp().sequence, now)
    }

    /// The last: it passes.
    #[inline(always)]
    pub fn pass_express(&mut self, Shot(aim): &Shot, packet: &Express<'_>, now: u64) -> Media {
        let rtp = packet.rtp();
        let stream = self.streams.note_usual(aim.index(), &rtp, now);
        Media { stream, sequence: rtp.sequence, timestamp: rtp.timestamp }
    }

    /// What becomes of TCP where no rule says otherwise.
    #[inline(always)]
    pub fn tcp(&self) -> Decision {
        let passes = self.policy.name() == PolicyName::BypassAll;
        let verdict = if passes { Verdict::Bypass } else { Verdict::Hold };
        Decision { verdict, class: Class::Tcp, media: None }
    }

    /// The same as [`Classifier::classify`] of a frame of `frame_len` bytes whose first segment is `head` and whose headers were
    /// parsed before.
    #[inline(always)]
    pub fn judge(&mut self, headers: &Headers, head: &[u8], frame_len: u32, now: u64) -> Decision {
        if self.policy.has_rules() || headers.is_fragment() {
            return self.judge_by_rules(headers, head, frame_len, now);
        }
        let sight = match headers.kind {
            Kind::Tcp => return self.tcp(),
            Kind::Udp => match self.read_udp(headers, head) {
                Packet::Rtp(rtp) => match self.streams.see_usual(headers, &rtp, now) {
                    Some(stream) if self.policy.passes_media() => {
                        let media = Media { stream, sequence: rtp.sequence, timestamp: rtp.timestamp };
                        return Decision { verdict: Verdict::Bypass, class: Class::Rtp, media: Some(media) };
                    }
                    Some(stream) => Sight::media(stream, Stage::Media, &rtp),
                    None => self.see_rtp(headers, head, rtp, now),
                },
                Packet::Other => self.see_other(headers, head, now),
                packet => self.see_companion(packet, headers, head, now),
            },
            kind => self.see_rare(kind, headers, head, frame_len),
        };
        self.decide(self.by_policy(&sight, headers), sight)
    }

    /// A frame that rules, or the first fragment of its datagram, may decide about.
    #[inline(never)]
    fn judge_by_rules(&mut self, headers: &Headers, head: &[u8], frame_len: u32, now: u64) -> Decision {
        let ruled = match self.rule_for(headers, head, now) {
            Some(_) if arp::is_rarp_announcement(headers, head, frame_len) => None,
            ruled => ruled.map(|(_, verdict)| verdict),
        };
        if ruled == Some(RuleVerdict::Refuse) {
            if headers.more_fragments {
                self.fragments.first(headers, Some(Fate::Refused), now);
            }
            return Decision { verdict: Verdict::Refuse, class: class_of(headers.kind), media: None };
        }
        let sight = match headers.kind {
            Kind::Udp => self.see_udp(headers, head, now),
            kind => self.see_rare(kind, headers, head, frame_len),
        };
        let mut verdict = match ruled {
            Some(RuleVerdict::Bypass) if sight.realtime == Verdict::Refuse => Verdict::Refuse,
            Some(RuleVerdict::Bypass) => Verdict::Bypass,
            Some(_) => Verdict::Hold,
            None => self.by_policy(&sight, headers),
        };
        if headers.is_fragment() {
            verdict = self.with_its_first(verdict, headers, now);
        }
        self.decide(verdict, sight)
    }

    #[inline(always)]
    fn decide(&self, verdict: Verdict, sight: Sight) -> Decision {
        if let Some(media) = sight.media
            && matches!(verdict, Verdict::Hold | Verdict::Probation(_))
        {
            self.streams.held(media.stream);
        }
        Decision { verdict, class: sight.class, media: sight.media }
    }

    #[inline(always)]
    fn by_policy(&self, sight: &Sight, headers: &Headers) -> Verdict {
        match self.policy.name() {
            PolicyName::Realtime => sight.realtime,
            // Held, a packet is in the checkpoint that lets it go, and comes once.
            PolicyName::HoldAll if headers.kind == Kind::Rarp => sight.realtime,
            PolicyName::HoldAll => Verdict::Hold,
            _ if sight.realtime == Verdict::Refuse => Verdict::Refuse,
            PolicyName::NonTcp if may_be_tcp(headers) => Verdict::Hold,
            PolicyName::NonTcp | PolicyName::BypassAll => Verdict::Bypass,
        }
    }

    #[inline(always)]
    fn read_udp(&self, headers: &Headers, head: &[u8]) -> Packet {
        // A surplus area is not media, nor is a packet that is sent round by other routers.
        if headers.surplus || headers.final_dst_at != 0 {
            return Packet::Other;
        }
        Packet::read(headers.payload(head), headers.payload_len as usize)
    }

    fn see_udp(&mut self, headers: &Headers, head: &[u8], now: u64) -> Sight {
        match self.read_udp(headers, head) {
            Packet::Rtp(rtp) => self.see_rtp(headers, head, rtp, now),
            Packet::Other => self.see_other(headers, head, now),
            packet => self.see_companion(packet, headers, head, now),
        }
    }

    /// T.38 and what TURN channels carry pass where signalling said so, and nowhere else.
    #[inline(always)]
    fn see_other(&mut self, headers: &Headers, head: &[u8], now: u64) -> Sight {
        if self.streams.fax_is_learned() || self.streams.channel_is_learned() {
            return self.look_closer(headers, head, now);
        }
        Sight::held(Class::Udp)
    }

    /// A fax of some length counts its packets into the first bytes of RTP and RTCP. Where a call and its fax share a
    /// port, those win.
    #[inline(always)]
    fn is_only_fax(&self, headers: &Headers, head: &[u8], now: u64) -> bool {
        self.streams.fax_is_learned()
            && !self.streams.is_learned(headers, Learned::Rtp, now)
            && self.is_fax(headers, head, now)
    }

    #[cold]
    fn is_fax(&self, headers: &Headers, head: &[u8], now: u64) -> bool {
        let whole = !headers.is_fragment() && !headers.surplus && headers.final_dst_at == 0;
        let payload = headers.payload(head);
        whole
            && payload.len() == headers.payload_len as usize
            && self.streams.is_learned(headers, Learned::Udptl, now)
            && udptl::is_packet(payload)
    }

    #[inline(never)]
    fn see_rtp(&mut self, headers: &Headers, head: &[u8], rtp: Rtp, now: u64) -> Sight {
        if self.is_only_fax(headers, head, now) {
            return Sight::passed(Class::Udptl);
        }
        match self.streams.see(&Sighting { headers, rtp, channel: 0, policy: &self.policy, now }) {
            Some((stream, stage)) => Sight::media(stream, stage, &rtp),
            None => Sight::held(Class::Udp),
        }
    }

    /// What shares a port with media.
    #[inline(never)]
    fn see_companion(&mut self, packet: Packet, headers: &Headers, head: &[u8], now: u64) -> Sight {
        if self.is_only_fax(headers, head, now) {
            return Sight::passed(Class::Udptl);
        }
        if headers.is_fragment() {
            return Sight::held(Class::Udp);
        }
        let payload = (headers.payload(head), headers.payload_len as usize);
        self.see_set_up(packet, headers, 0, payload, now)
    }

    /// RTCP, and what sets media up: sent directly, or through this channel.
    /// `payload`: the bytes of it that are at hand, and how long it is.
    fn see_set_up(
        &mut self,
        packet: Packet,
        headers: &Headers,
        channel: u16,
        (payload, len): (&[u8], usize),
        now: u64,
    ) -> Sight {
        match packet {
            Packet::Rtcp { packet_type } => {
                // Sender reports to extended reports: the types that are in use.
                if (200..=207).contains(&packet_type) {
                    self.streams.set_up(headers, channel, false, now);
                }
                if self.streams.has_stream(headers, channel, now) {
                    // Its index would come again after a failover.
                    match self.srtcp == Srtcp::Waits && !is_plain_rtcp(payload, len) {
                        true => Sight::held(Class::Rtcp),
                        false => Sight::passed(Class::Rtcp),
                    }
                } else {
                    Sight::held(Class::Udp)
                }
            }
            _ => {
                self.streams.set_up(headers, channel, packet == Packet::Dtls, now);
                Sight::held(Class::Udp)
            }
        }
    }

    #[inline(never)]
    fn see_rare(&self, kind: Kind, headers: &Headers, head: &[u8], frame_len: u32) -> Sight {
        let announces = match kind {
            Kind::Arp => arp::is_arp(headers, head, frame_len),
            Kind::Rarp => arp::is_rarp_announcement(headers, head, frame_len),
            Kind::Icmpv6 => icmpv6::is_discovery(headers, head),
            _ => false,
        };
        if announces { Sight::passed(Class::Announce) } else { Sight::held(class_of(kind)) }
    }

    /// Fragments: the first one's verdict is kept for the later ones.
    #[inline(never)]
    fn with_its_first(&mut self, verdict: Verdict, headers: &Headers, now: u64) -> Verdict {
        if headers.kind == Kind::Fragment {
            return match self.fragments.later(headers, now) {
                Some(Fate::Gone) => Verdict::Bypass,
                Some(Fate::Refused) => Verdict::Refuse,
                None => verdict,
            };
        }
        let fate = match verdict {
            Verdict::Bypass => Some(Fate::Gone),
            Verdict::Refuse => Some(Fate::Refused),
            _ => None,
        };
        self.fragments.first(headers, fate, now);
        verdict
    }

    /// The frame that got [`Verdict::Probation`] waits at `position` of the hold queue (unique, rising).
    pub fn waiting(&mut self, stream: StreamRef, position: u64) {
        self.streams.waiting(stream, position);
    }

    /// After [`Verdict::Promote`]: where the frames of the same run wait, to be let go right before this one.
    /// Some may have left with a commit meanwhile.
    pub fn take_waiting(&mut self, stream: StreamRef) -> Waiting {
        self.streams.take_waiting(stream)
    }

    /// These packets left to the wire at `now`, however long they were held.
    #[inline]
    pub fn departed(&mut self, media: impl Iterator<Item = Media>, now: u64) {
        self.streams.departed(media, now);
    }

    /// What signalling said of a port of the guest, at `now`.
    pub fn learn(&mut self, lesson: &Lesson, now: u64) {
        self.streams.learn(lesson, now);
    }

    /// A stream of the lesson's port that has packets waiting and that nobody vouched for before: as if it had just
    /// proven itself, see [`Verdict::Promote`]. Ask until there is none.
    pub fn vouched(&mut self, lesson: &Lesson) -> Option<StreamRef> {
        let media = lesson.open && lesson.what == Learned::Rtp;
        media.then(|| self.streams.vouched(lesson))?
    }

    /// True when signalling has named the sender's port for RTP.
    pub fn is_learned(&self, headers: &Headers, now: u64) -> bool {
        self.streams.is_learned(headers, Learned::Rtp, now)
    }

    /// An epoch was closed: a datagram that began in it is not continued in the next one.
    pub fn epoch_closed(&mut self) {
        self.fragments.forget();
    }
}

/// The class of a frame that was not recognised as anything more.
pub(crate) fn class_of(kind: Kind) -> Class {
    match kind {
        Kind::Malformed => Class::Malformed,
        Kind::Unknown | Kind::Other | Kind::Arp | Kind::Rarp => Class::Other,
        Kind::Udp => Class::Udp,
        Kind::Tcp => Class::Tcp,
        Kind::Icmp | Kind::Icmpv6 | Kind::Ip | Kind::Fragment => Class::Ip,
    }
}

/// What `non-tcp` holds: TCP, and what cannot be told from it.
fn may_be_tcp(headers: &Headers) -> bool {
    match headers.kind {
        Kind::Tcp | Kind::Malformed | Kind::Unknown => true,
        Kind::Fragment => {
            headers.protocol == crate::wire::tcp::PROTOCOL
                || headers.version == 6 && ipv6::is_extension(headers.protocol)
        }
        _ => false,
    }
}

mod channel;
mod explain;
mod lookout;

pub use explain::{Explanation, Found, Reason};
pub use lookout::{Ahead, Lookout, Shot};

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod tests;
