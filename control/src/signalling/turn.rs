//! The account of TURN channels (RFC 8656, 12): what the guest asked to bind, and what a server granted.
//!
//! A channel is learned from the success response to a request that the guest sent: from the very server and port that it
//! was sent to, to the very address and port that it came from, with the request's transaction id, which nobody guesses who
//! has not seen the request. A server that wants a password refuses the first request; the one that is granted is another
//! transaction. What is bound ends ten minutes after it was last granted, or when the guest lets its allocation go.

use super::stun::{About, Message, Transaction};
use super::{Learned, Lesson, Piece};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use tidegate_dataplane::wire::address_bytes;

/// Requests that may await their answer at once.
const ASKED: usize = 1024;
/// How long one may, nanoseconds: what RFC 8489, 6.2.1 gives a transaction, rounded up.
const PATIENCE_NS: u64 = 40_000_000_000;
/// Channels that are known at once.
const BOUND: usize = 4096;
/// How long a channel lasts, nanoseconds.
const LIFETIME_NS: u64 = 600_000_000_000;
/// Media never comes from a port below.
const LOWEST_PORT: u16 = 1024;

/// The guest's end and the server's.
type Allocation = (SocketAddr, SocketAddr);

#[derive(Clone, Copy, Debug)]
struct Asked {
    number: u16,
    at: u64,
    /// Which of the requests it is.
    turn: u64,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Channels {
    asked: HashMap<(Allocation, Transaction), Asked>,
    /// The one asked longest ago first; some were answered meanwhile.
    order: VecDeque<(Allocation, Transaction, u64)>,
    turn: u64,
    /// When each channel was last granted.
    bound: BTreeMap<(Allocation, u16), u64>,
}

fn lesson(((guest, server), number): (Allocation, u16), open: bool) -> Lesson {
    let what = Learned::Channel { number, server: address_bytes(server.ip()), server_port: server.port() };
    Lesson { address: address_bytes(guest.ip()), port: guest.port(), what, open }
}

impl Channels {
    /// Hears a datagram. True when it is a message about channels.
    pub fn hear(&mut self, piece: &Piece<'_>, now: u64, lessons: &mut Vec<Lesson>) -> bool {
        let Some(message) = Message::read(piece.bytes) else { return false };
        match (message.about, piece.from_guest) {
            (About::Bind(number), true) if piece.src.port() >= LOWEST_PORT => {
                self.ask((piece.src, piece.dst), message.transaction, number, now);
            }
            (About::LetGo, true) => self.let_go((piece.src, piece.dst), lessons),
            (About::Bound, false) => {
                let allocation = (piece.dst, piece.src);
                let asked = self.asked.remove(&(allocation, message.transaction));
                if let Some(asked) = asked.filter(|asked| now.saturating_sub(asked.at) <= PATIENCE_NS) {
                    self.bind((allocation, asked.number), now, lessons);
                }
            }
            (About::NotBound, false) => {
                self.asked.remove(&((piece.dst, piece.src), message.transaction));
            }
            _ => {}
        }
        true
    }

    fn ask(&mut self, allocation: Allocation, transaction: Transaction, number: u16, now: u64) {
        // One said again is the same.
        if self.asked.contains_key(&(allocation, transaction)) {
            return;
        }
        while self.order.len() >= ASKED
            && let Some((allocation, transaction, turn)) = self.order.pop_front()
        {
            let name = (allocation, transaction);
            if self.asked.get(&name).is_some_and(|asked| asked.turn == turn) {
                self.asked.remove(&name);
            }
        }
        self.turn += 1;
        self.asked.insert((allocation, transaction), Asked { number, at: now, turn: self.turn });
        self.order.push_back((allocation, transaction, self.turn));
    }

    fn bind(&mut self, channel: (Allocation, u16), now: u64, lessons: &mut Vec<Lesson>) {
        if self.bound.len() >= BOUND && !self.bound.contains_key(&channel) {
            // What has ended needs no lesson: the lcores forget it by themselves.
            self.bound.retain(|_, granted| now.saturating_sub(*granted) <= LIFETIME_NS);
            let oldest = self.bound.iter().min_by_key(|(_, granted)| **granted).map(|(channel, _)| *channel);
            if let Some(oldest) = oldest.filter(|_| self.bound.len() >= BOUND) {
                self.bound.remove(&oldest);
                lessons.push(lesson(oldest, false));
            }
        }
        self.bound.insert(channel, now);
        lessons.push(lesson(channel, true));
    }

    fn let_go(&mut self, allocation: Allocation, lessons: &mut Vec<Lesson>) {
        let all = (allocation, u16::MIN)..=(allocation, u16::MAX);
        let gone: Vec<(Allocation, u16)> = self.bound.range(all).map(|(channel, _)| *channel).collect();
        for channel in gone {
            self.bound.remove(&channel);
            lessons.push(lesson(channel, false));
        }
    }
}

#[cfg(test)]
pub(crate) mod sample {
    //! STUN messages for tests.

    pub fn message(kind: u16, transaction: [u8; 12], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_be_bytes());
            body.extend((value.len() as u16).to_be_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let len = body.len() as u16;
        [&kind.to_be_bytes()[..], &len.to_be_bytes(), &[0x21, 0x12, 0xa4, 0x42], &transaction, &body].concat()
    }

    /// A request to bind `number`.
    pub fn bind(transaction: u8, number: u16) -> Vec<u8> {
        let [high, low] = number.to_be_bytes();
        let attributes = [(0x000c, &[high, low, 0, 0][..]), (0x0012, &[0, 1, 0x21, 0x13, 1, 2, 3, 4])];
        message(0x0009, [transaction; 12], &attributes)
    }

    pub fn bound(transaction: u8) -> Vec<u8> {
        message(0x0109, [transaction; 12], &[])
    }

    pub fn not_bound(transaction: u8) -> Vec<u8> {
        message(0x0119, [transaction; 12], &[(0x0009, &[0, 0, 4, 1])])
    }

    /// A request for this lifetime.
    pub fn refresh(lifetime: u8) -> Vec<u8> {
        message(0x0004, [99; 12], &[(0x000d, &[0, 0, 0, lifetime])])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Learner, Transport};
    use super::*;
    use std::collections::BTreeSet;

    const GUEST: &str = "10.0.0.2:40000";
    const SERVER: &str = "192.0.2.1:3478";
    const SECOND: u64 = 1_000_000_000;

    struct Bench {
        learner: Learner,
        open: BTreeSet<Lesson>,
        /// Lessons that opened something.
        opened: usize,
        now: u64,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { learner: Learner::new(&[5060], true), open: BTreeSet::new(), opened: 0, now: 0 }
        }

        fn hear(&mut self, src: &str, dst: &str, from_guest: bool, bytes: &[u8]) -> &mut Self {
            let at = |text: &str| text.parse::<SocketAddr>().expect("an address and a port");
            let piece = Piece { src: at(src), dst: at(dst), from_guest, transport: Transport::Udp, bytes };
            let mut lessons = Vec::new();
            self.learner.hear(&piece, self.now, &mut lessons);
            for lesson in lessons {
                self.opened += usize::from(lesson.open);
                match lesson.open {
                    true => self.open.insert(lesson),
                    false => self.open.remove(&Lesson { open: true, ..lesson }),
                };
            }
            self
        }

        fn sends(&mut self, bytes: &[u8]) -> &mut Self {
            self.hear(GUEST, SERVER, true, bytes)
        }

        fn gets(&mut self, bytes: &[u8]) -> &mut Self {
            self.hear(SERVER, GUEST, false, bytes)
        }

        /// The channels that are open.
        fn open(&self) -> Vec<u16> {
            let numbers = self.open.iter().map(|lesson| {
                assert_eq!((lesson.address, lesson.port), (address_bytes([10, 0, 0, 2].into()), 40000));
                let Learned::Channel { number, server, server_port } = lesson.what else {
                    panic!("{lesson:?}")
                };
                assert_eq!((server, server_port), (address_bytes([192, 0, 2, 1].into()), 3478));
                number
            });
            numbers.collect()
        }
    }

    #[test]
    fn a_channel_is_learned_when_its_request_is_granted() {
        let mut bench = Bench::new();
        assert!(bench.sends(&sample::bind(1, 0x4001)).open().is_empty(), "a request alone teaches nothing");
        assert_eq!(bench.gets(&sample::bound(1)).open(), [0x4001]);
        bench.sends(&sample::bind(2, 0x4002)).gets(&sample::bound(2));
        assert_eq!(bench.open(), [0x4001, 0x4002]);
        bench.sends(&sample::bind(3, 0x4001)).gets(&sample::bound(3));
        assert_eq!((bench.open().len(), bench.opened), (2, 3), "said again when it is bound again");
        assert_eq!(bench.gets(&sample::bound(3)).opened, 3, "an answer counts once");
    }

    #[test]
    fn with_a_password_the_request_that_is_granted_counts() {
        let mut bench = Bench::new();
        bench.sends(&sample::bind(1, 0x4001)).gets(&sample::not_bound(1));
        assert!(bench.gets(&sample::bound(1)).open().is_empty(), "refused is refused");
        bench.sends(&sample::bind(2, 0x4001)).sends(&sample::bind(2, 0x4001));
        assert_eq!(bench.gets(&sample::bound(2)).open(), [0x4001]);
    }

    #[test]
    fn a_response_that_nobody_asked_for_or_of_somebody_else_teaches_nothing() {
        let mut bench = Bench::new();
        assert!(bench.gets(&sample::bound(1)).open().is_empty(), "no request");
        bench.sends(&sample::bind(1, 0x4001));
        bench.gets(&sample::bound(2));
        bench.hear("192.0.2.2:3478", GUEST, false, &sample::bound(1));
        bench.hear("192.0.2.1:3479", GUEST, false, &sample::bound(1));
        bench.hear(SERVER, "10.0.0.2:40001", false, &sample::bound(1));
        bench.hear(SERVER, "10.0.0.3:40000", false, &sample::bound(1));
        bench.hear(SERVER, GUEST, true, &sample::bound(1));
        bench.hear(GUEST, SERVER, true, &sample::bound(1));
        assert!(bench.open().is_empty(), "spoofed");
        bench.hear(SERVER, GUEST, false, &sample::not_bound(2));
        bench.hear("192.0.2.2:3478", GUEST, false, &sample::not_bound(1));
        assert_eq!(bench.gets(&sample::bound(1)).open(), [0x4001], "and disturbs nothing");
        let mut bench = Bench::new();
        bench.hear(SERVER, GUEST, false, &sample::bind(1, 0x4001)).gets(&sample::bound(1));
        assert!(bench.open().is_empty(), "the wire asks for nothing");
        bench.hear("10.0.0.2:1023", SERVER, true, &sample::bind(1, 0x4001));
        bench.hear(SERVER, "10.0.0.2:1023", false, &sample::bound(1));
        assert!(bench.open().is_empty(), "a port that media does not come from");
    }

    #[test]
    fn an_answer_that_comes_too_late_teaches_nothing() {
        for (seconds, learned) in [(40, 1), (41, 0)] {
            let mut bench = Bench::new();
            bench.sends(&sample::bind(1, 0x4001));
            bench.now = seconds * SECOND;
            assert_eq!(bench.gets(&sample::bound(1)).open().len(), learned);
        }
    }

    #[test]
    fn a_guest_that_lets_its_allocation_go_lets_its_channels_go() {
        let mut bench = Bench::new();
        for n in 1..4 {
            bench.sends(&sample::bind(n, 0x4000 + u16::from(n))).gets(&sample::bound(n));
        }
        bench.sends(&sample::refresh(200));
        bench.hear("10.0.0.2:40001", SERVER, true, &sample::refresh(0));
        bench.hear(GUEST, "192.0.2.1:3479", true, &sample::refresh(0));
        bench.hear(GUEST, SERVER, false, &sample::refresh(0));
        assert_eq!(bench.open().len(), 3);
        assert!(bench.sends(&sample::refresh(0)).open().is_empty());
    }

    #[test]
    fn who_does_not_listen_learns_nothing_and_sip_ports_may_carry_turn() {
        for (turn, open) in [(true, 1), (false, 0)] {
            let mut bench = Bench { learner: Learner::new(&[5060, 3478], turn), ..Bench::new() };
            bench.sends(&sample::bind(1, 0x4001)).gets(&sample::bound(1));
            assert_eq!(bench.open().len(), open);
        }
    }

    #[test]
    fn floods_stay_within_bounds_and_the_oldest_gives_way() {
        let mut bench = Bench::new();
        let transaction = |n: u32| {
            let mut bytes = [0; 12];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            bytes
        };
        for n in 0..20_000u32 {
            bench.now += SECOND / 1000;
            let number = 0x4000 + (n % 4096) as u16;
            let [high, low] = number.to_be_bytes();
            let guest = format!("10.0.0.2:{}", 2000 + n / 4096);
            let attributes = [(0x000c, &[high, low, 0, 0][..]), (0x0012, &[0, 1, 0x21, 0x13, 1, 2, 3, 4])];
            bench.hear(&guest, SERVER, true, &sample::message(9, transaction(n), &attributes));
            if n % 2 == 0 {
                bench.hear(SERVER, &guest, false, &sample::message(0x0109, transaction(n), &[]));
            }
        }
        let channels = &bench.learner.channels;
        assert!(channels.asked.len() <= ASKED && channels.order.len() <= ASKED);
        assert!(channels.bound.len() <= BOUND);
        assert_eq!(bench.open.len(), channels.bound.len(), "what gives way is taken back");
    }
}
