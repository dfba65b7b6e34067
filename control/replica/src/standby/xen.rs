//! `tidegate xen-receive`: the standby of a Xen domain. `xl migrate-receive` waits with the domain in its memory, fed with
//! whole checkpoints; the end of its input starts the domain.

use super::{Backup, End, Loaded, Standby, StandingArgs, locked, muted, stand};
use crate::checkpoint::CheckpointId;
use crate::chronicle::Chronicle;
use crate::link::LinkError;
use crate::link::bulk::{BulkLimits, BulkReader, Sent};
use crate::link::message::{Down, Newest};
use crate::link::relay::{StreamReader, Streamed};
use crate::link::wire::Wire;
use crate::orders::Orders;
use crate::xen::child::{Feed, Starter, Waiting};
use crate::xen::name::Name;
use crate::xen::sluice::Sluice;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidegate_control::cli::XenReceiveArgs;

/// How long xl may take from the end of its input to a running domain.
const RUNS_WITHIN: Duration = Duration::from_secs(30);

/// See the module's head.
struct Domain {
    xl: PathBuf,
    starter: Starter,
    most: usize,
    state: Mutex<State>,
    /// Apart from the state: it is held while xl takes what it is fed.
    feed: Mutex<Option<(Turn, Feed)>>,
    /// A promotion is under way, or done: nothing is fed or acknowledged any more.
    loaded: AtomicBool,
}

/// Which stream: a session that has been replaced does nothing any more to the domain of the next.
type Turn = u64;

#[derive(Default)]
struct State {
    turn: Turn,
    waiting: Option<Waiting>,
    newest: Option<CheckpointId>,
}

/// Stands by until told to stop. `Err`: it never began.
pub fn run(args: XenReceiveArgs, orders: &Orders) -> Result<End, String> {
    let plane = muted(&args.socket, args.guest.as_deref(), args.takeover)?;
    let domain = Domain {
        starter: Starter::new(args.xl.clone())?,
        xl: args.xl,
        most: usize::try_from(u64::from(args.checkpoint_mib) << 20).unwrap_or(usize::MAX),
        state: Mutex::default(),
        feed: Mutex::new(None),
        loaded: AtomicBool::new(false),
    };
    let chronicle = Chronicle::new("xen-receive", args.json);
    let XenReceiveArgs { listen, link, grants, protected, desk, .. } = args;
    let args = StandingArgs { listen, link, grants, protected, desk };
    // Of the frames of QEMU's checkpoints none is taken.
    let limits = BulkLimits { device_max: 0, ram_pages: 0 };
    stand(args, plane, Arc::new(domain), limits, chronicle, orders)
}

impl State {
    /// Ends the child, before its input does.
    fn end(&mut self) {
        if let Some(mut waiting) = self.waiting.take() {
            waiting.kill();
        }
        self.newest = None;
    }
}

impl Domain {
    /// A new stream begins: the domain of the one before is not wanted any more, and one that waits for this takes its
    /// place.
    fn begin(&self) -> (Turn, Result<(), String>) {
        let turn = {
            let mut state = locked(&self.state);
            if self.loaded.load(Relaxed) {
                return (state.turn, Err("a promotion has begun".into()));
            }
            state.end();
            state.turn += 1;
            state.turn
        };
        locked(&self.feed).take();
        let started = self.starter.start(&self.xl).map(|(waiting, feed)| {
            let mut state = locked(&self.state);
            if state.turn == turn && !self.loaded.load(Relaxed) {
                state.waiting = Some(waiting);
                *locked(&self.feed) = Some((turn, feed));
            }
        });
        (turn, started)
    }

    /// The domain of this turn shall not be started.
    fn forget(&self, turn: Turn) {
        let mut state = locked(&self.state);
        if state.turn != turn || self.loaded.load(Relaxed) {
            return;
        }
        state.end();
        drop(state);
        locked(&self.feed).take_if(|(of, _)| *of == turn);
    }

    /// Feeds the waiting domain; false when another has taken its place, or a promotion has begun.
    fn feed(&self, turn: Turn, bytes: &[u8]) -> Result<bool, String> {
        match &mut *locked(&self.feed) {
            Some((of, feed)) if *of == turn => feed.write(bytes, || !self.loaded.load(Relaxed)),
            _ => Ok(false),
        }
    }

    /// Why the child is gone, if it is: what it held is gone with it.
    fn lost(&self, turn: Turn) -> Option<String> {
        let mut state = locked(&self.state);
        let ours = state.turn == turn && !self.loaded.load(Relaxed);
        state.waiting.as_mut().filter(|_| ours)?.ended()
    }

    /// Removes the half domain that an xl of before left when it was killed.
    fn sweep(&self, name: &str) {
        let left = format!("{name}--incoming");
        let destroyed = Command::new(&self.xl).args(["destroy", &left]).stdin(Stdio::null()).output();
        // Most of the time there is none.
        if destroyed.is_ok_and(|output| output.status.success()) {
            log::info!("{left} was left by a receiver that was killed, and is destroyed");
        }
    }

    /// Takes what comes, until the link, xl or a promotion ends it.
    fn take(&self, turn: Turn, standby: &Standby, stream: &mut StreamReader<Wire>) -> Result<(), Problem> {
        let (mut sluice, mut name) = (Sluice::new(self.most), Name::default());
        loop {
            match stream.receive() {
                Ok(Streamed::Bytes(bytes)) => {
                    // Before xl can make it anew.
                    if let Some(name) = name.hear(bytes) {
                        self.sweep(&name);
                    }
                    sluice.take(bytes).map_err(Problem::Stream)?;
                    if !sluice.free().is_empty() {
                        if !self.feed(turn, sluice.free()).map_err(Problem::Xl)? {
                            return Ok(());
                        }
                        sluice.gone();
                    }
                }
                Ok(Streamed::Checkpoint { sent, number }) => {
                    let began = Instant::now();
                    sluice.complete(number).map_err(Problem::Stream)?;
                    if !self.feed(turn, sluice.free()).map_err(Problem::Xl)? {
                        return Ok(());
                    }
                    sluice.gone();
                    if !self.holds(turn, standby, &sent) {
                        return Ok(());
                    }
                    standby.chronicle.committed(began.elapsed());
                    standby.chronicle.checkpoint(
                        Duration::ZERO,
                        sent.length,
                        json!({ "number": number, "epoch": sent.id.epoch, "bytes": sent.length }),
                    );
                }
                Err(LinkError::Quiet) => {
                    if let Some(why) = self.lost(turn) {
                        return Err(Problem::Xl(why));
                    }
                }
                Err(error) => return Err(Problem::Link(error.to_string())),
            }
        }
    }

    /// xl has all of this checkpoint: acknowledges it, unless a promotion starts from the one before.
    fn holds(&self, turn: Turn, standby: &Standby, sent: &Sent) -> bool {
        let mut state = locked(&self.state);
        if state.turn != turn || self.loaded.load(Relaxed) {
            return false;
        }
        if state.waiting.as_mut().is_none_or(|waiting| waiting.ended().is_some()) {
            // The next look at it says so.
            return true;
        }
        state.newest = Some(sent.id);
        standby.stale.store(false, Relaxed);
        // Under the lock: what is acknowledged is what a promotion starts from.
        standby.say(&Down::Acked { id: sent.id, length: sent.length, checksum: sent.checksum, digest: None })
    }
}

/// What ended a session.
enum Problem {
    /// The link is over; what is held is held.
    Link(String),
    /// The stream is not what it must be.
    Stream(String),
    /// xl is gone, and with it what it held.
    Xl(String),
}

impl Backup for Domain {
    fn newest(&self) -> Option<Newest> {
        locked(&self.state).newest.map(|id| Newest { id, digest: None })
    }

    fn look(&self, _: Duration) -> Result<(), String> {
        let mut state = locked(&self.state);
        match state.waiting.as_mut().and_then(Waiting::ended) {
            Some(why) if !self.loaded.load(Relaxed) => Err(why),
            _ => Ok(()),
        }
    }

    /// The next stream has a new child.
    fn is_gone(&self) -> bool {
        false
    }

    fn receive(&self, standby: &Standby, bulk: BulkReader<Wire>) {
        if self.loaded.load(Relaxed) {
            return standby.end_session();
        }
        let mut stream = StreamReader::on(bulk);
        let (turn, begun) = self.begin();
        let problem = match begun {
            Ok(()) => self.take(turn, standby, &mut stream).err(),
            Err(why) => Some(Problem::Xl(why)),
        };
        let Some(problem) = problem else { return };
        let (what, gone) = match problem {
            Problem::Link(what) | Problem::Stream(what) => (what, false),
            Problem::Xl(what) => (what, true),
        };
        if locked(&self.state).turn != turn || self.loaded.load(Relaxed) {
            return;
        }
        standby.chronicle.tell("refused", json!({ "problem": what }));
        if gone {
            self.forget(turn);
            standby.give_back(&what);
            // The primary hears it before the connection ends.
            std::thread::sleep(standby.args.link.beat);
        } else if self.newest().is_none() {
            self.forget(turn);
        }
        standby.end_session();
    }

    fn load(&self) -> Result<Loaded, String> {
        let mut state = locked(&self.state);
        self.loaded.store(true, Relaxed);
        let id = state.newest.ok_or("no complete checkpoint is held")?;
        match state.waiting.as_mut().map(Waiting::ended) {
            Some(None) => Ok(Loaded { id, apply: Duration::ZERO, load: Duration::ZERO }),
            Some(Some(why)) => Err(why),
            None => Err("no domain waits".into()),
        }
    }

    fn run(&self) -> Result<(), String> {
        locked(&self.feed).take();
        let mut waiting = locked(&self.state).waiting.take().ok_or("no domain waits")?;
        match waiting.wait(RUNS_WITHIN)? {
            status if status.success() => Ok(()),
            status => Err(format!("xl migrate-receive did not start the domain: it ended with {status}")),
        }
    }

    fn abandon(&self) {
        let turn = locked(&self.state).turn;
        self.forget(turn);
    }

    fn give_up(&self) {
        // Before its input ends with this process: that would be the order to start it.
        locked(&self.state).end();
        locked(&self.feed).take();
    }

    fn report(&self) -> Value {
        let state = locked(&self.state);
        let image = match (&state.waiting, state.newest) {
            (None, _) => "none",
            (Some(_), Some(_)) => "holding",
            (Some(_), None) => "copying",
        };
        json!({ "image": image, "newest": state.newest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A domain that waits, made ready for a promotion; `started` is there once it was started.
    fn made_ready(dir: &std::path::Path) -> Domain {
        let xl = dir.join("xl");
        let says = crate::xen::READY.escape_ascii();
        std::fs::write(
            &xl,
            format!("#!/bin/sh\ncd {}\nprintf '{says}'; cat >fed; echo >started\n", dir.display()),
        )
        .unwrap();
        std::fs::set_permissions(&xl, std::fs::Permissions::from_mode(0o755)).unwrap();
        let domain = Domain {
            starter: Starter::new(xl.clone()).unwrap(),
            xl,
            most: 1 << 20,
            state: Mutex::default(),
            feed: Mutex::new(None),
            loaded: AtomicBool::new(false),
        };
        domain.begin().1.unwrap();
        locked(&domain.state).newest = Some(CheckpointId { generation: 1, epoch: 2 });
        domain.load().unwrap();
        domain
    }

    #[test]
    fn a_promotion_that_fails_leaves_no_domain_that_waits() {
        let dir = tempfile::tempdir().unwrap();
        let domain = made_ready(dir.path());
        domain.abandon();
        assert!(locked(&domain.state).waiting.is_some(), "not while it may be started");
        domain.give_up();
        assert!(locked(&domain.state).waiting.is_none() && locked(&domain.feed).is_none());
        assert!(domain.run().is_err());
        std::thread::sleep(Duration::from_millis(200));
        assert!(!dir.path().join("started").exists(), "the end of its input was the order to start it");
        assert!(domain.begin().1.is_err(), "nor does a session that comes late begin another");
    }
}
