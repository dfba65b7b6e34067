//! A policy as the lcore asks it: of fixed size, without allocation, and free of cost without rules.
//!
//! Each rule is a bit in a word; protocol, code point and IP version each have a table of such words, so
//! that only rules which agree in all three are compared.

use super::plain::PlainRule;
use super::{MAX, Policy, PolicyName, Prefix, Rule, RuleVerdict};
use crate::wire::ipv6::is_extension;
use crate::wire::rtp::Tag;
use crate::wire::{Headers, Kind};
use std::ops::RangeInclusive;

/// A rule as masks and bounds. Compared only with frames that agree in protocol, code point and version.
#[derive(Clone, Copy, Debug)]
struct Compiled {
    src: u128,
    src_mask: u128,
    dst: u128,
    dst_mask: u128,
    sport: (u16, u16),
    dport: (u16, u16),
    vlan: u16,
    vlan_mask: u16,
    ports: bool,
    ssrc: (u32, u32),
    protocol: Option<u8>,
    verdict: RuleVerdict,
}

impl Compiled {
    const NEVER: Compiled = Compiled {
        src: 0,
        src_mask: 0,
        dst: 0,
        dst_mask: 0,
        sport: (0, u16::MAX),
        dport: (0, u16::MAX),
        vlan: 0,
        vlan_mask: 0,
        ports: false,
        ssrc: (0, u32::MAX),
        protocol: None,
        verdict: RuleVerdict::Hold,
    };
}

/// A policy as the lcore asks it. Made by [`Policy::compile`].
#[derive(Debug)]
pub struct CompiledPolicy {
    name: PolicyName,
    count: usize,
    has_media_ports: bool,
    /// Rules that name an SSRC: without one, no packet is read for it.
    by_ssrc: u64,
    by_version: [u64; 3],
    pub(super) by_dscp: [u64; 64],
    pub(super) by_protocol: [u64; 256],
    rules: [Compiled; MAX],
    /// Rules that may match IPv4 without tags.
    pub(super) plain: u64,
    pub(super) plain_rules: [PlainRule; MAX],
    /// Of those, the ones that may match by the low byte of source, destination and their ports.
    pub(super) plain_by_low: [[u64; 256]; 4],
    /// One bit for each port.
    media_ports: [u64; 1024],
}

impl CompiledPolicy {
    /// `policy` is a valid one.
    pub(super) fn new(policy: &Policy) -> Box<CompiledPolicy> {
        let mut compiled = Box::new(CompiledPolicy {
            name: policy.name,
            count: policy.rules.len(),
            has_media_ports: !policy.media_ports.is_empty(),
            by_ssrc: 0,
            by_version: [0; 3],
            by_dscp: [0; 64],
            by_protocol: [0; 256],
            rules: [Compiled::NEVER; MAX],
            plain: 0,
            plain_rules: [PlainRule::NEVER; MAX],
            plain_by_low: [[0; 256]; 4],
            media_ports: [0; 1024],
        });
        for (n, rule) in policy.rules.iter().enumerate() {
            compiled.add(n, rule);
        }
        for port in policy.media_ports.iter().cloned().flatten() {
            compiled.media_ports[port as usize / 64] |= 1 << (port % 64);
        }
        compiled
    }

    fn add(&mut self, n: usize, rule: &Rule) {
        let bit = 1u64 << n;
        for version in 0..3 {
            if rule.versions() & 1 << version != 0 {
                self.by_version[version] |= bit;
            }
        }
        for protocol in 0..=255u8 {
            let fits = rule.protocol.is_none_or(|wanted| wanted == protocol);
            let has_ports = !rule.has_ports() || matches!(protocol, 6 | 17);
            let has_ssrc = rule.ssrc.is_none() || protocol == 17;
            if is_extension(protocol) || fits && has_ports && has_ssrc {
                self.by_protocol[protocol as usize] |= bit;
            }
        }
        for dscp in 0..64u8 {
            if rule.dscp.is_none_or(|wanted| wanted == dscp) {
                self.by_dscp[dscp as usize] |= bit;
            }
        }
        if rule.ssrc.is_some() {
            self.by_ssrc |= bit;
        }
        let (src, src_mask) = rule.src.map_or((0, 0), Prefix::bits);
        let (dst, dst_mask) = rule.dst.map_or((0, 0), Prefix::bits);
        let bounds = |range: &Option<RangeInclusive<u16>>| {
            range.as_ref().map_or((0, u16::MAX), |r| (*r.start(), *r.end()))
        };
        let (sport, dport) = (bounds(&rule.sport), bounds(&rule.dport));
        let ssrc = rule.ssrc.as_ref().map_or((0, u32::MAX), |r| (*r.start(), *r.end()));
        if rule.versions() & 1 << 1 != 0 && rule.vlan.unwrap_or(0) == 0 {
            self.plain |= bit;
            self.plain_rules[n] =
                PlainRule::new([(src, src_mask), (dst, dst_mask)], [sport, dport], ssrc, rule.verdict);
            self.sift(n);
        }
        self.rules[n] = Compiled {
            src,
            src_mask,
            dst,
            dst_mask,
            sport,
            dport,
            vlan: rule.vlan.unwrap_or(0),
            vlan_mask: if rule.vlan.is_some() { 0x0fff } else { 0 },
            ports: rule.has_ports(),
            ssrc,
            protocol: rule.protocol,
            verdict: rule.verdict,
        };
    }

    /// Which of the four.
    #[inline(always)]
    pub fn name(&self) -> PolicyName {
        self.name
    }

    /// True when media passes.
    #[inline(always)]
    pub fn passes_media(&self) -> bool {
        self.name != PolicyName::HoldAll
    }

    /// True when there is any rule.
    #[inline(always)]
    pub fn has_rules(&self) -> bool {
        self.count != 0
    }

    /// True when the guest's port `port` was given as a media port.
    #[inline(always)]
    pub fn is_media_port(&self, port: u16) -> bool {
        self.has_media_ports && self.media_ports[port as usize / 64] & 1 << (port % 64) != 0
    }

    /// The first rule that matches: its number from 0 and its verdict. `head` is what the headers were read from.
    ///
    /// Where nobody can tell whether a rule means the datagram (of a later fragment, or one whose RTP header lies in
    /// another segment), it is held. Frames whose headers could not be read match rules about VLANs alone, and are
    /// never let go by one.
    #[inline]
    pub fn rule_for(&self, h: &Headers, head: &[u8]) -> Option<(usize, RuleVerdict)> {
        self.first_rule(h, || Tag::of(h, head))
    }

    /// The same for a datagram whose tag is not that of its first bytes.
    #[inline(never)]
    pub(crate) fn rule_for_tag(&self, h: &Headers, tag: impl Fn() -> Tag) -> Option<(usize, RuleVerdict)> {
        self.first_rule(h, tag)
    }

    /// The same for a packet whose SSRC is known, not its bytes.
    pub fn rule_for_ssrc(&self, h: &Headers, ssrc: u32) -> Option<(usize, RuleVerdict)> {
        self.first_rule(h, || Tag::Ssrc(ssrc))
    }

    #[inline]
    fn first_rule(&self, h: &Headers, tag: impl Fn() -> Tag) -> Option<(usize, RuleVerdict)> {
        let readable = !matches!(h.kind, Kind::Malformed | Kind::Unknown);
        let version = match h.version {
            4 if readable => 1,
            6 if readable => 2,
            _ => 0,
        };
        let mut candidates = self.by_version[version];
        if version != 0 {
            candidates &= self.by_protocol[h.protocol as usize] & self.by_dscp[(h.dscp & 63) as usize];
        }
        let tag = if candidates & self.by_ssrc != 0 { tag() } else { Tag::None };
        let (src, dst) = (u128::from_be_bytes(h.src), u128::from_be_bytes(h.dst));
        while candidates != 0 {
            let n = candidates.trailing_zeros() as usize;
            let names_ssrc = self.by_ssrc >> n & 1 != 0;
            candidates &= candidates - 1;
            let rule = &self.rules[n];
            if h.vlan_id() & rule.vlan_mask != rule.vlan
                || src & rule.src_mask != rule.src
                || dst & rule.dst_mask != rule.dst
            {
                continue;
            }
            // A later fragment has no ports, and over IPv6 it may name an extension header in place of
            // the protocol: nobody can tell whether this rule means its datagram.
            if (rule.ports || names_ssrc) && !h.has_ports()
                || rule.protocol.is_some_and(|wanted| wanted != h.protocol)
            {
                if h.kind == Kind::Fragment {
                    return Some((n, RuleVerdict::Hold));
                }
                continue;
            }
            if !(rule.sport.0..=rule.sport.1).contains(&h.sport)
                || !(rule.dport.0..=rule.dport.1).contains(&h.dport)
            {
                continue;
            }
            if names_ssrc {
                match tag {
                    Tag::Ssrc(ssrc) if (rule.ssrc.0..=rule.ssrc.1).contains(&ssrc) => {}
                    Tag::Untold => return Some((n, RuleVerdict::Hold)),
                    _ => continue,
                }
            }
            let verdict = match rule.verdict {
                RuleVerdict::Bypass if !readable => RuleVerdict::Hold,
                verdict => verdict,
            };
            return Some((n, verdict));
        }
        None
    }
}
