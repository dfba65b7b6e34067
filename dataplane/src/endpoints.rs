//! What a guest's own address and port has shown: that media is set up there (STUN, DTLS, RTCP), and which
//! promoted streams it sends. Asked off the usual way only: for a stream on probation, and for RTCP.
//!
//! What signalling said of a port stands beside it, in [`crate::lessons`]: traffic cannot displace that.

use crate::arena::{Arena, Slice};

const WAYS: usize = 4;
/// Streams remembered for a port. Any living one admits RTCP, so a few are enough.
const STREAMS: usize = 4;

/// Address (in two words of its bytes) and port of the guest; and a TURN channel of that port, which is a port of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub address: [u64; 2],
    pub port: u16,
    /// 0 for what is sent directly.
    pub channel: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    endpoint: Endpoint,
    used: bool,
    /// TSC of the last STUN, DTLS or RTCP.
    set_up: Option<u64>,
    /// DTLS was among it.
    dtls: bool,
    /// TSC of the last change: the oldest goes first.
    touched: u64,
    /// Marks of promoted streams; 0 for none.
    streams: [u32; STREAMS],
}

/// A bounded table of endpoints.
#[derive(Debug)]
pub(crate) struct Endpoints {
    sets: Slice<[Entry; WAYS]>,
}

impl Endpoints {
    /// Room for `count` endpoints (a power of two, at least the ways of one set).
    pub fn new(count: usize, arena: &mut impl Arena) -> Self {
        Endpoints { sets: arena.slice((count / WAYS).max(1), || [Entry::default(); WAYS]) }
    }

    fn set(&self, endpoint: Endpoint) -> usize {
        let port = u64::from(endpoint.port) << 17 ^ u64::from(endpoint.channel) << 37;
        let words = endpoint.address[0].rotate_left(29) ^ endpoint.address[1] ^ port;
        (words.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (self.sets.len() - 1)
    }

    fn find(&self, endpoint: Endpoint) -> Option<&Entry> {
        self.sets[self.set(endpoint)].iter().find(|entry| entry.used && entry.endpoint == endpoint)
    }

    /// The endpoint's entry, made if need be from a free one or the oldest that has no living stream.
    fn entry(&mut self, endpoint: Endpoint, now: u64, lives: impl Fn(u32) -> bool) -> Option<&mut Entry> {
        let set = self.set(endpoint);
        let set = &mut self.sets[set];
        if let Some(way) = set.iter().position(|entry| entry.used && entry.endpoint == endpoint) {
            return Some(&mut set[way]);
        }
        let entry = set
            .iter_mut()
            .filter(|entry| !entry.used || !entry.streams.iter().any(|mark| lives(*mark)))
            .min_by_key(|entry| (entry.used, entry.touched))?;
        *entry = Entry { endpoint, used: true, touched: now, ..Entry::default() };
        Some(entry)
    }

    /// STUN, RTCP or `dtls` was seen there.
    pub fn note_set_up(&mut self, endpoint: Endpoint, dtls: bool, now: u64, lives: impl Fn(u32) -> bool) {
        if let Some(entry) = self.entry(endpoint, now, lives) {
            entry.set_up = Some(now);
            entry.dtls |= dtls;
            entry.touched = now;
        }
    }

    /// True when STUN, DTLS or RTCP was seen there in the last `idle` ticks.
    pub fn is_set_up(&self, endpoint: Endpoint, now: u64, idle: u64) -> bool {
        self.find(endpoint)
            .and_then(|entry| entry.set_up)
            .is_some_and(|set_up| now.saturating_sub(set_up) <= idle)
    }

    /// True when DTLS was seen there.
    pub fn is_secure(&self, endpoint: Endpoint) -> bool {
        self.find(endpoint).is_some_and(|entry| entry.dtls)
    }

    /// The stream `mark` was promoted there.
    pub fn note_promoted(&mut self, endpoint: Endpoint, mark: u32, now: u64, lives: impl Fn(u32) -> bool) {
        if let Some(entry) = self.entry(endpoint, now, &lives) {
            entry.touched = now;
            let streams = &entry.streams;
            let slot = streams.iter().position(|old| *old == mark || !lives(*old)).unwrap_or(0);
            entry.streams[slot] = mark;
        }
    }

    /// True when a living promoted stream comes from there.
    pub fn has_stream(&self, endpoint: Endpoint, lives: impl Fn(u32) -> bool) -> bool {
        self.find(endpoint).is_some_and(|entry| entry.streams.iter().any(|mark| lives(*mark)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;

    fn at(port: u16) -> Endpoint {
        Endpoint { address: [1, 2], port, channel: 0 }
    }

    #[test]
    fn set_up_ends_after_idle_time() {
        let mut endpoints = Endpoints::new(64, &mut Heap);
        endpoints.note_set_up(at(5000), false, 100, |_| false);
        assert!(!endpoints.is_secure(at(5000)));
        endpoints.note_set_up(at(5000), true, 100, |_| false);
        endpoints.note_set_up(at(5000), false, 100, |_| false);
        assert!(endpoints.is_secure(at(5000)) && !endpoints.is_secure(at(5001)));
        assert!(endpoints.is_set_up(at(5000), 130, 30));
        assert!(!endpoints.is_set_up(at(5000), 131, 30));
        assert!(!endpoints.is_set_up(at(5001), 100, 30));
    }

    #[test]
    fn a_flood_of_ports_displaces_no_living_stream() {
        let mut endpoints = Endpoints::new(64, &mut Heap);
        let lives = |mark| mark == 7;
        endpoints.note_promoted(at(5000), 7, 1, lives);
        for port in 6000..60000 {
            endpoints.note_set_up(at(port), true, port as u64, lives);
        }
        assert!(endpoints.has_stream(at(5000), lives));
        assert!(!endpoints.has_stream(at(5000), |_| false));
        assert!(!endpoints.has_stream(at(5001), lives));
    }

    #[test]
    fn a_port_with_many_streams_remembers_a_living_one() {
        let mut endpoints = Endpoints::new(64, &mut Heap);
        for mark in 1..100 {
            endpoints.note_promoted(at(5000), mark, 1, |old| old != 0 && old + 3 > mark);
            assert!(endpoints.has_stream(at(5000), |old| old == mark));
        }
    }
}
