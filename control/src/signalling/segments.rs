//! Messages out of TCP segments: put in order, cut by `Content-Length` (RFC 3261, 18.3).
//!
//! Flows and what is kept of each are bounded. After a gap that nobody fills, or when a connection is met in its
//! middle, the next segment that begins with a message's first line is where reading goes on. What is in order and
//! begins otherwise is no SIP: such a connection is not looked at again.

use super::message::{LONGEST, body_at, is_start_line, told_length};
use super::{Piece, Transport};
use std::collections::HashMap;
use std::net::SocketAddr;

/// Connections that are followed in one direction.
const FLOWS: usize = 256;
/// Longest first line, and longest headers.
const LINE: usize = 4 << 10;
const HEADERS: usize = 32 << 10;
/// Segments that wait for an earlier one.
const WAITING: usize = 64;
/// How long they wait: the earlier one may have come without our hearing it.
const PATIENCE_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A message begins with the next byte of `buffer`.
    InStep,
    /// Unknown what the next byte is.
    Lost,
    /// No SIP.
    Foreign,
}

#[derive(Debug)]
struct Flow {
    state: State,
    /// Number of the SYN.
    begin: Option<u32>,
    /// Number of the next byte.
    next: u32,
    buffer: Vec<u8>,
    /// Bytes of `buffer` without which looking at it again is in vain.
    needs: usize,
    /// Bytes of a message too long to be read.
    skip: u64,
    waiting: Vec<(u32, Vec<u8>)>,
    /// Since when they wait.
    gap: u64,
    used: u64,
}

/// See the module's head. One direction.
#[derive(Debug, Default)]
pub(super) struct Segments {
    flows: HashMap<(SocketAddr, SocketAddr), Flow>,
}

impl Segments {
    /// Calls `tell` with each message that this segment completes.
    pub fn hear(&mut self, piece: &Piece<'_>, now: u64, mut tell: impl FnMut(&[u8])) {
        let Transport::Tcp { sequence, syn, end } = piece.transport else { return };
        let name = (piece.src, piece.dst);
        if syn && self.flows.get(&name).is_none_or(|flow| flow.begin != Some(sequence)) {
            self.begin(name, Flow::new(State::InStep, sequence.wrapping_add(1), Some(sequence), now));
        } else if !self.flows.contains_key(&name) && !piece.bytes.is_empty() {
            self.begin(name, Flow::new(State::Lost, sequence, None, now));
        }
        let Some(flow) = self.flows.get_mut(&name) else { return };
        flow.used = now;
        if !piece.bytes.is_empty() {
            flow.hear(sequence.wrapping_add(syn.into()), piece.bytes, now, &mut tell);
        }
        if end && flow.waiting.is_empty() {
            self.flows.remove(&name);
        }
    }

    fn begin(&mut self, name: (SocketAddr, SocketAddr), flow: Flow) {
        if self.flows.len() >= FLOWS
            && !self.flows.contains_key(&name)
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, flow)| flow.used).map(|(name, _)| *name)
        {
            self.flows.remove(&oldest);
        }
        self.flows.insert(name, flow);
    }
}

impl Flow {
    fn new(state: State, next: u32, begin: Option<u32>, now: u64) -> Flow {
        let (buffer, waiting) = (Vec::new(), Vec::new());
        Flow { state, begin, next, buffer, needs: 0, skip: 0, waiting, gap: 0, used: now }
    }

    fn hear(&mut self, sequence: u32, bytes: &[u8], now: u64, tell: &mut impl FnMut(&[u8])) {
        if self.state == State::Foreign {
            return;
        }
        if !self.take(sequence, bytes, tell) {
            if self.waiting.is_empty() {
                self.gap = now;
            }
            let kept: usize = self.waiting.iter().map(|(_, bytes)| bytes.len()).sum();
            let full = self.waiting.len() >= WAITING || kept + bytes.len() > LONGEST;
            if !full && !self.waiting.iter().any(|(at, had)| *at == sequence && had.len() >= bytes.len()) {
                self.waiting.push((sequence, bytes.to_vec()));
            }
            if full || now.saturating_sub(self.gap) > PATIENCE_NS {
                self.jump();
            }
        }
        while let Some(at) = self.waiting.iter().position(|(at, _)| self.ahead(*at) <= 0) {
            let (sequence, bytes) = self.waiting.swap_remove(at);
            self.take(sequence, &bytes, tell);
        }
    }

    /// How far a number lies behind what was read.
    fn ahead(&self, sequence: u32) -> i32 {
        sequence.wrapping_sub(self.next) as i32
    }

    /// Takes what is new of a segment. False when something before it is missing.
    fn take(&mut self, sequence: u32, bytes: &[u8], tell: &mut impl FnMut(&[u8])) -> bool {
        let ahead = self.ahead(sequence);
        if ahead > 0 {
            return false;
        }
        if let Some(new) = bytes.get(ahead.unsigned_abs() as usize..).filter(|new| !new.is_empty()) {
            self.next = self.next.wrapping_add(new.len() as u32);
            self.buffer.extend_from_slice(new);
            self.read(tell);
        }
        true
    }

    /// What is missing will not come: on with the earliest of what waits.
    fn jump(&mut self) {
        let Some(next) = self.waiting.iter().map(|(at, _)| *at).min_by_key(|at| self.ahead(*at)) else {
            return;
        };
        self.next = next;
        self.lose();
    }

    fn lose(&mut self) {
        self.state = State::Lost;
        self.forget();
    }

    fn forget(&mut self) {
        (self.buffer, self.needs, self.skip) = (Vec::new(), 0, 0);
    }

    fn consume(&mut self, count: usize) {
        self.buffer.drain(..count);
        self.needs = 0;
    }

    fn read(&mut self, tell: &mut impl FnMut(&[u8])) {
        while self.state != State::Foreign && self.buffer.len() >= self.needs.max(1) {
            if self.skip > 0 {
                let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(self.buffer.len());
                self.skip -= skipped as u64;
                self.consume(skipped);
                continue;
            }
            let idle = self.buffer.iter().take_while(|byte| b"\r\n".contains(byte)).count();
            self.consume(idle);
            let Some(line) = self.buffer.iter().take(LINE).position(|byte| *byte == b'\n') else {
                return if self.buffer.len() >= LINE {
                    self.stray()
                };
            };
            if !is_start_line(self.buffer[..line].strip_suffix(b"\r").unwrap_or(&self.buffer[..line])) {
                // Also of a connection that is met in its middle: what a page sends may have SIP in its body.
                if is_http(&self.buffer[..line]) {
                    self.state = State::InStep;
                }
                return self.stray();
            }
            self.state = State::InStep;
            let Some(at) = body_at(&self.buffer) else {
                // Once more when the end of the headers may have come.
                self.needs = self.buffer.len() + 1;
                return if self.buffer.len() > HEADERS {
                    self.lose()
                };
            };
            let Ok(told) = told_length(&self.buffer[..at]) else { return self.stray() };
            let whole = (at as u64).saturating_add(told.unwrap_or(0));
            match usize::try_from(whole) {
                Ok(whole) if whole <= LONGEST => {
                    self.needs = whole;
                    if self.buffer.len() >= whole {
                        tell(&self.buffer[..whole]);
                        self.consume(whole);
                    }
                }
                _ => self.skip = whole,
            }
        }
    }

    /// No message begins here.
    fn stray(&mut self) {
        if self.state == State::InStep {
            self.state = State::Foreign;
            self.waiting = Vec::new();
        }
        self.forget();
    }
}

/// True for the first line of a request or a response of HTTP.
fn is_http(line: &[u8]) -> bool {
    line.starts_with(b"HTTP/")
        || line
            .trim_ascii_end()
            .rsplit(|byte| *byte == b' ')
            .next()
            .is_some_and(|last| last.starts_with(b"HTTP/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(n: u32, body: &str) -> Vec<u8> {
        let length = body.len();
        format!(
            "OPTIONS sip:bob@example.org SIP/2.0\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: {n}\r\n\
             CSeq: {n} OPTIONS\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    struct Bench(Segments, u64);

    impl Bench {
        fn new() -> Bench {
            Bench(Segments::default(), 0)
        }

        /// Length of each message that comes out.
        fn hear(&mut self, sequence: u32, syn: bool, end: bool, bytes: &[u8]) -> Vec<usize> {
            self.1 += 1000;
            let (src, dst) = ("10.0.0.2:5060", "10.0.0.9:5060");
            let (src, dst) = (src.parse().expect("good"), dst.parse().expect("good"));
            let transport = Transport::Tcp { sequence, syn, end };
            let mut told = Vec::new();
            let piece = Piece { src, dst, from_guest: true, transport, bytes };
            self.0.hear(&piece, self.1, |bytes| told.push(bytes.len()));
            told
        }
    }

    #[test]
    fn messages_come_out_whole_however_they_are_cut_and_across_the_wrap() {
        let (one, two) = (message(1, "hello"), message(2, ""));
        let stream = [&b"\r\n\r\n"[..], &one, &two].concat();
        let mut bench = Bench::new();
        let begin = u32::MAX - 100;
        assert!(bench.hear(begin, true, false, b"").is_empty());
        let mut told = Vec::new();
        for (n, byte) in stream.iter().enumerate() {
            told.extend(bench.hear(begin.wrapping_add(1 + n as u32), false, false, &[*byte]));
        }
        assert_eq!(told, [one.len(), two.len()]);
    }

    #[test]
    fn a_connection_met_in_its_middle_or_torn_is_read_from_the_next_message_on() {
        let one = message(1, "v=0\r\n");
        let mut bench = Bench::new();
        assert!(bench.hear(500, false, false, &one[20..]).is_empty());
        let mut next = 500 + one.len() as u32 - 20;
        assert_eq!(bench.hear(next, false, false, &one), [one.len()]);
        next += one.len() as u32 + 700; // what was between, nobody heard
        for _ in 0..2 {
            assert!(bench.hear(next, false, false, &one).is_empty());
            next += one.len() as u32;
        }
        bench.1 += PATIENCE_NS;
        assert_eq!(bench.hear(next, false, false, &one), [one.len(); 3]);
    }

    #[test]
    fn what_is_no_sip_is_not_looked_at_again_until_a_new_connection() {
        let one = message(1, "");
        let mut bench = Bench::new();
        bench.hear(9, true, false, b"");
        let http = [&b"POST / HTTP/1.1\r\nContent-Type: application/sdp\r\n\r\n"[..], &one].concat();
        assert!(bench.hear(10, false, false, &http).is_empty());
        assert!(bench.hear(10 + http.len() as u32, false, false, &one).is_empty());
        bench.hear(10 + http.len() as u32, false, true, b"");
        bench.hear(9000, true, false, b"");
        assert_eq!(bench.hear(9001, false, false, &one), [one.len()]);
        // The same when its begin was not heard, with the body in a segment of its own.
        for head in [&b"POST / HTTP/1.1\r\nContent-Length: 999\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n\r\n"] {
            let mut bench = Bench::new();
            assert!(bench.hear(500, false, false, head).is_empty());
            assert!(bench.hear(500 + head.len() as u32, false, false, &one).is_empty());
        }
    }

    #[test]
    fn a_giant_message_is_passed_over_and_takes_no_memory() {
        let text = String::from_utf8(message(1, "")).expect("text");
        let giant = text.replace("Content-Length: 0", "Content-Length: 200000").into_bytes();
        let mut bench = Bench::new();
        bench.hear(9, true, false, b"");
        let mut next = 10;
        assert!(bench.hear(next, false, false, &giant).is_empty());
        next += giant.len() as u32;
        for _ in 0..200 {
            assert!(bench.hear(next, false, false, &[b'x'; 1000]).is_empty());
            next += 1000;
            assert!(bench.0.flows.values().all(|flow| flow.buffer.len() <= LONGEST));
        }
        let one = message(2, "");
        assert_eq!(bench.hear(next, false, false, &one), [one.len()], "and what follows is read");
        let endless = text.replace("Content-Length: 0", "Content-Length: 18446744073709551615").into_bytes();
        bench.hear(next + one.len() as u32, false, false, &endless);
    }

    #[test]
    fn flows_are_bounded() {
        let mut segments = Segments::default();
        for n in 0..2000u32 {
            let src = SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 5060));
            let transport = Transport::Tcp { sequence: 1, syn: n % 2 == 0, end: false };
            let piece = Piece { src, dst: src, from_guest: true, transport, bytes: b"INVITE" };
            segments.hear(&piece, n.into(), |_| ());
        }
        assert_eq!(segments.flows.len(), FLOWS);
    }

    proptest! {
        /// Cut, repeated and out of order: the same messages.
        #[test]
        fn the_way_does_not_matter(
            cuts in proptest::collection::btree_set(1usize..900, 0..12),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
            begin in any::<u32>(),
        ) {
            let stream = [message(1, "v=0\r\n"), message(2, ""), message(3, &"x".repeat(300))].concat();
            let mut ends: Vec<usize> = cuts.into_iter().filter(|cut| *cut < stream.len()).collect();
            ends.push(stream.len());
            let mut parts = Vec::new();
            let mut at = 0;
            for end in ends {
                parts.push((at, &stream[at..end]));
                at = end;
            }
            let mut bench = Bench::new();
            bench.hear(begin, true, false, b"");
            let mut told = Vec::new();
            let sent = order.iter().map(|n| *n.get(&parts)).chain(parts.iter().copied());
            for (at, bytes) in sent.collect::<Vec<_>>() {
                told.extend(bench.hear(begin.wrapping_add(1 + at as u32), false, false, bytes));
            }
            prop_assert_eq!(told, [message(1, "v=0\r\n").len(), message(2, "").len(), message(3, &"x".repeat(300)).len()]);
        }
    }
}
