//! TURN channels that the guest has bound, as its signalling showed: whose data may be looked into.
//!
//! Beside [`crate::lessons`] and not among them, so that neither displaces the other. Lessons alone write here. An entry
//! ends when it is taken back or after [`LIFETIME_NS`]; in a full set the one learned longest ago goes first.

use crate::arena::{Arena, Slice};
use crate::endpoints::Endpoint;
use crate::tsc::TscRate;

/// How long a channel lasts unless it is bound again (RFC 8656, 12).
pub const LIFETIME_NS: u64 = 600_000_000_000;
const WAYS: usize = 8;
/// Streams of a lane for one channel that it can learn.
const SHARE: usize = 4;

/// A channel: the guest's port with the channel's number, and the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Channel {
    /// The guest's end of it.
    pub at: Endpoint,
    /// The server's address, in two words of its bytes.
    pub server: [u64; 2],
    /// The server's port.
    pub server_port: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    channel: Channel,
    used: bool,
    /// TSC of the last lesson.
    at: u64,
}

/// A bounded table of channels.
#[derive(Debug)]
pub(crate) struct Channels {
    sets: Slice<[Entry; WAYS]>,
    used: usize,
    lifetime: u64,
}

impl Channels {
    /// For a lane of `streams` streams (a power of two).
    pub fn new(streams: usize, rate: TscRate, arena: &mut impl Arena) -> Self {
        let sets = arena.slice((streams / SHARE / WAYS).max(1), || [Entry::default(); WAYS]);
        Channels { sets, used: 0, lifetime: rate.ticks(LIFETIME_NS) }
    }

    /// True when nothing is learned.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn set(&self, channel: &Channel) -> usize {
        let Channel { at, server, server_port } = channel;
        let ports = u64::from(at.port) << 32 | u64::from(at.channel) << 16 | u64::from(*server_port);
        let words = at.address[0].rotate_left(29) ^ at.address[1] ^ server[0].rotate_left(43) ^ server[1];
        let mixed = words.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ports;
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (self.sets.len() - 1)
    }

    /// The channel was bound, or bound again.
    pub fn learn(&mut self, channel: Channel, now: u64) {
        let at = self.set(&channel);
        let set = &mut self.sets[at];
        let same = |e: &Entry| e.used && e.channel == channel;
        let oldest = |set: &[Entry; WAYS]| (0..WAYS).min_by_key(|way| (set[*way].used, set[*way].at));
        let way = set.iter().position(same).or_else(|| oldest(set)).unwrap_or(0);
        self.used += usize::from(!set[way].used);
        set[way] = Entry { channel, used: true, at: now };
    }

    /// It is no more.
    pub fn forget(&mut self, channel: Channel) {
        let at = self.set(&channel);
        if let Some(entry) = self.sets[at].iter_mut().find(|e| e.used && e.channel == channel) {
            *entry = Entry::default();
            self.used -= 1;
        }
    }

    /// True when the guest has bound it and may still use it.
    pub fn is_bound(&self, channel: Channel, now: u64) -> bool {
        self.sets[self.set(&channel)]
            .iter()
            .any(|e| e.used && e.channel == channel && now.saturating_sub(e.at) <= self.lifetime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;

    fn channel(number: u16) -> Channel {
        let at = Endpoint { address: [1, 2], port: 40000, channel: number };
        Channel { at, server: [3, 4], server_port: 3478 }
    }

    fn table(streams: usize) -> Channels {
        Channels::new(streams, TscRate::new(1_000_000_000), &mut Heap)
    }

    #[test]
    fn a_channel_lasts_ten_minutes_unless_it_is_bound_again_or_let_go() {
        let mut table = table(64);
        assert!(table.is_empty());
        table.learn(channel(0x4000), 10);
        assert!(table.is_bound(channel(0x4000), 10 + LIFETIME_NS));
        assert!(!table.is_bound(channel(0x4000), 11 + LIFETIME_NS));
        table.learn(channel(0x4000), 20);
        assert!(table.is_bound(channel(0x4000), 20 + LIFETIME_NS), "again");
        table.forget(channel(0x4001));
        assert!(table.is_bound(channel(0x4000), 20));
        table.forget(channel(0x4000));
        assert!(!table.is_bound(channel(0x4000), 20) && table.is_empty());
    }

    #[test]
    fn every_part_of_a_channel_counts() {
        let mut table = table(8);
        let known = channel(0x4000);
        table.learn(known, 1);
        let at = known.at;
        for other in [
            channel(0x4001),
            Channel { server: [3, 5], ..known },
            Channel { server: [4, 4], ..known },
            Channel { server_port: 3479, ..known },
            Channel { at: Endpoint { port: 40001, ..at }, ..known },
            Channel { at: Endpoint { address: [1, 3], ..at }, ..known },
        ] {
            assert!(!table.is_bound(other, 1), "{other:?}");
        }
        assert!(table.is_bound(known, 1));
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_goes_first() {
        let mut table = table(256);
        for number in 0x4000..=0x4fff {
            table.learn(channel(number), number.into());
        }
        assert!(table.used <= 64);
        assert!(table.is_bound(channel(0x4fff), 0x5000) && !table.is_bound(channel(0x4000), 0x5000));
    }
}
