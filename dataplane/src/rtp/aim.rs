//! The short way to the stream of a packet, in steps: where it would be, which it is, whether the packet is the usual
//! one. The first two are taken for all packets of a burst before the last is for any, so that the lcore asks for the
//! memory of many streams at once and does not wait for one after the other.

use super::{Streams, WAYS};
use crate::streams::Page;
use crate::wire::express::Express;
use std::hint::black_box;

/// Where the stream of a packet is looked for, ahead of the packet's turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    name: u64,
    tag: u64,
    /// Index of the first of the set, then of the stream.
    at: usize,
}

impl Aim {
    /// Index of the stream that was found.
    #[inline(always)]
    pub fn index(&self) -> usize {
        self.at
    }
}

/// The second of the [`words`] of an IPv4-mapped address whose last four bytes are `address`.
#[inline(always)]
fn mapped_low(address: u32) -> u64 {
    if cfg!(target_endian = "little") {
        (address as u64) << 32 | 0xffff_0000
    } else {
        0xffff_0000_0000 | address as u64
    }
}

impl Streams {
    /// Where the stream of a packet would be that was read the short way. The memory is asked for, and not waited for.
    #[inline(always)]
    pub fn aim(&self, express: &Express) -> Aim {
        let Express { rtp, sport, dport, .. } = express;
        let name = (rtp.ssrc as u64) << 32 | (*sport as u64) << 16 | *dport as u64;
        let (set, tag) = self.place([0, mapped_low(express.src)], name);
        black_box(self.sets[set].tags[0]);
        Aim { name, tag, at: set * WAYS }
    }

    /// Finds the way of the stream; false if there is none. Asks for the memory of its page.
    #[inline(always)]
    pub fn find(&self, aim: &mut Aim) -> bool {
        let Some(way) = self.sets[aim.at / WAYS].tags.iter().position(|found| *found == aim.tag) else {
            return false;
        };
        aim.at += way;
        let Page { seen, sent } = self.table.page(aim.at);
        black_box((seen.version.mark(), sent.mark()));
        true
    }

    /// True if the packet is the usual one of the stream that was found for it, whatever came between.
    #[inline(always)]
    pub fn is_usual_express(&self, aim: &Aim, express: &Express, now: u64) -> bool {
        let address = [0, mapped_low(express.src)];
        self.is_usual(aim.at, address, aim.name, mapped_low(express.dst), express.rtp.sequence, now)
    }
}
