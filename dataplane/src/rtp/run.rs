//! Frames of a run that has proven nothing yet, by where they wait.

use super::RUN;

/// Frames of a run that can wait when the proving one comes.
pub const MAX_WAITING: usize = RUN as usize - 1;

/// Hold-queue positions of the frames of the run that promoted a stream, in arrival order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    positions: [u64; MAX_WAITING],
    count: u8,
}

impl Waiting {
    /// The positions, the first to arrive first.
    pub fn positions(&self) -> &[u64] {
        &self.positions[..self.count as usize]
    }
}

/// What only the lcore needs of an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    pub waiting: Waiting,
    /// Positions noted in another era mean nothing any more.
    pub era: u32,
    /// Whose entry it is.
    pub mark: u32,
}

impl Run {
    /// A frame of the stream `mark` waits at `position`, noted in `era`.
    pub fn note(&mut self, mark: u32, era: u32, position: u64) {
        let count = self.waiting.count as usize;
        if self.mark == mark && self.era == era && count < MAX_WAITING {
            self.waiting.positions[count] = position;
            self.waiting.count += 1;
        }
    }

    /// What waits of the stream `mark`, if it was noted in `era`; it is forgotten here.
    pub fn take(&mut self, mark: u32, era: u32) -> Option<Waiting> {
        (self.mark == mark && self.era == era).then(|| std::mem::take(&mut self.waiting))
    }
}
