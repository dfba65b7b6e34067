//! Child processes that die with the test.
//!
//! Each child is started through `setpriv --pdeathsig KILL`, so the kernel ends it even when the test
//! is killed, and by pid when its [`Running`] is dropped. **The kernel counts the death of the thread
//! that started the child**: start long-lived children from the test's own thread.
//! Output goes to one file in the scratch directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::failure::{Context, Failure, Result};
use crate::namespace::Namespace;
use crate::scratch::Scratch;
use crate::wall_clock::wait_until;

/// How often a log is looked at while waiting for a line.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How much of a log a failure shows.
const TAIL_LINES: usize = 25;

/// A program to be started.
pub struct Program {
    program: String,
    arguments: Vec<String>,
    namespace: Option<String>,
    directory: Option<PathBuf>,
    variables: Vec<(String, String)>,
}

impl Program {
    /// `program` is looked up in PATH.
    pub fn new(program: impl AsRef<Path>) -> Program {
        Program {
            program: program.as_ref().display().to_string(),
            arguments: Vec::new(),
            namespace: None,
            directory: None,
            variables: Vec::new(),
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Program {
        self.arguments.push(argument.into());
        self
    }

    /// Adds the words of `line`, split at white space (so no argument with a space in it).
    pub fn args(mut self, line: &str) -> Program {
        self.arguments.extend(line.split_whitespace().map(str::to_owned));
        self
    }

    /// Runs it inside the network namespace.
    pub fn inside(mut self, namespace: &Namespace) -> Program {
        self.namespace = Some(namespace.name().to_owned());
        self
    }

    /// Runs it in this directory.
    pub fn directory(mut self, directory: &Path) -> Program {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Sets a variable of its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Program {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it; its output (both streams) goes to `LABEL.log` in the scratch directory.
    pub fn start(self, scratch: &Scratch, label: &str) -> Result<Running> {
        let log = scratch.file(&format!("{label}.log"));
        let output = File::create(&log).context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().context(|| format!("cannot write {}", log.display()))?;
        self.spawn(label, log, output.into(), errors)
    }

    /// Starts a program that tells things on its standard output: that is handed back, the log has its errors.
    pub fn start_telling(self, scratch: &Scratch, label: &str) -> Result<(Running, ChildStdout)> {
        let log = scratch.file(&format!("{label}.log"));
        let errors = File::create(&log).context(|| format!("cannot write {}", log.display()))?;
        let mut running = self.spawn(label, log, Stdio::piped(), errors)?;
        let told = running.child.stdout.take().expect("it was asked for");
        Ok((running, told))
    }

    fn spawn(self, label: &str, log: PathBuf, output: Stdio, errors: File) -> Result<Running> {
        // Both wrappers exec their program, so the pid below is the program's own and the signal that
        // is asked for here survives into it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(namespace) = &self.namespace {
            command.args(["ip", "netns", "exec", namespace]);
        }
        command.arg(&self.program).args(&self.arguments).envs(self.variables);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        // An open standard input: some programs take its end for the order to stop.
        let child = command
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .context(|| "cannot start setpriv (package util-linux)".to_owned())?;
        Ok(Running { child, label: label.to_owned(), log })
    }

    /// Starts it, waits for its end, and fails unless that is an exit with 0. Its output.
    pub fn run(self, scratch: &Scratch, label: &str, timeout: Duration) -> Result<String> {
        let mut running = self.start(scratch, label)?;
        running.succeed(timeout)?;
        Ok(running.output())
    }
}

/// A child that runs, or has run.
pub struct Running {
    child: Child,
    label: String,
    log: PathBuf,
}

impl Running {
    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The file that holds its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until a line of its output contains `text`; that line.
    pub fn wait_for_line(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let mut line = None;
        let mut ended = None;
        wait_until(timeout, LOOK_EVERY, || {
            // Asked before the output is read: what it wrote last is then in the file.
            ended = self.child.try_wait().ok().flatten();
            line = self.output().lines().find(|line| line.contains(text)).map(str::to_owned);
            line.is_some() || ended.is_some()
        });
        line.ok_or_else(|| {
            let why =
                ended.map_or(format!("not within {timeout:?}"), |status| format!("it ended with {status}"));
            self.failure(&format!("never wrote {text:?} ({why})"))
        })
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end; a failure (and its death) if that does not come in time.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(timeout, LOOK_EVERY, || {
            status = self.ended();
            status.is_some()
        });
        status.ok_or_else(|| {
            self.kill();
            self.failure(&format!("did not end within {timeout:?}"))
        })
    }

    /// Waits for its end, which must be an exit with 0.
    pub fn succeed(&mut self, timeout: Duration) -> Result<()> {
        let status = self.wait(timeout)?;
        if status.success() { Ok(()) } else { Err(self.failure(&format!("ended with {status}"))) }
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, which: Signal) {
        // Not reaped yet (try_wait says None), so the pid is still this child's.
        if self.ended().is_none() {
            let _ = signal::kill(Pid::from_raw(self.child.id() as i32), which);
        }
    }

    /// Asks it to end and waits; kills it when it does not.
    pub fn stop(&mut self, which: Signal, timeout: Duration) -> Result<ExitStatus> {
        self.signal(which);
        self.wait(timeout)
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A failure that names this child and shows the end of its output.
    pub fn failure(&self, what: &str) -> Failure {
        Failure::new(format!("{} {what}\n{}", self.label, tail(&self.log)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log, each marked, under the log's name.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    let mut shown = format!("  --- {} ---", log.display());
    for line in &lines[from..] {
        shown.push_str("\n  | ");
        shown.push_str(line);
    }
    shown
}

/// Runs a short command to its end; fails with its output unless it exits with 0. Its output.
pub fn run(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().ok_or_else(|| Failure::new("an empty command"))?;
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .context(|| format!("cannot run {program:?} (is its package installed?)"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    crate::ensure!(
        output.status.success(),
        "`{line}` ended with {}:\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}
