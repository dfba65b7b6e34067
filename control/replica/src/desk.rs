//! A replication process's own socket: how it stands, and what a person or a cluster manager orders.
//!
//! The same language as the plane's: a greeting, one JSON line a request, one an answer. The directory is 0700, the
//! peer's user is looked at, lines and connections are bounded.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_control::protocol::{About, Failure, Greeting, LINE_MAX, Request, answer};

/// Connections at once.
const SEATS: usize = 8;
/// A peer that says or takes nothing for so long is shown out.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the process answers with.
pub type Clerk = dyn Fn(&str, &Map<String, Value>) -> Result<Value, Failure> + Send + Sync;

/// The socket. Goes with its value.
#[derive(Debug)]
pub struct Desk {
    path: PathBuf,
}

impl Desk {
    /// Opens it; `clerk` is asked from threads of its own.
    pub fn open(path: &Path, clerk: Arc<Clerk>) -> Result<Desk, String> {
        let listener = bind(path)?;
        let desk = Desk { path: path.to_owned() };
        let seated = Arc::new(AtomicUsize::new(0));
        let serve = move || {
            for stream in listener.incoming().flatten() {
                if seated.fetch_add(1, Ordering::Relaxed) >= SEATS {
                    seated.fetch_sub(1, Ordering::Relaxed);
                    refuse(
                        stream,
                        &Failure::new("too-many-sessions", format!("{SEATS} connections are open")),
                    );
                    continue;
                }
                let (clerk, seat) = (Arc::clone(&clerk), Seat(Arc::clone(&seated)));
                let spawned = std::thread::Builder::new().name("desk".into()).spawn(move || {
                    let _seat = seat;
                    converse(stream, &*clerk);
                });
                if let Err(e) = spawned {
                    log::warn!("desk: no thread for a connection: {e}");
                }
            }
        };
        std::thread::Builder::new()
            .name("desk".into())
            .spawn(serve)
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(desk)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn bind(path: &Path) -> Result<UnixListener, String> {
    let shown = path.display();
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| format!("cannot make {}: {e}; name another socket with --desk", dir.display()))?;
    }
    if UnixStream::connect(path).is_ok() {
        return Err(format!(
            "{shown} is another process's, which answers; end that one or use another --desk"
        ));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            return Err(format!("{shown} exists and is no socket; use another --desk"));
        }
        // What a process left that was killed.
        Ok(_) => std::fs::remove_file(path).map_err(|e| format!("cannot remove the old {shown}: {e}"))?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(|e| format!("cannot make the socket {shown}: {e}"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|e| format!("cannot protect {shown}: {e}"))?;
    Ok(listener)
}

fn refuse(mut stream: UnixStream, failure: &Failure) {
    let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
    let _ = writeln!(stream, "{}", json!({ "error": failure }));
}

fn converse(stream: UnixStream, clerk: &Clerk) {
    let own = nix::unistd::geteuid().as_raw();
    match getsockopt(&stream, PeerCredentials) {
        Ok(peer) if [0, own].contains(&peer.uid()) => {}
        _ => return refuse(stream, &Failure::new("not-allowed", "only root and this process's own user")),
    }
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut lines = BufReader::new(stream);
    if writeln!(writer, "{}", json!(Greeting { tidegate: About::this_process() })).is_err() {
        return;
    }
    loop {
        let mut line = Vec::new();
        match lines.by_ref().take(LINE_MAX as u64 + 1).read_until(b'\n', &mut line) {
            Ok(n) if n > 0 && line.ends_with(b"\n") => {}
            // Too long, the end, or silence.
            _ => return,
        }
        let told = match Request::parse(&line) {
            Err((id, failure)) => answer(&id, Err(failure)),
            Ok(request) => answer(&request.id, clerk(&request.execute, &request.arguments)),
        };
        if writeln!(writer, "{told}").is_err() {
            return;
        }
    }
}

/// What a clerk says to a verb that it does not know.
pub fn unknown(verb: &str, known: &[&str]) -> Failure {
    Failure::new("unknown-verb", format!("no verb `{verb}`; there are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_control::client::Client;

    fn desk(dir: &Path) -> Desk {
        let clerk = |verb: &str, given: &Map<String, Value>| match verb {
            "status" => Ok(json!({ "given": given.len() })),
            other => Err(unknown(other, &["status"])),
        };
        Desk::open(&dir.join("desk/s"), Arc::new(clerk)).unwrap()
    }

    #[test]
    fn it_answers_refuses_and_goes_with_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let desk = desk(dir.path());
        let path = desk.path.clone();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
        let mut client = Client::connect(&path).unwrap();
        assert_eq!(client.execute("status", json!({ "a": 1 })).unwrap()["given"], 1);
        assert_eq!(client.execute("flush", json!({})).unwrap_err().failure().reason, "unknown-verb");
        assert!(Desk::open(&path, Arc::new(|_, _| Ok(Value::Null))).unwrap_err().contains("--desk"));
        drop(desk);
        assert!(!path.exists());
    }

    #[test]
    fn endless_lines_and_many_connections_are_shown_out() {
        let dir = tempfile::tempdir().unwrap();
        let desk = desk(dir.path());
        let mut endless = UnixStream::connect(&desk.path).unwrap();
        let _ = endless.write_all(&vec![b'x'; LINE_MAX + 2]);
        let mut said = String::new();
        let _ = endless.read_to_string(&mut said);
        assert_eq!(said.lines().count(), 1, "the greeting and no more: {said}");
        let open: Vec<_> = (0..SEATS).map(|_| Client::connect(&desk.path).unwrap()).collect();
        let refused = Client::connect(&desk.path).unwrap_err().failure();
        assert_eq!(refused.reason, "too-many-sessions");
        drop(open);
    }

    #[test]
    fn an_old_socket_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        drop(Desk::open(&path, Arc::new(|_, _| Ok(Value::Null))).unwrap());
        std::fs::write(&path, "mine").unwrap();
        assert!(Desk::open(&path, Arc::new(|_, _| Ok(Value::Null))).unwrap_err().contains("no socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
