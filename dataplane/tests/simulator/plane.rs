//! The plane of the simulator: shipped lanes on a shipped lcore, over simulated ports.

use crate::ports::{GuestPort, SimClock, WirePort};
use crate::world::{LANES, World};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::class::{Class, DropReason};
use tidegate_dataplane::classify::Classifier;
use tidegate_dataplane::gate::{Gate, NO_LEASE};
use tidegate_dataplane::guest::{Guest, Mode, Rings};
use tidegate_dataplane::hold::Quota;
use tidegate_dataplane::lane::{Lane, LaneConfig, LaneShared};
use tidegate_dataplane::lcore::{Idle, Lcore, LcoreShared};
use tidegate_dataplane::policy::{CompiledPolicy, Policy, PolicyName};
use tidegate_dataplane::tsc::TscRate;

/// Ticks a second of the simulated TSC: one tick, one microsecond.
const RATE: TscRate = TscRate::new(1_000_000);
/// Epochs in flight, few enough to reach the limit.
const LIMIT: usize = 3;

pub struct Plane {
    world: Rc<RefCell<World>>,
    lcore: Lcore<GuestPort, WirePort, SimClock>,
    shared: Arc<LcoreShared>,
    lanes: Vec<Arc<LaneShared>>,
}

impl Plane {
    /// A plane that starts, or starts again after a crash: protected, and fenced if leased.
    pub fn start(world: &Rc<RefCell<World>>) -> Self {
        let mut borrowed = world.borrow_mut();
        let w = &mut *borrowed;
        let generation = w.source.start_of_process(w.now, &mut w.random);
        let mut guest = Guest::new(Mode::Protected, w.source.leased, generation, LIMIT);
        let late = w.random.once_in(2);
        let pace_bits_per_s = if w.random.once_in(2) { Some(500_000_000) } else { None };
        let rings_tell = w.source.rings_tell;
        let rings = match (rings_tell, w.running) {
            (false, _) => Rings::Untold,
            (true, true) => Rings::Running,
            (true, false) => Rings::Stopped,
        };
        let (mut classifiers, mut lanes) = (Vec::new(), Vec::new());
        for lane in 0..LANES {
            let classifier = Classifier::new(policy(), 64, RATE, &mut Heap);
            let joined = lane == 0 || !late;
            // A lane that joins late has had its gate since the process started.
            let gate = if joined { guest.gate() } else { Arc::new(Gate::new(1, NO_LEASE)) };
            lanes.push(LaneShared::new(gate.clone(), classifier.table(), &mut Heap));
            match joined {
                true => drop(guest.add(gate, rings)),
                false => w.source.joins_late = Some(gate),
            }
            classifiers.push((classifier, joined));
        }
        w.process_started(guest);
        drop(borrowed);
        let built = classifiers.into_iter().enumerate().map(|(lane, (classifier, joined))| {
            let config = LaneConfig {
                quota: Quota { mbufs: 24, bytes: 4000 },
                pace_bits_per_s,
                verify_checksums: false,
                mode: Mode::Protected,
                rings_tell,
                joined,
                guestward_backlog: 8,
                ..LaneConfig::default()
            };
            let guest = GuestPort { world: world.clone(), lane };
            let wire = WirePort { world: world.clone(), lane };
            let clock = SimClock(world.clone());
            Lane::new(guest, wire, clock, RATE, lanes[lane].clone(), classifier, config, &mut Heap)
        });
        let built = built.collect();
        let shared = LcoreShared::new(&mut Heap);
        let lcore = Lcore::new(built, SimClock(world.clone()), Idle::Spin, shared.clone());
        Self { world: world.clone(), lcore, shared, lanes }
    }

    /// One poll, or none for a while: the lcore may be slow.
    pub fn poll(&mut self) {
        let stall = {
            let mut w = self.world.borrow_mut();
            if w.random.once_in(40) { w.random.below(200) } else { 0 }
        };
        for _ in 0..stall {
            self.world.borrow_mut().moves();
        }
        let now = self.world.borrow().now;
        self.lcore.poll(now);
        self.check();
    }

    /// I6 after each poll, I8 whenever the wire takes frames.
    fn check(&self) {
        let mut w = self.world.borrow_mut();
        let seed = w.seed;
        for lane in &self.lanes {
            for class in Class::ALL {
                let totals = lane.counters.totals(class);
                assert!(totals.balanced(), "seed {seed}: I6: {}: {totals:?}", class.name());
            }
            let total = lane.counters.total();
            w.note_full(total.dropped[DropReason::HoldFull as usize]);
        }
    }

    /// The others stop acting and the wire drains: what is committed must leave (I7).
    pub fn settle(&mut self) {
        {
            let mut w = self.world.borrow_mut();
            w.quiet = true;
            w.wire_blocked = false;
        }
        for _ in 0..400 {
            let now = self.world.borrow().now;
            self.lcore.poll(now);
        }
        let w = self.world.borrow();
        let (seed, fenced) = (w.seed, w.now >= w.fence_at);
        for lane in &self.lanes {
            let oldest = lane.counters.held_oldest_epoch.get();
            let committed = lane.gate.committed();
            assert!(
                fenced || w.muted || oldest == 0 || oldest > committed,
                "seed {seed}: I7: a frame of epoch {oldest} waits, {committed} is committed"
            );
            assert!(lane.counters.total().balanced());
        }
    }

    /// SIGTERM: the lcore drops what it holds; the judge at the wire would see a flush (I4).
    pub fn stop(&mut self) {
        self.shared.stop();
        self.lcore.run();
        self.check();
        let seed = self.world.borrow().seed;
        for lane in &self.lanes {
            assert_eq!(lane.counters.total().held, 0, "seed {seed}: something is held after the stop");
        }
    }

    /// The process dies, or is told to stop; either way nothing it held is ever sent.
    pub fn crash(&mut self) {
        let gracefully = self.world.borrow_mut().process_ends();
        if gracefully {
            self.stop();
        }
    }
}

fn policy() -> Box<CompiledPolicy> {
    Policy::from(PolicyName::Realtime).compile().expect("a policy without rules is right")
}
