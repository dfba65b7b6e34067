//! The rig's lcore: lanes built for a load, polled, and their epochs ended and committed at the moments that were fixed.

mod release;

use super::delays::Delays;
use super::gaps::Gaps;
use super::ledger::{HICCUP_NS, Ledger};
use super::ports::{Feed, Sink};
use super::{Ask, Load, Seen, Speed};
use crate::failure::{Failure, Result};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::classify::Classifier;
use tidegate_dataplane::dpdk::{Mbuf, Mempool, PortBurst, Tsc};
use tidegate_dataplane::ear::Ear;
use tidegate_dataplane::gate::{Gate, NO_LEASE};
use tidegate_dataplane::hold::Quota;
use tidegate_dataplane::lane::{Lane, LaneConfig, LaneShared};
use tidegate_dataplane::lcore::{Idle, Lcore, LcoreShared};
use tidegate_dataplane::policy::{Policy, PolicyName};
use tidegate_dataplane::port::{BURST, Port};
use tidegate_dataplane::streams::DEFAULT_STREAMS;
use tidegate_dataplane::tsc::{Clock, TscRate};

/// A stream proves itself with three packets; the fourth is to spare.
const PROOF: u64 = 4;
/// What the caches are made to forget with: more than any of them has.
const FORGET_BYTES: usize = 96 << 20;
/// Before a load is measured.
const WARM_UP_NS: u64 = 100_000_000;
/// Nothing takes longer than that.
const PATIENCE_NS: u64 = 30_000_000_000;

/// A port that its lane shares with the rig.
struct Shared<P>(Rc<RefCell<P>>);

impl<P: Port> Port for Shared<P> {
    type Frame = P::Frame;

    #[inline]
    fn queues(&self) -> u16 {
        1
    }

    #[inline]
    fn receive(&mut self, queue: u16, burst: &mut Burst<P::Frame>) -> usize {
        self.0.borrow_mut().receive(queue, burst)
    }

    #[inline]
    fn transmit(&mut self, queue: u16, burst: &mut Burst<P::Frame>) -> usize {
        self.0.borrow_mut().transmit(queue, burst)
    }
}

/// The wire of a lane that may be taken apart and built anew.
struct Wire(Rc<RefCell<Sink>>);

/// See the module's head.
pub struct Bench {
    wires: Vec<Option<PortBurst>>,
    pool: Mempool,
    rate: TscRate,
    pollution: Vec<u64>,
}

/// What stands for one load.
struct Stand {
    load: Load,
    rate: TscRate,
    ledger: Rc<RefCell<Ledger>>,
    feeds: Vec<Rc<RefCell<Feed>>>,
    sinks: Vec<Wire>,
    gates: Vec<Arc<Gate>>,
    shared: Vec<Arc<LaneShared>>,
    lcore: Lcore<Shared<Feed>, Shared<Sink>, Tsc>,
    epoch: u64,
    /// The next close that comes due, and the commits that will.
    next_close: u64,
    commits: std::collections::VecDeque<(u64, u64)>,
    /// Ticks in polls that had anything to do, and the frames that they were given.
    busy: (u64, u64),
    held_peak: u64,
}

impl Bench {
    /// `wires`: one for each lane that there will ever be at once.
    pub fn new(wires: Vec<PortBurst>, pool: Mempool, rate: TscRate) -> Bench {
        let wires = wires.into_iter().map(Some).collect();
        Bench { wires, pool, rate, pollution: vec![1; FORGET_BYTES / 8] }
    }

    /// Carries one request out.
    pub fn answer(&mut self, what: Ask) -> Result<Seen> {
        match what {
            Ask::Carry { load, ms } => self.stand(load, |stand, _| stand.carry(ms)),
            Ask::Release { load, frames, times } => {
                self.stand(load, |stand, pollution| stand.releases(frames, times, pollution))
            }
            Ask::Spin { ms } => Ok(spin(ms, self.rate)),
        }
    }

    /// Builds what the load needs, uses it, takes it apart again.
    fn stand(
        &mut self,
        load: Load,
        use_it: impl FnOnce(&mut Stand, &mut [u64]) -> Result<Seen>,
    ) -> Result<Seen> {
        let lanes = usize::from(load.lanes);
        if lanes == 0 || lanes > self.wires.len() {
            return Err(Failure::new(format!("the rig has {} ports, not {lanes}", self.wires.len())));
        }
        let ledger = Rc::new(RefCell::new(Ledger::new(self.rate)));
        let (mut feeds, mut sinks, mut gates, mut all_shared, mut built) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (n, wire) in self.wires[..lanes].iter_mut().enumerate() {
            let wire = wire.take().ok_or_else(|| Failure::new("the rig's port is away"))?;
            let first = n as u32 * load.streams;
            let feed = Feed::new(self.pool.clone(), first, load.streams, load.tcp_len, Rc::clone(&ledger));
            let feed = Rc::new(RefCell::new(feed));
            let sink = Rc::new(RefCell::new(Sink::new(wire, Rc::clone(&ledger))));
            let (lane, gate, shared) = lane(Rc::clone(&feed), Rc::clone(&sink), &load, self.rate)?;
            feeds.push(feed);
            sinks.push(Wire(sink));
            gates.push(gate);
            all_shared.push(shared);
            built.push(lane);
        }
        let lcore = Lcore::new(built, Tsc, Idle::Spin, LcoreShared::new(&mut Heap));
        let mut stand = Stand {
            load,
            rate: self.rate,
            ledger,
            feeds,
            sinks,
            gates,
            shared: all_shared,
            lcore,
            epoch: 1,
            next_close: u64::MAX,
            commits: std::collections::VecDeque::new(),
            busy: (0, 0),
            held_peak: 0,
        };
        let seen = stand.prove().and_then(|()| use_it(&mut stand, &mut self.pollution));
        let Stand { sinks, lcore, .. } = stand;
        drop(lcore);
        for (n, Wire(sink)) in sinks.into_iter().enumerate() {
            let sink = Rc::try_unwrap(sink).map_err(|_| Failure::new("the rig's port is still in use"))?;
            self.wires[n] = Some(sink.into_inner().into_port());
        }
        seen
    }
}

type LaneOf = Lane<Shared<Feed>, Shared<Sink>, Tsc>;

fn lane(
    feed: Rc<RefCell<Feed>>,
    sink: Rc<RefCell<Sink>>,
    load: &Load,
    rate: TscRate,
) -> Result<(LaneOf, Arc<Gate>, Arc<LaneShared>)> {
    let gate = Arc::new(Gate::new(1, NO_LEASE));
    let policy = Policy::from(PolicyName::Realtime).compile();
    let policy = policy.map_err(|_| Failure::new("a policy without rules was refused"))?;
    let streams = (load.streams as usize * 2).next_power_of_two().max(DEFAULT_STREAMS);
    let classifier = Classifier::new(policy, streams, rate, &mut Heap);
    let ear = Ear::new(&[5060], true, 1500);
    let shared = LaneShared::with_ear(Arc::clone(&gate), classifier.table(), ear, &mut Heap);
    let config = LaneConfig {
        quota: Quota { mbufs: load.hold_frames, bytes: load.hold_frames * 2048 },
        ..LaneConfig::default()
    };
    let lane =
        Lane::new(Shared(feed), Shared(sink), Tsc, rate, Arc::clone(&shared), classifier, config, &mut Heap);
    Ok((lane, gate, shared))
}

impl Stand {
    fn poll(&mut self) {
        let now = Tsc.now();
        self.turn(now);
        let before = self.given_and_hiccups();
        let start = Tsc.now();
        let worked = if self.load.bare { self.carry_bare() } else { self.lcore.poll(start) };
        let took = Tsc.now() - start;
        let after = self.given_and_hiccups();
        // What the machine did to a poll is not the lane's cost.
        if worked && after.1 == before.1 {
            self.busy.0 += took;
            self.busy.1 += after.0 - before.0;
        }
    }

    fn given_and_hiccups(&self) -> (u64, u64) {
        let ledger = self.ledger.borrow();
        (ledger.given.0 + ledger.given.1, ledger.gaps.count)
    }

    fn carry_bare(&mut self) -> bool {
        let mut any = false;
        for (feed, Wire(sink)) in self.feeds.iter().zip(&self.sinks) {
            let mut burst: Burst<Mbuf> = Burst::new();
            any |= feed.borrow_mut().receive(0, &mut burst) > 0;
            sink.borrow_mut().transmit(0, &mut burst);
        }
        any
    }

    /// Ends and commits the epochs whose time has come.
    fn turn(&mut self, now: u64) {
        if now >= self.next_close {
            let due = self.next_close;
            self.close(Some(due));
            let delay = self.rate.ticks(self.load.commit_us * 1_000);
            self.commits.push_back((self.epoch - 1, due + delay));
            self.next_close += self.rate.ticks(self.load.epoch_us * 1_000);
        }
        while let Some(&(epoch, due)) = self.commits.front()
            && now >= due
        {
            self.commits.pop_front();
            self.commit(epoch, due);
        }
    }

    /// The guests stand still at `pause`, their epoch ends, they go on.
    fn close(&mut self, pause: Option<u64>) {
        self.ledger.borrow_mut().paused = pause;
        self.gates.iter().for_each(|gate| gate.request_close(self.epoch));
        if !self.load.bare {
            self.lcore.poll(Tsc.now());
        }
        let held: u64 = self.shared.iter().map(|shared| shared.counters.held_mbufs.get()).sum();
        self.held_peak = self.held_peak.max(held);
        self.epoch += 1;
        let mut ledger = self.ledger.borrow_mut();
        (ledger.paused, ledger.epoch) = (None, self.epoch);
    }

    fn commit(&mut self, epoch: u64, due: u64) {
        self.gates.iter().for_each(|gate| gate.commit(epoch, due));
        self.ledger.borrow_mut().committed = Some(due);
    }

    fn set(&mut self, rtp: Speed, tcp: Speed) -> u64 {
        let from = Tsc.now();
        let each = |speed| match speed {
            Speed::PerSecond(all) => Speed::PerSecond(all / f64::from(self.load.lanes)),
            speed => speed,
        };
        for feed in &self.feeds {
            feed.borrow_mut().set(each(rtp), each(tcp), from, self.rate);
        }
        from
    }

    /// Every stream proves that it is media; then nothing is under way.
    fn prove(&mut self) -> Result<()> {
        let streams = u64::from(self.load.streams) * u64::from(self.load.lanes);
        if streams > 0 {
            self.set(Speed::Flood, Speed::None);
            let deadline = Tsc.now() + self.rate.ticks(PATIENCE_NS);
            while self.ledger.borrow().given.0 < streams * PROOF {
                self.poll();
                if Tsc.now() > deadline {
                    return Err(Failure::new("the rig's streams did not prove themselves"));
                }
            }
        }
        self.settle()
    }

    /// Sends nothing, commits everything, waits until all of it has left.
    fn settle(&mut self) -> Result<()> {
        self.set(Speed::None, Speed::None);
        self.next_close = u64::MAX;
        self.commits.clear();
        self.close(None);
        self.commit(self.epoch - 1, Tsc.now());
        let deadline = Tsc.now() + self.rate.ticks(PATIENCE_NS);
        loop {
            self.poll();
            let held: u64 = self.shared.iter().map(|shared| shared.counters.held_mbufs.get()).sum();
            if held == 0 {
                // What was popped last may still be in the stage.
                (0..8).for_each(|_| self.poll());
                self.ledger.borrow_mut().forget();
                return Ok(());
            }
            if Tsc.now() > deadline {
                return Err(Failure::new(format!("the rig's lanes still hold {held} frames")));
            }
        }
    }

    fn carry(&mut self, ms: u64) -> Result<Seen> {
        let Load { rtp, tcp, epoch_us, .. } = self.load;
        let from = self.set(rtp, tcp);
        let every = self.rate.ticks(epoch_us * 1_000);
        self.next_close = if epoch_us == 0 { u64::MAX } else { from + every };
        {
            let mut ledger = self.ledger.borrow_mut();
            // As if epochs had gone by like that from the first one on.
            let first = (from + every).saturating_sub((self.epoch - 1) * every);
            ledger.epochs = (first, every, self.rate.ticks(self.load.commit_us * 1_000));
            ledger.follow_tcp = self.load.follow_tcp;
            ledger.epoch = self.epoch;
        }
        self.until(from + self.rate.ticks(WARM_UP_NS.min(ms * 250_000)));
        let dropped = self.dropped();
        (self.busy, self.held_peak) = ((0, 0), 0);
        let begin = Tsc.now();
        self.ledger.borrow_mut().begin(begin);
        self.until(begin + self.rate.ticks(ms * 1_000_000));
        let end = Tsc.now();
        let mut seen = self.seen(begin, end);
        seen.dropped = self.dropped() - dropped + self.ledger.borrow().starved;
        let lost = self.ledger.borrow().rtp_waiting() as u64;
        self.settle()?;
        // A few are still on their way; after a hiccup, more.
        if lost > 4 * BURST as u64 * u64::from(self.load.lanes) + seen.frames / 10 {
            return Err(Failure::new(format!(
                "{lost} frames of RTP did not bypass as they should have, so their delay means nothing"
            )));
        }
        Ok(seen)
    }

    fn until(&mut self, end: u64) {
        while Tsc.now() < end {
            self.poll();
        }
    }

    fn dropped(&self) -> u64 {
        let classes = self.shared.iter().flat_map(|shared| shared.counters.class.iter());
        classes.flat_map(|class| class.dropped.iter()).map(|dropped| dropped.get()).sum()
    }

    fn seen(&self, begin: u64, end: u64) -> Seen {
        let ledger = self.ledger.borrow();
        let in_ns = |ticks: u64| ticks as f64 * 1e9 / self.rate.hz() as f64;
        let delays = |list: &[(u64, bool)]| {
            let list: Vec<_> = list.iter().map(|(ticks, touched)| (in_ns(*ticks), *touched)).collect();
            Delays::of(&list)
        };
        let followed = ledger.followed.max(1) as f64;
        let (busy, given) = (self.busy.0, self.busy.1.max(1));
        let Gaps { count, all, worst, .. } = ledger.gaps;
        Seen {
            rtp: delays(&ledger.rtp),
            first: delays(&ledger.first),
            hold_ns: ledger.held.0 as f64 * 1e9 / self.rate.hz() as f64 / followed,
            ideal_hold_ns: ledger.held.1 as f64 * 1e9 / self.rate.hz() as f64 / followed,
            frames: ledger.sent.0 + ledger.sent.1,
            reordered: ledger.reordered,
            busy_ns: in_ns(busy) / given as f64,
            busy_ticks: busy as f64 / given as f64,
            held_peak: self.held_peak,
            hiccups: count,
            hiccup_share: all as f64 / (end - begin).max(1) as f64,
            hiccup_worst_us: in_ns(worst) / 1e3,
            seconds: in_ns(end - begin) / 1e9,
            ..Seen::default()
        }
    }
}

fn spin(ms: u64, rate: TscRate) -> Seen {
    let mut gaps = Gaps::new(HICCUP_NS, rate);
    let begin = Tsc.now();
    gaps.begin(begin);
    let (mut now, end) = (begin, begin + rate.ticks(ms * 1_000_000));
    while now < end {
        now = Tsc.now();
        gaps.look(now);
    }
    let in_ns = |ticks: u64| ticks as f64 * 1e9 / rate.hz() as f64;
    Seen {
        hiccups: gaps.count,
        hiccup_share: gaps.all as f64 / (now - begin).max(1) as f64,
        hiccup_worst_us: in_ns(gaps.worst) / 1e3,
        seconds: in_ns(now - begin) / 1e9,
        ..Seen::default()
    }
}
