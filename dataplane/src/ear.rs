//! What an lcore overhears for those who learn from signalling, and what they teach it.
//!
//! Copies go one way, lessons the other. Nobody waits: when no buffer is free the copy is skipped and counted, and
//! the lcore takes a bounded number of lessons in one poll. Each direction of each protocol has buffers of its own, so that
//! a flood from the wire deafens nobody to the guest, and one of STUN nobody to SIP.

use crate::counters::Counter;
use crate::port::Frame;
use crate::wire::ethernet::{HEADER as ETHERNET, IPV4, TAG};
use crate::wire::{Headers, Kind, MAX_TAGS, be16, be32, ipv4, tcp, turn, udp};
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ports of signalling that an ear may have.
pub const MAX_PORTS: usize = 8;
/// Buffers for each direction of SIP.
pub const BUFFERS: usize = 256;
/// The same of TURN.
pub const TURN_BUFFERS: usize = 64;
/// Lessons that may be on their way to the lcore.
pub const LESSONS: usize = 4096;
/// Lessons that the lcore takes in one poll.
pub(crate) const LESSONS_A_POLL: usize = 16;

/// What is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SIP, from or to one of some ports.
    Sip,
    /// STUN messages that bind TURN channels, over UDP from or to any port.
    Turn,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 2] = [Protocol::Sip, Protocol::Turn];
}

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
    /// Data of a TURN channel that the guest has bound.
    Channel {
        /// The channel's number.
        number: u16,
        /// The server's address; IPv4 as ::ffff:a.b.c.d.
        server: [u8; 16],
        /// The server's port.
        server_port: u16,
    },
    /// The RTP of the port is SRTP, or nobody encrypts it. Said beside [`Learned::Rtp`], to whoever tells a standby what
    /// it must guard; a lane has no use for it.
    Secured(bool),
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
    /// Why it was copied.
    pub protocol: Protocol,
}

impl Heard {
    /// The frame, from the first byte of the Ethernet header.
    pub fn frame(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Buffers for copies of one protocol: to the guest, from the guest.
#[derive(Debug)]
struct Copies {
    free: [ArrayQueue<Heard>; 2],
    heard: [ArrayQueue<Heard>; 2],
}

impl Copies {
    /// `count` buffers of `room` bytes for each direction.
    fn new(protocol: Protocol, count: usize, room: usize) -> Copies {
        let queue = || ArrayQueue::new(count.max(1));
        let copies = Copies { free: [queue(), queue()], heard: [queue(), queue()] };
        for free in &copies.free {
            for _ in 0..count {
                // Written once here, so that no page fault waits for the lcore.
                let bytes = vec![0xff; room].into_boxed_slice();
                let _ = free.push(Heard { bytes, len: 0, from_guest: false, protocol });
            }
        }
        copies
    }
}

/// What an lcore and those who learn share. All memory is taken when it is made.
#[derive(Debug)]
pub struct Ear {
    /// The signalling ports, the first one again where there are fewer.
    ports: [u16; MAX_PORTS],
    sip: bool,
    turn: bool,
    copies: [Copies; 2],
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
        Ear::new(&[], false, 0)
    }
}

impl Ear {
    /// For frames that carry `mtu` bytes at most: SIP from or to one of `ports` (no more than [`MAX_PORTS`] count; none:
    /// it is deaf to SIP), and what binds TURN channels, if `turn`.
    pub fn new(ports: &[u16], turn: bool, mtu: u32) -> Ear {
        let ports = &ports[..ports.len().min(MAX_PORTS)];
        let (sip, room) = (!ports.is_empty(), mtu as usize + ETHERNET + TAG * MAX_TAGS);
        let copies =
            |protocol, listens: bool, count| Copies::new(protocol, if listens { count } else { 0 }, room);
        Ear {
            ports: std::array::from_fn(|n| ports.get(n).or(ports.first()).copied().unwrap_or(0)),
            sip,
            turn,
            copies: [copies(Protocol::Sip, sip, BUFFERS), copies(Protocol::Turn, turn, TURN_BUFFERS)],
            lessons: ArrayQueue::new(if sip || turn { LESSONS } else { 1 }),
            given: AtomicU64::new(0),
            copied: Counter::default(),
            skipped: Counter::default(),
            learned: Counter::default(),
        }
    }

    /// True when there is anything to listen to.
    pub fn listens(&self) -> bool {
        self.sip || self.turn
    }

    /// The oldest copy of this protocol and direction. Give it back with [`Ear::give_back`].
    pub fn next(&self, protocol: Protocol, from_guest: bool) -> Option<Heard> {
        self.copies[protocol as usize].heard[usize::from(from_guest)].pop()
    }

    /// A copy has been read.
    pub fn give_back(&self, heard: Heard) {
        let _ = self.copies[heard.protocol as usize].free[usize::from(heard.from_guest)].push(heard);
    }

    /// Teaches the lcore. False when it has too many to take in: come again.
    pub fn teach(&self, lesson: Lesson) -> bool {
        let taken = self.listens() && self.lessons.push(lesson).is_ok();
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
    sip: bool,
    taken: u64,
}

impl Listener {
    pub fn new(ear: Arc<Ear>) -> Self {
        Listener { listens: ear.listens(), sip: ear.sip, taken: 0, ear }
    }

    /// True when there is anything to listen to at all.
    #[inline(always)]
    pub fn listens(&self) -> bool {
        self.listens
    }

    /// True when TCP between these ports may be signalling: the guest's, and as the lower half the peer's.
    #[inline(always)]
    pub fn hears_tcp(&self, ports: u32) -> bool {
        self.sip && (self.is_ours((ports >> 16) as u16) | self.is_ours(ports as u16))
    }

    /// Copies `frame` when it may be signalling; true for SIP.
    #[inline]
    pub fn hear(&self, frame: &impl Frame, headers: &Headers, from_guest: bool) -> bool {
        let protocol = self.protocol(headers, frame.head(), from_guest);
        if let Some(protocol) = protocol {
            self.copy(frame, protocol, from_guest);
        }
        protocol == Some(Protocol::Sip)
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

    /// All compared, none skipped: one comparison of a vector.
    #[inline(always)]
    fn is_ours(&self, port: u16) -> bool {
        self.ear.ports.iter().fold(false, |ours, known| ours | (*known == port))
    }

    /// False for what certainly is not: plain IPv4 with UDP or TCP of other ports and without STUN's cookie.
    #[inline]
    fn may_be_signalling(&self, head: &[u8]) -> bool {
        const PORTS: usize = ETHERNET + ipv4::HEADER;
        const COOKIE: usize = PORTS + udp::HEADER + 4;
        let Some(bytes) = head.first_chunk::<{ PORTS + 4 }>() else { return false };
        let plain = be16(bytes, 12) == IPV4 && bytes[14] == 0x45 && be16(bytes, 20) & 0x3fff == 0;
        !plain
            || self.is_ours(be16(bytes, PORTS))
            || self.is_ours(be16(bytes, PORTS + 2))
            || head.first_chunk::<{ COOKIE + 4 }>().is_some_and(|bytes| be32(bytes, COOKIE) == turn::COOKIE)
    }

    #[inline(always)]
    fn protocol(&self, headers: &Headers, head: &[u8], from_guest: bool) -> Option<Protocol> {
        let ours = || self.ear.sip && (self.is_ours(headers.dport) || self.is_ours(headers.sport));
        let sip = match headers.kind {
            Kind::Udp if ours() => true,
            Kind::Udp => return self.is_turn(headers, head, from_guest).then_some(Protocol::Turn),
            Kind::Tcp => {
                // A mere acknowledgement says nothing.
                let flags = head.get(headers.transport_at as usize + 13).copied().unwrap_or(0);
                ours() && (headers.payload_len > 0 || flags & tcp::TURNS != 0)
            }
            // Whose it is, its first one says; IPv6 may name an extension header here.
            Kind::Fragment => self.ear.sip && headers.protocol == udp::PROTOCOL,
            _ => false,
        };
        sip.then_some(Protocol::Sip)
    }

    #[inline(always)]
    fn is_turn(&self, headers: &Headers, head: &[u8], from_guest: bool) -> bool {
        let front = head.get(usize::from(headers.payload_at)..).and_then(|payload| payload.first_chunk());
        front.is_some_and(|front| turn::is_about_channels(front, from_guest)) && self.ear.turn
    }

    fn copy(&self, frame: &impl Frame, protocol: Protocol, from_guest: bool) {
        let ear = &*self.ear;
        let Copies { free, heard: full } = &ear.copies[protocol as usize];
        let (at, len) = (usize::from(from_guest), frame.len() as usize);
        let Some(mut heard) = free[at].pop() else { return ear.skipped.add(1) };
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
            let _ = free[at].push(heard);
            return ear.skipped.add(1);
        }
        ear.copied.add(1);
        // There are as many places as buffers.
        let _ = full[at].push(heard);
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
        let ear = Arc::new(Ear::new(ports, true, 1500));
        (Arc::clone(&ear), Listener::new(ear))
    }

    fn hears(listener: &Listener, ear: &Ear, protocol: Protocol, frame: &[u8]) -> [bool; 2] {
        let (front, rest) = frame.split_at(frame.len() - 4);
        let chain = Chain(vec![front.to_vec(), rest.to_vec()]);
        listener.hear(&chain, &Headers::parse(frame, frame.len() as u32), true);
        listener.overhear(&Chain::whole(frame));
        [true, false].map(|from_guest| {
            ear.next(protocol, from_guest).is_some_and(|heard| {
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
            assert_eq!(hears(&listener, &ear, Protocol::Sip, &frame), [ours; 2], "{frame:x?}");
        }
        let ear = Arc::new(Ear::default());
        assert!(!Listener::new(Arc::clone(&ear)).listens() && !ear.teach(lesson(1)));
    }

    fn stun(kind: u16) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &[0, 0, 0x21, 0x12, 0xa4, 0x42], &[7; 12]].concat()
    }

    #[test]
    fn what_binds_channels_is_copied_from_any_port_in_its_direction() {
        for ports in [&[5060][..], &[]] {
            let (ear, listener) = pair(ports);
            let hears = |frame: &[u8]| hears(&listener, &ear, Protocol::Turn, frame);
            for (kind, wanted) in [
                (turn::BIND, [true, false]),
                (turn::REFRESH, [true, false]),
                (turn::BOUND, [false, true]),
                (turn::NOT_BOUND, [false, true]),
                (1, [false, false]),
                (0x0101, [false, false]),
            ] {
                for frame in [
                    sample::udp(40000, 3478, &stun(kind)),
                    sample::udp6(3478, 9, &stun(kind)),
                    sample::tagged(&sample::udp(1, 2, &stun(kind)), &[0x8100]),
                ] {
                    assert_eq!(hears(&frame), wanted, "{kind:x}: {frame:x?}");
                }
            }
            for other in [sample::udp(0, 0, b"x"), sample::udp(1, 2, &stun(turn::BOUND)[..7])] {
                assert_eq!(hears(&other), [false; 2]);
            }
            assert_eq!(ear.skipped.get(), 0, "and nothing is taken for what nobody listens to");
        }
        let ear = Arc::new(Ear::new(&[5060], false, 1500));
        let listener = Listener::new(Arc::clone(&ear));
        assert_eq!(hears(&listener, &ear, Protocol::Turn, &sample::udp(1, 2, &stun(turn::BIND))), [false; 2]);
    }

    #[test]
    fn a_flood_of_stun_deafens_nobody_to_sip() {
        let (ear, listener) = pair(&[5060]);
        let bound = Chain::whole(&sample::udp(3478, 40000, &stun(turn::BOUND)));
        for _ in 0..10_000 {
            listener.overhear(&bound);
        }
        assert_eq!(
            (ear.copied.get(), ear.skipped.get()),
            (TURN_BUFFERS as u64, 10_000 - TURN_BUFFERS as u64)
        );
        listener.overhear(&Chain::whole(&sample::udp(5060, 5060, b"OPTIONS")));
        assert!(ear.next(Protocol::Sip, false).is_some());
        let bind = sample::udp(40000, 3478, &stun(turn::BIND));
        listener.hear(&Chain::whole(&bind), &Headers::parse(&bind, bind.len() as u32), true);
        assert!(ear.next(Protocol::Turn, true).is_some(), "nor to the guest");
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
        assert!(ear.next(Protocol::Sip, true).is_some(), "the guest is heard all the same");
        ear.give_back(ear.next(Protocol::Sip, false).expect("there are copies"));
        listener.overhear(&frame);
        assert_eq!(ear.skipped.get(), 10);
        let long = Chain::whole(&sample::udp(5060, 5060, &[7; 1600]));
        ear.give_back(ear.next(Protocol::Sip, false).expect("there are copies"));
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
