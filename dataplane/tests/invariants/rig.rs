//! One lane over ports in memory, and frames made byte by byte.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::class::Class;
use tidegate_dataplane::classify::Classifier;
use tidegate_dataplane::counters::ClassTotals;
use tidegate_dataplane::guest::{Guest, Mode, Outcome, Rings, Ticket};
use tidegate_dataplane::lane::{Lane, LaneConfig, LaneShared};
use tidegate_dataplane::lcore::{Idle, Lcore, LcoreShared};
use tidegate_dataplane::policy::{CompiledPolicy, Policy, PolicyName};
use tidegate_dataplane::port::{Frame, Port};
use tidegate_dataplane::tsc::{Clock, TscRate};

/// One tick, one nanosecond.
pub const RATE: TscRate = TscRate::new(1_000_000_000);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestFrame {
    pub bytes: Vec<u8>,
    /// Cut after so many bytes into a second segment.
    pub cut: Option<usize>,
    pub unfinished: bool,
}

impl Frame for TestFrame {
    fn head(&self) -> &[u8] {
        &self.bytes[..self.cut.unwrap_or(self.bytes.len())]
    }

    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn segments(&self) -> u16 {
        1 + u16::from(self.cut.is_some())
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        see(self.head());
        if let Some(cut) = self.cut {
            see(&self.bytes[cut..]);
        }
    }

    fn unfinished(&self) -> bool {
        self.unfinished
    }
}

#[derive(Debug, Clone, Default)]
pub struct MemoryPort {
    pub inbound: Rc<RefCell<VecDeque<TestFrame>>>,
    pub outbound: Rc<RefCell<Vec<TestFrame>>>,
    /// Frames that transmit takes before it is full; `None` without end.
    pub room: Rc<Cell<Option<usize>>>,
    /// Frames of the largest transmit call.
    pub largest: Rc<Cell<usize>>,
}

impl Port for MemoryPort {
    type Frame = TestFrame;

    fn queues(&self) -> u16 {
        1
    }

    fn receive(&mut self, _queue: u16, burst: &mut Burst<TestFrame>) -> usize {
        let mut got = 0;
        while !burst.is_full() {
            let Some(frame) = self.inbound.borrow_mut().pop_front() else { break };
            burst.push(frame).expect("there is room");
            got += 1;
        }
        got
    }

    fn transmit(&mut self, _queue: u16, burst: &mut Burst<TestFrame>) -> usize {
        self.largest.set(self.largest.get().max(burst.len()));
        let mut sent = 0;
        while !burst.is_empty() && self.room.get() != Some(0) {
            self.room.set(self.room.get().map(|room| room - 1));
            self.outbound.borrow_mut().extend(burst.pop());
            sent += 1;
        }
        sent
    }

    fn compose(&mut self, bytes: &[u8]) -> Option<TestFrame> {
        Some(TestFrame { bytes: bytes.to_vec(), cut: None, unfinished: false })
    }
}

#[derive(Debug, Clone, Default)]
pub struct HandClock(pub Rc<Cell<u64>>);

impl Clock for HandClock {
    fn now(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

/// A lane, its ledger, and both of its ends.
pub struct Rig {
    pub guest: MemoryPort,
    pub wire: MemoryPort,
    pub clock: HandClock,
    pub ledger: Guest,
    pub shared: Arc<LaneShared>,
    lcore: Lcore<MemoryPort, MemoryPort, HandClock>,
    on: Arc<LcoreShared>,
}

pub const GENERATION: u64 = 42;

impl Rig {
    pub fn new(policy: PolicyName, config: LaneConfig) -> Self {
        Self::leased(policy, config, false)
    }

    pub fn leased(policy: PolicyName, config: LaneConfig, leased: bool) -> Self {
        let (guest, wire, clock) = (MemoryPort::default(), MemoryPort::default(), HandClock::default());
        clock.0.set(1000);
        let mut ledger = Guest::new(config.mode, leased, GENERATION, 64);
        let gate = ledger.gate();
        ledger.add(gate.clone(), Rings::Untold);
        let classifier = Classifier::new(compiled(policy), 64, RATE, &mut Heap);
        let shared = LaneShared::new(gate, classifier.table(), &mut Heap);
        let lane = Lane::new(
            guest.clone(),
            wire.clone(),
            clock.clone(),
            RATE,
            shared.clone(),
            classifier,
            config,
            &mut Heap,
        );
        let on = LcoreShared::new(&mut Heap);
        let lcore = Lcore::new(vec![lane], clock.clone(), Idle::Spin, on.clone());
        Self { guest, wire, clock, ledger, shared, lcore, on }
    }

    pub fn protected(policy: PolicyName) -> Self {
        Self::new(policy, LaneConfig { rings_tell: true, ..LaneConfig::default() })
    }

    pub fn guest_sends(&self, frame: TestFrame) {
        self.guest.inbound.borrow_mut().push_back(frame);
    }

    /// One round of the lcore.
    pub fn poll(&mut self) {
        let now = self.clock.now();
        self.lcore.poll(now);
        for class in Class::ALL {
            let totals = self.shared.counters.totals(class);
            assert!(totals.balanced(), "I6: {}: {totals:?}", class.name());
        }
    }

    /// The lcore is told to end.
    pub fn stop(&mut self) {
        self.on.stop();
        self.lcore.run();
    }

    pub fn polls(&mut self, n: usize) {
        (0..n).for_each(|_| self.poll());
    }

    /// Waits for what a ticket stands for, with the lcore polling.
    pub fn done(&mut self, ticket: Ticket) -> Outcome {
        for _ in 0..10 {
            self.poll();
            self.ledger.step();
            if let Some(outcome) = self.ledger.outcome(ticket) {
                return outcome;
            }
        }
        panic!("the lane did not answer");
    }

    /// Closes the open epoch; returns its number.
    pub fn close(&mut self) -> u64 {
        let ticket = self.ledger.begin_close(tidegate_dataplane::guest::Closer::VouchingSource);
        match self.done(ticket.expect("a close is welcome")) {
            Outcome::Closed(closed) => closed.epoch,
            other => panic!("{other:?}"),
        }
    }

    pub fn commit(&mut self, epoch: u64) {
        let now = self.clock.now();
        self.ledger.commit(GENERATION, epoch, now).expect("the commit is welcome");
    }

    /// The numbers of the frames on the wire so far.
    pub fn on_the_wire(&self) -> Vec<u32> {
        self.wire.outbound.borrow().iter().map(|frame| number(&frame.bytes)).collect()
    }

    pub fn total(&self) -> ClassTotals {
        self.shared.counters.total()
    }
}

/// The mode a lane starts in, otherwise defaults.
pub fn starting(mode: Mode) -> LaneConfig {
    LaneConfig { mode, ..LaneConfig::default() }
}

fn sum16(bytes: &[u8], mut sum: u32) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    sum
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// IPv4 over Ethernet with right checksums. `l4` has its checksum field, at `at`, zero.
pub fn ipv4(protocol: u8, mut l4: Vec<u8>, at: usize) -> TestFrame {
    let pseudo = [10, 0, 0, 2, 10, 0, 0, 1, 0, protocol, (l4.len() >> 8) as u8, l4.len() as u8];
    let checksum = fold(sum16(&l4, sum16(&pseudo, 0)));
    l4[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    let mut header = vec![0x45, 0];
    header.extend((20 + l4.len() as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    let checksum = fold(sum16(&header, 0));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    bytes.extend(header);
    bytes.extend(l4);
    TestFrame { bytes, cut: None, unfinished: false }
}

/// A TCP segment that carries `number` and so many bytes more.
pub fn tcp(number: u32, more: usize) -> TestFrame {
    let mut l4 = vec![0x13, 0xc4, 0x13, 0xc5, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0];
    l4.extend(number.to_be_bytes());
    l4.resize(l4.len() + more, 0x5a);
    ipv4(6, l4, 16)
}

/// An RTP packet (G.711 A-law, 20 ms) of stream `ssrc`; its number is its sequence number.
pub fn rtp(ssrc: u32, sequence: u16) -> TestFrame {
    let mut l4 = vec![0x4e, 0x20, 0x4e, 0x22];
    l4.extend((8 + 12 + 160u16).to_be_bytes());
    l4.extend([0, 0, 0x80, 8]);
    l4.extend(sequence.to_be_bytes());
    l4.extend((u32::from(sequence) * 160).to_be_bytes());
    l4.extend(ssrc.to_be_bytes());
    l4.resize(8 + 12 + 160, 0xd5);
    ipv4(17, l4, 6)
}

/// An ARP request.
pub fn arp() -> TestFrame {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2]);
    bytes.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    bytes.resize(60, 0);
    TestFrame { bytes, cut: None, unfinished: false }
}

/// The number in a frame made by [`tcp`] or [`rtp`]; 0 for others.
pub fn number(bytes: &[u8]) -> u32 {
    match (bytes.get(12..14), bytes.get(23)) {
        (Some([8, 0]), Some(6)) => u32::from_be_bytes(bytes[54..58].try_into().unwrap()),
        (Some([8, 0]), Some(17)) => u16::from_be_bytes(bytes[44..46].try_into().unwrap()).into(),
        _ => 0,
    }
}

/// A policy without rules.
pub fn compiled(name: PolicyName) -> Box<CompiledPolicy> {
    Policy::from(name).compile().expect("a policy without rules is right")
}
