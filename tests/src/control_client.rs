//! A client of tidegate's control socket that shares no code with it: what any tool stack would write.
//!
//! Newline-delimited JSON: a greeting `{"tidegate":{"version":..,"capabilities":[..]}}`, requests
//! `{"id":1,"execute":"close","arguments":{..}}` answered by `{"id":1,"return":{..}}` or
//! `{"id":1,"error":{"reason":"..","desc":".."}}`, and, once subscribed, `{"event":"closed","data":{..}}`.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::json_lines::JsonLines;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A request that was refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The word a program decides by.
    pub reason: String,
    /// The sentence a person reads.
    pub desc: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.desc)
    }
}

/// Something tidegate told without being asked.
#[derive(Debug, Clone)]
pub struct Event {
    /// `closed`, `committed`, `pressure`, ...
    pub name: String,
    /// What belongs to it.
    pub data: Value,
    /// When it happened by the plane's account, nanoseconds since 1970 (a microsecond's resolution).
    pub at_ns: u64,
    /// When this client read it, nanoseconds since 1970.
    pub read_at_ns: u64,
}

/// A connection to the control socket.
pub struct ControlClient {
    lines: JsonLines,
    next_id: u64,
    events: VecDeque<Event>,
    greeting: Value,
}

impl ControlClient {
    /// Connects, trying until `timeout` is over, and reads the greeting.
    pub fn connect(path: &Path, timeout: Duration) -> Result<ControlClient> {
        let mut lines = JsonLines::connect(path, timeout)?;
        let greeting = lines.receive(Instant::now() + timeout)?.unwrap_or_default();
        crate::ensure!(
            greeting.get("tidegate").is_some(),
            "{} did not greet as tidegate: {greeting}",
            path.display()
        );
        Ok(ControlClient { lines, next_id: 1, events: VecDeque::new(), greeting })
    }

    /// What the plane said of itself.
    pub fn greeting(&self) -> &Value {
        &self.greeting
    }

    /// One request; the inner result is the plane's answer, the outer one the connection's state.
    pub fn request(&mut self, verb: &str, arguments: Value) -> Result<std::result::Result<Value, Refusal>> {
        let id = self.next_id;
        self.next_id += 1;
        self.lines.send(&json!({ "id": id, "execute": verb, "arguments": arguments }))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        while let Some(mut message) = self.lines.receive(deadline)? {
            if message["id"] != id {
                self.keep(&message);
            } else if let Some(value) = message.get_mut("return") {
                return Ok(Ok(value.take()));
            } else {
                let part = |key: &str| message["error"][key].as_str().unwrap_or("?").to_owned();
                return Ok(Err(Refusal { reason: part("reason"), desc: part("desc") }));
            }
        }
        Err(Failure::new(format!("tidegate gave no answer to {verb} within {ANSWER_WITHIN:?}")))
    }

    /// One request that must be granted.
    pub fn execute(&mut self, verb: &str, arguments: Value) -> Result<Value> {
        let shown = arguments.to_string();
        self.request(verb, arguments)?
            .map_err(|refusal| Failure::new(format!("tidegate refused {verb} {shown}: {refusal}")))
    }

    /// The next event, or `None` when none came in time.
    pub fn event(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.lines.receive(deadline)? {
                Some(message) => self.keep(&message),
                None => return Ok(None),
            }
        }
    }

    fn keep(&mut self, message: &Value) {
        let Some(name) = message["event"].as_str() else { return };
        if self.events.len() == 65_536 {
            self.events.pop_front();
        }
        let stamp = |key: &str| message["timestamp"][key].as_u64().unwrap_or(0);
        self.events.push_back(Event {
            at_ns: stamp("seconds") * 1_000_000_000 + stamp("microseconds") * 1_000,
            name: name.to_owned(),
            data: message["data"].clone(),
            read_at_ns: crate::wall_clock::now_ns(),
        });
    }
}
