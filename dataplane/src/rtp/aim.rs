//! The short way to the stream of a packet, in steps: where it would be, which it is, whether the packet is the usual
//! one. The first two are taken for all packets of a burst before the last is for any, so that the lcore asks for the
//! memory of many streams at once and does not wait for one after the other.

use super::{Set, Streams, WAYS, place};
use crate::streams::Page;
use crate::wire::express::Express;
use std::hint::black_box;

/// Where the stream of a packet is looked for, ahead of the packet's turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    /// Index of the first of the set, then of the stream.
    at: u32,
    tag: u64,
    name: u64,
}

impl Aim {
    /// Index of the stream that was found.
    #[inline(always)]
    pub fn index(&self) -> usize {
        self.at as usize
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

/// Looks ahead for the streams of packets that were read the short way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scout<'a> {
    sets: &'a [Set],
    pages: &'a [Page],
}

impl Scout<'_> {
    /// Where the stream of a packet would be. The memory is asked for, and not waited for.
    #[inline(always)]
    pub fn aim(&self, express: &Express<'_>) -> Option<Aim> {
        let name = (express.rtp().ssrc as u64) << 32 | express.ports() as u64;
        let (set, tag) = place(self.sets.len(), [0, mapped_low(express.src())], name);
        black_box(self.sets.get(set)?.tags[0]);
        Some(Aim { at: (set * WAYS) as u32, tag, name })
    }

    /// Finds the way of the stream; false if there is none. Asks for the memory of its page.
    #[inline(always)]
    pub fn find(&self, aim: &mut Aim) -> bool {
        let Some(set) = self.sets.get(aim.index() / WAYS) else { return false };
        let Some(way) = set.tags.iter().position(|found| *found == aim.tag) else { return false };
        aim.at += way as u32;
        let Some(Page { seen, sent }) = self.pages.get(aim.index()) else { return false };
        black_box((seen.version.mark(), sent.mark()));
        true
    }
}

impl Streams {
    /// For the packets of one burst.
    #[inline(always)]
    pub fn scout(&self) -> Scout<'_> {
        Scout { sets: &self.sets, pages: self.table.pages() }
    }

    /// True if the packet is the usual one of the stream that was found for it, whatever came between.
    #[inline(always)]
    pub fn is_usual_express(&self, aim: &Aim, express: &Express<'_>, sequence: u16, now: u64) -> bool {
        let address = [0, mapped_low(express.src())];
        self.is_usual(aim.index(), address, aim.name, mapped_low(express.dst()), sequence, now)
    }
}
