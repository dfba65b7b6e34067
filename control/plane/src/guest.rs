//! One guest of the running plane: its ledger under a lock, its lanes, and the waiting that the ledger itself
//! never does.
//!
//! Whoever touches the ledger does it through [`GuestPlane::with`]: afterwards what changed is told as events,
//! whoever changed it (a session, the timer, a ring that stopped).

use crate::described::Described;
use crate::events::Hub;
use crate::nap::{NAP, SPIN, nap};
use crate::pauses::Pauses;
use crate::witness::Witness;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_control::config::{self, PolicySpec};
use tidegate_control::protocol::Failure;
use tidegate_dataplane::gate::Gate;
use tidegate_dataplane::guest::{ClosedEpoch, Closer, Guest, Mode, Outcome, Refusal, Rings, Ticket};
use tidegate_dataplane::lane::LaneShared;

/// How long an order may take before whoever gave it is told that it is still under way.
pub const ORDER_WITHIN: Duration = Duration::from_secs(2);

/// A lane and how it was configured.
pub struct LaneSeat {
    /// Its keys.
    pub config: config::Lane,
    /// What it shares with its lcore.
    pub shared: Arc<LaneShared>,
}

/// Ticks of the clock that the lcores use.
pub type Now = Arc<dyn Fn() -> u64 + Send + Sync>;

/// See the module's head.
pub struct GuestPlane {
    /// Its keys; `lanes` in the order of [`GuestPlane::lanes`].
    pub config: config::Guest,
    /// Its lanes.
    pub lanes: Vec<LaneSeat>,
    /// What bypasses now.
    pub policy: Mutex<PolicySpec>,
    /// How long it stood still.
    pub pauses: Pauses,
    /// What its signalling says of its ports.
    pub described: Described,
    ledger: Mutex<(Guest, Witness)>,
    hub: Arc<Hub>,
    now: Now,
}

/// Why the ledger refused, as a word for programs.
pub fn failure(refusal: Refusal) -> Failure {
    let reason = match refusal {
        Refusal::WrongMode(_) => "wrong-mode",
        Refusal::Fenced => "fenced",
        Refusal::Busy => "busy",
        Refusal::RingsRun(_) => "rings-run",
        Refusal::InFlight(_) => "in-flight",
        Refusal::Generation(_) => "generation",
        Refusal::Unclosed(_) => "unclosed",
        Refusal::Void(_) => "void",
        Refusal::NoLane(_) => "no-lane",
        Refusal::Late => "late",
        Refusal::FirstEpoch => "first-epoch",
    };
    Failure::new(reason, refusal.to_string())
}

/// The ledger's word for a configured mode.
pub fn mode(mode: config::Mode) -> Mode {
    match mode {
        config::Mode::Open => Mode::Open,
        config::Mode::Protected => Mode::Protected,
        config::Mode::Muted => Mode::Muted,
    }
}

impl GuestPlane {
    /// A guest whose lanes are in `ledger` already, in the order of `lanes`.
    pub fn new(config: config::Guest, ledger: Guest, lanes: Vec<LaneSeat>, hub: Arc<Hub>, now: Now) -> Self {
        let policy = PolicySpec::of(&config);
        let witness = Witness::new(&ledger, lanes.len(), now());
        Self {
            config,
            lanes,
            policy: Mutex::new(policy),
            pauses: Pauses::default(),
            described: Described::default(),
            ledger: Mutex::new((ledger, witness)),
            hub,
            now,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Where its events go.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Ticks.
    pub fn now_tsc(&self) -> u64 {
        (self.now)()
    }

    /// How long a close may take.
    pub fn close_timeout(&self) -> Duration {
        Duration::from_millis(self.config.close_timeout_ms)
    }

    /// Does something with the ledger, then tells what changed.
    pub fn with<R>(&self, act: impl FnOnce(&mut Guest) -> R) -> R {
        let mut locked = self.lock();
        let (guest, witness) = &mut *locked;
        let runs = guest.times_seen_running();
        let result = act(guest);
        if guest.times_seen_running() != runs {
            self.pauses.ended(self.now_tsc());
        }
        // Under the lock, so that events leave in the order in which things happened.
        witness.tell(guest, self.name(), (self.now)(), &self.hub);
        result
    }

    fn lock(&self) -> MutexGuard<'_, (Guest, Witness)> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gates(&self) -> impl Iterator<Item = &Gate> {
        self.lanes.iter().map(|lane| &*lane.shared.gate)
    }

    /// True when every lane has seen the fence.
    pub fn all_fenced(&self) -> bool {
        self.gates().all(Gate::is_fenced)
    }

    /// True when some lane's port cannot tell whether the guest runs: it waits for `resumed` after a close.
    pub fn rings_untold(&self) -> bool {
        self.with(|guest| (0..self.lanes.len()).any(|lane| guest.rings(lane) == Some(Rings::Untold)))
    }

    fn look(&self, ticket: Ticket) -> Option<Outcome> {
        self.with(|guest| {
            guest.step();
            guest.outcome(ticket)
        })
    }

    /// Closes the open epoch: returns once every lane has answered, or when the time is up.
    pub async fn close(&self, by: Closer) -> Result<ClosedEpoch, Failure> {
        let (start, deadline) = (self.now_tsc(), Instant::now() + self.close_timeout());
        let ticket = self.begin(deadline, |guest| guest.begin_close(by)).await?;
        // The lab's timer pauses nothing.
        if self.config.source != config::Source::Timer {
            self.with(|_| self.pauses.began(start));
        }
        match self.wait(ticket, deadline).await.or_else(|| self.give_up(ticket)) {
            Some(Outcome::Closed(closed)) => Ok(closed),
            _ => Err(Failure::new(
                "merged",
                format!(
                    "not every lane answered within {} ms: the epoch goes on and merges into the next; \
                     let the guest run and close again",
                    self.config.close_timeout_ms
                ),
            )),
        }
    }

    /// Has the lanes carry an order out that `begin` gives; returns once they have.
    pub async fn order(
        &self,
        begin: impl FnMut(&mut Guest) -> Result<Ticket, Refusal>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + ORDER_WITHIN;
        let ticket = self.begin(deadline, begin).await?;
        match self.wait(ticket, deadline).await {
            Some(_) => Ok(()),
            None => Err(Failure::new(
                "timeout",
                format!(
                    "not every lane carried it out within {} s; it stays under way: look at status, and at \
                     whether the lcores poll",
                    ORDER_WITHIN.as_secs()
                ),
            )),
        }
    }

    /// Begins something; while something else is under way, tries again until `deadline`.
    async fn begin(
        &self,
        deadline: Instant,
        mut begin: impl FnMut(&mut Guest) -> Result<Ticket, Refusal>,
    ) -> Result<Ticket, Failure> {
        loop {
            match self.with(|guest| {
                guest.step();
                begin(guest)
            }) {
                Err(Refusal::Busy) if Instant::now() < deadline => nap(NAP).await,
                result => return result.map_err(failure),
            }
        }
    }

    async fn wait(&self, ticket: Ticket, deadline: Instant) -> Option<Outcome> {
        let start = Instant::now();
        loop {
            if let Some(outcome) = self.look(ticket) {
                return Some(outcome);
            }
            match Instant::now() {
                now if now >= deadline => return None,
                now if now - start < SPIN => std::hint::spin_loop(),
                _ => nap(NAP).await,
            }
        }
    }

    fn give_up(&self, ticket: Ticket) -> Option<Outcome> {
        self.with(|guest| {
            guest.give_up(ticket);
            guest.outcome(ticket)
        })
    }

    // ---- the vhost library's thread ----

    /// A ring is about to stop: closes the epoch before the hypervisor gets its answer (the in-band barrier).
    /// Blocks, but never longer than `close_timeout`. An epoch that cannot be closed in time merges, which
    /// is always safe.
    pub fn ring_stopping(&self) {
        let begun = self.with(|guest| {
            self.pauses.began(self.now_tsc());
            guest.step();
            guest.begin_close(Closer::Rings)
        });
        // Not protected, at the limit, or an order is under way: there is nothing to wait for.
        let Ok(ticket) = begun else { return };
        let start = Instant::now();
        while self.look(ticket).is_none() {
            match start.elapsed() {
                waited if waited >= self.close_timeout() => {
                    self.give_up(ticket);
                    return;
                }
                waited if waited < SPIN => std::hint::spin_loop(),
                _ => std::thread::sleep(NAP),
            }
        }
    }

    /// A ring of `lane` has stopped.
    pub fn ring_stopped(&self, lane: usize) {
        self.with(|guest| guest.rings_stopped(lane));
    }

    /// A ring of `lane` runs.
    pub fn ring_started(&self, lane: usize) {
        self.with(|guest| guest.rings_started(lane));
    }
}
