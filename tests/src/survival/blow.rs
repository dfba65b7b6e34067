//! How a primary dies: what is killed, stopped or cut, and at which moment.

use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::json;

use super::relay::Cut;
use crate::control_client::ControlClient;
use crate::plane::GUEST;
use crate::wall_clock::now_ns;

/// What is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// QEMU is killed.
    Qemu,
    /// The plane is killed.
    Plane,
    /// `tidegate replicate` is killed.
    Replica,
    /// All three are.
    Host,
    /// All three are stopped, and go on two seconds later.
    Freeze,
    /// The link passes nothing any more, and does again later.
    LinkStands,
    /// The link hangs up.
    LinkHangsUp,
}

/// All of them.
pub const VICTIMS: [Victim; 7] = [
    Victim::Host,
    Victim::Qemu,
    Victim::Freeze,
    Victim::Plane,
    Victim::LinkStands,
    Victim::Replica,
    Victim::LinkHangsUp,
];

/// The first step of a checkpoint: QEMU tells it.
pub const VM_STOPPED: &str = "stop";
/// All in their order; the others `tidegate replicate` tells.
pub const STEPS: [&str; 7] = [VM_STOPPED, "close", "save", "resume", "send", "acknowledged", "commit"];
/// No step: any moment.
pub const ANY_MOMENT: &str = "random";

impl Victim {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Victim::Qemu => "qemu",
            Victim::Plane => "plane",
            Victim::Replica => "replicate",
            Victim::Host => "host",
            Victim::Freeze => "freeze",
            Victim::LinkStands => "link-stands",
            Victim::LinkHangsUp => "link-hangs-up",
        }
    }

    /// The primary's host lives on, or does later.
    pub fn comes_back(self) -> bool {
        matches!(self, Victim::Freeze | Victim::LinkStands | Victim::LinkHangsUp)
    }

    /// The link must be one that can be cut.
    pub fn needs_relay(self) -> bool {
        matches!(self, Victim::LinkStands | Victim::LinkHangsUp)
    }
}

/// One death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blow {
    /// What is hit.
    pub victim: Victim,
    /// Right after which step, or [`ANY_MOMENT`].
    pub moment: &'static str,
}

/// So many deaths: every victim meets every moment once in 56, each moment and each victim as early as possible.
/// `seed` says where it begins.
pub fn plan(count: usize, seed: u64) -> Vec<Blow> {
    let moments: Vec<&'static str> = std::iter::once(ANY_MOMENT).chain(STEPS).collect();
    let start = (seed % 56) as usize;
    // 7 and 8 have no divisor in common.
    (start..start + count)
        .map(|at| Blow { victim: VICTIMS[at % VICTIMS.len()], moment: moments[at % moments.len()] })
        .collect()
}

/// How the blow fell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Struck {
    /// When, ns since 1970.
    pub at_ns: u64,
    /// Frames that waited for a commit then.
    pub held: u64,
}

/// Ready to strike, from whichever thread comes to the moment.
pub struct Hammer {
    /// What is hit.
    pub victim: Victim,
    /// Who is killed or stopped: replication, QEMU, plane.
    pub pids: [Option<u32>; 3],
    /// The plane, to ask what it holds.
    pub control: ControlClient,
    /// The link.
    pub cut: Option<Cut>,
    /// Where it is said that it fell.
    pub struck: Arc<Mutex<Option<Struck>>>,
}

/// Sends a signal to processes that this one has started and not reaped: their numbers are still theirs.
pub fn signal_all(pids: &[Option<u32>], which: Signal) {
    for pid in pids.iter().flatten() {
        let _ = signal::kill(Pid::from_raw(*pid as i32), which);
    }
}

impl Hammer {
    /// Strikes.
    pub fn strike(mut self) {
        let pulse = self.control.request("pulse", json!({ "guest": GUEST }));
        let held =
            pulse.ok().and_then(Result::ok).and_then(|pulse| pulse["held_frames"].as_u64()).unwrap_or(0);
        let [replica, qemu, plane] = self.pids;
        let at_ns = now_ns();
        match self.victim {
            Victim::Qemu => signal_all(&[qemu], Signal::SIGKILL),
            Victim::Plane => signal_all(&[plane], Signal::SIGKILL),
            Victim::Replica => signal_all(&[replica], Signal::SIGKILL),
            Victim::Host => signal_all(&self.pids, Signal::SIGKILL),
            Victim::Freeze => signal_all(&self.pids, Signal::SIGSTOP),
            Victim::LinkStands => self.cut.iter().for_each(Cut::stand_still),
            Victim::LinkHangsUp => self.cut.iter().for_each(Cut::hang_up),
        }
        *self.struck.lock().unwrap_or_else(PoisonError::into_inner) = Some(Struck { at_ns, held });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_victim_meets_every_moment() {
        let all: BTreeSet<_> = plan(56, 11).iter().map(|blow| (blow.victim.name(), blow.moment)).collect();
        assert_eq!(all.len(), 56);
        let few = plan(8, 3);
        assert_eq!(few.iter().map(|blow| blow.moment).collect::<BTreeSet<_>>().len(), 8);
        assert_eq!(few.iter().map(|blow| blow.victim.name()).collect::<BTreeSet<_>>().len(), 7);
        assert_ne!(plan(8, 3), plan(8, 4));
    }
}
