//! Why the ledger says no, in words that a person at the socket can act on.

use super::Mode;
use std::fmt;

/// Epochs are counted on from there, and never come to the end of 64 bits.
pub const FIRST_EPOCH_MAX: u64 = 1 << 62;

/// Why something was not done. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The mode does not allow it.
    WrongMode(Mode),
    /// The fence has fallen: only a new lease in a new generation lifts it.
    Fenced,
    /// A close or an order is still under way.
    Busy,
    /// A ring of this lane runs: the guest is not paused.
    RingsRun(usize),
    /// So many epochs await their commit already: the epoch goes on.
    InFlight(usize),
    /// The commit names another generation than this one.
    Generation(u64),
    /// The commit names an epoch that is still open, or has never been.
    Unclosed(u64),
    /// The commit names an epoch that merged into a later one, or whose checkpoint is void.
    Void(u64),
    /// No such lane.
    NoLane(usize),
    /// A lease was asked for that has ended before it began.
    Late,
    /// The first epoch was to have a higher number than [`FIRST_EPOCH_MAX`].
    FirstEpoch,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Refusal::WrongMode(mode) => write!(f, "the guest is {}", mode.name()),
            Refusal::Fenced => {
                write!(f, "the guest is fenced; only a new lease in a new generation (protect) ends that")
            }
            Refusal::Busy => write!(f, "another close or order is under way; try again"),
            Refusal::RingsRun(lane) => write!(
                f,
                "a ring of lane {lane} runs, so the guest is not paused; pause it, or vouch for the pause"
            ),
            Refusal::InFlight(limit) => write!(
                f,
                "{limit} epochs await their commit already; this one stays open and merges into the next"
            ),
            Refusal::Generation(current) => {
                write!(f, "another generation; the guest is in generation {current}")
            }
            Refusal::Unclosed(open) => write!(f, "that epoch is not closed; the open one is {open}"),
            Refusal::Void(epoch) => write!(
                f,
                "epoch {epoch} was merged into a later one or its checkpoint is void; commit a later one"
            ),
            Refusal::NoLane(lane) => write!(f, "no lane {lane}"),
            Refusal::Late => write!(f, "that lease would have ended before it begins"),
            Refusal::FirstEpoch => write!(f, "the first epoch's number is {FIRST_EPOCH_MAX} at most"),
        }
    }
}

impl std::error::Error for Refusal {}
