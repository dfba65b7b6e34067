//! One JSON document a line over a Unix socket: what QMP and the control socket have in common.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::{Context, Failure, Result};
use crate::wall_clock::wait_until;

/// The longest line that is taken; a peer that sends more is broken.
const LINE_MAX: usize = 4 << 20;

/// A connected socket and what has been read from it but not yet asked for.
pub struct JsonLines {
    stream: UnixStream,
    read: Vec<u8>,
    peer: String,
}

impl JsonLines {
    /// Connects to `path`, trying again until `timeout` is over: the peer may still be starting.
    pub fn connect(path: &Path, timeout: Duration) -> Result<JsonLines> {
        let mut last = None;
        wait_until(timeout, Duration::from_millis(5), || {
            last = Some(UnixStream::connect(path));
            matches!(last, Some(Ok(_)))
        });
        let what = || format!("cannot connect to {} within {timeout:?}", path.display());
        let stream = last.ok_or_else(|| Failure::new(what()))?.context(what)?;
        Ok(JsonLines { stream, read: Vec::new(), peer: path.display().to_string() })
    }

    /// Sends one document.
    pub fn send(&mut self, document: &Value) -> Result<()> {
        let mut line = document.to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes()).context(|| format!("cannot write to {}", self.peer))
    }

    /// The next document, or `None` when none came before `deadline`.
    pub fn receive(&mut self, deadline: Instant) -> Result<Option<Value>> {
        let mut looked_at = 0;
        loop {
            if let Some(end) = self.read[looked_at..].iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=looked_at + end).collect();
                looked_at = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).context(|| {
                    format!("{} sent a line that is not JSON: {}", self.peer, String::from_utf8_lossy(&line))
                });
            }
            looked_at = self.read.len();
            crate::ensure!(looked_at < LINE_MAX, "{} sent a line without an end", self.peer);
            // A timeout of zero is refused by the socket; one more look at its buffer is meant.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).context(|| "cannot set a timeout".to_owned())?;
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Failure::new(format!("{} closed the connection", self.peer))),
                Ok(count) => self.read.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error).context(|| format!("cannot read from {}", self.peer)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (JsonLines, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        (JsonLines { stream: near, read: Vec::new(), peer: "test".to_owned() }, far)
    }

    #[test]
    fn a_document_in_pieces_is_put_together_and_two_in_one_piece_are_taken_apart() {
        let (mut lines, mut far) = pair();
        far.write_all(b"{\"a\":").expect("written");
        assert!(lines.receive(Instant::now() + Duration::from_millis(5)).expect("no error").is_none());
        far.write_all(b"1}\r\n{\"b\":2}\n").expect("written");
        let deadline = Instant::now() + Duration::from_secs(1);
        assert_eq!(lines.receive(deadline).expect("no error").expect("first")["a"], 1);
        assert_eq!(lines.receive(deadline).expect("no error").expect("second")["b"], 2);
    }

    #[test]
    fn a_closed_peer_is_an_error_and_not_silence() {
        let (mut lines, far) = pair();
        drop(far);
        assert!(lines.receive(Instant::now() + Duration::from_secs(1)).is_err());
    }
}
