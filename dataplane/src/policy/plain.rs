//! What rules say of the frames that nearly all traffic is (see [`crate::wire::express`]): IPv4 without tags, options or
//! fragments, read at fixed places. The usual handful of rules is so few comparisons that nobody measures them.

use super::{CompiledPolicy, RuleVerdict};
use crate::wire::express::Express;

/// A rule as it meets such a frame. Addresses are words as they lie in the frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlainRule {
    src: u32,
    src_mask: u32,
    dst: u32,
    dst_mask: u32,
    sport: Range<u16>,
    dport: Range<u16>,
    ssrc: Range<u32>,
    verdict: RuleVerdict,
}

/// A lower bound and how far above it a value may be: one comparison.
#[derive(Clone, Copy, Debug)]
struct Range<T> {
    first: T,
    width: T,
}

macro_rules! range {
    ($t:ty) => {
        impl Range<$t> {
            const fn new(bounds: ($t, $t)) -> Self {
                Range { first: bounds.0, width: bounds.1.wrapping_sub(bounds.0) }
            }

            #[inline(always)]
            fn has(self, value: $t) -> bool {
                value.wrapping_sub(self.first) <= self.width
            }
        }
    };
}

range!(u16);
range!(u32);

impl PlainRule {
    pub(super) const NEVER: PlainRule = PlainRule {
        src: 0,
        src_mask: 0,
        dst: 0,
        dst_mask: 0,
        sport: Range { first: 0, width: 0 },
        dport: Range { first: 0, width: 0 },
        ssrc: Range { first: 0, width: 0 },
        verdict: RuleVerdict::Hold,
    };

    /// Addresses and their masks as IPv4-mapped bits, bounds with their ends.
    pub(super) fn new(
        [(src, src_mask), (dst, dst_mask)]: [(u128, u128); 2],
        [sport, dport]: [(u16, u16); 2],
        ssrc: (u32, u32),
        verdict: RuleVerdict,
    ) -> PlainRule {
        let low = |bits: u128| (bits as u32).to_be();
        PlainRule {
            src: low(src),
            src_mask: low(src_mask),
            dst: low(dst),
            dst_mask: low(dst_mask),
            sport: Range::<u16>::new(sport),
            dport: Range::<u16>::new(dport),
            ssrc: Range::<u32>::new(ssrc),
            verdict,
        }
    }
}

impl CompiledPolicy {
    /// Which rules may match a value in a field, by the low byte of the value. Most rules name a port or a host: so most are out
    /// before anything is compared.
    pub(super) fn sift(&mut self, n: usize) {
        let rule = self.plain_rules[n];
        for low in 0..=255u8 {
            let bit = 1u64 << n;
            let host = |address: u32, mask: u32| {
                let [last, of_mask] = [address, mask].map(|word| word.to_ne_bytes()[3]);
                low & of_mask == last
            };
            let port = |range: Range<u16>| {
                let next = low.wrapping_sub(range.first as u8);
                u16::from(next) <= range.width
            };
            let fits = [
                host(rule.src, rule.src_mask),
                host(rule.dst, rule.dst_mask),
                port(rule.sport),
                port(rule.dport),
            ];
            for (field, fits) in self.plain_by_low.iter_mut().zip(fits) {
                field[low as usize] |= if fits { bit } else { 0 };
            }
        }
    }

    /// What the first rule that matches says of a plain frame of this protocol, whose SSRC (0 for TCP) the frame names.
    /// The same as [`CompiledPolicy::rule_for`] says of it.
    #[inline(always)]
    pub(crate) fn plain_rule(&self, frame: &Express<'_>, protocol: u8, ssrc: u32) -> Option<RuleVerdict> {
        let mut candidates = self.plain & self.by_protocol[protocol as usize] & self.by_dscp[frame.dscp()];
        let (src, dst, ports) = (frame.src(), frame.dst(), frame.ports());
        let (sport, dport) = ((ports >> 16) as u16, ports as u16);
        let lows = [src.to_ne_bytes()[3], dst.to_ne_bytes()[3], sport as u8, dport as u8];
        for (field, low) in self.plain_by_low.iter().zip(lows) {
            candidates &= field[low as usize];
        }
        while candidates != 0 {
            let rule = &self.plain_rules[candidates.trailing_zeros() as usize % super::MAX];
            let matches = (src & rule.src_mask == rule.src)
                & (dst & rule.dst_mask == rule.dst)
                & rule.sport.has(sport)
                & rule.dport.has(dport)
                & rule.ssrc.has(ssrc);
            if matches {
                return Some(rule.verdict);
            }
            candidates &= candidates - 1;
        }
        None
    }
}
