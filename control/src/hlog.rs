//! Interval logs of histograms, in the format of HdrHistogram (`.hlog`).
//!
//! One line for each histogram and interval, tagged `guest.lane.name`; values in nanoseconds (bursts: in
//! frames). Timestamps are seconds since the `BaseTime` in the head.

use crate::protocol::HistogramEntry;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Decimal digits kept; the lcores' buckets are 1.6 % wide.
const DIGITS: u8 = 3;

/// The tag of an entry: no comma, space or newline, as the format wants it.
pub fn tag(entry: &HistogramEntry) -> String {
    let owner = if entry.guest.is_empty() { "lcore" } else { &entry.guest };
    let tag = format!("{owner}.{}.{}", entry.lane, entry.name);
    tag.chars().map(|c| if c == ',' || c.is_whitespace() { '_' } else { c }).collect()
}

/// The buckets of an entry as a histogram. Values above `u64::MAX / 2` are counted there.
pub fn histogram(entry: &HistogramEntry) -> Histogram<u64> {
    let made = Histogram::new_with_bounds(1, u64::MAX / 2, DIGITS);
    let mut histogram = made.unwrap_or_else(|_| unreachable!("these bounds are allowed"));
    for &(value, count) in &entry.buckets {
        histogram.saturating_record_n(value, count);
    }
    histogram
}

/// A log being written.
#[derive(Debug)]
pub struct Hlog {
    file: BufWriter<File>,
}

impl Hlog {
    /// Makes a new file; refuses to write over one. `base`: what the timestamps count from.
    pub fn create(path: &Path, base: SystemTime) -> io::Result<Hlog> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let mut file = BufWriter::new(file);
        IntervalLogWriterBuilder::new()
            .add_comment("tidegate: latencies in nanoseconds, bursts in frames; tag = guest.lane.name")
            .add_comment("[Histogram log format version 1.3]")
            .with_start_time(base)
            .with_base_time(base)
            .begin_log_with(&mut file, &mut V2Serializer::new())?;
        writeln!(
            file,
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
        )?;
        file.flush()?;
        Ok(Hlog { file })
    }

    /// Appends one interval: `start` since the base, and its length. Empty histograms are left out.
    pub fn append(
        &mut self,
        start: Duration,
        length: Duration,
        entries: &[HistogramEntry],
    ) -> io::Result<()> {
        let mut serializer = V2Serializer::new();
        let mut log = IntervalLogWriterBuilder::new().begin_log_with(&mut self.file, &mut serializer)?;
        for entry in entries.iter().filter(|entry| entry.count > 0) {
            let tag = tag(entry);
            log.write_histogram(&histogram(entry), start, length, Tag::new(&tag)).map_err(|e| match e {
                IntervalLogWriterError::IoError(e) => e,
                IntervalLogWriterError::SerializeError(e) => io::Error::other(format!("{e:?}")),
            })?;
        }
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn a_log_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.hlog");
        let entry = HistogramEntry {
            guest: "my pbx".into(),
            name: "hold".into(),
            count: 3,
            buckets: vec![(1000, 2), (50_000_000, 1)],
            ..Default::default()
        };
        let mut log = Hlog::create(&path, SystemTime::now()).expect("made");
        log.append(Duration::from_secs(1), Duration::from_secs(10), &[entry.clone(), Default::default()])
            .expect("written");
        let text = std::fs::read(&path).expect("there");
        let lines: Vec<_> = IntervalLogIterator::new(&text)
            .filter_map(|line| match line {
                Ok(LogEntry::Interval(interval)) => Some(interval),
                _ => None,
            })
            .collect();
        assert_eq!(lines.len(), 1, "an empty histogram is left out");
        assert_eq!(lines[0].tag().map(|t| t.as_str()), Some("my_pbx.0.hold"));
        assert_eq!(lines[0].duration(), Duration::from_secs(10));
        assert!((lines[0].max() - 50_000_000.0).abs() < 50_000.0);
        assert!(Hlog::create(&path, SystemTime::now()).is_err(), "an earlier log is not written over");
    }

    #[test]
    fn values_survive_within_the_digits_kept() {
        let entry = HistogramEntry { count: 3, buckets: vec![(100, 2), (u64::MAX, 1)], ..Default::default() };
        let histogram = histogram(&entry);
        assert_eq!((histogram.len(), histogram.value_at_quantile(0.5)), (3, 100));
    }
}
