//! The VM's monitor, shared by whoever drives it and whoever watches that it lives.

use crate::plane::monotonic_ns;
use crate::qmp::{Qmp, QmpError, RunState};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

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
}

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module's head.
pub struct Vm {
    qmp: Mutex<Qmp>,
    answered_ns: AtomicU64,
    gone: AtomicBool,
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
    pub fn noting<T>(&self, result: Result<T, QmpError>) -> Result<T, QmpError> {
        match &result {
            Ok(_) => self.answered(),
            Err(error) if error.is_final() => self.vm.gone.store(true, Relaxed),
            Err(_) => {}
        }
        result
    }
}

impl Vm {
    /// Connects to QEMU's monitor within `timeout`.
    pub fn connect(monitor: &Path, timeout: Duration) -> Result<Vm, QmpError> {
        let qmp = Mutex::new(Qmp::connect(monitor, timeout)?);
        Ok(Vm { qmp, answered_ns: AtomicU64::new(monotonic_ns()), gone: AtomicBool::new(false) })
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

    /// The monitor has ended: QEMU is gone, or will never answer again.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }
}
