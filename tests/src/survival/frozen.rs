//! A single thread of another process that stands still while the rest of it runs: a signal would stop all of them.

use std::fs;
use std::marker::PhantomData;

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::failure::{Context, Failure, Result};

/// See the module's head; it goes on with the end of this value. The kernel takes orders about it from the thread that
/// made it only.
pub struct Frozen {
    thread: Pid,
    _stays_here: PhantomData<*const ()>,
}

impl Frozen {
    /// Freezes the thread of this name of a process that the caller has started.
    pub fn thread(process: u32, name: &str) -> Result<Frozen> {
        let tasks = format!("/proc/{process}/task");
        let mut names = Vec::new();
        for task in fs::read_dir(&tasks).context(|| format!("cannot read {tasks}"))?.flatten() {
            let called = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let number = task.file_name().to_string_lossy().parse();
            match number {
                Ok(number) if called.trim() == name => return Frozen::stop(Pid::from_raw(number)),
                _ => names.push(called.trim().to_owned()),
            }
        }
        Err(Failure::new(format!("process {process} has no thread {name:?}, but {names:?}")))
    }

    fn stop(thread: Pid) -> Result<Frozen> {
        let what = || format!("cannot stop thread {thread}");
        ptrace::seize(thread, Options::empty()).context(what)?;
        let frozen = Frozen { thread, _stays_here: PhantomData };
        ptrace::interrupt(thread).context(what)?;
        waitpid(thread, Some(WaitPidFlag::__WALL)).context(what)?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.thread, None);
    }
}
