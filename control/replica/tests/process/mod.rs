//! The programs under test, as processes whose lines are kept.

use crate::rig::within;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const SOON: Duration = Duration::from_secs(20);

/// `tidegate-replica`, which tells its steps.
pub fn replica() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-replica"));
    command.env("TIDEGATE_STEPS", "1").stdin(Stdio::null());
    command
}

/// A process whose lines are kept.
pub struct Process {
    pub child: Child,
    pub lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Keeps what is read from there.
    pub fn hear(from: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
        let lines = Arc::new(Mutex::new(vec![]));
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        lines
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The events that it told until now.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let lines = self.lines();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["event"] == name).collect()
    }

    /// The first event of this name for which `is` holds.
    pub fn event(&self, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        within(SOON, || {
            found = self.events(name).into_iter().find(&is);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("no {name} in {:#?}", self.lines()))
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Its exit code.
    pub fn ends(&mut self) -> i32 {
        let mut status = None;
        let ended = within(SOON, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "it does not end: {:#?}", self.lines());
        status.unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Long enough for what must not happen to have happened.
pub fn a_while() {
    std::thread::sleep(Duration::from_millis(300));
}
