//! Takes checkpoints of a paused VM.

use std::fmt;
use std::time::{Duration, Instant};

use super::ram::{GuestRam, RamError};
use super::soft_dirty::{Candidates, Tracking};
use super::{Carry, Checkpoint, CheckpointId, PageSet, Pages, Ram, RamDigest, Shadow, stream};
use crate::qmp::{Migration, MigrationStatus, Parameters, Qmp, QmpError, RunState};

/// A paused VM waits: as fast as it goes.
const UNLIMITED: Parameters =
    Parameters { max_bandwidth: 100_000_000_000, downtime_limit: Duration::from_secs(10) };
/// How long QEMU may take for what follows at once.
const SETTLES: Duration = Duration::from_secs(1);

/// Why there is no checkpoint. The VM can go on in every case but [`QmpError::Gone`], and the next may succeed.
#[derive(Debug)]
pub enum TakeError {
    /// The monitor failed, or refused.
    Qmp(QmpError),
    /// RAM cannot be read.
    Ram(RamError),
    /// The VM is not paused.
    NotPaused(RunState),
    /// QEMU gave up.
    Failed {
        /// Its reason.
        reason: String,
    },
    /// The state is larger than [`TakeOptions::device_limit`], or did not end in time.
    Stream {
        /// What happened.
        what: String,
    },
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TakeError::Qmp(error) => error.fmt(f),
            TakeError::Ram(error) => error.fmt(f),
            TakeError::NotPaused(RunState::PostMigrate) => {
                f.write_str("the VM's state was taken in this pause already: let it run and pause it again")
            }
            TakeError::NotPaused(state) => write!(f, "the VM is {state}: a checkpoint needs it paused"),
            TakeError::Failed { reason } => write!(f, "QEMU could not give its state: {reason}"),
            TakeError::Stream { what } => write!(f, "QEMU's state: {what}"),
        }
    }
}

impl std::error::Error for TakeError {}

impl From<QmpError> for TakeError {
    fn from(error: QmpError) -> TakeError {
        TakeError::Qmp(error)
    }
}

impl From<RamError> for TakeError {
    fn from(error: RamError) -> TakeError {
        TakeError::Ram(error)
    }
}

/// How checkpoints are taken.
#[derive(Clone, Copy, Debug)]
pub struct TakeOptions {
    /// RAM inside QEMU's stream: works with any VM, and pauses it for as long as that takes.
    pub full: bool,
    /// Threads that compare RAM; 0: two, or one where there is but one core.
    pub threads: usize,
    /// The largest stream that is taken from QEMU, bytes. With `full`, RAM is in it.
    pub device_limit: usize,
    /// How long QEMU may take to give it.
    pub within: Duration,
    /// Ask the kernel which pages changed, where it can tell.
    pub soft_dirty: bool,
}

impl Default for TakeOptions {
    fn default() -> TakeOptions {
        TakeOptions {
            full: false,
            threads: 0,
            device_limit: 64 << 20,
            within: Duration::from_secs(2),
            soft_dirty: false,
        }
    }
}

/// How long the parts of one took.
#[derive(Clone, Copy, Debug, Default)]
pub struct TakeTimings {
    /// From the order to the last byte of the devices' state.
    pub device: Duration,
    /// The comparison of RAM (at the same time).
    pub ram: Duration,
    /// All of it.
    pub whole: Duration,
    /// Pages that were looked at.
    pub compared: usize,
}

/// A checkpoint that was taken.
#[derive(Debug)]
pub struct Taken {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// How long that took.
    pub timings: TakeTimings,
}

/// Takes checkpoints: see the module's head.
pub struct Taker {
    options: TakeOptions,
    memory: Option<Memory>,
}

/// What a difference needs.
struct Memory {
    ram: GuestRam,
    shadow: Shadow,
    carry: Carry,
    /// Pages that the standby may not have although the shadow does: their checkpoint failed or was lost.
    owed: PageSet,
    tracking: Option<Tracking>,
}

impl Taker {
    /// Prepares the VM's QEMU (it may run): its RAM is found, its migration set up. What in the VM cannot be sent is
    /// an error here and not at the first pause.
    pub fn prepare(qmp: &mut Qmp, options: TakeOptions) -> Result<Taker, TakeError> {
        let before = qmp.migration()?;
        if !before.blocked.is_empty() {
            return Err(TakeError::Failed { reason: before.blocked.join("; ") });
        }
        if before.status == MigrationStatus::Underway {
            return Err(TakeError::Failed { reason: "another migration of this VM goes on".to_owned() });
        }
        qmp.set_capabilities(&[("x-ignore-shared", !options.full), ("events", true)])?;
        qmp.set_parameters(UNLIMITED)?;
        let memory = if options.full { None } else { Some(Memory::new(qmp, &options)?) };
        Ok(Taker { options, memory })
    }

    /// Bytes of the guest's RAM; `None` when RAM travels in QEMU's stream.
    pub fn ram_bytes(&self) -> Option<u64> {
        self.memory.as_ref().map(|memory| memory.ram.len() as u64)
    }

    /// What the standby's RAM must hold for the next difference.
    pub fn base(&self) -> Option<RamDigest> {
        self.memory.as_ref().map(|memory| memory.carry.next_base())
    }

    /// How many pages of the first copy are done, and of how many.
    pub fn seeded(&self) -> (usize, usize) {
        self.memory.as_ref().map_or((0, 0), |memory| (memory.shadow.seeded(), memory.ram.pages()))
    }

    /// The kernel tells which pages changed, so that only those are compared; or why not.
    pub fn tracking(&self) -> Result<(), &str> {
        match self.memory.as_ref().map(|memory| &memory.tracking) {
            Some(Some(tracking)) => tracking.usable(),
            _ => Err("not asked for"),
        }
    }

    /// The processes beside QEMU that write to the guest's RAM: the plane, whenever it was started anew. Without them
    /// soft-dirty would miss what the plane writes.
    pub fn set_writers(&mut self, writers: &[i32]) {
        if let Some(tracking) = self.memory.as_mut().and_then(|memory| memory.tracking.as_mut()) {
            tracking.set_writers(writers);
        }
    }

    /// The largest stream and the longest time, from now on.
    pub fn set_limits(&mut self, device_limit: usize, within: Duration) {
        self.options.device_limit = device_limit;
        self.options.within = within;
    }

    /// The next chunk (at most 1 MiB) of the first copy, taken while the VM runs; `None` when it is complete, or when
    /// none is needed. Whoever sends it sets the pace. Chunks come before the first checkpoint, not after.
    pub fn seed(&mut self) -> Option<Pages> {
        let memory = self.memory.as_mut()?;
        if memory.carry.in_flight() > 0 || memory.carry.newest_acknowledged().is_some() {
            return None;
        }
        let pages = memory.shadow.seed(&memory.ram);
        memory.carry.seeded(memory.shadow.digest());
        pages
    }

    /// A new standby, which has nothing: the first copy begins anew.
    pub fn restart(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.shadow.reset();
            memory.carry = Carry::new(memory.ram.pages(), memory.shadow.digest());
            memory.owed = PageSet::empty(memory.ram.pages());
            if let Some(tracking) = &mut memory.tracking {
                tracking.restart();
            }
        }
    }

    /// Takes one. The VM is paused, and stays so: the caller lets it go on, whatever comes of this.
    pub fn take(&mut self, qmp: &mut Qmp, id: CheckpointId) -> Result<Taken, TakeError> {
        let begin = Instant::now();
        let deadline = begin + self.options.within;
        match qmp.status()? {
            RunState::Paused => {}
            // QEMU gives a state once a pause: after it the VM has to run.
            other => return Err(TakeError::NotPaused(other)),
        }
        qmp.forget_events("MIGRATION");
        let ours = stream::open(qmp)?;
        if let Err(refusal) = qmp.migrate(&stream::uri()) {
            if !refusal.is_final() {
                stream::abandon(qmp);
            }
            return Err(refusal.into());
        }
        let mut timings = TakeTimings::default();
        let limit = self.options.device_limit;
        let memory = self.memory.as_mut();
        let (device, changed) = std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let state = stream::read(ours, limit, deadline);
                (state, begin.elapsed())
            });
            // QEMU writes its devices meanwhile. Whatever becomes of that, the shadow has these pages now.
            let changed = memory.map(|memory| memory.collect(&mut timings));
            let ended = finish(qmp, deadline);
            let (state, read_in) = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            timings.device = read_in;
            let device = match (ended, state) {
                (Ok(()), state) => state.map_err(|what| TakeError::Stream { what }),
                // The reader's fault is the cause, QEMU's broken pipe the consequence.
                (Err(TakeError::Failed { .. }), Err(what)) => Err(TakeError::Stream { what }),
                (Err(error), _) => Err(error),
            };
            (device, changed)
        });
        let (memory, changed) = match (self.memory.as_mut(), changed.transpose()) {
            (_, Err(error)) => return Err(error.into()),
            (Some(memory), Ok(Some(changed))) => (memory, changed),
            (_, Ok(_)) => {
                timings.whole = begin.elapsed();
                let checkpoint = Checkpoint { id, device: device?, ram: Ram::Streamed };
                return Ok(Taken { checkpoint, timings });
            }
        };
        let device = match device {
            Ok(device) => device,
            Err(error) => {
                memory.owe(&changed);
                return Err(error);
            }
        };
        let ram = memory.difference(id, changed);
        timings.whole = begin.elapsed();
        Ok(Taken { checkpoint: Checkpoint { id, device, ram }, timings })
    }

    /// The standby has it, and all before. False when it is none of those on their way.
    pub fn acknowledged(&mut self, id: CheckpointId) -> bool {
        self.memory.as_mut().is_none_or(|memory| memory.carry.acknowledged(id))
    }

    /// What was sent after `id` is lost, and the standby has `id`: the next difference starts there. False when that
    /// is not possible: then [`Taker::restart`].
    pub fn rebase(&mut self, id: CheckpointId) -> bool {
        let Some(memory) = &mut self.memory else { return true };
        let owed = memory.carry.rebase(id);
        owed.map(|owed| memory.owed.union(&owed)).is_some()
    }

    /// This one, just taken, will not be sent (its pause was none): the next holds what it held. False when it is
    /// none of those on their way.
    pub fn withdraw(&mut self, id: CheckpointId) -> bool {
        let Some(memory) = &mut self.memory else { return true };
        // Rings started meanwhile: the plane may have mapped RAM anew.
        if let Some(tracking) = &mut memory.tracking {
            tracking.restart();
        }
        let owed = memory.carry.withdraw(id);
        owed.map(|owed| memory.owed.union(&owed)).is_some()
    }
}

impl Memory {
    fn new(qmp: &mut Qmp, options: &TakeOptions) -> Result<Memory, TakeError> {
        let ram = GuestRam::of(qmp)?;
        let shadow = Shadow::new(ram.pages(), options.threads);
        let carry = Carry::new(ram.pages(), shadow.digest());
        let owed = PageSet::empty(ram.pages());
        let tracking = if options.soft_dirty { Some(track(qmp, &ram)?) } else { None };
        Ok(Memory { ram, shadow, carry, owed, tracking })
    }

    /// What changed since the last comparison.
    fn collect(&mut self, timings: &mut TakeTimings) -> Result<Pages, RamError> {
        let begin = Instant::now();
        // A file that was cut short would be a SIGBUS below.
        self.ram.check()?;
        let candidates = self.tracking.as_mut().and_then(|tracking| tracking.candidates(&self.ram));
        let only =
            candidates.as_ref().filter(|candidates| !candidates.audit).map(|candidates| &candidates.set);
        timings.compared = only.map_or(self.ram.pages(), PageSet::len);
        let changed = self.shadow.collect(&self.ram, only);
        if let (Some(tracking), Some(Candidates { set, audit: true })) = (&mut self.tracking, &candidates) {
            tracking.audit(set, &changed);
        }
        timings.ram = begin.elapsed();
        Ok(changed)
    }

    /// The shadow has these, and they will not be sent now.
    fn owe(&mut self, changed: &Pages) {
        self.owed.extend(changed.numbers.iter().map(|&number| number as usize));
    }

    /// The difference to what was sent last: what changed, and what is owed from before.
    fn difference(&mut self, id: CheckpointId, changed: Pages) -> Ram {
        let nothing_owed = self.owed.is_empty();
        self.owe(&changed);
        let pages = if nothing_owed { changed } else { self.shadow.copy_of(&self.owed) };
        let (base, digest) = (self.carry.next_base(), self.shadow.digest());
        let holds = std::mem::replace(&mut self.owed, PageSet::empty(self.ram.pages()));
        self.carry.sent(id, holds, digest);
        Ram::Difference { base, pages, digest }
    }
}

/// Nothing is known of other writers yet: see [`Taker::set_writers`].
fn track(qmp: &mut Qmp, ram: &GuestRam) -> Result<Tracking, TakeError> {
    let mut tracking = Tracking::new(qmp.peer_pid(), &[], ram);
    match qmp.execute("query-balloon", serde_json::json!({})) {
        Ok(_) => tracking.give_up("the VM has a balloon, which takes pages away unseen".to_owned()),
        Err(QmpError::Refused { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(tracking)
}

/// Waits until QEMU has given its state; when it does not, sees to it that it stops trying.
fn finish(qmp: &mut Qmp, deadline: Instant) -> Result<(), TakeError> {
    match qmp.wait_migration(deadline)? {
        Some(Migration { status: MigrationStatus::Completed, .. }) => {
            // `cont` is refused until the state has become this.
            match qmp.wait_state(&[RunState::PostMigrate], deadline + SETTLES)? {
                RunState::PostMigrate => Ok(()),
                other => Err(TakeError::NotPaused(other)),
            }
        }
        Some(ended) => {
            let reason = ended.reason.unwrap_or_else(|| format!("{:?}", ended.status));
            Err(TakeError::Failed { reason })
        }
        None => {
            qmp.migrate_cancel()?;
            qmp.wait_migration(Instant::now() + SETTLES)?;
            Err(TakeError::Stream { what: "it did not end in time".to_owned() })
        }
    }
}
