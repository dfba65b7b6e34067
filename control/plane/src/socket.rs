//! The control socket's place in the file system: a directory that only its owner may enter, a path that
//! nobody else listens at, and nothing left behind.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// A bound socket. Dropping it removes the path.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl ControlSocket {
    /// Makes the directory if it is not there, removes a socket that nobody serves any more, binds. `shared`:
    /// other users may connect (they are still checked by their uid). Needs a running runtime.
    pub fn bind(path: &Path, shared: bool) -> Result<ControlSocket, String> {
        let dir = path.parent().ok_or_else(|| format!("{} has no directory", path.display()))?;
        prepare(dir, shared)?;
        // Two planes that start at once do not remove each other's socket.
        let opened = File::open(dir).map_err(|e| format!("cannot open {}: {e}", dir.display()))?;
        let _turn = Flock::lock(opened, FlockArg::LockExclusive)
            .map_err(|(_, e)| format!("cannot lock {}: {e}", dir.display()))?;
        remove_stale(path)?;
        let failed = |e: io::Error| format!("cannot bind {}: {e}; see who may write there", path.display());
        let listener = UnixListener::bind(path).map_err(failed)?;
        let mode = if shared { 0o666 } else { 0o600 };
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
        let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
        Ok(ControlSocket { listener, path: path.into(), inode })
    }

    /// What accepts.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Only if it is still ours.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn prepare(dir: &Path, shared: bool) -> Result<(), String> {
    let shown = dir.display();
    // With other users allowed they must be able to pass through; listing stays ours.
    let (mode, forbidden) = if shared { (0o711, 0o066) } else { (0o700, 0o077) };
    let found = match fs::metadata(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let made = dir.parent().map_or(Ok(()), fs::create_dir_all);
            let made = made.and_then(|()| DirBuilder::new().mode(mode).create(dir));
            made.map_err(|e| {
                format!("cannot make {shown}: {e}; make it with: install -d -m {mode:04o} {shown}")
            })?;
            fs::metadata(dir)
        }
        found => found,
    };
    let found = found.map_err(|e| format!("cannot look at {shown}: {e}"))?;
    if !found.is_dir() {
        return Err(format!("{shown} is no directory; choose another control.socket"));
    }
    let own = nix::unistd::geteuid().as_raw();
    if found.uid() != own {
        return Err(format!("{shown} belongs to user {}; mend it with: chown {own} {shown}", found.uid()));
    }
    if found.mode() & forbidden != 0 {
        let open = found.mode() & 0o777;
        return Err(format!(
            "{shown} has mode {open:04o}, so others could enter; mend it with: chmod {mode:04o} {shown}"
        ));
    }
    Ok(())
}

fn remove_stale(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|e| format!("cannot look at {shown}: {e}"))?,
    };
    if !found.file_type().is_socket() {
        return Err(format!(
            "{shown} exists and is no socket; move it away or choose another control.socket"
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(format!(
            "another process listens at {shown}; stop it (tidegate shutdown --socket {shown}) or choose another control.socket"
        )),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
            log::info!("removing {shown}, which nobody serves any more");
            fs::remove_file(path).map_err(|e| format!("cannot remove {shown}, which nobody serves: {e}"))
        }
        Err(e) => {
            Err(format!("cannot tell whether somebody listens at {shown}: {e}; remove it if nobody does"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within<R>(test: impl FnOnce(&Path) -> R) -> R {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("ours");
        runtime.block_on(async { test(dir.path()) })
    }

    #[test]
    fn the_directory_is_made_for_its_owner_alone_and_the_socket_leaves_nothing_behind() {
        within(|dir| {
            let path = dir.join("run/t.sock");
            let socket = ControlSocket::bind(&path, false).expect("binds");
            let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
            assert_eq!((mode(&dir.join("run")), mode(&path)), (0o700, 0o600));
            drop(socket);
            assert!(!path.exists());
        });
    }

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_removed() {
        within(|dir| {
            let path = dir.join("t.sock");
            let first = ControlSocket::bind(&path, false).expect("binds");
            let refused = ControlSocket::bind(&path, false).unwrap_err();
            assert!(refused.contains("another process listens") && refused.contains("shutdown"), "{refused}");
            assert!(path.exists(), "the live one stays");
            drop(first);
            drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
            assert!(path.exists(), "stale");
            ControlSocket::bind(&path, false).expect("takes the place");
        });
    }

    #[test]
    fn what_is_no_socket_or_open_to_others_is_refused_with_the_remedy() {
        within(|dir| {
            let path = dir.join("t.sock");
            fs::write(&path, "precious").expect("written");
            assert!(ControlSocket::bind(&path, false).unwrap_err().contains("no socket"));
            assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
            fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("ours");
            let refused = ControlSocket::bind(&dir.join("u.sock"), false).unwrap_err();
            assert!(refused.contains(&format!("chmod 0700 {}", dir.display())), "{refused}");
        });
    }
}
