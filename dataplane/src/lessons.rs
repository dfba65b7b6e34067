//! The guest's ports that signalling named, beside [`crate::endpoints`]: the same key, asked at the same places.
//!
//! Lessons alone write here, so no flood of traffic displaces one. An entry ends when signalling says so, or after
//! [`LIFETIME_NS`]; in a full set the one learned longest ago goes first.

use crate::arena::{Arena, Slice};
use crate::ear::Learned;
use crate::endpoints::Endpoint;
use crate::tsc::TscRate;

/// How long a lesson holds unless it is said again.
pub const LIFETIME_NS: u64 = 3_600_000_000_000;
const WAYS: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Entry {
    endpoint: Endpoint,
    what: Option<Learned>,
    at: u64,
}

const FREE: Entry = Entry { endpoint: Endpoint { address: [0; 2], port: 0, channel: 0 }, what: None, at: 0 };

/// A bounded table of lessons.
#[derive(Debug)]
pub(crate) struct Lessons {
    sets: Slice<[Entry; WAYS]>,
    used: usize,
    fax: usize,
    lifetime: u64,
}

impl Lessons {
    /// Room for `count` lessons (a power of two, at least the ways of one set).
    pub fn new(count: usize, rate: TscRate, arena: &mut impl Arena) -> Self {
        let sets = arena.slice((count / WAYS).max(1), || [FREE; WAYS]);
        Lessons { sets, used: 0, fax: 0, lifetime: rate.ticks(LIFETIME_NS) }
    }

    /// True when nothing is learned.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// True when there is a fax among them.
    #[inline(always)]
    pub fn has_fax(&self) -> bool {
        self.fax != 0
    }

    fn set(&self, endpoint: Endpoint) -> usize {
        let words = endpoint.address[0].rotate_left(29) ^ endpoint.address[1] ^ (endpoint.port as u64) << 17;
        (words.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (self.sets.len() - 1)
    }

    fn put(&mut self, set: usize, way: usize, entry: Entry) {
        let place = &mut self.sets[set][way];
        let fax = |entry: &Entry| usize::from(entry.what == Some(Learned::Udptl));
        self.fax = self.fax - fax(place) + fax(&entry);
        self.used = self.used - usize::from(place.what.is_some()) + usize::from(entry.what.is_some());
        *place = entry;
    }

    /// The port is for `what`.
    pub fn learn(&mut self, endpoint: Endpoint, what: Learned, now: u64) {
        let at = self.set(endpoint);
        let set = &self.sets[at];
        let same = |e: &Entry| e.endpoint == endpoint && e.what == Some(what);
        let oldest = || (0..WAYS).min_by_key(|way| (set[*way].what.is_some(), set[*way].at)).unwrap_or(0);
        let way = set.iter().position(same).unwrap_or_else(oldest);
        self.put(at, way, Entry { endpoint, what: Some(what), at: now });
    }

    /// It no longer is.
    pub fn forget(&mut self, endpoint: Endpoint, what: Learned) {
        let set = self.set(endpoint);
        let same = |e: &Entry| e.endpoint == endpoint && e.what == Some(what);
        if let Some(way) = self.sets[set].iter().position(same) {
            self.put(set, way, FREE);
        }
    }

    fn of(&self, endpoint: Endpoint, now: u64) -> impl Iterator<Item = Learned> {
        let lives = move |e: &&Entry| e.endpoint == endpoint && now.saturating_sub(e.at) <= self.lifetime;
        self.sets[self.set(endpoint)].iter().filter(lives).filter_map(|e| e.what)
    }

    /// True when the port is for `what`.
    pub fn learned(&self, endpoint: Endpoint, what: Learned, now: u64) -> bool {
        self.of(endpoint, now).any(|learned| learned == what)
    }

    /// The port of the media whose RTCP this port is for.
    pub fn media_of(&self, endpoint: Endpoint, now: u64) -> Option<u16> {
        self.of(endpoint, now).find_map(|learned| match learned {
            Learned::Rtcp { of } => Some(of),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;

    fn at(port: u16) -> Endpoint {
        Endpoint { address: [1, 2], port, channel: 0 }
    }

    fn table(count: usize) -> Lessons {
        Lessons::new(count, TscRate::new(1_000_000_000), &mut Heap)
    }

    #[test]
    fn a_lesson_holds_until_it_is_taken_back_or_an_hour_has_gone() {
        let mut table = table(64);
        assert!(table.is_empty());
        table.learn(at(5000), Learned::Rtp, 10);
        assert!(table.learned(at(5000), Learned::Rtp, 10 + LIFETIME_NS));
        assert!(!table.learned(at(5000), Learned::Rtp, 11 + LIFETIME_NS));
        table.learn(at(5000), Learned::Rtp, 20);
        assert!(table.learned(at(5000), Learned::Rtp, 20 + LIFETIME_NS), "said again");
        assert!(!table.learned(at(5000), Learned::Udptl, 20) && !table.learned(at(5001), Learned::Rtp, 20));
        table.forget(at(5000), Learned::Udptl);
        assert!(table.learned(at(5000), Learned::Rtp, 20));
        table.forget(at(5000), Learned::Rtp);
        assert!(!table.learned(at(5000), Learned::Rtp, 20) && table.is_empty());
    }

    #[test]
    fn a_port_may_be_for_a_call_and_its_fax_at_once() {
        let mut table = table(64);
        table.learn(at(5000), Learned::Rtp, 1);
        assert!(!table.has_fax());
        table.learn(at(5000), Learned::Udptl, 1);
        assert!(table.has_fax());
        table.forget(at(5000), Learned::Rtp);
        assert!(table.learned(at(5000), Learned::Udptl, 1) && !table.learned(at(5000), Learned::Rtp, 1));
        table.forget(at(5000), Learned::Udptl);
        assert!(!table.has_fax());
        table.learn(at(6000), Learned::Rtcp { of: 5000 }, 1);
        assert_eq!((table.media_of(at(6000), 1), table.media_of(at(5000), 1)), (Some(5000), None));
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_goes_first() {
        let mut table = table(64);
        for port in 1024..65000 {
            table.learn(at(port), Learned::Udptl, port.into());
        }
        assert!(table.used <= 64 && table.fax == table.used);
        assert!(table.learned(at(64999), Learned::Udptl, 65000));
        assert!(!table.learned(at(1024), Learned::Udptl, 65000));
    }
}
