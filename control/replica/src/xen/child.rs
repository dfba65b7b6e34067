//! `xl migrate-receive`: the domain that waits, as a child that is fed.
//!
//! The end of its input is the order to start the domain, so the input is closed on purpose only: a child that shall not
//! start it is killed first, and one whose parent dies is killed by the kernel. That signal may come a moment after the end
//! of the input; to start a domain takes xl a hundred times as long, and the plane is muted.

use crate::xen::READY;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long xl may take to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long a pipe that is full may stay so.
const STALL: Duration = Duration::from_secs(10);
/// How often it is looked whether to go on.
const LOOK: Duration = Duration::from_millis(20);
/// Fewer system calls; what the system gives without it works too.
const PIPE: i32 = 1 << 20;

/// Starts children from a thread that lives as long as the process: the kernel's signal at the parent's death is at the
/// death of the thread that started them.
#[derive(Debug)]
pub struct Starter {
    ask: mpsc::Sender<mpsc::Sender<std::io::Result<Child>>>,
}

impl Starter {
    /// For this program.
    pub fn new(xl: PathBuf) -> Result<Starter, String> {
        let (ask, asked) = mpsc::channel::<mpsc::Sender<std::io::Result<Child>>>();
        let start = move || {
            for answer in asked {
                let child = Command::new("setpriv")
                    .args(["--pdeathsig", "KILL", "--"])
                    .arg(&xl)
                    .args(["migrate-receive", "-r", "-e"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn();
                let _ = answer.send(child);
            }
        };
        let thread = std::thread::Builder::new().name("start".into()).spawn(start);
        thread.map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(Starter { ask })
    }

    /// Starts one and waits until it is ready.
    pub fn start(&self, xl: &Path) -> Result<(Waiting, Feed), String> {
        let (answer, answered) = mpsc::channel();
        let gone = || "the thread that starts xl has ended".to_owned();
        self.ask.send(answer).map_err(|_| gone())?;
        let child = answered.recv().map_err(|_| gone())?;
        let mut child = child.map_err(|e| format!("cannot start setpriv (package util-linux): {e}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut waiting = Waiting { child };
        let (Some(input), Some(output)) = (input, output) else { return Err("xl has no pipes".into()) };
        let made = fcntl(&input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        made.map_err(|e| format!("xl's input: {e}"))?;
        let _ = fcntl(&input, FcntlArg::F_SETPIPE_SZ(PIPE));
        match hear(output).recv_timeout(READY_WITHIN) {
            Ok(Ok(())) => Ok((waiting, Feed { input })),
            Ok(Err(said)) => {
                waiting.kill();
                Err(format!(
                    "{} does not receive: it said {said:?}; is this a Dom0, and are you root?",
                    xl.display()
                ))
            }
            Err(_) => {
                waiting.kill();
                Err(format!("{} did not say that it is ready within {READY_WITHIN:?}", xl.display()))
            }
        }
    }
}

/// Hears what xl says: the one line that it is ready, and then whatever, which means nothing.
fn hear(mut output: ChildStdout) -> mpsc::Receiver<Result<(), String>> {
    let (tell, told) = mpsc::channel();
    let listen = move || {
        let mut said = Vec::new();
        let mut byte = [0];
        while said.len() < READY.len() && READY.starts_with(&said) && output.read_exact(&mut byte).is_ok() {
            said.extend_from_slice(&byte);
        }
        let ready = said == READY;
        let _ = tell.send(if ready { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) });
        let mut more = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut more) {
            let words = more.get(..count).unwrap_or_default();
            log::debug!("xl says: {}", String::from_utf8_lossy(words).escape_debug());
        }
    };
    if let Err(error) = std::thread::Builder::new().name("xl-says".into()).spawn(listen) {
        log::error!("no thread to hear xl: {error}");
    }
    told
}

/// The child.
#[derive(Debug)]
pub struct Waiting {
    child: Child,
}

impl Waiting {
    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(format!("xl migrate-receive ended with {status}")),
            Err(e) => Some(format!("xl migrate-receive: {e}")),
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Ok(None) => {
                    return Err(format!("xl migrate-receive did not start the domain within {limit:?}"));
                }
                Err(e) => return Err(e.to_string()),
            }
        }
    }

    /// Ends it before it can see the end of its input.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Waiting {
    /// Whoever forgets it does not start the domain. One that has ended is not touched.
    fn drop(&mut self) {
        self.kill();
    }
}

/// Its input. Dropping it is the order to start the domain, while the child lives.
#[derive(Debug)]
pub struct Feed {
    input: ChildStdin,
}

impl Feed {
    /// Writes all of it, as long as `go_on` says so: false if it did not.
    pub fn write(&mut self, mut bytes: &[u8], go_on: impl Fn() -> bool) -> Result<bool, String> {
        let mut moved = Instant::now();
        while !bytes.is_empty() {
            if !go_on() {
                return Ok(false);
            }
            match self.input.write(bytes) {
                Ok(count) => {
                    bytes = bytes.get(count..).unwrap_or_default();
                    moved = Instant::now();
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    if moved.elapsed() > STALL {
                        return Err(format!("xl migrate-receive has read nothing for {STALL:?}"));
                    }
                    let mut fds = [PollFd::new(self.input.as_fd(), PollFlags::POLLOUT)];
                    match poll(&mut fds, PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO)) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(e) => return Err(format!("xl's input: {e}")),
                    }
                }
                Err(e) => return Err(format!("xl migrate-receive takes no more: {e}")),
            }
        }
        Ok(true)
    }
}
