//! What came out of the wire, in the order in which it came: 32 bytes a frame, little-endian.
//!
//! ```text
//! at u64 | number u64 | run u32 | sequence u32 | guest u8 lane u8 kind u8 stream u8 | wire u8 labelled u8 0u16
//! ```

use super::kind::Kind;
use super::label::Label;
use std::fs::File;
use std::io::{BufReader, BufWriter, Error, ErrorKind, Read, Write};
use std::path::Path;

/// Bytes of a record.
pub const RECORD_LEN: usize = 32;
/// Records that are written or read at once.
const CHUNK: usize = 1 << 15;

/// A frame that was seen behind the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// A moment at which it had come out for certain, nanoseconds: read after the receive call.
    pub at: u64,
    /// Behind which lane's wire.
    pub wire: u8,
    /// Its label; `None` for a frame without one, or with a broken one.
    pub label: Option<Label>,
}

impl Seen {
    fn encode(&self) -> [u8; RECORD_LEN] {
        let mut record = [0; RECORD_LEN];
        record[0..8].copy_from_slice(&self.at.to_le_bytes());
        record[28] = self.wire;
        if let Some(label) = self.label {
            record[8..16].copy_from_slice(&label.number.to_le_bytes());
            record[16..20].copy_from_slice(&label.run.to_le_bytes());
            record[20..24].copy_from_slice(&label.sequence.to_le_bytes());
            record[24..28].copy_from_slice(&[label.guest, label.lane, label.kind as u8, label.stream]);
            record[29] = 1;
        }
        record
    }

    fn decode(record: &[u8; RECORD_LEN]) -> Seen {
        let word =
            |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let label = Kind::of(record[26]).filter(|_| record[29] == 1).map(|kind| Label {
            guest: record[24],
            lane: record[25],
            kind,
            stream: record[27],
            run: word(16),
            sequence: word(20),
            number: long(8),
        });
        Seen { at: long(0), wire: record[28], label }
    }
}

/// Writes a capture.
#[derive(Debug)]
pub struct Capture(BufWriter<File>);

impl Capture {
    /// A new file at `path`.
    pub fn create(path: &Path) -> Result<Capture, Error> {
        Ok(Capture(BufWriter::with_capacity(CHUNK * RECORD_LEN, File::create(path)?)))
    }

    /// Appends a frame.
    pub fn write(&mut self, seen: &Seen) -> Result<(), Error> {
        self.0.write_all(&seen.encode())
    }

    /// Brings what was written to the file.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.0.flush()
    }
}

/// Calls `see` with each frame of a capture, in order. An error for a file that ends within a record.
pub fn each(path: &Path, mut see: impl FnMut(Seen)) -> Result<(), Error> {
    let mut file = BufReader::with_capacity(CHUNK * RECORD_LEN, File::open(path)?);
    let mut record = [0; RECORD_LEN];
    loop {
        match file.read(&mut record[..1])? {
            0 => return Ok(()),
            _ => file.read_exact(&mut record[1..]).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => Error::new(error.kind(), "the capture ends within a record"),
                _ => error,
            })?,
        }
        see(Seen::decode(&record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_read_as_written_and_a_cut_one_is_refused() {
        let path = std::env::temp_dir().join(format!("capture-test-{}", std::process::id()));
        let label = Label {
            guest: 1,
            lane: 2,
            kind: Kind::Icmp,
            stream: 3,
            run: u32::MAX - 4,
            sequence: 5,
            number: u64::MAX - 6,
        };
        let seen = [Seen { at: 1 << 40, wire: 2, label: Some(label) }, Seen { at: 7, wire: 0, label: None }];
        let mut capture = Capture::create(&path).unwrap();
        for frame in &seen {
            capture.write(frame).unwrap();
        }
        capture.flush().unwrap();
        let mut back = Vec::new();
        each(&path, |frame| back.push(frame)).unwrap();
        assert_eq!(back, seen);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..RECORD_LEN + 5]).unwrap();
        assert!(each(&path, |_| ()).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
