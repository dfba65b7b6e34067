//! The ports in memory: what feeds a lane at the moments at which frames are due, and what takes them off it.

use super::Speed;
use super::ledger::Ledger;
use crate::frames::{Call, Checksums, HEAD, NUMBER_AT, Segments};
use std::cell::RefCell;
use std::rc::Rc;
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{Mbuf, Mempool, PortBurst, Tsc};
use tidegate_dataplane::port::{BURST, Frame, Port};
use tidegate_dataplane::tsc::{Clock, TscRate};

/// Length of a frame of G.711: what tells RTP from TCP without a look into the frame.
pub const RTP_LEN: u32 = 214;
/// Fractions of a tick, so that no rate is rounded.
const PARTS: f64 = 65_536.0;

/// When frames of one kind are due.
#[derive(Clone, Copy, Debug)]
struct Due {
    next: u128,
    every: u128,
    left: u64,
}

impl Due {
    fn new(speed: Speed, from: u64, rate: TscRate) -> Due {
        let every = match speed {
            Speed::PerSecond(frames) if frames > 0.0 => (rate.hz() as f64 * PARTS / frames) as u128,
            _ => 0,
        };
        let left = if speed == Speed::None { 0 } else { u64::MAX };
        Due { next: u128::from(from) << 16, every, left }
    }

    /// The moment at which the next frame is due.
    #[inline]
    fn moment(&self) -> Option<u64> {
        (self.left > 0).then_some((self.next >> 16) as u64)
    }

    #[inline]
    fn took(&mut self) {
        self.next += self.every;
        self.left -= 1;
    }
}

/// Gives what is due.
pub struct Feed {
    pool: Mempool,
    calls: Vec<Call>,
    call: usize,
    segments: Segments,
    rtp: Due,
    tcp: Due,
    ledger: Rc<RefCell<Ledger>>,
}

impl Feed {
    /// `pool`: cleared. Sends nothing until it is told to.
    pub fn new(
        pool: Mempool,
        first_stream: u32,
        streams: u32,
        tcp_len: u16,
        ledger: Rc<RefCell<Ledger>>,
    ) -> Feed {
        let never = Due { next: 0, every: 0, left: 0 };
        Feed {
            pool,
            calls: (0..streams).map(|n| Call::numbered(first_stream + n, Checksums::Guest)).collect(),
            call: 0,
            segments: Segments::new(tcp_len.into()),
            rtp: never,
            tcp: never,
            ledger,
        }
    }

    /// From that moment on these speeds.
    pub fn set(&mut self, rtp: Speed, tcp: Speed, from: u64, rate: TscRate) {
        let rtp = if self.calls.is_empty() { Speed::None } else { rtp };
        (self.rtp, self.tcp) = (Due::new(rtp, from, rate), Due::new(tcp, from, rate));
    }

    /// So many TCP frames at once, and no more.
    pub fn pile(&mut self, frames: u64) {
        self.tcp = Due { next: 0, every: 0, left: frames };
    }

    /// Whichever comes first: a flood leaves room for what is paced.
    #[inline]
    fn next(&mut self, now: u64) -> Option<(bool, u64)> {
        let (rtp, tcp) = (self.rtp.moment(), self.tcp.moment());
        let due = |moment: Option<u64>| moment.filter(|moment| *moment <= now);
        let is_rtp = match (due(rtp), due(tcp)) {
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(_), Some(tcp)) if self.tcp.every == 0 || rtp < Some(tcp) => true,
            (Some(_), Some(_)) => false,
            (None, None) => return None,
        };
        let from = if is_rtp { &mut self.rtp } else { &mut self.tcp };
        let moment = if from.every == 0 { now } else { from.moment()? };
        from.took();
        Some((is_rtp, moment))
    }
}

impl Port for Feed {
    type Frame = Mbuf;

    #[inline]
    fn queues(&self) -> u16 {
        1
    }

    fn receive(&mut self, _queue: u16, burst: &mut Burst<Mbuf>) -> usize {
        let ledger = Rc::clone(&self.ledger);
        let mut ledger = ledger.borrow_mut();
        let now = Tsc.now();
        ledger.gaps.look(now);
        let now = ledger.paused.unwrap_or(now);
        let mut got = 0;
        for slot in burst.room() {
            let Some((is_rtp, due)) = self.next(now) else { break };
            let frame = if is_rtp {
                self.call = if self.call + 1 >= self.calls.len() { 0 } else { self.call + 1 };
                self.calls[self.call].packet()
            } else {
                self.segments.frame()
            };
            let Some(mut mbuf) = Mbuf::recycled(&self.pool, frame.len() as u16) else {
                ledger.starved += 1;
                break;
            };
            mbuf.head_mut()[..HEAD].copy_from_slice(&frame[..HEAD]);
            *slot = Some(mbuf);
            got += 1;
            if is_rtp { ledger.rtp_given(due) } else { ledger.tcp_given(due) }
        }
        burst.received(got);
        ledger.gaps.look(Tsc.now());
        got
    }

    fn transmit(&mut self, _queue: u16, _burst: &mut Burst<Mbuf>) -> usize {
        0
    }
}

/// A driver that frees what it is given, and when.
pub struct Sink {
    port: PortBurst,
    ledger: Rc<RefCell<Ledger>>,
}

impl Sink {
    /// `port`: of `net_null`.
    pub fn new(port: PortBurst, ledger: Rc<RefCell<Ledger>>) -> Sink {
        Sink { port, ledger }
    }

    /// The driver's end, for the next one.
    pub fn into_port(self) -> PortBurst {
        self.port
    }
}

impl Port for Sink {
    type Frame = Mbuf;

    #[inline]
    fn queues(&self) -> u16 {
        1
    }

    #[inline]
    fn receive(&mut self, _queue: u16, _burst: &mut Burst<Mbuf>) -> usize {
        0
    }

    fn transmit(&mut self, queue: u16, burst: &mut Burst<Mbuf>) -> usize {
        let mut ledger = self.ledger.borrow_mut();
        ledger.gaps.look(Tsc.now());
        let mut seen = [(0, None); BURST];
        let follow = ledger.follow_tcp;
        for (seen, frame) in seen.iter_mut().zip(burst.iter()) {
            // The driver reads that line anyway; the frame itself only where it is followed.
            let len = frame.len();
            *seen = (len, (follow && len != RTP_LEN).then(|| number(frame.head())));
        }
        let sent = self.port.transmit(queue, burst);
        let now = Tsc.now();
        ledger.gaps.look(now);
        for (len, number) in &seen[..sent] {
            if *len == RTP_LEN { ledger.rtp_sent(now) } else { ledger.tcp_sent(now, *number) }
        }
        sent
    }
}

fn number(head: &[u8]) -> u32 {
    let word = head.get(NUMBER_AT..NUMBER_AT + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_at_even_distances_and_a_flood_always_is() {
        let rate = TscRate::new(1_000_000_000);
        let mut paced = Due::new(Speed::PerSecond(3.0), 10, rate);
        let moments: Vec<_> = (0..4)
            .map(|_| {
                let moment = paced.moment();
                paced.took();
                moment
            })
            .collect();
        assert_eq!(moments, [10, 333_333_343, 666_666_676, 1_000_000_009].map(Some));
        assert_eq!(Due::new(Speed::None, 10, rate).moment(), None);
        assert_eq!(Due::new(Speed::Flood, 10, rate).moment(), Some(10));
    }
}
