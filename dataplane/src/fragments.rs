//! Later IP fragments carry no ports: they go the way of their first one, if that was let go or refused.
//!
//! A small table that forgets. An entry ends when the datagram's bytes are complete, with the epoch in
//! which it was made, after [`LIFETIME_NS`], or when the policy changes. A miss is for the caller to hold.

use crate::arena::{Arena, Slice};
use crate::tsc::TscRate;
use crate::wire::Headers;

/// How long a datagram may take.
const LIFETIME_NS: u64 = 2_000_000_000;
const SETS: usize = 64;
const WAYS: usize = 4;

/// What became of the first fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It went to the wire at once.
    Gone,
    /// It was refused.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    src: [u8; 16],
    dst: [u8; 16],
    id: u32,
    protocol: u8,
    /// Entries of an earlier round are free.
    round: u64,
    since: u64,
    /// Bytes of the datagram seen so far.
    bytes: u32,
    /// Bytes of the whole datagram, once its last fragment was seen.
    total: u32,
    fate: Fate,
}

/// The table. See the module's head.
#[derive(Debug)]
pub(crate) struct Fragments {
    sets: Slice<[Entry; WAYS]>,
    round: u64,
    lifetime: u64,
}

impl Fragments {
    /// An empty table.
    pub fn new(rate: TscRate, arena: &mut impl Arena) -> Self {
        let free = Entry {
            src: [0; 16],
            dst: [0; 16],
            id: 0,
            protocol: 0,
            round: 0,
            since: 0,
            bytes: 0,
            total: 0,
            fate: Fate::Refused,
        };
        Fragments { sets: arena.slice(SETS, || [free; WAYS]), round: 1, lifetime: rate.ticks(LIFETIME_NS) }
    }

    /// Forgets everything, in one step.
    pub fn forget(&mut self) {
        self.round += 1;
    }

    /// The first fragment of a datagram was judged. `None`: it is held, and so is what follows.
    #[inline(never)]
    pub fn first(&mut self, headers: &Headers, fate: Option<Fate>, now: u64) {
        let set = set_of(headers);
        let set = &mut self.sets[set];
        let known = set.iter().position(|entry| entry.round == self.round && entry.is_of(headers));
        let Some(fate) = fate else {
            // A number that comes round again: what it meant before is over.
            if let Some(way) = known {
                set[way].round = 0;
            }
            return;
        };
        let oldest = || (0..WAYS).min_by_key(|way| (set[*way].round, set[*way].since)).unwrap_or(0);
        let way = known.unwrap_or_else(oldest);
        set[way] = Entry {
            src: headers.src,
            dst: headers.dst,
            id: headers.fragment_id,
            protocol: key_protocol(headers),
            round: self.round,
            since: now,
            bytes: network_bytes(headers),
            total: u16::MAX as u32,
            fate,
        };
    }

    /// What became of the first fragment of this later one's datagram, if that is known.
    #[inline(never)]
    pub fn later(&mut self, headers: &Headers, now: u64) -> Option<Fate> {
        let (round, lifetime) = (self.round, self.lifetime);
        let entry = self.sets[set_of(headers)]
            .iter_mut()
            .find(|entry| entry.round == round && entry.is_of(headers))?;
        if now.saturating_sub(entry.since) > lifetime {
            entry.round = 0;
            return None;
        }
        let end = headers.fragment_offset as u32 + headers.payload_len;
        if !headers.more_fragments {
            entry.total = end;
        }
        entry.bytes += headers.payload_len;
        if entry.bytes > entry.total {
            // The datagram was complete before: this is not its fragment.
            entry.round = 0;
            return None;
        }
        Some(entry.fate)
    }
}

/// Bytes of the datagram that this fragment has. The UDP or TCP header is among them.
fn network_bytes(headers: &Headers) -> u32 {
    headers.network_end - headers.transport_at as u32
}

/// IPv4 numbers datagrams for each protocol (RFC 791). IPv6 does not, and a later fragment may name an
/// extension header where the first one shows the protocol behind it (RFC 8200, 4.5).
fn key_protocol(headers: &Headers) -> u8 {
    if headers.version == 4 { headers.protocol } else { 0 }
}

fn set_of(headers: &Headers) -> usize {
    (headers.fragment_id.wrapping_mul(0x9e37_79b1) >> 26) as usize % SETS
}

impl Entry {
    fn is_of(&self, headers: &Headers) -> bool {
        self.id == headers.fragment_id
            && self.protocol == key_protocol(headers)
            && self.src == headers.src
            && self.dst == headers.dst
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;
    use crate::wire::sample;

    const SECOND: u64 = 1_000_000_000;

    fn table() -> Fragments {
        Fragments::new(TscRate::new(SECOND), &mut Heap)
    }

    /// Three fragments of 64, 64 and 80 bytes.
    fn parts() -> [Headers; 3] {
        let udp = sample::datagram(40000, 5004, &[7; 200]);
        [(0x2000, 0..64), (0x2008, 64..128), (0x0010, 128..208)].map(|(field, bytes)| {
            let frame = sample::ipv4(17, &[], field, &udp[bytes]);
            Headers::parse(&frame, frame.len() as u32)
        })
    }

    #[test]
    fn later_fragments_go_the_way_of_the_first_until_the_datagram_is_complete() {
        let [first, second, third] = parts();
        let mut table = table();
        assert_eq!(table.later(&second, 0), None, "a miss");
        table.first(&first, Some(Fate::Gone), 0);
        assert_eq!(table.later(&third, 1), Some(Fate::Gone), "in any order");
        assert_eq!(table.later(&second, 2), Some(Fate::Gone));
        assert_eq!(table.later(&second, 3), None, "complete");
    }

    #[test]
    fn what_is_forgotten_is_held() {
        let [first, second, _] = parts();
        let mut table = table();
        table.first(&first, Some(Fate::Gone), 0);
        table.forget();
        assert_eq!(table.later(&second, 1), None, "another epoch");
        table.first(&first, Some(Fate::Gone), 0);
        assert_eq!(table.later(&second, 2 * SECOND + 1), None, "too late");
        table.first(&first, Some(Fate::Gone), 0);
        table.first(&first, None, 1);
        assert_eq!(table.later(&second, 1), None, "the number came round, and was held");
    }

    #[test]
    fn another_datagram_is_another_matter() {
        let [first, second, _] = parts();
        let mut table = table();
        table.first(&first, Some(Fate::Gone), 0);
        assert_eq!(table.later(&Headers { fragment_id: 8, ..second }, 1), None);
        assert_eq!(table.later(&Headers { protocol: 6, ..second }, 1), None, "TCP counts for itself");
        assert_eq!(table.later(&Headers { src: [9; 16], ..second }, 1), None);
        assert_eq!(table.later(&Headers { dst: [9; 16], ..second }, 1), None);
        assert_eq!(table.later(&second, 1), Some(Fate::Gone));
    }

    #[test]
    fn repeated_fragments_open_no_door() {
        let [first, second, _] = parts();
        let mut table = table();
        table.first(&first, Some(Fate::Gone), 0);
        let passed = (0..10_000).filter(|_| table.later(&second, 1) == Some(Fate::Gone)).count();
        assert!(passed * second.payload_len as usize <= u16::MAX as usize, "{passed}");
    }

    #[test]
    fn a_fragment_that_is_too_much_is_not_of_the_datagram() {
        let [first, second, third] = parts();
        let mut table = table();
        table.first(&first, Some(Fate::Gone), 0);
        assert_eq!(table.later(&third, 1), Some(Fate::Gone));
        assert_eq!(table.later(&Headers { payload_len: 65, ..second }, 2), None);
        assert_eq!(table.later(&second, 3), None);
    }

    #[test]
    fn a_flood_of_datagrams_takes_no_memory() {
        let [first, second, _] = parts();
        let mut table = table();
        for id in 0..100_000 {
            table.first(&Headers { fragment_id: id, ..first }, Some(Fate::Refused), id as u64);
        }
        assert_eq!(table.later(&Headers { fragment_id: 99_999, ..second }, 100_000), Some(Fate::Refused));
    }
}
