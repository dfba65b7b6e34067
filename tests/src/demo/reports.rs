//! What the guest and the sink tell the demo when they are done: one line of JSON each on their standard
//! output, the long lists in files.

use super::rtp_meter::StreamSeen;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// What kind of frame the guest made, as the guest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// ARP.
    Announce,
    /// A packet of a call.
    Media,
    /// TCP.
    Tcp,
    /// Anything else: UDP that is no media.
    Datagram,
}

/// A frame that the guest made. Its label is its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Made {
    /// The guest's run, counted from 0: between two pauses.
    pub run: u64,
    /// What it is.
    pub kind: Kind,
}

/// A labelled frame that the sink's capture saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its label.
    pub label: u64,
    /// When, CLOCK_MONOTONIC, ns.
    pub at_ns: u64,
}

/// A checkpoint: the guest stood still and the plane answered `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Close {
    /// The run that it ended.
    pub run: u64,
    /// What the plane called the epoch.
    pub epoch: u64,
    /// And its generation.
    pub generation: u64,
    /// How long the guest stood still, ns.
    pub pause_ns: u64,
}

/// A commit that the tool stack sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Commit {
    /// The epoch.
    pub epoch: u64,
    /// Its generation.
    pub generation: u64,
    /// Just before the request was written, CLOCK_MONOTONIC, ns.
    pub sent_ns: u64,
}

/// What the guest's TCP and lookups came to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(super) struct TransfersSeen {
    /// Bytes that the sink acknowledged.
    pub uploaded: u64,
    /// Bytes that came from the sink.
    pub downloaded: u64,
    /// Of those, not what the sink sent.
    pub downloaded_wrong: u64,
    /// Requests that were answered.
    pub transactions: u64,
    /// From request to answer, milliseconds, mean.
    pub transaction_ms_mean: f64,
    /// UDP questions asked.
    pub lookups: u64,
    /// Those answered.
    pub lookups_answered: u64,
    /// From question to answer, milliseconds, mean.
    pub lookup_ms_mean: f64,
}

/// The guest's report.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(super) struct GuestReport {
    /// Its checkpoints.
    pub closes: Vec<Close>,
    /// Its commits.
    pub commits: Vec<Commit>,
    /// Each call: SSRC and packets sent.
    pub calls: Vec<(u32, u64)>,
    /// The largest gap between two packets of a call as the guest sent them, ns.
    pub gap_ns_max: u64,
    /// TCP and lookups.
    pub transfers: TransfersSeen,
    /// How long traffic ran, ns.
    pub traffic_ns: u64,
}

/// The sink's report.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(super) struct SinkReport {
    /// Each call that was heard.
    pub streams: Vec<StreamSeen>,
    /// Bytes of the upload.
    pub uploaded: u64,
    /// Of those, not what the guest sent.
    pub uploaded_wrong: u64,
}

/// How often the sink says a word while it runs, ns.
pub(super) const WORD_EVERY_NS: u64 = 200_000_000;

/// What the sink says while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(super) struct SinkProgress {
    /// Largest gap in any call since it last spoke, milliseconds.
    pub gap_ms: f64,
    /// Frames seen.
    pub frames: u64,
}

/// A number in one of the plane's answers.
pub(super) fn number(answer: &Value, key: &str) -> Result<u64, String> {
    answer[key].as_u64().ok_or_else(|| format!("the plane's answer has no {key}: {answer}"))
}

/// Writes the guest's list of frames: "label run kind" a line.
pub(super) fn write_made(path: &Path, made: &[Made]) -> Result<(), String> {
    let mut text = String::with_capacity(made.len() * 20);
    for (label, frame) in made.iter().enumerate() {
        let kind = match frame.kind {
            Kind::Announce => "announce",
            Kind::Media => "media",
            Kind::Tcp => "tcp",
            Kind::Datagram => "datagram",
        };
        let _ = writeln!(text, "{label} {} {kind}", frame.run);
    }
    write(path, &text)
}

/// Writes the sink's list of frames: "label nanoseconds" a line.
pub(super) fn write_seen(path: &Path, seen: &[Seen]) -> Result<(), String> {
    let mut text = String::with_capacity(seen.len() * 24);
    for frame in seen {
        let _ = writeln!(text, "{} {}", frame.label, frame.at_ns);
    }
    write(path, &text)
}

/// Reads what [`write_made`] wrote.
pub(super) fn read_made(path: &Path) -> Result<Vec<Made>, String> {
    lines(path, |words| {
        let [_, run, kind] = words else { return None };
        let kind = match *kind {
            "announce" => Kind::Announce,
            "media" => Kind::Media,
            "tcp" => Kind::Tcp,
            "datagram" => Kind::Datagram,
            _ => return None,
        };
        Some(Made { run: run.parse().ok()?, kind })
    })
}

/// Reads what [`write_seen`] wrote.
pub(super) fn read_seen(path: &Path) -> Result<Vec<Seen>, String> {
    lines(path, |words| {
        let [label, at_ns] = words else { return None };
        Some(Seen { label: label.parse().ok()?, at_ns: at_ns.parse().ok()? })
    })
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn lines<T>(path: &Path, parse: impl Fn(&[&str]) -> Option<T>) -> Result<Vec<T>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let parse_line = |(number, line): (usize, &str)| {
        let words: Vec<&str> = line.split(' ').collect();
        parse(&words).ok_or_else(|| format!("{}:{}: not a frame: {line}", path.display(), number + 1))
    };
    text.lines().enumerate().map(parse_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_they_were_written() {
        let dir = std::env::temp_dir().join(format!("tidegate-demo-lists-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let kinds = [Kind::Announce, Kind::Media, Kind::Tcp, Kind::Datagram];
        let made: Vec<Made> = kinds.into_iter().map(|kind| Made { run: 3, kind }).collect();
        write_made(&dir.join("made"), &made).unwrap();
        assert_eq!(read_made(&dir.join("made")).unwrap(), made);
        let seen = [Seen { label: 1, at_ns: u64::MAX }, Seen { label: 0, at_ns: 5 }];
        write_seen(&dir.join("seen"), &seen).unwrap();
        assert_eq!(read_seen(&dir.join("seen")).unwrap(), seen);
        std::fs::write(dir.join("seen"), "1 2\n3\n").unwrap();
        assert!(read_seen(&dir.join("seen")).unwrap_err().contains("seen:2"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
