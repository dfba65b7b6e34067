//! JSON lines over a Unix socket, with a limit on everything: a line's length, and the time until it is complete.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use super::error::QmpError;

/// QEMU's longest answers (`query-qmp-schema`, which we never ask) have 200 kB.
pub(super) const LINE_LIMIT: usize = 1 << 20;
/// How much is read at once.
const READ: usize = 16 << 10;
/// The shortest time that a socket can be told to wait.
const INSTANT: Duration = Duration::from_micros(50);

/// A connection, cut into lines.
pub(super) struct Lines {
    stream: UnixStream,
    /// Bytes that came and belong to no line taken so far.
    pending: Vec<u8>,
    /// How many of them were searched for an end of line.
    searched: usize,
}

impl Lines {
    pub(super) fn new(stream: UnixStream) -> Lines {
        Lines { stream, pending: Vec::new(), searched: 0 }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The next line without its end; `None` when the deadline passes first.
    pub(super) fn next(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>, QmpError> {
        loop {
            if let Some(at) = self.pending[self.searched..].iter().position(|&byte| byte == b'\n') {
                let mut line: Vec<u8> = self.pending.drain(..=self.searched + at).collect();
                self.searched = 0;
                line.pop();
                return Ok(Some(line));
            }
            self.searched = self.pending.len();
            if self.pending.len() > LINE_LIMIT {
                return Err(QmpError::malformed(format!("a line longer than {LINE_LIMIT} bytes")));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.stream.set_read_timeout(Some(left.max(INSTANT))).map_err(QmpError::Io)?;
            let mut bytes = [0; READ];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(QmpError::Gone),
                Ok(count) => self.pending.extend_from_slice(&bytes[..count]),
                Err(error) if is_timeout(&error) => {
                    if left.is_zero() {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(gone(error)),
            }
        }
    }

    /// Writes all of `line`, and a file descriptor with its first byte. A peer that reads nothing until the deadline
    /// leaves half a line behind: the connection is then of no use.
    pub(super) fn send(
        &mut self,
        line: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<(), QmpError> {
        let mut sent = 0;
        while sent < line.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            self.stream.set_write_timeout(Some(left.max(INSTANT))).map_err(QmpError::Io)?;
            let outcome = match descriptor {
                Some(descriptor) if sent == 0 => send_with(&self.stream, line, descriptor),
                _ => self.stream.write(&line[sent..]),
            };
            match outcome {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => {
                    if left.is_zero() {
                        return Err(QmpError::malformed("the monitor takes no commands"));
                    }
                }
                Err(error) => return Err(gone(error)),
            }
        }
        Ok(())
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<UnixAddr>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None)
        .map_err(io::Error::from)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// A peer that died shows in several ways; all mean the same.
fn gone(error: io::Error) -> QmpError {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected => QmpError::Gone,
        _ => QmpError::Io(error),
    }
}
