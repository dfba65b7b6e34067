//! The processes of a demo: started, listened to, ended. None outlives the demo.

use crate::control_client::ControlClient;
use crate::virtio::cpus;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Lines of each end of a log in an error message.
const LINES_SHOWN: usize = 5;
/// How long a process may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks whether the plane greets, or has ended.
const LOOK: Duration = Duration::from_secs(1);

/// A command whose process gets `signal` when this one dies, however it does: its words are still to come.
pub(super) fn mortal(signal: &str) -> Command {
    // It and the programs it starts replace themselves, so the process id stays the same.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]);
    command
}

/// A process that says lines of JSON on its standard output and ends when its input does.
#[derive(Debug)]
pub(super) struct Child {
    name: &'static str,
    process: std::process::Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Child {
    /// Starts it; what it says on standard error goes to `dir`.
    pub(super) fn start(name: &'static str, dir: &Path, mut command: Command) -> Result<Child, String> {
        let log = dir.join(format!("{name}.log"));
        let stderr = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|e| format!("cannot start {:?}: {e}", command.get_program()))?;
        let (say, lines) = channel();
        if let Some(out) = process.stdout.take() {
            std::thread::spawn(move || {
                BufReader::new(out).lines().map_while(Result::ok).all(|line| say.send(line).is_ok())
            });
        }
        Ok(Child { name, process, lines, log })
    }

    /// Its next line, or nothing when it says none until then.
    pub(super) fn line_by<T: DeserializeOwned>(&mut self, deadline: Instant) -> Result<Option<T>, String> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => self.parse(&line).map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.words("ended too early")),
        }
    }

    /// Its next line.
    pub(super) fn line<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T, String> {
        self.line_by(Instant::now() + within)?.ok_or_else(|| self.words("says nothing"))
    }

    /// Ends its input and takes the last line that it says.
    pub(super) fn last_line<T: DeserializeOwned>(mut self) -> Result<T, String> {
        drop(self.process.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => last = Some(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(self.words("does not end")),
            }
        }
        let last = last.ok_or_else(|| self.words("said nothing"))?;
        let parsed = self.parse(&last);
        self.end().and(parsed)
    }

    /// Ends its input and waits for it.
    pub(super) fn end(mut self) -> Result<(), String> {
        drop(self.process.stdin.take());
        if wait(&mut self.process) { Ok(()) } else { Err(self.words("did not end well")) }
    }

    fn parse<T: DeserializeOwned>(&self, line: &str) -> Result<T, String> {
        serde_json::from_str(line).map_err(|e| format!("the {} said {line}: {e}", self.name))
    }

    fn words(&self, what: &str) -> String {
        format!("the {} {what}{}", self.name, last_words(&self.log))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        reap(&mut self.process);
    }
}

/// The plane.
#[derive(Debug)]
pub(super) struct Plane {
    process: std::process::Child,
    /// Its control socket.
    pub socket: PathBuf,
    log: PathBuf,
}

impl Plane {
    /// `tidegate run` with one lane, protected from the first frame on.
    pub(super) fn start(
        tidegate: &Path,
        dir: &Path,
        policy: &str,
        guest: &Path,
        wire: &str,
    ) -> Result<Plane, String> {
        let socket = dir.join("control").join("tidegate.sock");
        let log = dir.join("plane.log");
        let words = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = words.try_clone().map_err(|e| format!("{}: {e}", log.display()))?;
        // The last CPU, because the first has the interrupts; it sleeps when it has nothing to do, because the
        // guest and the sink want CPUs too.
        let lcore = cpus().last().copied().unwrap_or(0);
        let mut command = mortal("TERM");
        command.arg(tidegate).arg("run");
        command.arg("--guest-port").arg(format!("net_vhost0,iface={}", guest.display()));
        command.arg("--wire-port").arg(wire).arg("--socket").arg(&socket);
        command.args(["--lcore", &lcore.to_string(), "--idle", "backoff", "--no-huge", "--memory-mb", "256"]);
        command.args(["--name", "guest", "--mode", "protected", "--policy", policy, "--source", "socket"]);
        // On a busy machine a guest that stands still for longer is the smaller harm: epochs keep their length.
        command.args(["--close-timeout", "100ms"]);
        let process = command
            .stdin(Stdio::null())
            .stdout(words)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("cannot start setpriv (package util-linux): {e}"))?;
        Ok(Plane { process, socket, log })
    }

    /// Waits until it takes connections.
    pub(super) fn wait_ready(&mut self) -> Result<ControlClient, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(control) = ControlClient::connect(&self.socket, LOOK) {
                return Ok(control);
            }
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("tidegate ended: {status}{}", last_words(&self.log)));
            }
            if Instant::now() > deadline {
                return Err(format!("tidegate does not answer on its socket{}", last_words(&self.log)));
            }
        }
    }

    /// Stops it as a service manager would.
    pub(super) fn stop(mut self) -> Result<(), String> {
        terminate(&mut self.process);
        if wait(&mut self.process) {
            Ok(())
        } else {
            Err(format!("tidegate did not stop well{}", last_words(&self.log)))
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        terminate(&mut self.process);
        wait(&mut self.process);
        reap(&mut self.process);
    }
}

fn terminate(process: &mut std::process::Child) {
    // One that has been waited for has no process id any more; somebody else may have it.
    if let (Ok(None), Ok(pid)) = (process.try_wait(), i32::try_from(process.id())) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
}

/// True when it ended by itself, without an error.
fn wait(process: &mut std::process::Child) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match process.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => return false,
        }
    }
    false
}

fn reap(process: &mut std::process::Child) {
    // Both fail only for a process that has been waited for.
    let _ = process.kill();
    let _ = process.wait();
}

/// Both ends of a log, for an error message: DPDK says first what is wrong, and then how it is used.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.len() > 2 * LINES_SHOWN {
        lines.splice(LINES_SHOWN..lines.len() - LINES_SHOWN, ["..."]);
    }
    if lines.is_empty() { String::new() } else { format!("; it said:\n    {}", lines.join("\n    ")) }
}
