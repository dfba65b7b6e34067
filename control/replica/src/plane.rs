//! The plane's control socket, as replication uses it: one connection that controls the guest, shared by the threads
//! that close, commit and renew the lease.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate_control::client::{Client, ClientError};
use tidegate_control::protocol::{GuardReport, Pulse};

use crate::checkpoint::CheckpointId;
use crate::lease::Lease;

/// Nanoseconds of `CLOCK_MONOTONIC`: the clock in which leases are told to the plane.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok();
    now.and_then(|now| u64::try_from(Duration::from(now).as_nanos()).ok()).unwrap_or(0)
}

/// Streams that a line to the plane has room for.
const STREAMS_A_LINE: usize = 300;

/// A controlled guest of a running plane.
#[derive(Debug)]
pub struct Plane {
    client: Mutex<Client>,
    socket: PathBuf,
    guest: String,
    pid: u32,
}

/// What a close or a promotion ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The epoch, and the generation that its commit must name.
    pub id: CheckpointId,
    /// Frames held under its stamp.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
}

fn number(value: &Value, key: &str) -> Result<u64, ClientError> {
    value[key]
        .as_u64()
        .ok_or_else(|| ClientError::Answer(format!("the plane's answer has no {key}: {value}")))
}

fn id(value: &Value) -> Result<CheckpointId, ClientError> {
    Ok(CheckpointId { generation: number(value, "generation")?, epoch: number(value, "epoch")? })
}

impl Plane {
    /// Connects, and looks that there is such a guest. `guest` may be left out where the plane has one only.
    pub fn connect(socket: &Path, guest: Option<&str>) -> Result<Plane, ClientError> {
        let mut client = Client::connect(socket)?;
        let pid = plane_pid(&client)?;
        let all = client.execute("guests", json!({}))?;
        let names: Vec<&str> =
            all["guests"].as_array().into_iter().flatten().filter_map(|g| g["guest"].as_str()).collect();
        let name = match (guest, names.as_slice()) {
            (Some(guest), names) if names.contains(&guest) => guest,
            (None, [only]) => only,
            (Some(guest), _) => {
                return Err(ClientError::Answer(format!(
                    "the plane has no guest `{guest}`; there are {}",
                    names.join(", ")
                )));
            }
            (None, _) => {
                return Err(ClientError::Answer(format!(
                    "the plane has several guests: name one of {} with --guest",
                    names.join(", ")
                )));
            }
        };
        let guest = name.to_owned();
        Ok(Plane { client: Mutex::new(client), socket: socket.to_owned(), guest, pid })
    }

    fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, verb: &str, mut arguments: Value) -> Result<Value, ClientError> {
        arguments["guest"] = json!(self.guest);
        self.client().execute(verb, arguments)
    }

    /// The guest's name.
    pub fn guest(&self) -> &str {
        &self.guest
    }

    /// The plane's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The guest as `guests` reports it.
    pub fn report(&self) -> Result<Value, ClientError> {
        let all = self.client().execute("guests", json!({}))?;
        let guests = all["guests"].as_array().into_iter().flatten();
        let ours = guests.into_iter().find(|g| g["guest"] == self.guest.as_str()).cloned();
        ours.ok_or_else(|| ClientError::Answer(format!("the plane has no guest `{}` any more", self.guest)))
    }

    /// Another connection, for events: this one answers requests only.
    pub fn subscribe(&self, events: &[&str]) -> Result<Client, ClientError> {
        let mut client = Client::connect(&self.socket)?;
        client.execute("subscribe", json!({ "events": events }))?;
        Ok(client)
    }

    /// Becomes the guest's controller, whoever is.
    pub fn take_over(&self) -> Result<(), ClientError> {
        self.ask("takeover", json!({})).map(drop)
    }

    /// Protection begins, inside a pause. The checkpoint of this pause is named by the epoch before the first. `vouched`: the
    /// caller knows of the pause, whatever the guest's rings say.
    pub fn protect(
        &self,
        first_epoch: u64,
        vouched: bool,
        lease: Option<Lease>,
    ) -> Result<CheckpointId, ClientError> {
        let mut arguments = json!({ "first_epoch": first_epoch, "vouched": vouched });
        if let Some(Lease { since_ns, term_ms, media_ms }) = lease {
            arguments["term_ms"] = json!(term_ms);
            arguments["media_ms"] = json!(media_ms);
            arguments["since_ns"] = json!(since_ns);
        }
        let open = id(&self.ask("protect", arguments)?)?;
        Ok(CheckpointId { epoch: open.epoch.saturating_sub(1), ..open })
    }

    /// The guest is paused: its epoch ends. `vouched` as in [`Plane::protect`].
    pub fn close(&self, vouched: bool) -> Result<Closed, ClientError> {
        let told = self.ask("close", json!({ "vouched": vouched }))?;
        Ok(Closed { id: id(&told)?, frames: number(&told, "frames")?, bytes: number(&told, "bytes")? })
    }

    /// The guest runs again, or is about to: for ports that do not tell.
    pub fn resumed(&self) -> Result<(), ClientError> {
        self.ask("resumed", json!({})).map(drop)
    }

    /// Whether the guest stood still from the close until now.
    pub fn seal(&self, epoch: u64) -> Result<(), ClientError> {
        self.ask("seal", json!({ "epoch": epoch })).map(drop)
    }

    /// The standby holds this checkpoint.
    pub fn commit(&self, id: CheckpointId) -> Result<(), ClientError> {
        self.ask("commit", json!({ "generation": id.generation, "epoch": id.epoch })).map(drop)
    }

    /// Prolongs the lease.
    pub fn lease(&self, generation: u64, lease: Lease) -> Result<(), ClientError> {
        let Lease { since_ns, term_ms, media_ms } = lease;
        let arguments = json!({
            "generation": generation, "term_ms": term_ms, "media_ms": media_ms, "since_ns": since_ns,
        });
        self.ask("lease", arguments).map(drop)
    }

    /// Nothing leaves any more; true once every lane has seen it.
    pub fn fence(&self) -> Result<bool, ClientError> {
        Ok(self.ask("fence", json!({}))?["seen_by_all_lanes"] == true)
    }

    /// See `backup-lost` of the protocol.
    pub fn backup_lost(&self, evidence: &str) -> Result<Value, ClientError> {
        self.ask("backup-lost", json!({ "evidence": evidence }))
    }

    /// A sign of life.
    pub fn pulse(&self) -> Result<Pulse, ClientError> {
        let told = self.ask("pulse", json!({}))?;
        serde_json::from_value(told).map_err(|e| ClientError::Answer(format!("pulse: {e}")))
    }

    /// What a standby's plane must know: streams of which something went out since the answer with this token, and who
    /// the guest is. A part of it, and where the next part begins.
    pub fn guard(&self, since: Option<u64>, from: Option<u64>) -> Result<GuardReport, ClientError> {
        let told = self.ask("guard", json!({ "since": since, "from": from }))?;
        serde_json::from_value(told).map_err(|e| ClientError::Answer(format!("guard: {e}")))
    }

    /// Hands a part of it to a muted plane. `margin_ms`: how long the primary may have sent since.
    pub fn inherit(&self, report: &GuardReport, margin_ms: u64) -> Result<(), ClientError> {
        let identities = Some(&report.identities).filter(|identities| !identities.is_empty());
        if let Some(identities) = identities {
            self.ask("guard", json!({ "identities": identities }))?;
        }
        for streams in report.streams.chunks(STREAMS_A_LINE) {
            self.ask("guard", json!({ "streams": streams, "margin_ms": margin_ms }))?;
        }
        Ok(())
    }

    /// Discards what the guest sends.
    pub fn mute(&self) -> Result<(), ClientError> {
        self.ask("mute", json!({})).map(drop)
    }

    /// The standby's guest may speak.
    pub fn unmute(&self, protected: bool, first_epoch: u64) -> Result<CheckpointId, ClientError> {
        id(&self.ask("unmute", json!({ "protected": protected, "first_epoch": first_epoch }))?)
    }

    /// True when the plane's process is gone for certain: then nothing of its guest leaves this host.
    pub fn is_dead(&self) -> bool {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid).unwrap_or(i32::MAX));
        nix::sys::signal::kill(pid, None) == Err(nix::errno::Errno::ESRCH) || has_ended(self.pid)
    }
}

/// The plane's process, whose end says that nothing of its guest leaves any more: so it must be the one that has the socket,
/// seen from here. Another one's end would say nothing.
fn plane_pid(client: &Client) -> Result<u32, ClientError> {
    let told = client.greeting().tidegate.pid;
    let listens = getsockopt(client.stream(), PeerCredentials).map(|peer| peer.pid()).unwrap_or(0);
    if u32::try_from(listens) == Ok(told) {
        return Ok(told);
    }
    Err(ClientError::Answer(format!(
        "the plane says that it is process {told}, and its socket is that of process {listens}: run this where the plane \
         runs, in the same container (PID namespace) and without a proxy between them"
    )))
}

/// All threads of the process are past their last system call. What its end takes after that (ports and memory go back,
/// its parent looks) lasts tens of milliseconds, in which a takeover need not wait.
fn has_ended(pid: u32) -> bool {
    let all_exit = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let mut count = 0;
        for thread in threads {
            let stat = std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
            if !is_exiting(&stat) {
                return None;
            }
            count += 1;
        }
        Some(count)
    };
    // Twice: a thread that ends may have begun another one, which the first look missed.
    all_exit().is_some_and(|count| count > 0) && all_exit().is_some_and(|count| count > 0)
}

/// Of a thread's `stat` (proc(5)): the kernel ends it, or has. Unknown is no.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u64 = 4;
    // The name may have anything in it, also `)`.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    fields.nth(6).and_then(|flags| flags.parse().ok()).is_some_and(|flags: u64| flags & PF_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As from another PID namespace, or through a proxy.
    #[test]
    fn a_plane_that_is_another_process_than_its_socket_tells_is_refused() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let own = std::process::id();
        let says = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            writeln!(stream, r#"{{"tidegate":{{"version":"0","pid":{},"capabilities":[]}}}}"#, own + 1)
                .unwrap();
            stream
        });
        let refused = Plane::connect(&path, None).unwrap_err().to_string();
        drop(says.join());
        assert!(refused.contains(&own.to_string()) && refused.contains("PID namespace"), "{refused}");
    }

    #[test]
    fn a_process_has_ended_when_all_its_threads_exit() {
        let stat = |flags: u64| format!("7 (a) Z b) S 1 7 7 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 99");
        assert!(is_exiting(&stat(4)) && is_exiting(&stat(0x40_0040 | 4)));
        for living in [stat(0), stat(0x40_0040), String::new(), "7 (x) Z 1 4".to_owned(), "7 (x".to_owned()] {
            assert!(!is_exiting(&living), "{living}");
        }
        assert!(!has_ended(std::process::id()), "this one");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!has_ended(child.id()));
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !has_ended(child.id()) {
            assert!(std::time::Instant::now() < deadline, "it was killed, and nobody has looked yet");
        }
        child.wait().unwrap();
    }
}
