//! The generator's log: which frames it sent in which run, which epoch a run became, what it committed.
//! One JSON object a line, in the order of things.
//!
//! All moments are nanoseconds on one clock, that of the capture: since the generator's process started.

use super::kind::Policy;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Error, ErrorKind, Write};
use std::path::Path;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Line {
    /// The first one: what is tested.
    Start {
        /// Number of the guest.
        guest: u8,
        /// Its lanes.
        lanes: u8,
        /// What must be held.
        policy: Policy,
        /// The ring path.
        rings: String,
    },
    /// A run has ended: no frame of it is made after this line.
    Sent {
        /// Its number, from 1.
        run: u32,
        /// For each lane the number of its next frame: the run has those from the previous line's on.
        ends: Vec<u64>,
        /// Its frames, on all lanes, of kinds that the policy holds.
        must_hold: u64,
    },
    /// Frames of a lane that the plane never fetched, because their rings were taken away.
    Left {
        /// How many.
        frames: u64,
    },
    /// The plane says that an epoch is closed: it covers all runs up to this one.
    Closed {
        /// When the answer was read.
        at: u64,
        /// The last run it covers.
        run: u32,
        /// The epoch.
        epoch: u64,
        /// Its generation.
        generation: u64,
        /// Frames held under its stamp, as the plane says.
        frames: u64,
    },
    /// The plane did not close the epoch: the run is covered by the next that is closed.
    Merged {
        /// The run.
        run: u32,
        /// Why.
        reason: String,
    },
    /// A commit is about to be sent; nothing of it has left this process before `at`.
    Commit {
        /// When.
        at: u64,
        /// The generation that it names.
        generation: u64,
        /// The epoch that it names.
        epoch: u64,
    },
    /// The answer to the commit before.
    Answer {
        /// The plane took it.
        granted: bool,
        /// Its reason if not.
        reason: String,
    },
    /// Something was done to the plane on purpose.
    Incident {
        /// When.
        at: u64,
        /// What.
        what: String,
    },
    /// The plane's own counters once everything had come to rest; never read by a judgement on early frames.
    Accounts {
        /// Taken from the guest.
        received: u64,
        /// Still held.
        held: u64,
        /// Dropped, all reasons.
        dropped: u64,
    },
    /// The last one.
    End {
        /// When.
        at: u64,
        /// The plane was gone by then: what it held is lost, rightly.
        plane_gone: bool,
    },
}

/// Writes the log.
#[derive(Debug)]
pub struct Journal(BufWriter<File>);

impl Journal {
    /// A new file at `path`.
    pub fn create(path: &Path) -> Result<Journal, Error> {
        Ok(Journal(BufWriter::new(File::create(path)?)))
    }

    /// Appends a line.
    pub fn write(&mut self, line: &Line) -> Result<(), Error> {
        serde_json::to_writer(&mut self.0, line)?;
        self.0.write_all(b"\n")
    }

    /// Brings what was written to the file.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.0.flush()
    }
}

/// Reads a log; the error tells the line.
pub fn read(path: &Path) -> Result<Vec<Line>, Error> {
    let mut lines = Vec::new();
    for (number, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let broken =
            |what: String| Error::new(ErrorKind::InvalidData, format!("line {}: {what}", number + 1));
        let line = line.map_err(|error| broken(error.to_string()))?;
        lines.push(serde_json::from_str(&line).map_err(|error| broken(error.to_string()))?);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_as_written_and_a_broken_line_is_named() {
        let path = std::env::temp_dir().join(format!("journal-test-{}", std::process::id()));
        let lines = [
            Line::Start { guest: 0, lanes: 2, policy: Policy::NonTcp, rings: "packed".into() },
            Line::Sent { run: 1, ends: vec![5, 6], must_hold: 3 },
            Line::Commit { at: u64::MAX, generation: 1 << 63, epoch: 2 },
            Line::End { at: 9, plane_gone: true },
        ];
        let mut journal = Journal::create(&path).unwrap();
        for line in &lines {
            journal.write(line).unwrap();
        }
        journal.flush().unwrap();
        assert_eq!(read(&path).unwrap(), lines);
        std::fs::write(&path, "{\"left\":{\"frames\":1}}\n{\"right\":1}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 2"));
        std::fs::remove_file(&path).unwrap();
    }
}
