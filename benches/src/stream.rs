//! Calls from the generator through a device and back: each packet sent at the moment at which it is due, stamped when
//! it comes out of the wire port.

use crate::failure::{Failure, Result};
use crate::frames::{self, Call, Checksums, HEAD};
use crate::rig::gaps::Gaps;
use serde::{Deserialize, Serialize};
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{L4, Mbuf, Mempool, PortBurst, Tsc};
use tidegate_dataplane::port::{BURST, Frame, Port};
use tidegate_dataplane::tsc::{Clock, TscRate};

/// A stream proves itself with its first packets; those are not reported.
pub const PROOF: u32 = 5;
/// From one packet of a call to its next.
pub const PACKET_NS: u64 = 20_000_000;
/// A generator that does not look for longer did not have its CPU. It is what a round of its loop takes, twenty times.
const HICCUP_NS: u64 = 20_000;
/// After the last packet: more than any epoch here, its commit, and the machine.
const LINGER_NS: u64 = 700_000_000;

/// What is to be sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Calls of 50 packets a second each, at even distances. Each time new ones: what a former plan left on its way
    /// is told from them.
    pub calls: u16,
    /// Packets of each that are reported.
    pub packets: u32,
    /// TCP segments of 60 bytes a second beside them, whose checksums are the guest's; 0 for none.
    pub tcp_per_s: u64,
}

/// A packet that came out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arrival {
    /// Of which call.
    pub call: u16,
    /// When it was due, nanoseconds from the beginning.
    pub due_ns: u64,
    /// When it was seen.
    pub at_ns: u64,
    /// The generator did not have its CPU meanwhile.
    pub touched: bool,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arrivals {
    /// In the order in which they came.
    pub packets: Vec<Arrival>,
    /// Packets to be reported that never came.
    pub lost: u64,
    /// Moments at which the generator did not have its CPU.
    pub hiccups: u64,
    /// The longest, microseconds.
    pub hiccup_worst_us: f64,
}

struct Sender<'a> {
    port: &'a mut PortBurst,
    pool: &'a Mempool,
    checksums: Checksums,
    waiting: Burst<Mbuf>,
}

impl Sender<'_> {
    /// True when there is room for a frame.
    fn ready(&mut self) -> bool {
        if self.waiting.len() == BURST {
            self.port.transmit(0, &mut self.waiting);
        }
        self.waiting.len() < BURST
    }

    /// Without an mbuf the frame is lost.
    fn send(&mut self, frame: &[u8]) {
        let Some(mut mbuf) = Mbuf::recycled(self.pool, frame.len() as u16) else { return };
        mbuf.head_mut()[..HEAD].copy_from_slice(&frame[..HEAD]);
        if self.checksums == Checksums::Device {
            mbuf.ask_checksum(14, 20, false, if frame[23] == 17 { L4::Udp } else { L4::Tcp });
        }
        let _ = self.waiting.push(mbuf); // There is room, see `ready`.
    }

    fn flush(&mut self) {
        if !self.waiting.is_empty() {
            self.port.transmit(0, &mut self.waiting);
        }
    }
}

/// The first call that no load of the generator has.
pub const FIRST_CALL: u16 = 200;
/// From here on their ports begin anew.
const LAST_CALL: u16 = 5_000;

/// The number of the first call of the plan after one that began with `first`.
pub fn next(first: u16, plan: Plan) -> u16 {
    let next = first + plan.calls;
    if next > LAST_CALL { FIRST_CALL } else { next }
}

/// Sends it, and waits for what comes out; the number of the first call is `first`.
pub fn run(
    plan: Plan,
    first: u16,
    guest: &mut PortBurst,
    wire: &mut PortBurst,
    pool: &Mempool,
    checksums: Checksums,
    rate: TscRate,
) -> Result<Arrivals> {
    if plan.calls == 0 {
        return Err(Failure::new("a stream needs a call"));
    }
    if plan.tcp_per_s > 0 && checksums == Checksums::Device {
        return Err(Failure::new("TCP beside a stream has its checksums from the guest"));
    }
    let calls = u64::from(plan.calls);
    let mut voices: Vec<Call> = (0..plan.calls).map(|n| Call::new(first + n, checksums)).collect();
    let mut ack = frames::Segments::new(60);
    let all = calls * u64::from(plan.packets + PROOF);
    let (every, tcp_every) = (PACKET_NS / calls, 1_000_000_000 / plan.tcp_per_s.max(1));
    let mut sender = Sender { port: guest, pool, checksums, waiting: Burst::new() };
    let mut gaps = Gaps::new(HICCUP_NS, rate);
    let mut late = vec![false; all as usize];
    let mut arrivals = Arrivals { packets: Vec::with_capacity(all as usize), ..Arrivals::default() };
    // What a former one left on its way.
    let mut arrived = Burst::new();
    while wire.receive(0, &mut arrived) > 0 {
        while arrived.pop().is_some() {}
    }
    let start = Tsc.now();
    gaps.begin(start);
    let (mut sent, mut tcp_sent, mut came) = (0u64, 0u64, 0u64);
    let end_ns = all * every + LINGER_NS;
    loop {
        let now = Tsc.now();
        gaps.look(now);
        let now_ns = rate.ns(now - start);
        while wire.receive(0, &mut arrived) > 0 {
            let at_ns = rate.ns(Tsc.now() - start);
            while let Some(frame) = arrived.pop() {
                let Some((call, index)) = packet_of(frame.head(), first, plan.calls) else { continue };
                came += 1;
                if index >= PROOF {
                    let due_ns = (u64::from(index) * calls + u64::from(call)) * every;
                    // It went late, or came when nobody looked. Between that it may have been held for long.
                    let place = (u64::from(index) * calls + u64::from(call)) as usize;
                    let touched = late.get(place).is_none_or(|late| *late) || gaps.touched(now);
                    arrivals.packets.push(Arrival { call, due_ns, at_ns, touched });
                }
            }
        }
        while sent < all && sent * every <= now_ns && sender.ready() {
            sender.send(voices[(sent % calls) as usize].packet());
            late[sent as usize] = gaps.touched(start + rate.ticks(sent * every));
            sent += 1;
        }
        while plan.tcp_per_s > 0 && sent < all && tcp_sent * tcp_every <= now_ns && sender.ready() {
            sender.send(ack.frame());
            tcp_sent += 1;
        }
        sender.flush();
        if came >= all || now_ns > end_ns {
            break;
        }
    }
    let reported = calls * u64::from(plan.packets);
    arrivals.lost = reported - reported.min(arrivals.packets.len() as u64);
    arrivals.hiccups = gaps.count;
    arrivals.hiccup_worst_us = rate.ns(gaps.worst) as f64 / 1e3;
    Ok(arrivals)
}

/// Which call's packet it is, and the how manieth.
fn packet_of(frame: &[u8], first: u16, calls: u16) -> Option<(u16, u32)> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    if *frame.get(23)? != 17 || word(12)? != 0x0800 {
        return None;
    }
    let number = word(36)?.checked_sub(20_000)? / 2;
    let call = number.checked_sub(first).filter(|call| *call < calls)?;
    let begin = number.wrapping_mul(601).wrapping_add(1);
    Some((call, word(44)?.wrapping_sub(begin).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plan_has_calls_of_its_own() {
        let plan = Plan { calls: 50, packets: 1, tcp_per_s: 0 };
        assert_eq!((next(FIRST_CALL, plan), next(4_950, plan), next(4_960, plan)), (250, 5_000, FIRST_CALL));
    }

    #[test]
    fn a_packet_says_whose_it_is() {
        for call in [0, 7, 49] {
            let mut voice = Call::new(300 + call, Checksums::Guest);
            for index in 0..300 {
                assert_eq!(packet_of(voice.packet(), 300, 50), Some((call, index)));
            }
        }
        assert_eq!(packet_of(&frames::tcp_ack(), 300, 50), None);
        for other in [0, 299, 350] {
            assert_eq!(packet_of(Call::new(other, Checksums::Guest).packet(), 300, 50), None);
        }
        assert_eq!(packet_of(&[0; 20], 300, 50), None);
    }
}
