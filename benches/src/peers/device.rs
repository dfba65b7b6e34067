//! What a peer is to the contest: something between two wires that is started for each turn and stopped after it.

use super::wires::Wires;
use crate::failure::Result;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// When what is held may leave. The same for all that can be told.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// From one close to the next.
    pub interval: Duration,
    /// From a close to its commit.
    pub commit_delay: Duration,
}

/// Programs that are not found by their names alone.
#[derive(Clone, Debug)]
pub struct Programs {
    /// tidegate's command; its plane lies beside it.
    pub tidegate: PathBuf,
    /// Open vSwitch's daemon with DPDK in it.
    pub vswitchd: PathBuf,
}

/// A peer between its wires.
pub trait Device {
    /// Begins to forward.
    fn start(&mut self, wires: &Wires) -> Result<()>;
    /// A failure when it has ended by itself.
    fn check(&mut self) -> Result<()> {
        Ok(())
    }
    /// Its own account of the turn, if it keeps one.
    fn told(&mut self) -> Value {
        Value::Null
    }
    /// Forwards no more and takes no CPU.
    fn stop(&mut self, wires: &Wires);
}

/// What does not wait in it, and why a number may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Nothing waits.
    Nothing,
    /// TCP waits.
    Tcp,
    /// What is not recognised as media waits.
    AllButMedia,
    /// Everything waits (of a kernel's filter: all IPv4).
    All,
}

impl Holds {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Holds::Nothing => "nothing",
            Holds::Tcp => "TCP",
            Holds::AllButMedia => "all but media",
            Holds::All => "everything",
        }
    }

    /// Why frames/s of a stream say nothing, where they do.
    pub fn no_rate(self) -> Option<&'static str> {
        (self == Holds::All)
            .then_some("it holds every frame: a flood fills its queue and says nothing of its speed")
    }
}
