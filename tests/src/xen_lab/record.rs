//! What a Dom0 has kept of a trial, all of it by one clock: what the programs told, how the domain ran, and the frames on
//! both sides of its plane.

use std::path::Path;

use serde_json::Value;

use crate::capture::{Frame, read};
use crate::failure::{Context, Result};

/// A change of the domain's state, which happened between two looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `running`, `suspended`, `shutdown` or `gone`.
    pub state: String,
    /// The last look that still saw the state before, nanoseconds since 1970.
    pub before_ns: u64,
    /// The first look that saw this one.
    pub at_ns: u64,
}

/// An epoch that was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// Its number.
    pub epoch: u64,
    /// When the close was asked for: the first byte of a checkpoint was in the pipe.
    pub asked_ns: u64,
    /// When it was answered.
    pub answered_ns: u64,
    /// What is held under it waits for this checkpoint's acknowledgement.
    pub commits: bool,
    /// The checkpoint's end was read, and is about to be sent.
    pub ended_ns: u64,
    /// The backup's acknowledgement was here.
    pub acknowledged_ns: Option<u64>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Record {
    /// The domain's.
    pub changes: Vec<Change>,
    /// In order.
    pub closes: Vec<Close>,
    /// Frames at the guest's port.
    pub inside: Vec<Frame>,
    /// Frames on the wire.
    pub outside: Vec<Frame>,
}

/// The events among lines of other kinds.
pub fn events(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.trim()).ok());
    lines.filter(|event| event["event"].is_string()).collect()
}

/// What `dompoll` printed.
pub fn changes(text: &str) -> Vec<Change> {
    let change = |line: &str| {
        let mut words = line.split_whitespace();
        let state = words.next()?.to_owned();
        Some(Change { state, before_ns: words.next()?.parse().ok()?, at_ns: words.next()?.parse().ok()? })
    };
    text.lines().filter_map(change).collect()
}

/// The epochs that were closed for a checkpoint that came to its end, from what xen-send told with its steps.
pub fn closes(events: &[Value]) -> Vec<Close> {
    let step = |name: &str, epoch: u64| {
        let is = |event: &&Value| {
            event["event"] == "step" && event["step"] == name && event["epoch"].as_u64() == Some(epoch)
        };
        events.iter().find(is).and_then(|event| event["at_ns"].as_u64())
    };
    let close = |event: &Value| {
        let epoch = event["epoch"].as_u64()?;
        let answered_ns = step("close", epoch)?;
        let took_ns = (event["close_ms"].as_f64()? * 1e6) as u64;
        Some(Close {
            epoch,
            asked_ns: answered_ns.saturating_sub(took_ns),
            answered_ns,
            commits: event["commits"] == true,
            ended_ns: step("send", epoch)?,
            acknowledged_ns: step("acknowledged", epoch),
        })
    };
    events.iter().filter(|event| event["event"] == "checkpoint").filter_map(close).collect()
}

/// The frames of a capture that is here as bytes.
pub fn frames(bytes: &[u8], file: &Path) -> Result<Vec<Frame>> {
    std::fs::write(file, bytes).context(|| format!("cannot write {}", file.display()))?;
    read(file)
}
