//! A client of QEMU's monitor socket (QMP), just as large as the tests need it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::json_lines::JsonLines;

/// QEMU answers at once, except while it waits for a vhost-user peer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Something QEMU told without being asked.
#[derive(Debug, Clone)]
pub struct Event {
    /// QEMU's name for it: `STOP`, `RESUME`, `RESET`, ...
    pub name: String,
    /// When it happened by QEMU's account, nanoseconds since 1970 (a microsecond's resolution).
    pub at_ns: u64,
    /// What belongs to it.
    pub data: Value,
}

/// A connected monitor.
pub struct Qmp {
    lines: JsonLines,
    events: Vec<Event>,
}

impl Qmp {
    /// Connects and leaves the negotiation mode.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Qmp> {
        let mut lines = JsonLines::connect(path, timeout)?;
        let greeting = lines.receive(Instant::now() + timeout)?;
        if greeting.as_ref().is_none_or(|greeting| greeting.get("QMP").is_none()) {
            return Err(Failure::new(format!("{} did not greet as QMP: {greeting:?}", path.display())));
        }
        let mut qmp = Qmp { lines, events: Vec::new() };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// One command and its return value. Events that come meanwhile are kept.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.lines.send(&json!({ "execute": command, "arguments": arguments }))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        while let Some(mut message) = self.lines.receive(deadline)? {
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                return Err(Failure::new(format!("QEMU refused {command}: {error}")));
            }
            self.keep(&message);
        }
        Err(Failure::new(format!("QEMU gave no answer to {command} within {ANSWER_WITHIN:?}")))
    }

    /// Pauses the VM. When this returns no vCPU runs and its vhost-user rings have been stopped.
    pub fn stop(&mut self) -> Result<()> {
        self.execute("stop", json!({})).map(drop)
    }

    /// Lets the VM run on.
    pub fn resume(&mut self) -> Result<()> {
        self.execute("cont", json!({})).map(drop)
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<()> {
        self.execute("system_reset", json!({})).map(drop)
    }

    /// The VM's state in QEMU's word: `running`, `paused`, ...
    pub fn status(&mut self) -> Result<String> {
        let status = self.execute("query-status", json!({}))?;
        Ok(status["status"].as_str().unwrap_or("unknown").to_owned())
    }

    /// Waits for an event of this name and takes it; older events of other names are dropped.
    pub fn wait_for_event(&mut self, name: &str, timeout: Duration) -> Result<Event> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(at) = self.events.iter().position(|event| event.name == name) {
                return Ok(self.events.drain(..=at).next_back().expect("the range holds one"));
            }
            match self.lines.receive(deadline)? {
                Some(message) => self.keep(&message),
                None => return Err(Failure::new(format!("QEMU told no {name} within {timeout:?}"))),
            }
        }
    }

    fn keep(&mut self, message: &Value) {
        let Some(name) = message["event"].as_str() else { return };
        let stamp = &message["timestamp"];
        let part = |key: &str| stamp[key].as_u64().unwrap_or(0);
        let at_ns = part("seconds") * 1_000_000_000 + part("microseconds") * 1_000;
        // A test that never asks for events must not gather them without bound.
        if self.events.len() == 4096 {
            self.events.remove(0);
        }
        self.events.push(Event { name: name.to_owned(), at_ns, data: message["data"].clone() });
    }
}
