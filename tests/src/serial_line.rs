//! The serial line of an emulated machine whose init takes commands: "ID COMMAND" is answered by "TG-DONE ID STATUS".

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::{Context, Failure, Result};
use crate::process::{Running, tail};
use crate::scratch::Scratch;
use crate::wall_clock::wait_until;

/// See the module's head.
pub struct SerialLine {
    stream: UnixStream,
    log: PathBuf,
    commands: u32,
}

impl SerialLine {
    /// QEMU's option for a character device `id` that [`SerialLine::connect`] finds, and that is kept in a log.
    pub fn option(id: &str, scratch: &Scratch, label: &str) -> String {
        let (socket, log) = paths(scratch, label);
        format!("socket,id={id},path={},server=on,wait=off,logfile={}", socket.display(), log.display())
    }

    /// Connects to the one that was named by the same label.
    pub fn connect(scratch: &Scratch, label: &str, qemu: &mut Running) -> Result<SerialLine> {
        let (socket, log) = paths(scratch, label);
        let mut stream = None;
        wait_until(Duration::from_secs(20), Duration::from_millis(10), || {
            stream = UnixStream::connect(&socket).ok();
            stream.is_some() || qemu.ended().is_some()
        });
        let stream = stream.ok_or_else(|| qemu.failure("opened no serial line"))?;
        Ok(SerialLine { stream, log, commands: 0 })
    }

    /// Runs a shell command there; its output, or a failure unless it exits with 0.
    pub fn command(&mut self, line: &str, timeout: Duration) -> Result<String> {
        self.commands += 1;
        let from = self.text().len();
        let id = self.commands;
        writeln!(self.stream, "{id} {line}").context(|| "cannot write to the serial line".to_owned())?;
        let done = format!("TG-DONE {id} ");
        let mut answer = None;
        wait_until(timeout, Duration::from_millis(5), || {
            let log = self.text();
            answer = log[from..].split_once(&done).and_then(|(output, rest)| {
                let (status, _) = rest.split_once('\n')?;
                Some((output.to_owned(), status.trim().to_owned()))
            });
            answer.is_some()
        });
        let (output, status) =
            answer.ok_or_else(|| self.complaint(&format!("did not finish {line:?} within {timeout:?}")))?;
        crate::ensure!(status == "0", "`{line}` in the guest ended with {status}:\n{output}");
        Ok(output)
    }

    /// All that came.
    pub fn text(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A failure that shows the end of it.
    pub fn complaint(&self, what: &str) -> Failure {
        Failure::new(format!("the guest {what}\n{}", tail(&self.log)))
    }
}

fn paths(scratch: &Scratch, label: &str) -> (PathBuf, PathBuf) {
    (scratch.file(&format!("{label}.tty")), scratch.file(&format!("{label}-serial.log")))
}
