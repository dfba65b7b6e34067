//! Child processes that end with the bench, whatever becomes of it.

use crate::failure::{Context, Failure, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a child may take to end when it is asked to; then it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Lines of a log that a failure shows.
const TAIL: usize = 15;

/// A child that runs. Stopped when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    what: String,
    log: PathBuf,
    answers: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts `program`; both of its outputs go to `DIR/WHAT.log`, its standard input stays open. It gets the highest
    /// priority there is for an ordinary thread, if we may give it: it polls, and others on this machine should
    /// rather wait for these seconds than spoil them. A session of its own, because Linux weighs sessions before
    /// processes (`sched_autogroup_enabled`).
    pub fn start(program: &Path, args: &[String], dir: &Path, what: &str) -> Result<Running> {
        Running::spawn(program, args, dir, what, false)
    }

    /// The same for a child that is asked and answers, see [`Running::ask`]: only its standard error goes to the log.
    pub fn start_to_ask(program: &Path, args: &[String], dir: &Path, what: &str) -> Result<Running> {
        Running::spawn(program, args, dir, what, true)
    }

    fn spawn(program: &Path, args: &[String], dir: &Path, what: &str, asked: bool) -> Result<Running> {
        let log = dir.join(format!("{what}.log"));
        let errors = File::create(&log).context(|| format!("cannot write {}", log.display()))?;
        let output = errors.try_clone().context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if nix::unistd::geteuid().is_root() {
            command.args(["setsid", "nice", "-n", "-20", "--"]);
        }
        let mut child = command
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(if asked { Stdio::piped() } else { output.into() })
            .stderr(errors)
            .spawn()
            .context(|| "cannot start setpriv (Debian package util-linux)".into())?;
        let answers = child.stdout.take().map(BufReader::new);
        Ok(Running { child, what: what.to_owned(), log, answers })
    }

    /// Writes a line to its standard input and waits for the line that it answers; it must answer or end.
    pub fn ask(&mut self, question: &str) -> Result<String> {
        let asked = self.child.stdin.as_mut().map(|stdin| writeln!(stdin, "{question}"));
        let mut answer = String::new();
        let heard = self.answers.as_mut().map(|answers| answers.read_line(&mut answer));
        match (asked, heard) {
            (Some(Ok(())), Some(Ok(1..))) => Ok(answer),
            _ => Err(self.failed("it gave no answer")),
        }
    }

    /// Stops its clock, as it were: it does nothing until [`Running::wake`].
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Goes on after [`Running::freeze`].
    pub fn wake(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid() as i32), signal).context(|| format!("{}: {signal}", self.what))
    }

    /// Gives the child's session the priority that the child has. Once it has a session of its own: when it says its
    /// first word.
    pub fn prefer(&self) {
        // Without root, or on a kernel without autogroups, the shares of CPU tell what came of it.
        let _ = fs::write(format!("/proc/{}/autogroup", self.pid()), "-20");
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A failure that shows the end of the log.
    pub fn failed(&self, why: &str) -> Failure {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n  ");
        Failure::new(format!("{}: {why}. The end of its output:\n  {tail}", self.what))
    }

    /// Waits until `ready`, while the child lives, at most `limit`.
    pub fn until(&mut self, limit: Duration, what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            if let Some(status) = self.ended()? {
                return Err(self.failed(&format!("it ended ({status}) before {what}")));
            }
            if Instant::now() > deadline {
                return Err(self.failed(&format!("no {what} within {} s", limit.as_secs())));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Asks it to end, kills it if it does not. A second call does nothing.
    pub fn stop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        if matches!(self.ended(), Ok(None)) {
            // It may end just now; and a frozen child would not hear.
            let _ = self.signal(Signal::SIGTERM);
            let _ = self.wake();
            while matches!(self.ended(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context(|| format!("cannot wait for {}", self.what))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tidegate-bench-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_child_ends_with_its_handle_and_a_failure_shows_its_words() {
        let dir = scratch("process");
        let shell =
            |line: &str| Running::start(Path::new("sh"), &["-c".into(), line.into()], &dir, "shell").unwrap();
        let child = shell("sleep 60");
        let proc = PathBuf::from(format!("/proc/{}", child.pid()));
        assert!(proc.exists());
        drop(child);
        assert!(!proc.exists());

        let mut child = shell("echo no such port; exit 3");
        let failure = child.until(Duration::from_secs(5), "socket", || false).unwrap_err().to_string();
        assert!(failure.contains("no such port") && failure.contains("before socket"), "{failure}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_child_is_asked_frozen_and_woken() {
        let dir = scratch("ask");
        let line = "while read word; do echo re $word; done".to_owned();
        let mut child = Running::start_to_ask(Path::new("sh"), &["-c".into(), line], &dir, "echo").unwrap();
        assert_eq!(child.ask("one").unwrap(), "re one\n");
        child.freeze().unwrap();
        let state = || fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
        while !state().contains(") T ") {}
        child.wake().unwrap();
        assert_eq!(child.ask("two").unwrap(), "re two\n");
        child.freeze().unwrap();
        let pid = child.pid();
        drop(child);
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "a frozen child ends too");
        fs::remove_dir_all(dir).unwrap();
    }
}
