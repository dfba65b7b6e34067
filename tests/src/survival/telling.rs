//! What a replication process tells on its standard output, a line of JSON an event, read at once: a test that kills
//! right after a step of a checkpoint cannot look into a file every now and then.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ChildStdout;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::wall_clock::now_ns;

/// What is done when a step has been told.
pub type Action = Box<dyn FnOnce() + Send>;
/// What is done at each event.
pub type Follower = Box<dyn FnMut(&Value) + Send>;

#[derive(Default)]
struct State {
    events: Vec<Value>,
    trigger: Option<(String, Action)>,
    follower: Option<Follower>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    told: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, line: &str) {
        let Ok(mut event) = serde_json::from_str::<Value>(line) else { return };
        let mut state = self.lock();
        let step = event["step"].as_str().unwrap_or("");
        let due =
            state.trigger.as_ref().is_some_and(|(wanted, _)| event["event"] == "step" && step == wanted);
        if due && let Some((_, action)) = state.trigger.take() {
            action();
        }
        event["read_ns"] = now_ns().into();
        if let Some(follower) = &mut state.follower {
            follower(&event);
        }
        state.events.push(event);
        self.told.notify_all();
    }
}

/// A process's events so far.
pub struct Telling {
    shared: Arc<Shared>,
}

impl Telling {
    /// Reads until the process ends. The lines go to the file `log` too.
    pub fn read(output: ChildStdout, log: &Path) -> Telling {
        let mut log = File::create(log).ok();
        let shared = Arc::new(Shared::default());
        let reader = Arc::clone(&shared);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                reader.take(&line);
                // After what had to be done at once.
                if let Some(log) = &mut log {
                    let _ = writeln!(log, "{line}");
                }
            }
            reader.lock().ended = true;
            reader.told.notify_all();
        });
        Telling { shared }
    }

    /// Does this in the reading thread as soon as the step is told.
    pub fn at_step(&self, step: &str, action: Action) {
        self.shared.lock().trigger = Some((step.to_owned(), action));
    }

    /// Does this in the reading thread at each event from now on.
    pub fn follow(&self, follower: Follower) {
        self.shared.lock().follower = Some(follower);
    }

    /// Takes back what was to be done, if it was not.
    pub fn disarm(&self) -> Option<Action> {
        self.shared.lock().trigger.take().map(|(_, action)| action)
    }

    /// Waits for an event of that name; nothing when the process ends without it, or the time is over.
    pub fn wait(&self, event: &str, timeout: Duration) -> Option<Value> {
        self.wait_from(0, event, timeout)
    }

    /// The same, and its first `from` events do not count.
    pub fn wait_from(&self, from: usize, event: &str, timeout: Duration) -> Option<Value> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = state.events.iter().skip(from).find(|told| told["event"] == event) {
                return Some(found.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return None;
            }
            state = self.shared.told.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything that it told.
    pub fn events(&self) -> Vec<Value> {
        self.shared.lock().events.clone()
    }

    /// What it told at last, a line each, for a failure: without steps and checkpoints.
    pub fn last_words(&self) -> String {
        let mut events = self.events();
        events.retain(|event| event["event"] != "step" && event["event"] != "checkpoint");
        let skip = events.len().saturating_sub(12);
        events[skip..].iter().map(|event| format!("  {event}\n")).collect()
    }

    /// How often it told this.
    pub fn count(&self, event: &str) -> usize {
        self.shared.lock().events.iter().filter(|told| told["event"] == event).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn told(lines: &str) -> Telling {
        let mut child = Command::new("printf").arg(lines).stdout(Stdio::piped()).spawn().expect("printf");
        let telling = Telling::read(child.stdout.take().expect("asked for"), Path::new("/dev/null"));
        let _ = child.wait();
        telling
    }

    #[test]
    fn an_action_is_done_once_at_its_step() {
        let shared = Shared::default();
        let done = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&done);
        let action: Action = Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        shared.lock().trigger = Some(("save".to_owned(), action));
        shared.take(r#"{"event":"step","step":"close","epoch":1}"#);
        shared.take(r#"{"event":"save"}"#);
        assert_eq!(done.load(Ordering::SeqCst), 0);
        shared.take(r#"{"event":"step","step":"save","epoch":1}"#);
        shared.take(r#"{"event":"step","step":"save","epoch":2}"#);
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_follower_meets_every_event_from_then_on_in_their_order() {
        let shared = Shared::default();
        shared.take(r#"{"event":"step","step":"close","epoch":1}"#);
        let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
        let list = Arc::clone(&seen);
        shared.lock().follower = Some(Box::new(move |event| {
            list.lock().expect("no panic").extend(event["epoch"].as_u64());
        }));
        shared.take(r#"{"event":"step","step":"close","epoch":2}"#);
        shared.take(r#"{"event":"step","step":"commit","epoch":3}"#);
        assert_eq!(*seen.lock().expect("no panic"), [2, 3]);
        assert_eq!(shared.lock().events.len(), 3);
    }

    #[test]
    fn an_event_is_found_and_the_end_of_the_process_ends_a_wait() {
        let telling = told(r#"not json\n{"event":"promoted","epoch":3}\n"#);
        assert_eq!(telling.wait("promoted", Duration::from_secs(5)).expect("told")["epoch"], 3);
        assert!(telling.wait("fenced", Duration::from_secs(60)).is_none());
        assert_eq!((telling.count("promoted"), telling.events().len()), (1, 1));
    }
}
