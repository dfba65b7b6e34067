//! Seed and checkpoints as frames.

use crate::checkpoint::{Checkpoint, CheckpointId, Pages, RamDigest};
use crate::link::LinkError;
use std::io::{Read, Write};

/// What a reader takes; more is refused before memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkLimits {
    /// Bytes of a device stream (RAM included where that is streamed).
    pub device_max: u64,
    /// Pages of RAM: page numbers are below this.
    pub ram_pages: u32,
}

/// What was sent, to compare with the acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Which.
    pub id: CheckpointId,
    /// Payload bytes of all its frames but the last.
    pub length: u64,
    /// xxh3-128 over those.
    pub checksum: u128,
}

/// What a [`BulkReader`] yields: complete and verified things only.
#[derive(Debug, PartialEq, Eq)]
pub enum Carried {
    /// Pages of the first live copy; the same page may come again later.
    Seed(Pages),
    /// The seed is complete, and RAM must hold this.
    SeedEnd(RamDigest),
    /// A checkpoint, and what to acknowledge.
    Checkpoint(Checkpoint, Sent),
}

/// Writes seed and checkpoints.
#[derive(Debug)]
pub struct BulkWriter<W> {
    to: W,
}

impl<W: Write> BulkWriter<W> {
    /// On a fresh connection.
    pub fn new(to: W) -> BulkWriter<W> {
        BulkWriter { to }
    }

    /// Sends a checkpoint; `progress` is told the payload bytes so far after each frame. Blocks as long as the link
    /// does; an error means that the session is over.
    pub fn send(
        &mut self,
        checkpoint: &Checkpoint,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Sent, LinkError> {
        progress(0);
        self.to.flush()?;
        Err(LinkError::Protocol(format!("{:?}", checkpoint.id)))
    }

    /// Sends pages of the first live copy.
    pub fn seed(&mut self, pages: &Pages) -> Result<(), LinkError> {
        Err(LinkError::Protocol(format!("{}", pages.numbers.len())))
    }

    /// Ends the seed.
    pub fn seed_end(&mut self, digest: RamDigest) -> Result<(), LinkError> {
        Err(LinkError::Protocol(format!("{digest:?}")))
    }
}

/// Reads them; keeps what is incomplete across [`LinkError::Quiet`].
#[derive(Debug)]
pub struct BulkReader<R> {
    from: R,
    limits: BulkLimits,
}

impl<R: Read> BulkReader<R> {
    /// On a fresh connection.
    pub fn new(from: R, limits: BulkLimits) -> BulkReader<R> {
        BulkReader { from, limits }
    }

    /// The next complete thing. After any error but [`LinkError::Quiet`] every further call fails: the session is over
    /// and what was incomplete is gone.
    pub fn receive(&mut self) -> Result<Carried, LinkError> {
        let _ = (&mut self.from, self.limits.ram_pages);
        Err(LinkError::Closed)
    }

    /// The checkpoint that is on its way, if one has begun: what to name in a refusal.
    pub fn incoming(&self) -> Option<CheckpointId> {
        None
    }
}
