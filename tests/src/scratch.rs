//! A directory for one test: sockets, logs, captures. It goes when the test says that it has passed and
//! stays for a day otherwise, so that its logs can be read.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::failure::{Context, Result};

static NEXT: AtomicU32 = AtomicU32::new(0);
/// How long the logs of a failed test are kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The directory of one test.
pub struct Scratch {
    path: PathBuf,
    // Guest memory tells nobody anything, and it is RAM.
    keep: bool,
}

impl Scratch {
    /// Makes `tg-PID-N` under `base`: `/tmp` for sockets and logs (a socket's path may have 107
    /// bytes, so the names are short).
    pub fn new() -> Result<Scratch> {
        Scratch::under(&std::env::temp_dir())
    }

    /// Makes it under another directory, e.g. `/dev/shm` for guest memory.
    pub fn under(base: &Path) -> Result<Scratch> {
        let keep = !base.starts_with("/dev/shm");
        sweep(base, if keep { KEPT } else { Duration::ZERO });
        let path = base.join(format!("tg-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        // Nobody else's business: tidegate refuses a control socket where others could enter.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .context(|| format!("cannot make the scratch directory {}", path.display()))?;
        Ok(Scratch { path, keep })
    }

    /// The test has passed: nobody will want to read what is in here.
    pub fn passed(mut self) {
        self.forget();
    }

    /// The same for one that something else still uses: it goes when that has ended.
    pub fn forget(&mut self) {
        self.keep = false;
    }

    /// The path of `name` in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            // Who listened there has ended.
            for socket in sockets(&self.path) {
                let _ = fs::remove_file(socket);
            }
            eprintln!("the logs are kept in {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Sockets in a directory.
pub fn sockets(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_socket = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| FileTypeExt::is_socket(&kind));
    entries.filter(is_socket).map(|entry| entry.path()).collect()
}

/// Removes what tests left behind that are no more, when it has lain there for `age`.
fn sweep(base: &Path, age: Duration) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let lain = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
        if owner_is_gone(&entry.file_name().to_string_lossy()) && lain.is_some_and(|lain| lain >= age) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// True for `tg-PID-N` when no process PID lives.
pub(crate) fn owner_is_gone(name: &str) -> bool {
    let mut parts = name.split('-');
    let (Some("tg"), Some(pid), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_that_are_kept_are_logs_alone() {
        let scratch = Scratch::new().expect("a directory");
        let path = scratch.path().to_owned();
        fs::write(scratch.file("log"), "a line").expect("written");
        let _listener = std::os::unix::net::UnixListener::bind(scratch.file("sock")).expect("bound");
        assert_eq!(sockets(&path), [scratch.file("sock")]);
        drop(scratch);
        assert!(path.join("log").exists() && sockets(&path).is_empty());
        fs::remove_dir_all(path).expect("removed");
    }

    #[test]
    fn only_names_of_dead_owners_are_swept() {
        assert!(owner_is_gone("tg-4194999-0"), "above the kernel's largest pid: nobody has it");
        assert!(!owner_is_gone(&format!("tg-{}-0", std::process::id())));
        assert!(!owner_is_gone("tg-x-0"));
        assert!(!owner_is_gone("somebody-elses"));
    }
}
