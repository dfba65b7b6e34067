//! The eye on the wires: it goes on whatever else the generator waits for.

use super::capture::Capture;
use super::lane::{LabClock, LabLane};
use std::io::Error;
use std::time::{Duration, Instant};

/// The wires are quiet when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(200);
/// Between two looks at wires that have nothing.
const NAP: Duration = Duration::from_micros(20);

/// The part that watches: it must go on whatever else is waited for.
pub struct Watch {
    /// The lanes, both ends of each.
    pub lanes: Vec<LabLane>,
    /// The clock of log and capture.
    pub clock: LabClock,
    capture: Capture,
    captured: u64,
    failed: Option<Error>,
}

impl Watch {
    /// Begins to watch; `clock` starts now.
    pub fn new(lanes: Vec<LabLane>, capture: Capture) -> Self {
        Self { lanes, clock: LabClock::start(), capture, captured: 0, failed: None }
    }

    /// Frames that came out of the wires so far.
    pub fn captured(&self) -> u64 {
        self.captured
    }

    /// Frames that the guest has made so far.
    pub fn made(&self) -> u64 {
        self.lanes.iter().map(LabLane::made).sum()
    }

    /// Brings the capture to its file; an error also when any of it could not be written before.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.failed.take().map_or(Ok(()), Err)?;
        self.capture.flush()
    }

    /// Looks once at every wire.
    pub fn look(&mut self) -> usize {
        let mut count = 0;
        for lane in &mut self.lanes {
            match lane.watch(self.clock, &mut self.capture) {
                Ok(seen) => count += seen,
                Err(error) => self.failed = Some(error),
            }
        }
        self.captured += count as u64;
        count
    }

    /// Looks until every wire has nothing.
    pub fn drain(&mut self) {
        while self.look() > 0 {}
    }

    /// Looks for so long.
    pub fn watch_for(&mut self, span: Duration) {
        let deadline = Instant::now() + span;
        while Instant::now() < deadline {
            if self.look() == 0 {
                std::thread::sleep(NAP);
            }
        }
    }

    /// Looks until nothing has come for a while.
    pub fn watch_until_quiet(&mut self) {
        let mut last = Instant::now();
        while last.elapsed() < QUIET {
            if self.look() > 0 {
                last = Instant::now();
            } else {
                std::thread::sleep(NAP);
            }
        }
    }
}
