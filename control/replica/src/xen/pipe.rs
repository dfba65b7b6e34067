//! The pipe that xl writes its stream into, as a clock: while it is narrow and empty, whoever waits for the first byte of a
//! checkpoint learns of it while the guest is still suspended.
//!
//! xl lets the guest run when it has written all of a checkpoint. With at most [`NARROW`] bytes in the pipe, a checkpoint
//! of more than that cannot have been written whole before somebody reads. So an epoch that was closed before the first
//! read was closed inside the pause, provided that the pipe was empty once it was narrow and that the checkpoint turned
//! out to be longer than the pipe. Both are looked at each time; where one fails, the epoch merges into the next.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// While waiting for the first byte: one page, the least that the kernel gives.
const NARROW: i32 = 4096;
/// While a checkpoint streams. Without CAP_SYS_RESOURCE this is the most that a system gives by default.
const WIDE: i32 = 1 << 20;

/// The reading end.
#[derive(Debug)]
pub struct Pipe {
    file: File,
    capacity: u64,
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// There is something to read.
    Bytes,
    /// The writer is gone, and nothing is left.
    Ended,
    /// Neither, in this time.
    Nothing,
}

impl Pipe {
    /// Takes the descriptor; it must be a pipe.
    pub fn new(from: OwnedFd) -> Result<Pipe, String> {
        let stat = fstat(&from).map_err(|e| format!("cannot look at the standard input: {e}"))?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFIFO {
            return Err(
                "the standard input is no pipe: xl must start this, as the command of `xl remus -s ''`"
                    .into(),
            );
        }
        let capacity = fcntl(&from, FcntlArg::F_GETPIPE_SZ)
            .map_err(|e| format!("cannot tell the size of xl's pipe: {e}"))?;
        Ok(Pipe { file: from.into(), capacity: u64::try_from(capacity).unwrap_or(u64::MAX) })
    }

    /// How many bytes may be in it.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    fn resize(&mut self, bytes: i32) -> io::Result<()> {
        let got = fcntl(&self.file, FcntlArg::F_SETPIPE_SZ(bytes))?;
        self.capacity = u64::try_from(got).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Makes it as small as it goes. True if it was empty after that: what comes now comes into the narrow pipe.
    pub fn narrow(&mut self) -> io::Result<bool> {
        match self.resize(NARROW) {
            Ok(()) => Ok(self.wait(Duration::ZERO)? != Waited::Bytes),
            // More is in it already.
            Err(e) if e.raw_os_error() == Some(Errno::EBUSY as i32) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes it large: xl is not to wait for this side at each page. It works without, only slower.
    pub fn widen(&mut self) {
        if self.resize(WIDE).is_err() {
            let _ = self.resize(16 * NARROW);
        }
    }

    /// Waits until there is something to read, and reads nothing.
    pub fn wait(&self, limit: Duration) -> io::Result<Waited> {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, limit) {
            Ok(0) | Err(Errno::EINTR) => Ok(Waited::Nothing),
            Ok(_) => {
                let told = fds[0].revents().unwrap_or(PollFlags::empty());
                Ok(if told.contains(PollFlags::POLLIN) { Waited::Bytes } else { Waited::Ended })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Reads what is there. 0: the writer is gone.
    pub fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(to) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    fn pipe() -> (Pipe, io::PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        (Pipe::new(reader.into()).unwrap(), writer)
    }

    #[test]
    fn a_writer_of_more_than_a_narrow_pipe_holds_waits_for_the_first_read() {
        let (mut pipe, mut writer) = pipe();
        assert!(pipe.narrow().unwrap());
        assert_eq!(pipe.capacity(), 4096);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                writer.write_all(&[7; 4097]).unwrap();
                done.store(true, SeqCst);
            });
            assert_eq!(pipe.wait(Duration::from_secs(5)).unwrap(), Waited::Bytes);
            std::thread::sleep(Duration::from_millis(50));
            assert!(!done.load(SeqCst), "it has not written all of it");
            pipe.widen();
            assert!(pipe.capacity() > 4097);
            let mut bytes = [0; 8192];
            let mut all = 0;
            while all < 4097 {
                all += pipe.read(&mut bytes).unwrap();
            }
        });
    }

    #[test]
    fn a_pipe_with_something_in_it_is_not_called_empty() {
        let (mut pipe, mut writer) = pipe();
        writer.write_all(b"early").unwrap();
        assert!(!pipe.narrow().unwrap(), "it fits, and is there");
        let (mut pipe, mut writer) = self::pipe();
        writer.write_all(&[0; 9000]).unwrap();
        assert!(!pipe.narrow().unwrap(), "it does not fit");
        assert!(pipe.capacity() >= 9000);
    }

    #[test]
    fn the_end_of_the_writer_is_seen_and_only_a_pipe_will_do() {
        let (pipe, writer) = pipe();
        assert_eq!(pipe.wait(Duration::from_millis(5)).unwrap(), Waited::Nothing);
        drop(writer);
        assert_eq!(pipe.wait(Duration::from_secs(5)).unwrap(), Waited::Ended);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Pipe::new(file.into()).unwrap_err().contains("no pipe"));
    }
}
