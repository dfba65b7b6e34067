//! The VM's monitor, shared by whoever drives it and whoever watches that it lives.

use crate::plane::monotonic_ns;
use crate::qmp::{Event, Qmp, QmpError, RunState};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// What tells that a VM lives: a beat goes out only while it does.
pub trait SignsOfLife: Send + Sync {
    /// What runs the VM, or keeps it replicated, in the operator's words.
    fn who(&self) -> &'static str;
    /// A sign of life, or none within the time. Nothing, while it is busy: then [`SignsOfLife::silent_for`] tells.
    fn look(&self, within: Duration) -> Option<Result<(), String>>;
    /// Since the last sign.
    fn silent_for(&self) -> Duration;
    /// There will never be another.
    fn is_gone(&self) -> bool;
    /// The guest has shut down in order: that is no death. Where nobody tells, it is one.
    fn has_shut_down(&self) -> bool {
        false
    }
}

impl SignsOfLife for Vm {
    fn who(&self) -> &'static str {
        "QEMU"
    }

    fn look(&self, within: Duration) -> Option<Result<(), String>> {
        Vm::look(self, within).map(|state| state.map(drop).map_err(|e| e.to_string()))
    }

    fn silent_for(&self) -> Duration {
        Vm::silent_for(self)
    }

    fn is_gone(&self) -> bool {
        Vm::is_gone(self)
    }

    fn has_shut_down(&self) -> bool {
        Vm::has_shut_down(self)
    }
}

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module's head.
pub struct Vm {
    qmp: Mutex<Qmp>,
    answered_ns: AtomicU64,
    gone: AtomicBool,
    /// When the guest shut down, if it has and was not reset since.
    shut_down_ns: AtomicU64,
}

/// The monitor, for as long as one keeps it.
pub struct Driving<'v> {
    vm: &'v Vm,
    qmp: MutexGuard<'v, Qmp>,
}

impl Deref for Driving<'_> {
    type Target = Qmp;

    fn deref(&self) -> &Qmp {
        &self.qmp
    }
}

impl DerefMut for Driving<'_> {
    fn deref_mut(&mut self) -> &mut Qmp {
        &mut self.qmp
    }
}

impl Driving<'_> {
    /// Something was answered: whoever watches may know before this is dropped.
    pub fn answered(&self) {
        self.vm.answered_ns.fetch_max(monotonic_ns(), Relaxed);
    }

    /// Notes what an answer says of QEMU's life, and hands it on.
    pub fn noting<T>(&mut self, result: Result<T, QmpError>) -> Result<T, QmpError> {
        // Before anybody learns that QEMU is gone: its last word may still lie in the connection.
        while let Ok(Some(event)) = self.qmp.wait_event(Instant::now(), tells_of_the_guests_end) {
            let ended = event.name == "SHUTDOWN";
            self.vm.shut_down_ns.store(if ended { monotonic_ns() } else { 0 }, Relaxed);
        }
        match &result {
            Ok(_) => self.answered(),
            Err(error) if error.is_final() => self.vm.gone.store(true, Relaxed),
            Err(_) => {}
        }
        result
    }
}

/// What RAM takes at most in QEMU's stream (`--full`), bytes.
pub fn streamed_ram(vm: &Vm) -> Result<u64, String> {
    let size = vm.drive().memory_size().map_err(|e| e.to_string())?;
    // Each page has a header there.
    Ok(size + size / 64)
}

/// The guest itself wanted to end (whoever ends QEMU, and a guest that panics, did not ask it), or begins anew: libvirt
/// reboots a guest by letting it shut down in a QEMU that stays, and resetting that.
fn tells_of_the_guests_end(event: &Event) -> bool {
    let by_its_own_will = matches!(event.data["reason"].as_str(), Some("guest-shutdown" | "guest-reset"));
    let ended = event.name == "SHUTDOWN" && event.data["guest"] == true && by_its_own_will;
    ended || event.name == "RESET"
}

/// A QEMU that stays so long after its guest has shut down is not reset any more.
const RESET_WITHIN: Duration = Duration::from_secs(3);

impl Vm {
    /// Connects to QEMU's monitor within `timeout`.
    pub fn connect(monitor: &Path, timeout: Duration) -> Result<Vm, QmpError> {
        let qmp = Mutex::new(Qmp::connect(monitor, timeout)?);
        Ok(Vm {
            qmp,
            answered_ns: AtomicU64::new(monotonic_ns()),
            gone: AtomicBool::new(false),
            shut_down_ns: AtomicU64::new(0),
        })
    }

    /// Takes the monitor, waiting for whoever has it.
    pub fn drive(&self) -> Driving<'_> {
        Driving { vm: self, qmp: self.qmp.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Asks how the VM stands, unless somebody drives it just now (`None`: then [`Vm::silent_for`] tells).
    pub fn look(&self, within: Duration) -> Option<Result<RunState, QmpError>> {
        let qmp = match self.qmp.try_lock() {
            Ok(qmp) => qmp,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let mut driving = Driving { vm: self, qmp };
        driving.set_patience(within);
        let state = driving.status();
        driving.set_patience(PATIENCE);
        Some(driving.noting(state))
    }

    /// Replication is over: a state that somebody else has QEMU write from now on (`virsh save`) has RAM in it again. Left
    /// as it was, it would have none, and libvirt would throw the VM away for it.
    pub fn give_back(&self) {
        if !self.is_gone() {
            let _ = self.drive().set_capabilities(&[("x-ignore-shared", false)]);
        }
    }

    /// Since QEMU's last answer.
    pub fn silent_for(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.answered_ns.load(Relaxed)))
    }

    /// The guest has shut down in order, for good: that is no death.
    pub fn has_shut_down(&self) -> bool {
        let at = self.shut_down_ns.load(Relaxed);
        let over = || Duration::from_nanos(monotonic_ns().saturating_sub(at)) >= RESET_WITHIN;
        at > 0 && (self.is_gone() || over())
    }

    /// The guest has shut down: it may yet be reset, and there is nothing to take a checkpoint of until then.
    pub fn is_down(&self) -> bool {
        self.shut_down_ns.load(Relaxed) > 0
    }

    /// The monitor has ended: QEMU is gone, or will never answer again.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    /// A QEMU that says this and ends.
    fn that_ends(last: &str) -> Vm {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let last = last.to_owned();
        let ends = std::thread::spawn(move || {
            let mut lines = BufReader::new(theirs.try_clone().unwrap());
            let mut says = &theirs;
            writeln!(says, r#"{{"QMP":{{"version":{{"qemu":{{"major":7,"minor":2,"micro":0}}}}}}}}"#)
                .unwrap();
            lines.read_line(&mut String::new()).unwrap();
            writeln!(says, r#"{{"return":{{}},"id":1}}"#).unwrap();
            writeln!(says, "{last}").unwrap();
        });
        let qmp = Qmp::over(ours, Duration::from_secs(5)).unwrap();
        ends.join().unwrap();
        let now = AtomicU64::new(monotonic_ns());
        let (gone, shut_down_ns) = (AtomicBool::new(false), AtomicU64::new(0));
        Vm { qmp: Mutex::new(qmp), answered_ns: now, gone, shut_down_ns }
    }

    #[test]
    fn the_last_word_of_a_guest_that_shut_down_is_heard_before_its_end() {
        let said = |guest: bool, reason: &str| {
            let vm = that_ends(&format!(
                r#"{{"timestamp":{{}},"event":"SHUTDOWN","data":{{"guest":{guest},"reason":"{reason}"}}}}"#
            ));
            assert!(vm.look(Duration::from_secs(1)).is_some_and(|looked| looked.is_err()));
            assert!(vm.is_gone());
            vm.has_shut_down()
        };
        assert!(said(true, "guest-shutdown"));
        let vm = that_ends(concat!(
            r#"{"timestamp":{},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#,
            "\n",
            r#"{"timestamp":{},"event":"RESET","data":{"guest":false,"reason":"host-qmp-system-reset"}}"#,
        ));
        assert!(vm.look(Duration::from_secs(1)).is_some_and(|looked| looked.is_err()) && vm.is_gone());
        assert!(!vm.has_shut_down() && !vm.is_down(), "it was rebooted: its end after that is a death");
        for (guest, reason) in [(false, "host-signal"), (false, "host-qmp-quit"), (true, "guest-panic")] {
            assert!(!said(guest, reason), "{reason}: that is a death");
        }
    }
}
