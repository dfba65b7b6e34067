//! What an lcore overhears for those who learn from signalling, and what they teach it.
//!
//! Copies go one way, lessons the other. Nobody waits: when no buffer is free the copy is skipped and counted, and
//! the lcore takes a bounded number of lessons in one poll. Each direction has buffers of its own, so that a flood from
//! the wire deafens nobody to the guest.

use crate::counters::Counter;
use crate::port::Frame;
use crate::wire::ethernet::{HEADER as ETHERNET, IPV4, TAG};
use crate::wire::{Headers, Kind, MAX_TAGS, be16, ipv4, tcp, udp};
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ports of signalling that an ear may have.
pub const MAX_PORTS: usize = 8;
/// Buffers for each direction.
pub const BUFFERS: usize = 256;
/// Lessons that may be on their way to the lcore.
pub const LESSONS: usize = 4096;
/// Lessons that the lcore takes in one poll.
pub(crate) const LESSONS_A_POLL: usize = 16;

/// What goes through a port that signalling named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Learned {
    /// RTP.
    Rtp,
    /// RTCP of the media on another port of the same address, which is not its neighbour.
    Rtcp {
        /// That port.
        of: u16,
    },
    /// T.38 fax (UDPTL).
    Udptl,
}

/// Something that signalling said of a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lesson {
    /// The guest's address; IPv4 as ::ffff:a.b.c.d.
    pub address: [u8; 16],
    /// Its port.
    pub port: u16,
    /// What goes through it.
    pub what: Learned,
    /// From now on; otherwise no more.
    pub open: bool,
}

/// A copy of one frame.
#[derive(Debug)]
pub struct Heard {
    bytes: Box<[u8]>,
    len: usize,
    /// The guest sent it; otherwise it came to the guest.
    pub from_guest: bool,
}

impl Heard {
    /// The frame, from the first byte of the Ethernet header.
    pub fn frame(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What an lcore and those who learn share. All memory is taken when it is made.
#[derive(Debug)]
pub struct Ear {
    /// The signalling ports, the first one again where there are fewer.
    ports: [u16; MAX_PORTS],
    listens: bool,
    /// Free buffers: to the guest, from the guest.
    free: [ArrayQueue<Heard>; 2],
    heard: [ArrayQueue<Heard>; 2],
    lessons: ArrayQueue<Lesson>,
    /// Lessons ever put there: the one word that the lcore looks at.
    given: AtomicU64,
    /// Frames copied.
    pub copied: Counter,
    /// Frames that were not copied: no free buffer, or too long for one.
    pub skipped: Counter,
    /// Lessons that the lcore took.
    pub learned: Counter,
}

impl Default for Ear {
    fn default() -> Self {
        Ear::new(&[], 0)
    }
}

impl Ear {
    /// For frames from or to one of `ports` (no more than [`MAX_PORTS`] count; none: it hears nothing) that carry
    /// `mtu` bytes at most.
    pub fn new(ports: &[u16], mtu: u32) -> Ear {
        let ports = &ports[..ports.len().min(MAX_PORTS)];
        let listens = !ports.is_empty();
        let (count, room) =
            if listens { (BUFFERS, mtu as usize + ETHERNET + TAG * MAX_TAGS) } else { (1, 0) };
        let queue = || ArrayQueue::new(count);
        let ear = Ear {
            ports: std::array::from_fn(|n| ports.get(n).or(ports.first()).copied().unwrap_or(0)),
            listens,
            free: [queue(), queue()],
            heard: [queue(), queue()],
            lessons: ArrayQueue::new(if listens { LESSONS } else { 1 }),
            given: AtomicU64::new(0),
            copied: Counter::default(),
            skipped: Counter::default(),
            learned: Counter::default(),
        };
        for free in ear.free.iter().filter(|_| listens) {
            for _ in 0..count {
                // Written once here, so that no page fault waits for the lcore.
                let bytes = vec![0xff; room].into_boxed_slice();
                let _ = free.push(Heard { bytes, len: 0, from_guest: false });
            }
        }
        ear
    }

    /// True when there is a port to listen to.
    pub fn listens(&self) -> bool {
        self.listens
    }

    /// The oldest copy of this direction. Give it back with [`Ear::give_back`].
    pub fn next(&self, from_guest: bool) -> Option<Heard> {
        self.heard[usize::from(from_guest)].pop()
    }

    /// A copy has been read.
    pub fn give_back(&self, heard: Heard) {
        let _ = self.free[usize::from(heard.from_guest)].push(heard);
    }

    /// Teaches the lcore. False when it has too many to take in: come again.
    pub fn teach(&self, lesson: Lesson) -> bool {
        let taken = self.listens && self.lessons.push(lesson).is_ok();
        if taken {
            self.given.fetch_add(1, Ordering::Release);
        }
        taken
    }
}

/// The lcore's side of an [`Ear`].
#[derive(Debug)]
pub(crate) struct Listener {
    ear: Arc<Ear>,
    listens: bool,
    taken: u64,
}

impl Listener {
    pub fn new(ear: Arc<Ear>) -> Self {
        Listener { listens: ear.listens(), taken: 0, ear }
    }

    /// True when there is anything to listen to at all.
    #[inline(always)]
    pub fn listens(&self) -> bool {
        self.listens
    }

    /// Copies `frame` when it may be signalling; false when it is not.
    #[inline]
    pub fn hear(&self, frame: &impl Frame, headers: &Headers, from_guest: bool) -> bool {
        let signals = self.is_signalling(headers, frame.head());
        if signals {
            self.copy(frame, from_guest);
        }
        signals
    }

    /// The same of a frame whose headers nobody has read yet.
    #[inline]
    pub fn overhear(&self, frame: &impl Frame) {
        let head = frame.head();
        if self.may_be_signalling(head) {
            let headers = Headers::parse(head, frame.len());
            self.hear(frame, &headers, false);
        }
    }

    #[inline]
    fn is_ours(&self, port: u16) -> bool {
        self.ear.ports.contains(&port)
    }

    /// False for what certainly is not: plain IPv4 with UDP or TCP of other ports.
    #[inline]
    fn may_be_signalling(&self, head: &[u8]) -> bool {
        const PORTS: usize = ETHERNET + ipv4::HEADER;
        let Some(bytes) = head.first_chunk::<{ PORTS + 4 }>() else { return false };
        let plain = be16(bytes, 12) == IPV4 && bytes[14] == 0x45 && be16(bytes, 20) & 0x3fff == 0;
        !plain || self.is_ours(be16(bytes, PORTS)) || self.is_ours(be16(bytes, PORTS + 2))
    }

    fn is_signalling(&self, headers: &Headers, head: &[u8]) -> bool {
        match headers.kind {
            Kind::Udp => self.is_ours(headers.dport) || self.is_ours(headers.sport),
            Kind::Tcp => {
                // A mere acknowledgement says nothing.
                let flags = head.get(headers.transport_at as usize + 13).copied().unwrap_or(0);
                (self.is_ours(headers.dport) || self.is_ours(headers.sport))
                    && (headers.payload_len > 0 || flags & tcp::TURNS != 0)
            }
            // Whose it is, its first one says; IPv6 may name an extension header here.
            Kind::Fragment => headers.protocol == udp::PROTOCOL,
            _ => false,
        }
    }

    fn copy(&self, frame: &impl Frame, from_guest: bool) {
        let ear = &*self.ear;
        let (at, len) = (usize::from(from_guest), frame.len() as usize);
        let Some(mut heard) = ear.free[at].pop() else { return ear.skipped.add(1) };
        let mut filled = 0;
        frame.each_segment(&mut |segment| {
            let end = filled + segment.len();
            if let Some(room) = heard.bytes.get_mut(filled..end) {
                room.copy_from_slice(segment);
            }
            filled = end;
        });
        (heard.len, heard.from_guest) = (filled, from_guest);
        if filled != len || filled > heard.bytes.len() {
            heard.len = 0;
            let _ = ear.free[at].push(heard);
            return ear.skipped.add(1);
        }
        ear.copied.add(1);
        // There are as many places as buffers.
        let _ = ear.heard[at].push(heard);
    }

    /// True when something has been taught that the lcore has not taken.
    #[inline(always)]
    pub fn is_taught(&self) -> bool {
        self.listens && self.ear.given.load(Ordering::Acquire) != self.taken
    }

    /// The next lesson. One poll takes [`LESSONS_A_POLL`] at most.
    pub fn lesson(&mut self) -> Option<Lesson> {
        let lesson = self.ear.lessons.pop()?;
        self.taken += 1;
        self.ear.learned.add(1);
        Some(lesson)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sample::{self, Chain};

    fn pair(ports: &[u16]) -> (Arc<Ear>, Listener) {
        let ear = Arc::new(Ear::new(ports, 1500));
        (Arc::clone(&ear), Listener::new(ear))
    }

    fn hears(listener: &Listener, ear: &Ear, frame: &[u8]) -> [bool; 2] {
        let chain = Chain(vec![frame[..20].to_vec(), frame[20..].to_vec()]);
        listener.hear(&chain, &Headers::parse(frame, frame.len() as u32), true);
        listener.overhear(&Chain::whole(frame));
        [true, false].map(|from_guest| {
            ear.next(from_guest).is_some_and(|heard| {
                assert_eq!((heard.frame(), heard.from_guest), (frame, from_guest));
                ear.give_back(heard);
                true
            })
        })
    }

    #[test]
    fn signalling_and_fragments_are_copied_in_both_directions_and_nothing_else() {
        let (ear, listener) = pair(&[5060, 5080]);
        let mut first = sample::datagram(5060, 9, &[7; 64]);
        first[4..6].copy_from_slice(&200u16.to_be_bytes());
        for (frame, ours) in [
            (sample::udp(5060, 40000, b"OPTIONS"), true),
            (sample::udp(40000, 5080, b"OPTIONS"), true),
            (sample::udp6(40000, 5060, b"OPTIONS"), true),
            (sample::tagged(&sample::udp(1, 5060, b"OPTIONS"), &[0x8100]), true),
            (sample::tcp(5060, 1, b"OPTIONS"), true),
            (sample::ipv4(17, &[], 0x2000, &first), true),
            (sample::ipv4(17, &[], 8, &[8; 16]), true),
            (sample::ipv4(6, &[], 8, &[8; 16]), false),
            (sample::tcp(5060, 1, b""), false),
            (sample::tcp(80, 8080, b"OPTIONS"), false),
            (sample::udp(5061, 40000, b"OPTIONS"), false),
            (sample::udp6(5061, 40000, b"OPTIONS"), false),
            (sample::arp(1), false),
        ] {
            assert_eq!(hears(&listener, &ear, &frame), [ours; 2], "{frame:x?}");
        }
        let (ear, listener) = pair(&[]);
        assert!(!listener.listens() && !ear.teach(lesson(1)));
    }

    fn lesson(port: u16) -> Lesson {
        Lesson { address: [1; 16], port, what: Learned::Rtp, open: true }
    }

    #[test]
    fn without_a_free_buffer_a_copy_is_skipped_and_counted_and_the_other_direction_goes_on() {
        let (ear, listener) = pair(&[5060]);
        let frame = Chain::whole(&sample::udp(5060, 5060, b"OPTIONS"));
        for _ in 0..BUFFERS + 10 {
            listener.overhear(&frame);
        }
        assert_eq!((ear.copied.get(), ear.skipped.get()), (BUFFERS as u64, 10));
        let headers = Headers::parse(frame.head(), frame.len());
        listener.hear(&frame, &headers, true);
        assert!(ear.next(true).is_some(), "the guest is heard all the same");
        ear.give_back(ear.next(false).expect("there are copies"));
        listener.overhear(&frame);
        assert_eq!(ear.skipped.get(), 10);
        let long = Chain::whole(&sample::udp(5060, 5060, &[7; 1600]));
        ear.give_back(ear.next(false).expect("there are copies"));
        listener.overhear(&long);
        assert_eq!(ear.skipped.get(), 11, "too long for a buffer");
    }

    #[test]
    fn lessons_come_in_order_and_none_is_lost_or_taken_twice() {
        let (ear, mut listener) = pair(&[5060]);
        for port in 0..40 {
            assert!(ear.teach(lesson(port)));
        }
        for port in 0..40 {
            assert!(listener.is_taught());
            assert_eq!(listener.lesson(), Some(lesson(port)));
        }
        assert!(!listener.is_taught() && listener.lesson().is_none());
        assert!((0..LESSONS as u16).all(|port| ear.teach(lesson(port))));
        assert!(!ear.teach(lesson(1)), "full");
    }
}
