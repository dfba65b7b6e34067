//! QEMU's migration stream, out of a paused VM and into a waiting one, over a pair of sockets.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::qmp::{Qmp, QmpError};

/// The name under which QEMU gets its end.
const NAME: &str = "tidegate";
/// What a stream begins with: `QEVM`, version 3.
pub(super) const MAGIC: [u8; 8] = *b"QEVM\0\0\0\x03";
/// QEMU writes at once what fits into the socket, and we read at once what has come.
const BUFFER: usize = 1 << 20;

/// Makes the pair and hands QEMU the one end; ours is the result.
pub(super) fn open(qmp: &mut Qmp) -> Result<UnixStream, QmpError> {
    let (ours, qemus) = UnixStream::pair().map_err(QmpError::Io)?;
    // The default (208 KiB) works too, more slowly.
    let _ = setsockopt(&qemus, sockopt::SndBufForce, &BUFFER);
    qmp.pass_descriptor(NAME, qemus.as_fd())?;
    Ok(ours)
}

/// What names it to QEMU.
pub(super) fn uri() -> String {
    format!("fd:{NAME}")
}

/// QEMU did not take what it was handed: it must not keep it.
pub(super) fn abandon(qmp: &mut Qmp) {
    let _ = qmp.close_descriptor(NAME);
}

/// Why a stream was not read, or written, to its end.
pub(super) type Fault = String;

/// Reads until QEMU closes its end.
pub(super) fn read(mut stream: UnixStream, limit: usize, deadline: Instant) -> Result<Vec<u8>, Fault> {
    let mut state = Vec::with_capacity(BUFFER);
    let mut chunk = vec![0; BUFFER / 4];
    loop {
        wait_no_longer_than(deadline, |left| stream.set_read_timeout(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(state),
            Ok(count) if state.len() + count > limit => {
                return Err(format!("it is larger than {} MiB", limit >> 20));
            }
            Ok(count) => state.extend_from_slice(&chunk[..count]),
            Err(error) if again(&error) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Writes all of it and closes.
pub(super) fn write(mut stream: UnixStream, mut state: &[u8], deadline: Instant) -> Result<(), Fault> {
    while !state.is_empty() {
        wait_no_longer_than(deadline, |left| stream.set_write_timeout(left))?;
        match stream.write(state) {
            Ok(count) => state = &state[count..],
            Err(error) if again(&error) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

fn wait_no_longer_than(
    deadline: Instant,
    set: impl Fn(Option<Duration>) -> std::io::Result<()>,
) -> Result<(), Fault> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err("it did not end in time".to_owned());
    }
    set(Some(left)).map_err(|error| error.to_string())
}

fn again(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    #[test]
    fn a_stream_without_end_is_bounded_in_size_and_in_time() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || while theirs.write_all(&[7; 4096]).is_ok() {});
        let fault = read(ours, 1 << 20, soon() + Duration::from_secs(5)).unwrap_err();
        assert!(fault.contains("larger than 1 MiB"), "{fault}");
        writer.join().unwrap();

        let (ours, _silent) = UnixStream::pair().unwrap();
        assert!(read(ours, 1 << 20, soon()).unwrap_err().contains("in time"));
        let (ours, _deaf) = UnixStream::pair().unwrap();
        assert!(write(ours, &vec![0; 8 << 20], soon()).unwrap_err().contains("in time"));
    }
}
