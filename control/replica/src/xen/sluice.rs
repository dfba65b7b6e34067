//! What of the stream the waiting domain may have: the live copy as it comes, and then whole checkpoints only.
//!
//! A receiver of Xen starts the domain from the last CHECKPOINT it has read, once its input ends. So everything from
//! CHECKPOINT of checkpoint 1 on is kept back until a checkpoint is here that may be started from. However this process
//! ends, and whenever, the domain cannot start from anything older.

use crate::xen::stream::{Follower, Mark};

/// Length of CHECKPOINT.
const CHECKPOINT: usize = 8;

/// See the module's head.
#[derive(Debug)]
pub struct Sluice {
    follower: Follower,
    kept: Vec<u8>,
    /// Bytes at the front of `kept` that may go.
    free: usize,
    /// In the live copy.
    copying: bool,
    /// Most bytes that are kept.
    most: usize,
}

impl Sluice {
    /// At the first byte; keeps at most so many bytes.
    pub fn new(most: usize) -> Sluice {
        Sluice { follower: Follower::new(), kept: Vec::new(), free: 0, copying: true, most }
    }

    /// Takes the next bytes of the stream.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.kept.len().saturating_add(bytes.len()) > self.most {
            let most = self.most >> 20;
            return Err(format!("a checkpoint of more than {most} MiB: allow more with --checkpoint-mib"));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (taken, mark) = self.follower.feed(rest).map_err(|fault| fault.to_string())?;
            let (now, later) = rest.split_at(taken.min(rest.len()));
            self.kept.extend_from_slice(now);
            rest = later;
            if !self.copying {
                continue;
            }
            let saved = matches!(mark, Some(Mark::Saved { .. }));
            let undecided = if saved { CHECKPOINT } else { self.follower.undecided() };
            self.free = self.kept.len().saturating_sub(undecided);
            self.copying = !saved;
        }
        Ok(())
    }

    /// The other side says that what came until now is checkpoint `number`, whole, and may be started from.
    pub fn complete(&mut self, number: u64) -> Result<(), String> {
        let counted = self.follower.checkpoints();
        if !self.follower.is_between() || counted != number || number < 2 {
            return Err(format!(
                "checkpoint {number} is said to be here, and the stream is in {}",
                counted + 1
            ));
        }
        self.free = self.kept.len();
        Ok(())
    }

    /// What may go to the waiting domain now.
    pub fn free(&self) -> &[u8] {
        self.kept.get(..self.free).unwrap_or_default()
    }

    /// It went.
    pub fn gone(&mut self) {
        self.kept.drain(..self.free.min(self.kept.len()));
        self.free = 0;
    }
}
