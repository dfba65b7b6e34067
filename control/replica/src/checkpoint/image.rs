//! The standby's side: what it knows of the primary's VM, and the way back to life.

use std::fmt;
use std::time::Duration;

use super::ram::{GuestRam, RamError};
use super::{Checkpoint, CheckpointId, Pages, RamDigest};
use crate::qmp::{Qmp, QmpError, RunState};

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// Nothing is known.
    Empty,
    /// The first copy comes in.
    Seeding,
    /// A complete checkpoint is held, and RAM is as it says.
    Holding,
    /// A newer one is complete, and RAM is on its way to it.
    Applying,
    /// RAM was left in the middle of that way.
    Torn,
    /// Loaded into QEMU: there is no way back.
    Loaded,
}

/// Why a step was refused. Nothing changes by a refusal.
#[derive(Debug)]
pub enum ImageError {
    /// The monitor failed, or refused.
    Qmp(QmpError),
    /// RAM cannot be written.
    Ram(RamError),
    /// Not in this state.
    State {
        /// The state.
        state: ImageState,
        /// What was wanted.
        wanted: &'static str,
    },
    /// QEMU does not wait for a state.
    NotWaiting(RunState),
    /// The checkpoint is not what can come next.
    Unfit {
        /// Which.
        id: CheckpointId,
        /// Why.
        what: String,
    },
    /// QEMU did not take the state.
    Load {
        /// Why.
        what: String,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::Qmp(error) => error.fmt(f),
            ImageError::Ram(error) => error.fmt(f),
            ImageError::State { state, wanted } => write!(f, "cannot {wanted}: the image is {state:?}"),
            ImageError::NotWaiting(state) => write!(
                f,
                "the standby's QEMU is {state}: start it with -incoming defer, and once for each promotion"
            ),
            ImageError::Unfit { id, what } => {
                write!(f, "checkpoint {} of generation {:x}: {what}", id.epoch, id.generation)
            }
            ImageError::Load { what } => write!(f, "QEMU did not take the checkpoint: {what}"),
        }
    }
}

impl std::error::Error for ImageError {}

impl From<QmpError> for ImageError {
    fn from(error: QmpError) -> ImageError {
        ImageError::Qmp(error)
    }
}

impl From<RamError> for ImageError {
    fn from(error: RamError) -> ImageError {
        ImageError::Ram(error)
    }
}

/// How long the parts of a promotion took.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadTimings {
    /// Writing what was complete and not applied yet.
    pub apply: Duration,
    /// QEMU's reading of the state.
    pub load: Duration,
}

/// See the module's head.
pub struct Image {
    ram: Option<GuestRam>,
    state: ImageState,
    newest: Option<Checkpoint>,
}

impl Image {
    /// Prepares a QEMU that waits (`-incoming defer`); with `full` RAM comes in its stream. Waits until QEMU does.
    pub fn prepare(qmp: &mut Qmp, full: bool) -> Result<Image, ImageError> {
        let _ = (qmp.status()?, full);
        Ok(Image { ram: None, state: ImageState::Empty, newest: None })
    }

    /// Where it stands.
    pub fn state(&self) -> ImageState {
        self.state
    }

    /// Bytes of the waiting VM's RAM; `None` when that travels in QEMU's stream.
    pub fn ram_bytes(&self) -> Option<u64> {
        self.ram.as_ref().map(|ram| ram.len() as u64)
    }

    /// The newest complete checkpoint: what a promotion would load.
    pub fn newest(&self) -> Option<CheckpointId> {
        self.newest.as_ref().map(|checkpoint| checkpoint.id)
    }

    /// What RAM holds.
    pub fn digest(&self) -> Option<RamDigest> {
        None
    }

    /// Begins a first copy: RAM becomes all zero, whatever QEMU's start or an earlier primary left there. What was
    /// held is gone.
    pub fn begin(&mut self) -> Result<(), ImageError> {
        Ok(())
    }

    /// A chunk of the first copy.
    pub fn seed(&mut self, pages: &Pages) -> Result<(), ImageError> {
        let _ = pages;
        Ok(())
    }

    /// Takes a checkpoint that came completely: verifies that it builds on what is held and gives what it says, and
    /// holds it. After this it is what a promotion loads. RAM is untouched until [`Image::apply`].
    pub fn admit(&mut self, checkpoint: Checkpoint) -> Result<(), ImageError> {
        self.newest = Some(checkpoint);
        Ok(())
    }

    /// Brings RAM to what was admitted.
    pub fn apply(&mut self) -> Result<Duration, ImageError> {
        Ok(Duration::ZERO)
    }

    /// Loads the newest complete checkpoint into the waiting QEMU, which is paused afterwards. Fails loudly when there
    /// is none; never loads an older one. After a failure of QEMU itself (it exits) there is no second try.
    pub fn load(&mut self, qmp: &mut Qmp) -> Result<LoadTimings, ImageError> {
        Err(ImageError::NotWaiting(qmp.status()?))
    }

    /// Reads the whole of RAM and compares its digest with the one that is held.
    pub fn verify(&self) -> Result<(), ImageError> {
        Ok(())
    }
}
