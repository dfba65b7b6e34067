//! The short way's first two steps, taken for all frames of a burst before the third is for any: so the lcore waits for
//! memory once and not for each frame.

use crate::class::Verdict;
use crate::policy::{CompiledPolicy, RuleVerdict};
use crate::rtp::{Aim, Scout};
use crate::wire::express::{Express, Plain};
use crate::wire::{tcp, udp};

/// What was seen of a frame ahead of its turn.
#[derive(Clone, Copy, Debug)]
pub enum Ahead {
    /// Nothing: it is for the long way, [`super::Classifier::judge`].
    Any,
    /// A plain TCP segment, see [`super::Classifier::tcp`].
    Tcp,
    /// A plain RTP packet, see [`super::Classifier::express`].
    Rtp(Shot),
}

/// A plain RTP packet and its stream.
#[derive(Clone, Copy, Debug)]
pub struct Shot(pub(super) Aim);

/// What the two steps ask.
#[derive(Clone, Copy, Debug)]
pub struct Lookout<'a> {
    pub(super) scout: Scout<'a>,
    /// Where there are rules.
    pub(super) rules: Option<&'a CompiledPolicy>,
    pub(super) tcp: Verdict,
}

impl Lookout<'_> {
    /// True where there are rules.
    #[inline(always)]
    pub fn is_ruled(&self) -> bool {
        self.rules.is_some()
    }

    /// What the frame is. [`Ahead::Any`] says nothing: [`super::Classifier::judge`] does. `RULED`: as [`Lookout::is_ruled`] says.
    #[inline(always)]
    pub fn look<const RULED: bool>(&self, head: &[u8], frame_len: u32) -> Ahead {
        match Plain::read(head, frame_len) {
            Some(Plain::Rtp(packet)) if !RULED || self.leaves_rtp(&packet) => {
                self.scout.aim(&packet).map_or(Ahead::Any, |aim| Ahead::Rtp(Shot(aim)))
            }
            Some(Plain::Tcp(segment)) if !RULED || self.leaves_tcp(&segment) => Ahead::Tcp,
            _ => Ahead::Any,
        }
    }

    /// No rule, or one that says what becomes of proven media anyway.
    #[inline(always)]
    fn leaves_rtp(&self, packet: &Express<'_>) -> bool {
        self.rules.is_none_or(|rules| {
            let ruled = rules.plain_rule(packet, udp::PROTOCOL, packet.rtp().ssrc);
            ruled.is_none_or(|verdict| verdict == RuleVerdict::Bypass)
        })
    }

    /// No rule, or one that says what the policy says.
    #[inline(always)]
    fn leaves_tcp(&self, segment: &Express<'_>) -> bool {
        self.rules.is_none_or(|rules| match rules.plain_rule(segment, tcp::PROTOCOL, 0) {
            None => true,
            Some(RuleVerdict::Bypass) => self.tcp == Verdict::Bypass,
            Some(RuleVerdict::Hold) => self.tcp == Verdict::Hold,
            Some(RuleVerdict::Refuse) => false,
        })
    }

    /// The second: the stream of a packet is found.
    #[inline(always)]
    pub fn find(&self, ahead: &mut Ahead) {
        if let Ahead::Rtp(Shot(aim)) = ahead
            && !self.scout.find(aim)
        {
            *ahead = Ahead::Any;
        }
    }
}
