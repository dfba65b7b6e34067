//! A client of QEMU's monitor (QMP). The peer is taken for hostile: a line, the queue of events and every wait are
//! bounded, and an answer counts only with the id of the request.
//!
//! A monitor takes one client at a time. Beside libvirt, which keeps its own, QEMU is given a second one
//! (`-qmp unix:PATH,server=on,wait=off`): commands and events are the same on each.

mod commands;
mod error;
mod line;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::silent;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::{Value, json};

pub use commands::{Block, Cpu, Inserted, Migration, MigrationStatus, Parameters, RunState};
pub use error::QmpError;
use line::Lines;

/// How long a command may take that has no deadline of its own. `stop` waits for vhost-user peers: see
/// [`Qmp::set_patience`].
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that nobody has asked for yet; at the limit the oldest goes.
const EVENTS_KEPT: usize = 1024;

/// Something QEMU told without being asked.
#[derive(Clone, Debug)]
pub struct Event {
    /// QEMU's name for it: `STOP`, `RESUME`, `MIGRATION`, ...
    pub name: String,
    /// When it happened by QEMU's wall clock, nanoseconds since 1970 (a microsecond's resolution).
    pub at_ns: u64,
    /// When it was read here.
    pub seen: Instant,
    /// What belongs to it.
    pub data: Value,
}

/// A connected monitor.
pub struct Qmp {
    lines: Lines,
    events: VecDeque<Event>,
    events_lost: u64,
    last_id: u64,
    last_answer: Instant,
    patience: Duration,
    version: String,
    /// Half a line was written, or nonsense came: nothing can be said any more.
    broken: bool,
}

impl Qmp {
    /// Connects, reads the greeting and leaves the negotiation mode, all within `timeout`. A socket that is not there
    /// yet, or refuses, is tried again until then.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Qmp, QmpError> {
        let deadline = Instant::now() + timeout;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(source) if Instant::now() >= deadline => {
                    return Err(QmpError::Connect { path: path.to_owned(), source });
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        Qmp::greet(stream, deadline)
    }

    /// The same over a connection that exists.
    pub fn over(stream: UnixStream, timeout: Duration) -> Result<Qmp, QmpError> {
        Qmp::greet(stream, Instant::now() + timeout)
    }

    fn greet(stream: UnixStream, deadline: Instant) -> Result<Qmp, QmpError> {
        let mut qmp = Qmp {
            lines: Lines::new(stream),
            events: VecDeque::new(),
            events_lost: 0,
            last_id: 0,
            last_answer: Instant::now(),
            patience: PATIENCE,
            version: String::new(),
            broken: false,
        };
        let left = || deadline.saturating_duration_since(Instant::now());
        // Another client has the monitor: QEMU accepts the connection and greets when that one has gone.
        let greeting = qmp.message(deadline)?.ok_or(QmpError::Taken)?;
        let Some(version) = greeting.pointer("/QMP/version/qemu") else {
            return Err(QmpError::malformed("no greeting came first"));
        };
        let part = |name: &str| version[name].as_u64().unwrap_or(0);
        qmp.version = format!("{}.{}.{}", part("major"), part("minor"), part("micro"));
        qmp.execute_within("qmp_capabilities", json!({}), left())?;
        Ok(qmp)
    }

    /// QEMU's version, as in `7.2.22`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The process that opened the monitor: QEMU, when it was started with `-qmp unix:...`. A socket that another
    /// program opened and handed over (libvirt's own monitor) names that one.
    pub fn peer_pid(&self) -> Option<i32> {
        getsockopt(self.lines.stream(), PeerCredentials)
            .ok()
            .map(|credentials| credentials.pid())
            .filter(|&pid| pid > 0)
    }

    /// How long a command without a deadline of its own may take from now on (5 s at first).
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// When QEMU last answered a command: what a heartbeat may go by.
    pub fn last_answer(&self) -> Instant {
        self.last_answer
    }

    /// Events that went because nobody took them.
    pub fn events_lost(&self) -> u64 {
        self.events_lost
    }

    /// One command and its return value. Events that come meanwhile are kept.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, self.patience)
    }

    /// The same with a deadline of its own.
    pub fn execute_within(
        &mut self,
        command: &str,
        arguments: Value,
        within: Duration,
    ) -> Result<Value, QmpError> {
        self.request(command, arguments, None, within)
    }

    pub(super) fn request(
        &mut self,
        command: &str,
        arguments: Value,
        descriptor: Option<BorrowedFd<'_>>,
        within: Duration,
    ) -> Result<Value, QmpError> {
        if self.broken {
            return Err(QmpError::malformed("it failed before"));
        }
        let deadline = Instant::now() + within;
        self.last_id += 1;
        let id = self.last_id;
        // QEMU reads its monitor byte by byte, in a loop that a busy guest's vCPU keeps waiting: say no more than needed.
        let mut line = match arguments.as_object().is_some_and(|all| all.is_empty()) {
            true => json!({ "execute": command, "id": id }),
            false => json!({ "execute": command, "arguments": arguments, "id": id }),
        }
        .to_string();
        line.push('\n');
        let sent = self.lines.send(line.as_bytes(), descriptor, deadline);
        self.broken |= sent.as_ref().is_err_and(QmpError::is_final);
        sent?;
        while let Some(mut message) = self.message(deadline)? {
            if message.get("event").is_some() {
                self.keep(message);
                // A flood of events must not keep us here.
                if Instant::now() > deadline {
                    break;
                }
                continue;
            }
            // The answer to a request that was given up, or to none.
            if message["id"].as_u64() != Some(id) {
                if message["id"].is_null() && message.get("error").is_some() {
                    self.broken = true;
                    return Err(QmpError::malformed(format!("it did not understand {command}: {message}")));
                }
                continue;
            }
            self.last_answer = Instant::now();
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            let text = |key: &str| message["error"][key].as_str().unwrap_or("no reason given").to_owned();
            return Err(QmpError::Refused {
                command: command.to_owned(),
                class: text("class"),
                description: text("desc"),
            });
        }
        Err(QmpError::Timeout { command: command.to_owned(), within })
    }

    /// The oldest event that was not taken yet; waits for one until `deadline`.
    pub fn next_event(&mut self, deadline: Instant) -> Result<Option<Event>, QmpError> {
        self.wait_event(deadline, |_| true)
    }

    /// The first event that `wanted` says yes to, among those kept and those that come until `deadline`. The others
    /// stay.
    pub fn wait_event(
        &mut self,
        deadline: Instant,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Option<Event>, QmpError> {
        let (mut looked, mut late) = (0, 0);
        loop {
            if let Some(at) = (looked..self.events.len()).find(|&at| wanted(&self.events[at])) {
                return Ok(self.events.remove(at));
            }
            looked = self.events.len();
            // What has come already counts at any deadline, a flood does not.
            late += usize::from(Instant::now() > deadline);
            if late > EVENTS_KEPT {
                return Ok(None);
            }
            match self.message(deadline)? {
                Some(message) if message.get("event").is_some() => {
                    self.keep(message);
                    // At the limit the oldest went, and the newest took the last place.
                    looked = looked.min(self.events.len() - 1);
                }
                Some(_late) => {}
                None => return Ok(None),
            }
        }
    }

    /// An event of this name has come and was not taken.
    pub fn has_event(&self, name: &str) -> bool {
        self.events.iter().any(|event| event.name == name)
    }

    /// Drops the events of this name that were not taken: so that the next wait sees new ones only.
    pub fn forget_events(&mut self, name: &str) {
        self.events.retain(|event| event.name != name);
    }

    fn message(&mut self, deadline: Instant) -> Result<Option<Value>, QmpError> {
        let read = self.lines.next(deadline).and_then(|line| match line {
            None => Ok(None),
            Some(line) => match serde_json::from_slice::<Value>(&line) {
                Ok(message) if message.is_object() => Ok(Some(message)),
                _ => Err(QmpError::malformed(format!("a line of {} bytes is no JSON object", line.len()))),
            },
        });
        self.broken |= read.as_ref().is_err_and(QmpError::is_final);
        read
    }

    fn keep(&mut self, mut message: Value) {
        let Some(name) = message["event"].as_str().map(str::to_owned) else { return };
        let stamp = &message["timestamp"];
        let part = |key: &str| stamp[key].as_u64().unwrap_or(0);
        let at_ns = part("seconds")
            .saturating_mul(1_000_000_000)
            .saturating_add(part("microseconds").saturating_mul(1_000));
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
            self.events_lost += 1;
        }
        let data = message["data"].take();
        self.events.push_back(Event { name, at_ns, seen: Instant::now(), data });
    }
}
