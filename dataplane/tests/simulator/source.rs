//! The tool stack of the simulator: pauses the VM, closes, carries checkpoints to the backup, commits;
//! renews leases; fences, unprotects, mutes and lets lanes join now and then. It waits for nothing: each
//! call does one small thing.

use crate::random::Random;
use crate::world::World;
use std::sync::Arc;
use tidegate_dataplane::gate::{FENCE, Gate, Lease, NO_LEASE};
use tidegate_dataplane::guest::{Closer, Generations, Guest, Mode, Outcome, Refusal, Rings, Ticket};

/// Terms of a lease, in ticks.
const TERM: u64 = 3000;

/// One that begins now; what bypasses may do so for a part of it.
fn lease(now: u64) -> Lease {
    Lease::new(now + TERM * 3 / 8, now + TERM)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The VM runs; the next pause comes at this moment.
    Running { until: u64 },
    /// The hypervisor stops the rings one by one; the hook of this lane waits.
    Stopping { lane: usize, ticket: Option<Ticket>, patience: u32 },
    /// All rings are stopped; the source begins.
    Paused,
    /// The source waits for its close.
    Closing { ticket: Ticket, patience: u32 },
    /// The source waits for an order given inside the pause.
    Ordered { ticket: Ticket, what: Ordered },
    /// The state is being read out, until this moment.
    Saving { epoch: u64, generation: u64, until: u64 },
    /// The rings start again, one by one.
    Starting { lane: usize },
    /// The guest runs; `resumed` is under way.
    Resumed { ticket: Option<Ticket> },
    /// A late lane joins while the VM runs.
    Joining { ticket: Ticket },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ordered {
    Protect { fenced: bool },
    Unprotect,
    Mute,
    Unmute,
}

/// A checkpoint on its way to the backup, then its acknowledgement on the way back.
#[derive(Debug, Clone, Copy)]
struct Checkpoint {
    generation: u64,
    epoch: u64,
    run: u64,
    at_backup: u64,
    back: u64,
    again: bool,
}

#[derive(Debug)]
pub struct Source {
    pub leased: bool,
    /// vhost-user rings, or a vif.
    pub rings_tell: bool,
    pub joins_late: Option<Arc<Gate>>,
    guest: Option<Guest>,
    generations: Generations,
    state: State,
    travelling: Vec<Checkpoint>,
    /// This process has not been protected by this source yet.
    fresh: bool,
    renew_at: u64,
}

impl Source {
    pub fn new(leased: bool, random: &mut Random) -> Self {
        Self {
            leased,
            rings_tell: !random.once_in(3),
            joins_late: None,
            guest: None,
            generations: Generations::default(),
            state: State::Running { until: 0 },
            travelling: Vec::new(),
            fresh: true,
            renew_at: 0,
        }
    }

    /// A process starts: its generation is its own.
    pub fn start_of_process(&mut self, now: u64, random: &mut Random) -> u64 {
        self.joins_late = None;
        self.generations = Generations::default();
        self.generation(now, random)
    }

    fn generation(&mut self, now: u64, random: &mut Random) -> u64 {
        self.generations.next(1_795_000_000_000 + now / 1000, random.next())
    }

    fn guest(&mut self) -> &mut Guest {
        self.guest.as_mut().expect("the process runs")
    }

    /// One small act.
    pub fn act(w: &mut World) {
        if w.source.guest.is_none() {
            return;
        }
        w.source.guest().step();
        Self::carry(w);
        if w.quiet {
            return;
        }
        Self::mind_the_lease(w);
        let before = w.source.state;
        match w.source.state {
            State::Running { until } if w.now >= until => Self::begin_pause(w),
            State::Running { .. } => Self::now_and_then(w),
            State::Stopping { lane, ticket, patience } => Self::stop_ring(w, lane, ticket, patience),
            State::Paused => Self::in_the_pause(w),
            State::Closing { ticket, patience } => Self::wait_for_close(w, ticket, patience),
            State::Ordered { ticket, what } => Self::wait_for_order(w, ticket, what),
            State::Saving { epoch, generation, until } => {
                if w.now >= until {
                    Self::saved(w, epoch, generation);
                }
            }
            State::Starting { lane } => Self::start_ring(w, lane),
            State::Resumed { ticket } => Self::say_resumed(w, ticket),
            State::Joining { ticket } => {
                if w.source.guest().outcome(ticket).is_some() {
                    w.tally.joins += 1;
                    w.source.state = Self::run_on(w);
                }
            }
        }
        if w.trace && std::mem::discriminant(&before) != std::mem::discriminant(&w.source.state) {
            let state = w.source.state;
            eprintln!("{} run {} open epoch {}: {state:?}", w.now, w.run, w.source.guest().open_epoch());
        }
    }

    fn run_on(w: &mut World) -> State {
        State::Running { until: w.now + 20 + w.random.below(400) }
    }

    /// The VM stops executing. With vhost-user the rings are stopped next, each behind its hook.
    fn begin_pause(w: &mut World) {
        w.running = false;
        w.source.state = match w.source.rings_tell {
            true => State::Stopping { lane: 0, ticket: None, patience: Self::patience(w) },
            false => State::Paused,
        };
    }

    /// Mostly enough, sometimes not: the wait runs out and the epoch merges.
    fn patience(w: &mut World) -> u32 {
        if w.random.once_in(6) { w.random.below(6) as u32 } else { 3000 }
    }

    fn stop_ring(w: &mut World, lane: usize, ticket: Option<Ticket>, patience: u32) {
        let known = w.source.guest().rings(lane).is_some();
        if lane >= w.rings.len() {
            w.source.state = State::Paused;
            return;
        }
        let waiting = match ticket {
            None if known => w.source.guest().begin_close(Closer::Rings).ok(),
            other => other,
        };
        let over = match waiting {
            None => true,
            Some(ticket) => w.source.guest().outcome(ticket).is_some(),
        };
        if !over && patience > 0 {
            w.source.state = State::Stopping { lane, ticket: waiting, patience: patience - 1 };
            return;
        }
        if let (false, Some(ticket)) = (over, waiting) {
            w.source.guest().give_up(ticket);
            w.tally.merged += 1;
        }
        w.rings[lane].on = false;
        w.source.guest().rings_stopped(lane);
        let patience = Self::patience(w);
        w.source.state = State::Stopping { lane: lane + 1, ticket: None, patience };
    }

    fn closer(w: &World) -> Closer {
        if w.source.rings_tell { Closer::Source } else { Closer::VouchingSource }
    }

    fn in_the_pause(w: &mut World) {
        let vouched = !w.source.rings_tell;
        let (now, mode) = (w.now, w.source.guest().mode());
        let fenced = w.source.guest().is_fenced(now);
        let wants_protection = w.source.fresh || fenced || mode == Mode::Open;
        let begun = if mode == Mode::Muted {
            let generation = w.source.generation(now, &mut w.random);
            w.muted = false;
            let lease = w.source.leased.then(|| lease(now));
            let protected = w.source.guest().begin_unmute(generation, true, 1, lease, now);
            if protected.is_ok()
                && let Some(lease) = lease
            {
                w.leased_until(lease);
            }
            protected.map(|ticket| State::Ordered { ticket, what: Ordered::Unmute })
        } else if wants_protection {
            let generation = w.source.generation(now, &mut w.random);
            let lease = w.source.leased.then(|| lease(now));
            let begun = w.source.guest().begin_protect(generation, 1, vouched, lease, now);
            if begun.is_ok()
                && let Some(lease) = lease
            {
                w.leased_until(lease);
            }
            begun.map(|ticket| State::Ordered { ticket, what: Ordered::Protect { fenced } })
        } else {
            let closer = Self::closer(w);
            let patience = Self::patience(w);
            w.source.guest().begin_close(closer).map(|ticket| State::Closing { ticket, patience })
        };
        match begun {
            Ok(state) => w.source.state = state,
            // An order of the last pause is still under way: patience, the VM stays paused.
            Err(Refusal::Busy) => {}
            // At the limit of epochs in flight, or a ring that a driver restarted: no checkpoint now.
            Err(_) => {
                w.tally.merged += 1;
                w.source.state = State::Starting { lane: 0 };
            }
        }
    }

    fn wait_for_close(w: &mut World, ticket: Ticket, patience: u32) {
        if patience == 0 {
            w.source.guest().give_up(ticket);
        }
        w.source.state = match w.source.guest().outcome(ticket) {
            Some(Outcome::Closed(closed)) => {
                w.tally.closes += 1;
                let until = w.now + w.random.below(60);
                State::Saving { epoch: closed.epoch, generation: closed.generation, until }
            }
            Some(_) => {
                w.tally.merged += 1;
                State::Starting { lane: 0 }
            }
            None => State::Closing { ticket, patience: patience.saturating_sub(1) },
        };
    }

    fn wait_for_order(w: &mut World, ticket: Ticket, what: Ordered) {
        if w.source.guest().outcome(ticket).is_none() {
            return;
        }
        match what {
            Ordered::Protect { fenced } => {
                w.source.fresh = false;
                w.tally.leases_lifted += u64::from(fenced);
                if std::mem::take(&mut w.open) {
                    // What the VM made before protection began was anybody's to see.
                    w.acknowledged_run = w.acknowledged_run.max(w.run);
                }
            }
            Ordered::Unprotect => {
                w.tally.unprotected += 1;
                w.source.leased = false;
            }
            Ordered::Mute => {
                w.muted = true;
                w.tally.mutes += 1;
            }
            Ordered::Unmute => w.open = false,
        }
        w.source.state = State::Starting { lane: 0 };
    }

    fn saved(w: &mut World, epoch: u64, generation: u64) {
        // Somebody else may have let the VM run meanwhile: then the state is no pause's.
        if w.source.rings_tell && w.random.once_in(12) {
            w.source.guest().rings_started(0);
            w.rings[0].on = true;
            w.run += 1;
        }
        if w.source.guest().seal(epoch) {
            let at_backup = w.now + w.random.below(400);
            let back = at_backup + w.random.below(200);
            let run = w.run;
            w.source.travelling.push(Checkpoint { generation, epoch, run, at_backup, back, again: false });
        } else {
            w.tally.voids += 1;
            // The source is mistaken and says that the backup has it: the commit must be refused.
            assert!(w.source.guest().commit(generation, epoch, w.now).is_err(), "seed {}", w.seed);
        }
        w.source.state = State::Starting { lane: 0 };
    }

    fn start_ring(w: &mut World, lane: usize) {
        if w.source.rings_tell && lane < w.rings.len() {
            w.rings[lane].on = true;
            if w.source.guest().rings(lane).is_some() {
                w.source.guest().rings_started(lane);
            }
            w.source.state = State::Starting { lane: lane + 1 };
            return;
        }
        w.running = true;
        w.run += 1;
        w.source.state = if w.source.rings_tell { Self::run_on(w) } else { State::Resumed { ticket: None } };
    }

    fn say_resumed(w: &mut World, ticket: Option<Ticket>) {
        match ticket {
            None => {
                let ticket = w.source.guest().begin_resumed().ok();
                w.source.state = State::Resumed { ticket };
            }
            Some(ticket) if w.source.guest().outcome(ticket).is_some() => {
                w.source.state = Self::run_on(w);
            }
            Some(_) => {}
        }
    }

    /// Checkpoints reach the backup; acknowledgements come back, some twice, some long after.
    fn carry(w: &mut World) {
        let now = w.now;
        for n in (0..w.source.travelling.len()).rev() {
            let c = w.source.travelling[n];
            if now >= c.at_backup {
                w.acknowledged_run = w.acknowledged_run.max(c.run);
            }
            if now < c.back {
                continue;
            }
            w.source.travelling.remove(n);
            let same_generation = w.source.guest().generation() == c.generation;
            let committed = w.source.guest().commit(c.generation, c.epoch, now);
            if w.trace {
                eprintln!("{now} commit {c:?}: {committed:?}");
            }
            match committed {
                Ok(_) => w.tally.commits += 1,
                Err(_) => {
                    w.tally.commits_refused += 1;
                    w.tally.old_generation_refused += u64::from(!same_generation);
                }
            }
            if !c.again && w.random.once_in(4) {
                let back = now + w.random.below(3000);
                w.source.travelling.push(Checkpoint { back, again: true, ..c });
            }
            // A commit of the future, and one of nobody's generation: always refused.
            let (generation, open) = (w.source.guest().generation(), w.source.guest().open_epoch());
            assert!(w.source.guest().commit(generation, open + 1, now).is_err(), "seed {}", w.seed);
            assert!(w.source.guest().commit(generation + 77, open - 1, now).is_err(), "seed {}", w.seed);
        }
    }

    fn mind_the_lease(w: &mut World) {
        if !w.source.leased || w.source.fresh || w.now < w.source.renew_at {
            return;
        }
        w.source.renew_at = w.now + TERM / 4;
        let (generation, now) = (w.source.guest().generation(), w.now);
        let lost = w.random.once_in(8);
        if !lost && w.source.guest().lease(generation, lease(now), now).is_ok() {
            w.leased_until(lease(now));
        }
    }

    /// Rare things, while the VM runs.
    fn now_and_then(w: &mut World) {
        if w.now >= w.fence_at {
            w.tally.fences += 1;
        }
        let mode = w.source.guest().mode();
        match w.random.below(400) {
            0 if w.source.leased => {
                w.source.guest().fence();
                w.fence_at = w.fence_at.min(w.now);
            }
            1 | 2 if mode == Mode::Protected && w.random.once_in(4) => {
                let release = w.random.once_in(2);
                if let Ok(ticket) = w.source.guest().begin_unprotect(release, true) {
                    w.open = true;
                    w.leased_until(NO_LEASE.into());
                    w.source.state = State::Ordered { ticket, what: Ordered::Unprotect };
                }
            }
            3 if !w.source.leased && mode == Mode::Protected && w.random.once_in(4) => {
                if let Ok(ticket) = w.source.guest().begin_mute() {
                    w.source.state = State::Ordered { ticket, what: Ordered::Mute };
                }
            }
            4..=12 => {
                let rings = if w.source.rings_tell { Rings::Running } else { Rings::Untold };
                let now = w.now;
                if let Some(gate) = w.source.joins_late.clone()
                    && let Ok(ticket) = w.source.guest().begin_join(gate, rings, now)
                {
                    w.source.joins_late = None;
                    w.source.state = State::Joining { ticket };
                }
            }
            _ => {}
        }
    }

    /// A guest's driver stops and starts its ring while the VM runs: an epoch closes, nobody commits it.
    pub fn driver_reset(w: &mut World, lane: usize) {
        let known = w.source.guest.as_ref().is_some_and(|g| g.rings(lane).is_some());
        if !w.source.rings_tell || !known {
            return;
        }
        let _ = w.source.guest().begin_close(Closer::Rings);
        w.rings[lane].frames.clear();
        w.source.guest().rings_stopped(lane);
        w.source.guest().rings_started(lane);
    }
}

impl World {
    /// The new process's ledger; whatever was under way is forgotten, the VM runs on where it was.
    pub fn process_started(&mut self, guest: Guest) {
        self.source.guest = Some(guest);
        self.source.fresh = true;
        self.open = false;
        self.muted = false;
        self.leased_until(if self.source.leased { FENCE } else { NO_LEASE }.into());
        self.source.state = if self.running { Source::run_on(self) } else { State::Paused };
    }

    /// The process ends; true if it is asked to rather than killed.
    pub fn process_ends(&mut self) -> bool {
        self.tally.crashes += 1;
        self.source.guest = None;
        self.random.once_in(2)
    }

    pub fn note_full(&mut self, dropped: u64) {
        self.tally.full += u64::from(dropped > 0);
    }
}
