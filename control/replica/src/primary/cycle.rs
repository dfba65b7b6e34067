//! The cycle of checkpoints: pause, close, save, resume; then send, while the VM runs on.

use super::epochs::{Ended, Epochs};
use super::freight::Freight;
use super::session::{DISMISSED_WITHIN, Over};
use super::{News, Ordered, Primary, backup_lost};
use crate::cadence::Seen;
use crate::checkpoint::{CheckpointId, TakeTimings, Taker};
use crate::chronicle::ms;
use crate::disks::DiskGuard;
use crate::link::message::Welcome;
use crate::pacing::{Output, Pacing};
use crate::vm::Vm;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

/// How often it is looked whether output waits.
const LOOK: Duration = Duration::from_millis(10);
/// The standby says when the first copy is in place; a copy that takes longer than this has a dead link.
const SEEDED_WITHIN: Duration = Duration::from_secs(60);

/// See the module's head. It outlives sessions: what the standby has may still be there after a short break.
pub struct Cycle<'p> {
    primary: &'p Primary,
    vm: &'p Vm,
    pacing: Pacing,
    taker: Taker,
    disks: DiskGuard,
    epochs: Epochs,
    /// When the VM last ran again.
    ran: Instant,
    /// The last checkpoint that was handed to the link.
    last: Option<CheckpointId>,
    /// The standby's name.
    standby: String,
    urged: bool,
    /// What [`Primary::media_frames`] was at the last checkpoint.
    media_frames: u64,
    /// What [`Primary::signalling`] was then.
    signalling: u64,
    /// One was taken that is not handed to the link.
    unsent: Option<CheckpointId>,
    closed_frames: u64,
    closed_bytes: u64,
    /// What the hold queues may have.
    quota: Quota,
}

/// See [`Cycle::quota`].
#[derive(Clone, Copy, Debug)]
struct Quota {
    frames: u64,
    bytes: u64,
}

impl Quota {
    /// Of a guest as the plane reports it: of all its lanes.
    fn of(report: &serde_json::Value) -> Quota {
        let sum = |key: &str| {
            let lanes = report["lanes"].as_array().into_iter().flatten();
            lanes.filter_map(|lane| lane[key].as_u64()).sum::<u64>()
        };
        Quota { frames: sum("hold_frames"), bytes: sum("hold_bytes") }
    }

    /// How much of them this is.
    fn share(self, frames: u64, bytes: u64) -> f64 {
        let share = |of: u64, all: u64| of as f64 / all.max(1) as f64;
        share(frames, self.frames).max(share(bytes, self.bytes))
    }
}

/// How long the parts of a pause took.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    stop: Duration,
    close: Duration,
    save: Duration,
    resume: Duration,
    all: Duration,
    take: TakeTimings,
}

impl<'p> Cycle<'p> {
    /// Nothing is protected yet.
    pub fn new(
        primary: &'p Primary,
        vm: &'p Vm,
        pacing: Pacing,
        taker: Taker,
        disks: DiskGuard,
    ) -> Cycle<'p> {
        primary.paces(pacing.report());
        let quota = Quota::of(&primary.plane.report().unwrap_or_default());
        Cycle {
            primary,
            vm,
            pacing,
            taker,
            disks,
            epochs: Epochs::new(false),
            ran: Instant::now(),
            last: None,
            standby: String::new(),
            urged: false,
            media_frames: 0,
            signalling: 0,
            unsent: None,
            closed_frames: 0,
            closed_bytes: 0,
            quota,
        }
    }

    /// Runs until the session is over.
    pub fn run(
        &mut self,
        welcome: &Welcome,
        heard: &Receiver<News>,
        loads: SyncSender<Freight>,
        stop: &AtomicBool,
    ) -> Over {
        let primary = self.primary;
        self.standby.clone_from(&welcome.node);
        self.disks.doubt();
        // Epochs are counted on from what the standby holds, whatever a plane that started anew counts from.
        primary.counts_on(welcome.newest.map_or(0, |newest| newest.id.epoch));
        let goes_on = welcome.newest.is_some_and(|newest| {
            let ours = self.last.is_some_and(|last| last.generation == newest.id.generation);
            ours && self.taker.rebase(newest.id) && self.taker.base() == newest.digest
        });
        primary.chronicle.tell(
            "session",
            json!({ "standby": welcome.node, "goes_on": goes_on, "holds": welcome.newest.map(|n| n.id.epoch) }),
        );
        if !goes_on {
            if primary.bound.load(Relaxed) && welcome.newest.is_none() {
                let evidence = format!("{} holds no checkpoint: it started anew", welcome.node);
                backup_lost(primary, &evidence);
            }
            if let Err(over) = self.seed(heard, &loads) {
                return self.ended(over, heard, stop);
            }
        }
        loop {
            let over = match self.wait(heard) {
                Wake::Due => self.checkpoint(&loads),
                Wake::Over(over) => Err(over),
            };
            if let Err(over) = over {
                return self.ended(over, heard, stop);
            }
        }
    }

    /// The session is over. After an end in order the standby says that it will not take over.
    fn ended(&self, over: Over, heard: &Receiver<News>, stop: &AtomicBool) -> Over {
        match over {
            Over::Stopped => {
                self.primary.stopping.store(true, Relaxed);
                stop.store(true, Relaxed);
                self.dismissed(heard);
                Over::Stopped
            }
            // The heart has told the standby.
            Over::ShutDown(_) => Over::ShutDown(self.dismissed(heard)),
            Over::Dismiss(evidence) => {
                self.primary.stopping.store(true, Relaxed);
                stop.store(true, Relaxed);
                let known = self.dismissed(heard);
                // The heart has to have said it before it is taken back.
                std::thread::sleep(self.primary.args.link.beat * 2);
                self.primary.stopping.store(false, Relaxed);
                if known { Over::Again } else { Over::Dismiss(evidence) }
            }
            over => over,
        }
    }

    /// The first copy, while the VM runs.
    fn seed(&mut self, heard: &Receiver<News>, loads: &SyncSender<Freight>) -> Result<(), Over> {
        if self.taker.ram_bytes().is_none() {
            return Ok(());
        }
        let begin = Instant::now();
        self.taker.restart();
        self.last = None;
        let (mut pages, mut told) = (0u64, Instant::now());
        while let Some(chunk) = self.taker.seed() {
            pages += chunk.numbers.len() as u64;
            self.hand_over(loads, Freight::Seed(chunk))?;
            self.heed(heard)?;
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                self.primary.chronicle.tell("seeding", json!({ "pages": pages }));
            }
        }
        let digest = self.taker.base().unwrap_or_default();
        self.hand_over(loads, Freight::SeedEnd(digest))?;
        let deadline = Instant::now() + SEEDED_WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match heard.recv_timeout(left) {
                Ok(News::Seeded(there)) if there == digest => break,
                Ok(News::Seeded(_)) => {
                    return Err(Over::Lost("the standby's first copy is another one".into()));
                }
                Ok(news) => self.take_note(news)?,
                Err(_) => return Err(Over::Lost("the standby does not finish the first copy".into())),
            }
        }
        self.primary.chronicle.tell("seeded", json!({ "pages": pages, "ms": ms(begin.elapsed()) }));
        Ok(())
    }

    fn hand_over(&self, loads: &SyncSender<Freight>, freight: Freight) -> Result<(), Over> {
        loads.send(freight).map_err(|_| Over::Lost("the link took no more".into()))
    }

    fn heed(&mut self, heard: &Receiver<News>) -> Result<(), Over> {
        while let Ok(news) = heard.try_recv() {
            self.take_note(news)?;
        }
        Ok(())
    }

    fn take_note(&mut self, news: News) -> Result<(), Over> {
        let primary = self.primary;
        match news {
            News::Urge => self.urged = true,
            News::Seeded(_) => {}
            News::Landed(landed) => {
                self.taker.acknowledged(landed.id);
                self.pacing.acknowledged(landed.after);
                primary.committed(&landed, &self.standby);
                if let Err(problem) = self.disks.commit(landed.id.epoch) {
                    primary.chronicle.tell("disk-hook", json!({ "problem": problem }));
                }
            }
            News::LinkLost(reason) => return Err(Over::Lost(reason)),
            News::GivenBack(reason) => return Err(Over::BackupLost(reason)),
            News::Gone(reason) => return Err(Over::Gone(reason)),
            News::ShutDown => return Err(Over::ShutDown(false)),
            News::Ordered(Ordered::Stop) => return Err(Over::Stopped),
            News::Ordered(Ordered::BackupLost(evidence)) => return Err(Over::Dismiss(evidence)),
        }
        Ok(())
    }

    fn output(&self) -> Output {
        let primary = self.primary;
        let media = primary.media_frames.load(Relaxed) != self.media_frames;
        Output::of(primary.held_frames.load(Relaxed), self.urged, media)
    }

    /// Waits for the moment of the next checkpoint.
    fn wait(&mut self, heard: &Receiver<News>) -> Wake {
        loop {
            let due = self.pacing.due(self.ran, self.output());
            let left = due.saturating_duration_since(Instant::now());
            // One more would only lengthen the queue: wait for the link.
            let full = self.primary.flight.len() >= self.primary.args.in_flight as usize;
            if left.is_zero() && !full && !self.vm.is_down() {
                return Wake::Due;
            }
            let limit = if left.is_zero() { LOOK } else { left.min(LOOK) };
            match heard.recv_timeout(limit) {
                Ok(news) => {
                    if let Err(over) = self.take_note(news) {
                        return Wake::Over(over);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Wake::Over(Over::Stopped),
            }
        }
    }

    /// Takes one checkpoint. A failure leaves the VM running and its output held; the next one comes in time.
    fn checkpoint(&mut self, loads: &SyncSender<Freight>) -> Result<(), Over> {
        let primary = self.primary;
        self.urged = false;
        let was = (self.media_frames, self.signalling);
        self.media_frames = primary.media_frames.load(Relaxed);
        self.signalling = primary.signalling.load(Relaxed);
        let mut pause = Pause::default();
        let taken = self.pause(&mut pause);
        let since = self.ran.elapsed().saturating_sub(pause.all);
        self.ran = Instant::now();
        let (taken, begins) = match taken {
            Ok(taken) => taken,
            Err(problem) => {
                primary.chronicle.tell("void", json!({ "problem": problem }));
                return self.back_to_what_was_sent();
            }
        };
        let id = taken.id;
        let (device_bytes, pages) = (taken.device.len(), taken.ram.pages());
        let bytes = device_bytes + pages * crate::checkpoint::PAGE;
        primary.flight.depart(id, !begins, self.ran);
        self.last = Some(id);
        self.unsent = None;
        let seen = Seen {
            pause: pause.all,
            filled: self.quota.share(self.closed_frames, self.closed_bytes),
            since,
            waits: self.closed_frames > 0,
            media: self.media_frames != was.0,
            signalling: self.signalling != was.1,
        };
        if !begins {
            self.pace(&seen);
        }
        primary.chronicle.checkpoint(
            pause.all,
            bytes as u64,
            json!({
                "epoch": id.epoch, "generation": id.generation, "pause_ms": ms(pause.all), "bytes": bytes,
                "interval_ms": ms(self.pacing.interval()), "held_bytes": self.closed_bytes,
                "pages": pages, "device_bytes": device_bytes, "held_frames": self.closed_frames,
                "stop_ms": ms(pause.stop), "close_ms": ms(pause.close), "save_ms": ms(pause.save),
                "device_ms": ms(pause.take.device), "ram_ms": ms(pause.take.ram), "resume_ms": ms(pause.resume),
            }),
        );
        self.hand_over(loads, Freight::Checkpoint(taken))
    }

    /// The interval follows what a checkpoint showed, where it is to.
    fn pace(&mut self, seen: &Seen) {
        let moved = self.pacing.taken(seen, self.ran);
        let report = self.pacing.report();
        if moved {
            self.primary.chronicle.tell("interval", report.clone());
        }
        self.primary.paces(report);
    }

    /// The pause. Whatever happens in it, the VM runs afterwards.
    fn pause(&mut self, pause: &mut Pause) -> Result<(crate::checkpoint::Checkpoint, bool), String> {
        let primary = self.primary;
        let mut driving = self.vm.drive();
        let begin = Instant::now();
        let mut mark = begin;
        let mut lap = || std::mem::replace(&mut mark, Instant::now()).elapsed();
        let stopped = driving.stop();
        driving.noting(stopped).map_err(|e| format!("cannot pause the VM: {e}"))?;
        pause.stop = lap();
        if self.vm.is_down() {
            return Err("the guest has shut down".into());
        }
        let saved = (|| {
            self.disks.look(&mut driving)?;
            let Ended { id, begins, frames, bytes } = self.epochs.close(primary)?;
            (self.closed_frames, self.closed_bytes) = (frames, bytes);
            primary.chronicle.step("close", id.epoch);
            // QEMU is asked on: a hook that takes its time is no death.
            let mut lives = || {
                let state = driving.status();
                let _ = driving.noting(state);
            };
            self.disks.close(id.epoch, &mut lives)?;
            pause.close = lap();
            let taken = self.taker.take(&mut driving, id).map_err(|e| e.to_string())?;
            driving.answered();
            self.unsent = Some(id);
            // What moved after the first look may be in it.
            self.disks.look(&mut driving)?;
            pause.save = lap();
            pause.take = taken.timings;
            primary.chronicle.step("save", id.epoch);
            if !begins {
                primary.plane.seal(id.epoch).map_err(|e| e.to_string())?;
            }
            Ok((taken.checkpoint, begins))
        })();
        let resumed = driving.cont();
        let resumed = driving.noting(resumed).map_err(|e| format!("cannot resume the VM: {e}"));
        pause.resume = lap();
        pause.all = begin.elapsed();
        primary.chronicle.step("resume", 0);
        resumed.and(saved)
    }

    /// A checkpoint that was taken and is not sent: the next one holds what it held.
    fn back_to_what_was_sent(&mut self) -> Result<(), Over> {
        let withdrawn = self.unsent.take().is_none_or(|id| self.taker.withdraw(id));
        withdrawn
            .then_some(())
            .ok_or_else(|| Over::Lost("a checkpoint was lost: the copy begins anew".into()))
    }

    /// The session is over.
    pub fn session_over(&mut self) {
        self.urged = false;
    }

    /// Ending in order: waits for the standby's word that it will not take over.
    fn dismissed(&self, heard: &Receiver<News>) -> bool {
        let deadline = Instant::now() + DISMISSED_WITHIN;
        while let Ok(news) = heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if let News::GivenBack(reason) = news {
                backup_lost(self.primary, &reason);
                return true;
            }
        }
        false
    }
}

enum Wake {
    Due,
    Over(Over),
}
