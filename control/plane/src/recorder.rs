//! Writes interval logs of all histograms while the plane runs. On a thread of its own: a disk that stalls
//! must not delay a commit.

use crate::plane::Plane;
use crate::report;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_control::hlog::Hlog;
use tidegate_control::protocol::HistogramEntry;
use tidegate_dataplane::histogram::Snapshot;

/// A log being written. Dropping it writes the last interval.
#[derive(Debug)]
pub struct Recorder {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Begins a new file in `dir`, one entry every `interval`.
    pub fn start(plane: Arc<Plane>, dir: &Path, interval: Duration) -> Result<Recorder, String> {
        let shown = dir.display();
        std::fs::create_dir_all(dir).map_err(|e| format!("control.hlog_dir: cannot make {shown}: {e}"))?;
        let base = SystemTime::now();
        let seconds = base.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let path = dir.join(format!("tidegate-{seconds}-{}.hlog", std::process::id()));
        let log = Hlog::create(&path, base)
            .map_err(|e| format!("control.hlog_dir: cannot write {}: {e}", path.display()))?;
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("hlog".into())
            .spawn(move || record(&plane, log, interval, &stopped))
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(Recorder { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn record(plane: &Plane, mut log: Hlog, interval: Duration, stopped: &Receiver<()>) {
    let mut before = HashMap::new();
    let base = Instant::now();
    let mut start = Duration::ZERO;
    loop {
        let last = stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout);
        let end = base.elapsed();
        let entries = entries(plane, &mut before);
        if let Err(e) = log.append(start, end - start, &entries) {
            log::warn!("hlog: {e}; nothing more is recorded");
            return;
        }
        if last {
            return;
        }
        start = end;
    }
}

/// What was recorded since the last call.
fn entries(
    plane: &Plane,
    before: &mut HashMap<(String, usize, &'static str), Snapshot>,
) -> Vec<HistogramEntry> {
    let Ok(all) = report::snapshots(plane, None) else { return Vec::new() };
    let fresh = |owned: &report::Owned| {
        let key = (owned.guest.clone(), owned.lane, owned.name);
        let counts = match before.insert(key, owned.snapshot.clone()) {
            Some(earlier) => owned.snapshot.since(&earlier),
            None => owned.snapshot.clone(),
        };
        report::histogram(owned, &counts, plane.rate, true)
    };
    all.iter().map(fresh).collect()
}
