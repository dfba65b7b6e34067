//! What a replication tool stack does, without the copying: a checkpoint closes the epoch while the guest
//! stands still; a while later, when the backup would have acknowledged it, the commit follows.

use super::clock::now_ns;
use super::reports::{Close, Commit, number};
use crate::control_client::ControlClient;
use serde_json::json;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the plane may take to greet.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// See the module's head.
pub(super) struct ToolStack {
    control: Arc<Mutex<ControlClient>>,
    /// Its checkpoints.
    pub closes: Vec<Close>,
    delay_ns: u64,
    to_commit: Option<Sender<(Close, u64)>>,
    committer: JoinHandle<Result<Vec<Commit>, String>>,
}

impl ToolStack {
    /// Connects; commits follow their closes by `delay`.
    pub(super) fn connect(socket: &Path, delay: Duration) -> Result<ToolStack, String> {
        let control =
            Arc::new(Mutex::new(ControlClient::connect(socket, CONNECT_WITHIN).map_err(|e| e.to_string())?));
        let (to_commit, closed) = channel();
        let commits = Arc::clone(&control);
        let committer = std::thread::spawn(move || commit_all(&commits, &closed));
        let delay_ns = delay.as_nanos() as u64;
        Ok(ToolStack { control, closes: Vec::new(), delay_ns, to_commit: Some(to_commit), committer })
    }

    /// The guest stands still at the end of `run` until this returns. False: the plane was too busy to close the
    /// epoch in time, so the run goes on, as after a checkpoint that a tool stack gives up.
    pub(super) fn checkpoint(&mut self, run: u64) -> Result<bool, String> {
        let paused_ns = now_ns();
        // The rings of a guest like this one run on while it stands still, so it vouches for the pause.
        let close = lock(&self.control).request("close", json!({ "vouched": true }));
        let answer = match close.map_err(|e| e.to_string())? {
            Ok(answer) => answer,
            Err(refusal) if refusal.reason == "merged" => return Ok(false),
            Err(refusal) => return Err(format!("close: {refusal}")),
        };
        let (epoch, generation) = (number(&answer, "epoch")?, number(&answer, "generation")?);
        let resumed_ns = now_ns();
        let close = Close { run, epoch, generation, pause_ns: resumed_ns - paused_ns };
        self.closes.push(close);
        let committer =
            self.to_commit.as_ref().is_some_and(|to| to.send((close, resumed_ns + self.delay_ns)).is_ok());
        // A committer that has gone says why when it is joined.
        if committer { Ok(true) } else { Err("commits have stopped".into()) }
    }

    /// Waits for the last commit.
    pub(super) fn finish(mut self) -> Result<(Vec<Close>, Vec<Commit>), String> {
        self.to_commit = None;
        let commits = self.committer.join().map_err(|_| "the thread that commits died".to_owned())??;
        Ok((self.closes, commits))
    }
}

fn lock(control: &Mutex<ControlClient>) -> MutexGuard<'_, ControlClient> {
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

fn commit_all(
    control: &Mutex<ControlClient>,
    closed: &Receiver<(Close, u64)>,
) -> Result<Vec<Commit>, String> {
    let mut commits = Vec::new();
    for (close, due_ns) in closed {
        std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(now_ns())));
        let (epoch, generation) = (close.epoch, close.generation);
        let mut control = lock(control);
        // Before the plane can know of it: a frame that comes behind this moment may be here by right.
        commits.push(Commit { epoch, generation, sent_ns: now_ns() });
        control
            .execute("commit", json!({ "generation": generation, "epoch": epoch }))
            .map_err(|e| e.to_string())?;
    }
    Ok(commits)
}
