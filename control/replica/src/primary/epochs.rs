//! Ends the guest's epochs, one a pause, and begins its protection in the first of them.

use super::Primary;
use crate::checkpoint::CheckpointId;
use crate::plane::monotonic_ns;
use std::sync::atomic::Ordering::Relaxed;

/// What a pause closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Names the checkpoint of this pause.
    pub id: CheckpointId,
    /// Protection begins here: nothing waits for this checkpoint.
    pub begins: bool,
    /// Frames held under its stamp.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// See the module's head.
#[derive(Debug)]
pub struct Epochs {
    /// Whoever pauses the guest knows that it is paused; its rings do not tell.
    vouched: bool,
    /// The generation that this process protects the guest in.
    protects: Option<u64>,
}

impl Epochs {
    /// Nothing is protected yet.
    pub fn new(vouched: bool) -> Epochs {
        Epochs { vouched, protects: None }
    }

    /// Protection has begun.
    pub fn begun(&self) -> bool {
        self.protects.is_some()
    }

    /// The guest is paused: ends the epoch, or begins protection.
    pub fn close(&mut self, primary: &Primary) -> Result<Ended, String> {
        let pulse = primary.plane.pulse().map_err(|e| e.to_string())?;
        let ours = self.protects == Some(pulse.generation) && pulse.mode == "protected";
        if ours && !pulse.fenced {
            let closed = primary.plane.close(self.vouched).map_err(|e| e.to_string())?;
            return Ok(Ended { id: closed.id, begins: false, frames: closed.frames, bytes: closed.bytes });
        }
        let leased = primary.leased.load(Relaxed) || pulse.fenced;
        let lease = match (leased && primary.wants_lease(), primary.lease()) {
            (false, _) => None,
            (true, Some(lease)) if lease.end_ns() > monotonic_ns() => Some(lease),
            (true, _) => return Err("the guest is under a lease, and none has come yet".into()),
        };
        // The checkpoint of this pause has the number before the first.
        let first = (pulse.epoch + 1).max(primary.first_epoch.load(Relaxed) + 1);
        let id = primary.plane.protect(first, self.vouched, lease).map_err(|e| e.to_string())?;
        primary.generation.store(id.generation, Relaxed);
        primary.bound.store(lease.is_some(), Relaxed);
        self.protects = Some(id.generation);
        Ok(Ended { id, begins: true, frames: 0, bytes: 0 })
    }
}
