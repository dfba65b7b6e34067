//! Where a frame to explain comes from: hex on the command line, a file, or a capture.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest frame that is taken, bytes: what an IP packet can have, with its tags.
const LONGEST: usize = 65_535 + 14 + 16;

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file with them: hex digits, or the bytes themselves.
    File(PathBuf),
    /// Frame `number` (from 1) of a capture, after those before it.
    Capture {
        /// The capture.
        path: PathBuf,
        /// Counted as tshark does.
        number: u64,
    },
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix('@') {
            return Ok(Source::File(path.into()));
        }
        if let Some(bytes) = hex(text) {
            return Ok(Source::Bytes(bytes));
        }
        if let Some((path, number)) = text.rsplit_once(':')
            && !path.is_empty()
        {
            return match number.parse() {
                Ok(number) if number > 0 => Ok(Source::Capture { path: path.into(), number }),
                _ => Err(format!("`{number}` is no number of a frame: they are counted from 1")),
            };
        }
        Err("write the frame's bytes in hex, @FILE with them, or CAPTURE:N for frame N of a capture".into())
    }
}

/// Bytes in hex, spaces, colons and line ends between them as dumps have them.
fn hex(text: &str) -> Option<Vec<u8>> {
    let skipped = |c: &char| !c.is_whitespace() && *c != ':';
    let digits: Option<Vec<u8>> =
        text.chars().filter(skipped).map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// What a file has, at most a frame's worth.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    // Three characters a byte, as dumps write them.
    let limit = 3 * LONGEST as u64 + 2;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|e| format!("cannot read {shown}: {e}"))?;
    let bytes = std::str::from_utf8(&bytes).ok().and_then(hex).unwrap_or(bytes);
    check(bytes).map_err(|what| format!("{shown}: {what}"))
}

/// A frame, or why it is none.
pub fn check(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    match bytes.len() {
        0 => Err("there is nothing in it".into()),
        len if len > LONGEST => Err(format!("no frame has more than {LONGEST} bytes")),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_named_in_three_ways() {
        assert_eq!("00 ff:Ab\n".parse(), Ok(Source::Bytes(vec![0, 255, 0xab])));
        assert_eq!("@f.hex".parse(), Ok(Source::File("f.hex".into())));
        assert_eq!("a/calls.pcap:7".parse(), Ok(Source::Capture { path: "a/calls.pcap".into(), number: 7 }));
        for (text, said) in
            [("calls.pcap", "in hex"), ("calls.pcap:0", "from 1"), ("calls.pcap:x", "from 1"), ("", "in hex")]
        {
            assert!(text.parse::<Source>().unwrap_err().contains(said), "{text}");
        }
        assert!("123".parse::<Source>().is_err(), "half a byte");
    }

    #[test]
    fn a_file_is_hex_or_the_bytes_themselves_and_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("frame");
        for (content, wanted) in [(&b"0a 0b\n"[..], vec![10u8, 11]), (&[0xff, 0, 1], vec![0xff, 0, 1])] {
            std::fs::write(&path, content).expect("written");
            assert_eq!(read(&path), Ok(wanted));
        }
        std::fs::write(&path, vec![0xff; LONGEST + 1]).expect("written");
        assert!(read(&path).unwrap_err().contains("more than"));
        std::fs::write(&path, b"").expect("written");
        assert!(read(&path).is_err() && read(Path::new("/nowhere")).is_err());
    }
}
