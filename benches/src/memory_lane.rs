//! The shipped lcore and lane between two ports in memory: nothing of DPDK, nothing of the machine, so that what
//! is counted is the plane's own work and comes out the same each time.

use crate::frames::{self, Checksums, Load, Mix};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::classify::Classifier;
use tidegate_dataplane::ear::Ear;
use tidegate_dataplane::gate::{Gate, NO_LEASE};
use tidegate_dataplane::guest::Mode;
use tidegate_dataplane::hold::Quota;
use tidegate_dataplane::lane::{Lane, LaneConfig, LaneShared};
use tidegate_dataplane::lcore::{Idle, Lcore, LcoreShared};
use tidegate_dataplane::policy::{Policy, PolicyName, Rule, RuleVerdict};
use tidegate_dataplane::port::{BURST, Frame, Port};
use tidegate_dataplane::streams::DEFAULT_STREAMS;
use tidegate_dataplane::tsc::{Clock, TscRate};

/// Frames of an epoch: one of 50 ms at 20 000 frames a second.
const EPOCH_FRAMES: usize = 1024;
const RATE: TscRate = TscRate::new(2_600_000_000);

/// What is sent through the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// G.711 of 100 calls that have proven themselves: bypass.
    Rtp,
    /// The same with a handful of rules, none of which means media.
    #[value(name = "rtpruled")]
    RtpRuled,
    /// TCP acknowledgements: hold, release.
    Tcp,
    /// The same while the guest is open: classified, sent on.
    #[value(name = "tcpopen")]
    TcpOpen,
    /// UDP that is no media: hold, release.
    Udp,
    /// ARP: bypass.
    Arp,
    /// A frame whose headers lie: it has no checksum that could be verified, so it is dropped.
    Malformed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] =
        [Kind::Rtp, Kind::RtpRuled, Kind::Tcp, Kind::TcpOpen, Kind::Udp, Kind::Arp, Kind::Malformed];

    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Rtp => "rtp_bypass",
            Kind::RtpRuled => "rtp_bypass_with_rules",
            Kind::Tcp => "tcp_hold_release",
            Kind::TcpOpen => "tcp_open",
            Kind::Udp => "udp_hold_release",
            Kind::Arp => "arp_bypass",
            Kind::Malformed => "malformed_drop",
        }
    }

    /// Of `frames` sent, how many reach the wire.
    pub const fn expected(self, frames: usize) -> usize {
        if matches!(self, Kind::Malformed) { 0 } else { frames }
    }

    fn frames(self, n: usize) -> Vec<Brick> {
        let mut load = Load::new(Mix::Rtp, Checksums::Guest);
        let mut next = || match self {
            Kind::Rtp | Kind::RtpRuled => load.frame().to_vec(),
            Kind::Tcp | Kind::TcpOpen => frames::tcp_ack(),
            Kind::Udp => frames::dns_query(),
            Kind::Arp => frames::arp_request(),
            Kind::Malformed => frames::malformed(),
        };
        (0..n).map(|_| Brick(next().leak())).collect()
    }
}

/// A frame in memory, there until the process ends: giving it back costs nothing.
#[derive(Debug)]
pub struct Brick(&'static [u8]);

impl Frame for Brick {
    #[inline]
    fn head(&self) -> &[u8] {
        self.0
    }

    #[inline]
    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    #[inline]
    fn segments(&self) -> u16 {
        1
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        see(self.0);
    }
}

/// Gives frames until there are none left; keeps what it is given, so that nothing is freed on the way.
#[derive(Debug)]
pub struct MemoryPort {
    inbound: std::vec::IntoIter<Brick>,
    outbound: Vec<Brick>,
    burst: usize,
    sent: Rc<Cell<usize>>,
    /// The guest stands still.
    paused: Rc<Cell<bool>>,
}

impl MemoryPort {
    fn new(inbound: Vec<Brick>, room: usize, burst: usize) -> MemoryPort {
        MemoryPort {
            inbound: inbound.into_iter(),
            outbound: Vec::with_capacity(room),
            burst,
            sent: Rc::default(),
            paused: Rc::default(),
        }
    }
}

impl Port for MemoryPort {
    type Frame = Brick;

    #[inline]
    fn queues(&self) -> u16 {
        1
    }

    #[inline(never)]
    fn receive(&mut self, _queue: u16, burst: &mut Burst<Brick>) -> usize {
        if self.paused.get() {
            return 0;
        }
        let mut got = 0;
        for (slot, frame) in burst.room()[..self.burst].iter_mut().zip(&mut self.inbound) {
            *slot = Some(frame);
            got += 1;
        }
        burst.received(got);
        got
    }

    #[inline(never)]
    fn transmit(&mut self, _queue: u16, burst: &mut Burst<Brick>) -> usize {
        let sent = burst.len();
        self.outbound.extend(burst.queued().iter_mut().filter_map(Option::take));
        burst.sent(sent);
        self.sent.set(self.sent.get() + sent);
        sent
    }
}

/// Goes on a little each time it is read.
#[derive(Clone, Debug, Default)]
struct Ticker(Rc<Cell<u64>>);

impl Clock for Ticker {
    #[inline]
    fn now(&self) -> u64 {
        self.0.set(self.0.get() + 100);
        self.0.get()
    }
}

/// What an operator adds: names are asked and the time is told at once, a monitoring network is let through, one host is
/// cut off, SIP waits whatever else is said of it.
pub fn usual_rules() -> Vec<Rule> {
    let rule = |verdict, protocol, dport: Option<u16>, dst: Option<&str>| Rule {
        protocol,
        dport: dport.map(|port| port..=port),
        dst: dst.and_then(|text| text.parse().ok()),
        ..Rule::new(verdict)
    };
    vec![
        rule(RuleVerdict::Hold, Some(17), Some(5060), None),
        rule(RuleVerdict::Bypass, Some(17), Some(53), None),
        rule(RuleVerdict::Bypass, Some(17), Some(123), None),
        rule(RuleVerdict::Bypass, Some(6), None, Some("192.0.2.0/24")),
        rule(RuleVerdict::Refuse, None, None, Some("198.51.100.7")),
    ]
}

/// An lcore with one lane, its frames laid out.
pub struct MemoryLane {
    lcore: Lcore<MemoryPort, MemoryPort, Ticker>,
    gate: Arc<Gate>,
    clock: Ticker,
    sent: Rc<Cell<usize>>,
    paused: Rc<Cell<bool>>,
    frames: usize,
    burst: usize,
}

impl MemoryLane {
    /// `frames` of one kind, `burst` (1 to 32) a poll.
    pub fn new(kind: Kind, frames: usize, burst: usize, histograms: bool) -> MemoryLane {
        let burst = burst.clamp(1, BURST);
        let clock = Ticker::default();
        clock.0.set(RATE.hz());
        let guest = MemoryPort::new(kind.frames(frames), 0, burst);
        let wire = MemoryPort::new(Vec::new(), frames, BURST);
        let (sent, paused) = (wire.sent.clone(), guest.paused.clone());
        let gate = Arc::new(Gate::new(1, NO_LEASE));
        let rules = if kind == Kind::RtpRuled { usual_rules() } else { Vec::new() };
        let Ok(policy) = (Policy { rules, ..Policy::from(PolicyName::Realtime) }).compile() else {
            unreachable!("nothing is wrong with these rules")
        };
        let classifier = Classifier::new(policy, DEFAULT_STREAMS, RATE, &mut Heap);
        let shared =
            LaneShared::with_ear(gate.clone(), classifier.table(), Ear::new(&[5060], true, 1500), &mut Heap);
        let config = LaneConfig {
            mode: if kind == Kind::TcpOpen { Mode::Open } else { Mode::Protected },
            histograms,
            quota: Quota { mbufs: 8192, bytes: 64 << 20 },
            ..LaneConfig::default()
        };
        let lane = Lane::new(guest, wire, clock.clone(), RATE, shared, classifier, config, &mut Heap);
        let lcore = Lcore::new(vec![lane], clock.clone(), Idle::Spin, LcoreShared::new(&mut Heap));
        MemoryLane { lcore, gate, clock, sent, paused, frames, burst }
    }

    /// Sends everything through: after each [`EPOCH_FRAMES`] frames the guest pauses and its epoch is closed; the
    /// next close commits it. Returns how many frames reached the wire. Callgrind counts within this function only.
    #[inline(never)]
    pub fn tidegate_measured(&mut self) -> usize {
        let polls_of_epoch = EPOCH_FRAMES / self.burst;
        let rounds = self.frames.div_ceil(self.burst);
        let mut epoch = 0;
        for round in 1..=rounds + 4 * polls_of_epoch {
            self.lcore.poll(self.clock.now());
            if round.is_multiple_of(polls_of_epoch) {
                let now = self.clock.now();
                self.gate.commit(epoch, now);
                epoch += 1;
                self.gate.request_close(epoch);
                self.paused.set(true);
                self.lcore.poll(now);
                self.paused.set(false);
            }
            if self.sent.get() == self.frames {
                break;
            }
        }
        self.sent.get()
    }
}

/// The ports alone: what is to be taken off.
pub struct BarePorts {
    guest: MemoryPort,
    wire: MemoryPort,
}

impl BarePorts {
    /// The same frames, with nothing between the ports.
    pub fn new(kind: Kind, frames: usize, burst: usize) -> BarePorts {
        let burst = burst.clamp(1, BURST);
        BarePorts {
            guest: MemoryPort::new(kind.frames(frames), 0, burst),
            wire: MemoryPort::new(Vec::new(), frames, BURST),
        }
    }

    /// As [`MemoryLane::tidegate_measured`].
    #[inline(never)]
    pub fn tidegate_measured(&mut self) -> usize {
        let mut burst = Burst::new();
        while self.guest.receive(0, &mut burst) > 0 {
            self.wire.transmit(0, &mut burst);
        }
        self.wire.sent.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_every_kind_gets_where_it_belongs() {
        for kind in Kind::ALL {
            for burst in [1, 7, 32] {
                for histograms in [true, false] {
                    let mut lane = MemoryLane::new(kind, 3000, burst, histograms);
                    assert_eq!(lane.tidegate_measured(), kind.expected(3000), "{kind:?} by {burst}");
                }
            }
        }
        assert_eq!(BarePorts::new(Kind::Tcp, 3000, 32).tidegate_measured(), 3000);
    }
}
