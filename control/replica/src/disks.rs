//! Disks: what a checkpoint does not hold, and how it is kept in step.
//!
//! A disk that the guest writes to after a checkpoint is *ahead* of the VM that is restored from it, whoever has the
//! disk then: a shared one, a mirrored one, a copy. Such a VM destroys its file systems. So a drive is let pass only
//! when it cannot differ:
//!
//! | drive | |
//! |---|---|
//! | empty (an ejected CD) | passes: there is nothing to differ. What is put in later is judged then, and what is refused voids every checkpoint until it is out again |
//! | read-only | passes with `--disks read-only` and `external`: the operator vouches that the standby's QEMU has the same image |
//! | firmware flash (UEFI variables) | passes: it is RAM to QEMU, travels with the devices' state and is written to the standby's file when that is loaded |
//! | writable | passes with `--disks external` only: the hook makes the standby's copy one of the checkpoint's moment |
//! | writable onto a temporary overlay (`snapshot=on`) | never passes: what was written since the start is in a nameless file on this host that no hook can reach, and the standby would see the disk of before |

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tidegate_control::cli::Disks;

use crate::qmp::{Block, Inserted, Qmp};

/// How often a hook is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How often something else is done meanwhile.
const MEANWHILE_EVERY: Duration = Duration::from_millis(10);
/// How much of what a hook complains about is shown.
const COMPLAINT: u64 = 1024;

/// A drive that would make the restored VM inconsistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRefusal {
    /// The drive.
    pub drive: String,
    /// Its image.
    pub file: String,
    /// What is wrong with it, and what to do.
    pub what: &'static str,
}

impl fmt::Display for DiskRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "drive {} ({}): {}", self.drive, self.file, self.what)
    }
}

impl std::error::Error for DiskRefusal {}

/// Refuses the first drive that may not be there.
pub fn judge(disks: Disks, drives: &[Block]) -> Result<(), DiskRefusal> {
    for drive in drives {
        let Some(inserted) = &drive.inserted else { continue };
        let refuse = |what| Err(DiskRefusal { drive: drive.name.clone(), file: inserted.file.clone(), what });
        if is_firmware(drive) {
            continue;
        }
        if inserted.read_only {
            if disks == Disks::None {
                return refuse(
                    "a read-only disk is not in a checkpoint: give the standby's QEMU the same image and say \
                     --disks read-only",
                );
            }
            continue;
        }
        if is_temporary(inserted) {
            return refuse(
                "it writes to a temporary overlay on this host (snapshot=on) that nothing can carry to the \
                 standby: start the VM without it, or with the drive read-only",
            );
        }
        if disks != Disks::External {
            return refuse(
                "the guest can write to it and it is not in a checkpoint, so a restored VM would find it changed: \
                 remove it, make it read-only, or keep it in step by a replication of its own and say \
                 --disks external --disk-hook PATH",
            );
        }
    }
    Ok(())
}

/// `pflash`, by the name of `-drive if=pflash` or by the path of the machine's own devices.
fn is_firmware(drive: &Block) -> bool {
    let last = drive.name.rsplit('/').next().unwrap_or("");
    drive.name.starts_with("pflash") || matches!(last, "system.flash0" | "system.flash1")
}

/// QEMU makes these overlays in a temporary directory as `vl.` and six letters and removes their name.
fn is_temporary(inserted: &Inserted) -> bool {
    let name = Path::new(&inserted.file).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    inserted.backing_depth > 0 && name.starts_with("vl.")
}

/// What the hook is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The primary's VM is paused and has written all it will write in this epoch: mark this state of the disks. The VM
    /// goes on when the hook has ended.
    Close,
    /// The standby has the checkpoint: older marks are not needed.
    Commit,
    /// On the standby, before the VM is loaded: make the disks those of this epoch's mark.
    Promote,
}

impl Moment {
    fn word(self) -> &'static str {
        match self {
            Moment::Close => "close",
            Moment::Commit => "commit",
            Moment::Promote => "promote",
        }
    }
}

/// Why a hook did not do it. The checkpoint is void then: nothing is committed by it.
#[derive(Debug)]
pub enum HookError {
    /// It cannot be started.
    Start(std::io::Error),
    /// It did not end in time and was ended.
    Timeout(Duration),
    /// It ended with an error.
    Failed {
        /// How.
        status: String,
        /// The last of its standard error.
        complaint: String,
    },
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookError::Start(error) => write!(f, "the disk hook cannot be started: {error}"),
            HookError::Timeout(within) => {
                write!(f, "the disk hook did not end within {} ms", within.as_millis())
            }
            HookError::Failed { status, complaint } => {
                write!(f, "the disk hook ended with {status}: {complaint}")
            }
        }
    }
}

impl std::error::Error for HookError {}

/// The disks of one VM, and what keeps them in step.
#[derive(Clone, Debug)]
pub struct DiskGuard {
    disks: Disks,
    hook: Option<Hook>,
    /// Something may have been put into a drive since they were judged.
    doubted: bool,
    /// Of the monitor.
    events_lost: u64,
}

/// QEMU says so when something is put into a drive, or taken out.
const MOVED: &str = "DEVICE_TRAY_MOVED";

/// How long a hook may take; at a close the VM is paused meanwhile.
const HOOK_WITHIN: Duration = Duration::from_secs(2);

impl DiskGuard {
    /// Looks at the VM's drives; refuses those that would make the restored VM inconsistent.
    pub fn new(qmp: &mut Qmp, disks: Disks, hook: Option<&Path>) -> Result<DiskGuard, String> {
        let mut guard =
            DiskGuard { disks, doubted: true, events_lost: qmp.events_lost(), ..DiskGuard::of_standby(hook) };
        guard.look(qmp)?;
        Ok(guard)
    }

    /// A standby's: the drives of its QEMU are the primary's to be judged.
    pub fn of_standby(hook: Option<&Path>) -> DiskGuard {
        let hook = hook.map(|path| Hook::new(path.to_owned(), HOOK_WITHIN));
        DiskGuard { disks: Disks::None, hook, doubted: false, events_lost: 0 }
    }

    /// The next look judges, whatever QEMU has said.
    pub fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Judges the drives again when something may have been put into one. As long as it is refused there is no checkpoint.
    pub fn look(&mut self, qmp: &mut Qmp) -> Result<(), String> {
        let lost = std::mem::replace(&mut self.events_lost, qmp.events_lost());
        self.doubted |= qmp.has_event(MOVED) || lost != self.events_lost;
        if !self.doubted {
            return Ok(());
        }
        // Before the drives are asked: what moves then is looked at again.
        qmp.forget_events(MOVED);
        let drives = qmp.blocks().map_err(|e| e.to_string())?;
        judge(self.disks, &drives).map_err(|e| e.to_string())?;
        self.doubted = false;
        Ok(())
    }

    /// Inside the pause that ends this epoch. `meanwhile` is done every few milliseconds until the hook has ended.
    pub fn close(&self, epoch: u64, meanwhile: &mut dyn FnMut()) -> Result<(), String> {
        self.call(Moment::Close, epoch, meanwhile)
    }

    /// The standby has this epoch's checkpoint.
    pub fn commit(&self, epoch: u64) -> Result<(), String> {
        self.call(Moment::Commit, epoch, &mut || {})
    }

    /// On the standby, before the VM is loaded.
    pub fn promote(&self, epoch: u64) -> Result<(), String> {
        self.call(Moment::Promote, epoch, &mut || {})
    }

    fn call(&self, moment: Moment, epoch: u64, meanwhile: &mut dyn FnMut()) -> Result<(), String> {
        self.hook
            .as_ref()
            .map_or(Ok(()), |hook| hook.call(moment, epoch, meanwhile).map(drop).map_err(|e| e.to_string()))
    }
}

/// Refuses a hook that nobody could start: on a standby that would show only when it is to take over.
pub fn check_hook(path: &Path) -> Result<(), String> {
    let why = match std::fs::metadata(path) {
        Ok(file) if !file.is_file() => "it is no file".to_owned(),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => "it is not executable".to_owned(),
        Ok(_) => return Ok(()),
        Err(error) => error.to_string(),
    };
    Err(format!("--disk-hook {} cannot be started: {why}", path.display()))
}

/// A program that keeps disks in step: called as `PATH close EPOCH`, `PATH commit EPOCH`, `PATH promote EPOCH`.
#[derive(Clone, Debug)]
pub struct Hook {
    path: PathBuf,
    within: Duration,
}

impl Hook {
    /// The program, and how long it may take each time. At a close the VM is paused meanwhile.
    pub fn new(path: PathBuf, within: Duration) -> Hook {
        Hook { path, within }
    }

    /// Calls it and waits for its end; how long that took.
    pub fn call(
        &self,
        moment: Moment,
        epoch: u64,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<Duration, HookError> {
        let (begin, mut next) = (Instant::now(), MEANWHILE_EVERY);
        let mut child = Command::new(&self.path)
            .args([moment.word(), &epoch.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(HookError::Start)?;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begin.elapsed() < self.within => {
                    std::thread::sleep(LOOK_EVERY);
                    if begin.elapsed() >= next {
                        meanwhile();
                        next = begin.elapsed() + MEANWHILE_EVERY;
                    }
                }
                outcome => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(outcome.err().map_or(HookError::Timeout(self.within), HookError::Start));
                }
            }
        };
        if status.success() {
            return Ok(begin.elapsed());
        }
        let mut complaint = Vec::new();
        if let Some(errors) = child.stderr.take() {
            set_nonblocking(&errors);
            let _ = errors.take(COMPLAINT).read_to_end(&mut complaint);
        }
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        Err(HookError::Failed { status: status.to_string(), complaint })
    }
}

/// A child of the hook may have kept the pipe open: what is there must do.
fn set_nonblocking(pipe: &std::process::ChildStderr) {
    let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn drive(name: &str, file: &str, read_only: bool, backing_depth: u64) -> Block {
        let inserted =
            Inserted { file: file.to_owned(), driver: "qcow2".to_owned(), read_only, backing_depth };
        Block { name: name.to_owned(), inserted: Some(inserted), removable: false }
    }

    #[test]
    fn a_drive_passes_only_when_it_cannot_differ() {
        let empty = Block { name: "cd".to_owned(), inserted: None, removable: true };
        let (fixed, disk) = (drive("ro", "/a.iso", true, 0), drive("vda", "/vm.qcow2", false, 0));
        let overlay = drive("vdb", "/var/tmp/vl.ABC123", false, 1);
        let flash = drive("/machine/system.flash1", "/vars.fd", false, 0);
        let backed = drive("vdc", "/over.qcow2", false, 2);
        let table = [
            (&empty, [true, true, true]),
            (&fixed, [false, true, true]),
            (&disk, [false, false, true]),
            (&backed, [false, false, true]),
            (&overlay, [false, false, false]),
            (&flash, [true, true, true]),
        ];
        for (drive, passes) in table {
            for (disks, passes) in [Disks::None, Disks::ReadOnly, Disks::External].into_iter().zip(passes) {
                let verdict = judge(disks, &[empty.clone(), drive.clone()]);
                assert_eq!(verdict.is_ok(), passes, "{drive:?} with {disks:?}: {verdict:?}");
            }
        }
        let refusal = judge(Disks::None, &[disk]).unwrap_err().to_string();
        assert!(refusal.contains("vda") && refusal.contains("/vm.qcow2") && refusal.contains("--disk-hook"));
    }

    fn hook(directory: &tempfile::TempDir, body: &str) -> Hook {
        let path = directory.path().join("hook");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Hook::new(path, Duration::from_secs(10))
    }

    #[test]
    fn the_hook_is_told_the_moment_and_the_epoch() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let hook = hook(&directory, &format!("echo \"$@\" >>{}", log.display()));
        for (moment, epoch) in [(Moment::Close, 7), (Moment::Commit, 7), (Moment::Promote, 8)] {
            hook.call(moment, epoch, &mut || {}).unwrap();
        }
        assert_eq!(fs::read_to_string(log).unwrap(), "close 7\ncommit 7\npromote 8\n");
    }

    #[test]
    fn a_hook_that_cannot_be_started_is_refused_before_it_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        let Hook { path, .. } = hook(&directory, "exit 0");
        assert_eq!(check_hook(&path), Ok(()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(check_hook(&path).unwrap_err().contains("not executable"));
        assert!(check_hook(directory.path()).unwrap_err().contains("no file"));
        let missing = check_hook(&directory.path().join("missing")).unwrap_err();
        assert!(missing.contains("--disk-hook") && missing.contains("missing"), "{missing}");
    }

    #[test]
    fn a_hook_that_fails_or_hangs_is_no_success() {
        let directory = tempfile::tempdir().unwrap();
        let failing = hook(&directory, "sleep 2 & echo no room >&2; exit 3")
            .call(Moment::Close, 1, &mut || {})
            .unwrap_err();
        assert!(failing.to_string().contains("no room"), "{failing}");
        let hanging = Hook { within: Duration::from_millis(100), ..hook(&directory, "exec sleep 30") };
        assert!(matches!(hanging.call(Moment::Close, 1, &mut || {}), Err(HookError::Timeout(_))));
        let missing = Hook::new("/nonexistent/hook".into(), Duration::from_secs(1));
        assert!(matches!(missing.call(Moment::Close, 1, &mut || {}), Err(HookError::Start(_))));
    }
}
