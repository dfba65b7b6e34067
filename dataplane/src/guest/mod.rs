//! One guest's epoch ledger: the control side of the protocol, for all its lanes.
//!
//! Pure and never waiting: `begin_*` posts words into the lanes' gates and gives a [`Ticket`], [`Guest::step`]
//! looks whether every lane has answered, [`Guest::outcome`] tells. Who waits, how and how long is the
//! caller's: the control thread, the vhost library's event thread (in-band barrier), the simulator.
//!
//! What must hold (design.md): one thing at a time under the caller's lock, so that lanes join and leave
//! serialised with close; a commit names a generation and an epoch that *every* lane closed in time (I5);
//! a close that was answered late never counts (its epoch merges into the next).

mod barrier;
mod generation;
mod modes;
mod refusal;

pub use generation::Generations;
pub use refusal::Refusal;

use crate::gate::{FENCE, Gate, NO_LEASE, Order};
use std::collections::VecDeque;
use std::sync::Arc;

/// What the guest's output is subject to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No replication: everything passes.
    Open,
    /// Held until committed, as the policy says.
    Protected,
    /// A standby: output is discarded.
    Muted,
}

impl Mode {
    /// The word used in configuration, logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Open => "open",
            Mode::Protected => "protected",
            Mode::Muted => "muted",
        }
    }
}

/// Whether a lane's guest port is being used by the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rings {
    /// The port cannot tell (a vif): the source says `close` and `resumed`.
    Untold,
    /// Set up and running.
    Running,
    /// Not set up, or stopped.
    Stopped,
}

/// Who asks for a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// A ring is about to stop: safe at any time, claims nothing.
    Rings,
    /// A source that relies on what the rings tell.
    Source,
    /// A source that vouches for the pause itself.
    VouchingSource,
}

/// Names a close or an order under way; tickets rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// An epoch that every lane closed in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedEpoch {
    /// Its number.
    pub epoch: u64,
    /// The generation it was closed in.
    pub generation: u64,
    /// Frames held under its stamp, all lanes.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// The pause it was closed in: see [`Guest::seal`].
    pub pause: u64,
}

/// How something begun has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The epoch is closed.
    Closed(ClosedEpoch),
    /// Not every lane answered in time: the epoch merged into the next.
    Merged(u64),
    /// Every lane carried the order out.
    Done,
}

/// What the ledger counted since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Epochs closed.
    pub closed: u64,
    /// Epochs committed, merged ones not counted.
    pub committed: u64,
    /// Closes that not every lane answered in time, or that came at the limit.
    pub merged: u64,
    /// Commits refused.
    pub commits_refused: u64,
    /// Checkpoints found void.
    pub void: u64,
}

#[derive(Debug)]
struct Member {
    gate: Arc<Gate>,
    rings: Rings,
    joined: bool,
}

/// An epoch awaiting its commit.
#[derive(Clone, Copy, Debug)]
struct Record {
    closed: ClosedEpoch,
    /// A source was told of it, so it may name it in a commit.
    claimed: bool,
    void: bool,
}

#[derive(Debug)]
enum Under {
    Close { epoch: u64, claimed: bool },
    Order { numbers: Vec<(usize, u64)>, then: Then },
}

/// What becomes true once every lane has carried an order out.
#[derive(Clone, Copy, Debug)]
enum Then {
    Mode(Mode),
    Anew { mode: Mode, open: u64, generation: u64 },
    Nothing,
}

/// See the module's head.
#[derive(Debug)]
pub struct Guest {
    mode: Mode,
    generation: u64,
    open: u64,
    committed: u64,
    in_flight: VecDeque<Record>,
    limit: usize,
    members: Vec<Member>,
    leased: bool,
    under: Option<(Ticket, Under)>,
    outcomes: VecDeque<(Ticket, Outcome)>,
    tickets: u64,
    /// Counts the moments at which the guest was seen to run on: a ring started, or `resumed`.
    pause: u64,
    /// The epoch closed in this pause, if any.
    closed_in_pause: Option<u64>,
    tally: Tally,
}

/// Outcomes remembered for those who share a ticket and look late.
const OUTCOMES: usize = 16;

impl Guest {
    /// A guest whose lanes (made with the same `mode` and lease) are in epoch 1.
    /// `limit`: epochs in flight at most, at least 1.
    pub fn new(mode: Mode, leased: bool, generation: u64, limit: usize) -> Self {
        Self {
            mode,
            generation,
            open: 1,
            committed: 0,
            in_flight: VecDeque::with_capacity(limit),
            limit: limit.max(1),
            members: Vec::new(),
            leased,
            under: None,
            outcomes: VecDeque::with_capacity(OUTCOMES),
            tickets: 0,
            pause: 0,
            closed_in_pause: None,
            tally: Tally::default(),
        }
    }

    /// A gate for a lane of this guest as it stands: what [`Guest::add`] takes.
    pub fn gate(&self) -> Arc<Gate> {
        // A standby has no lease to keep: its fence is the muting.
        let fenced = self.leased && self.mode != Mode::Muted;
        Arc::new(Gate::new(self.open, if fenced { FENCE } else { NO_LEASE }))
    }

    /// Adds a lane that starts with the process, before its lcore runs; returns its index.
    pub fn add(&mut self, gate: Arc<Gate>, rings: Rings) -> usize {
        self.members.push(Member { gate, rings, joined: true });
        self.members.len() - 1
    }

    // ---- what is ----

    /// The mode, whatever the fence says.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// True once any lane has seen its lease end, or the lease word says so already. Of a standby the word alone counts:
    /// a lease that ran out while it was being muted has no say any more.
    pub fn is_fenced(&self, now_tsc: u64) -> bool {
        let latched = |m: &Member| m.gate.is_fenced() && self.mode != Mode::Muted;
        self.members.iter().any(|m| latched(m) || m.gate.lease() <= now_tsc)
    }

    /// True when a lease governs this guest.
    pub fn is_leased(&self) -> bool {
        self.leased
    }

    /// The generation that a commit must name.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The open epoch.
    pub fn open_epoch(&self) -> u64 {
        self.open
    }

    /// The last committed epoch, 0 for none.
    pub fn committed_epoch(&self) -> u64 {
        self.committed
    }

    /// Epochs closed and not committed, oldest first.
    pub fn epochs_in_flight(&self) -> impl Iterator<Item = ClosedEpoch> + '_ {
        self.in_flight.iter().map(|record| record.closed)
    }

    /// What was counted.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The rings of a lane.
    pub fn rings(&self, lane: usize) -> Option<Rings> {
        self.members.get(lane).map(|m| m.rings)
    }

    /// True while some ring of the guest runs.
    pub fn rings_run(&self) -> bool {
        self.running_lane().is_some()
    }

    fn running_lane(&self) -> Option<usize> {
        self.members.iter().position(|m| m.joined && m.rings == Rings::Running)
    }

    fn begin(&mut self, order: Order, then: Then) -> Result<Ticket, Refusal> {
        match self.under {
            Some(_) => Err(Refusal::Busy),
            None => Ok(self.give(order, then)),
        }
    }

    fn give(&mut self, order: Order, then: Then) -> Ticket {
        let all: Vec<usize> = (0..self.members.len()).collect();
        self.give_to(&all, order, then)
    }

    fn give_to(&mut self, lanes: &[usize], order: Order, then: Then) -> Ticket {
        let numbers = lanes.iter().map(|&lane| (lane, self.members[lane].gate.order(order))).collect();
        let ticket = self.ticket();
        self.under = Some((ticket, Under::Order { numbers, then }));
        ticket
    }

    fn become_(&mut self, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Mode(mode) => {
                self.mode = mode;
                self.in_flight.clear();
                self.closed_in_pause = None;
                if mode == Mode::Muted {
                    self.members.iter().for_each(|m| m.gate.set_lease(NO_LEASE));
                }
            }
            Then::Anew { mode, open, generation } => {
                self.mode = mode;
                (self.open, self.generation) = (open, generation);
                self.in_flight.clear();
                self.closed_in_pause = None;
            }
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn ended(&mut self, ticket: Ticket, outcome: Outcome) {
        if self.outcomes.len() == OUTCOMES {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((ticket, outcome));
    }
}
