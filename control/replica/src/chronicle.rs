//! What a replication process tells while it runs: a line an event, for people on the standard error or as JSON on the
//! standard output, and the sums that `tidegate replication` shows.

use serde_json::{Value, json};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Checkpoints that the figures are taken over.
const REMEMBERED: usize = 512;

/// See the module's head.
#[derive(Debug)]
pub struct Chronicle {
    process: &'static str,
    json: bool,
    /// The standard output is somebody else's.
    aside: bool,
    steps: bool,
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    taken: u64,
    committed: u64,
    pauses_us: std::collections::VecDeque<u64>,
    bytes: std::collections::VecDeque<u64>,
    commits_us: std::collections::VecDeque<u64>,
}

fn remember(list: &mut std::collections::VecDeque<u64>, value: u64) {
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(value);
}

fn spread(list: &std::collections::VecDeque<u64>, unit: f64) -> Value {
    let mut sorted: Vec<u64> = list.iter().copied().collect();
    sorted.sort_unstable();
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(median), Some(max)) => json!({ "median": *median as f64 / unit, "max": *max as f64 / unit }),
        _ => Value::Null,
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds with a microsecond's resolution, for reports.
pub fn ms(span: Duration) -> f64 {
    micros(span) as f64 / 1e3
}

impl Chronicle {
    /// `json`: every event as a line on the standard output.
    pub fn new(process: &'static str, json: bool) -> Chronicle {
        // For tests that kill at each step of a checkpoint.
        let steps = std::env::var_os("TIDEGATE_STEPS").is_some();
        Chronicle { process, json, aside: false, steps, sums: Mutex::default() }
    }

    /// The same, on the standard error: nothing of it goes to the standard output.
    pub fn aside(process: &'static str, json: bool) -> Chronicle {
        Chronicle { aside: true, ..Chronicle::new(process, json) }
    }

    /// Something happened.
    pub fn tell(&self, event: &str, mut data: Value) {
        if self.json {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            data["event"] = json!(event);
            data["at_ns"] = json!(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
            // In one piece: xl writes to the same standard error. A reader that went away is no reason to stop replicating.
            let line = format!("{data}\n");
            let _ = match self.aside {
                true => std::io::stderr().write_all(line.as_bytes()),
                false => std::io::stdout().write_all(line.as_bytes()),
            };
        } else {
            log::info!("{}: {event} {data}", self.process);
        }
    }

    /// A step of a checkpoint has been done: told only to who asked for it.
    pub fn step(&self, step: &str, epoch: u64) {
        if self.steps {
            self.tell("step", json!({ "step": step, "epoch": epoch }));
        }
    }

    /// A checkpoint was taken. `data` goes out with `--json` only.
    pub fn checkpoint(&self, pause: Duration, bytes: u64, data: Value) {
        {
            let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
            sums.taken += 1;
            remember(&mut sums.pauses_us, micros(pause));
            remember(&mut sums.bytes, bytes);
        }
        if self.json {
            self.tell("checkpoint", data);
        }
    }

    /// The standby has one, `after` the VM ran again.
    pub fn committed(&self, after: Duration) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.committed += 1;
        remember(&mut sums.commits_us, micros(after));
    }

    /// All of it in figures, over the last checkpoints.
    pub fn summary(&self) -> Value {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "taken": sums.taken,
            "acknowledged": sums.committed,
            "pause_ms": spread(&sums.pauses_us, 1e3),
            "bytes": spread(&sums.bytes, 1.0),
            "acknowledged_after_ms": spread(&sums.commits_us, 1e3),
        })
    }
}
