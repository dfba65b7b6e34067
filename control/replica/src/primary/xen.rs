//! `tidegate xen-send`: the primary of a domain that `xl remus` checkpoints. xl says when, by writing; this closes the
//! epoch before it reads, hands everything on, and commits what the other side says it has.
//!
//! The epoch that protection begins with is the one after checkpoint 2 or a later one: where the live copy ends and the
//! suspend of checkpoint 1 begins cannot be told, so nobody ever starts from checkpoint 1.

use super::epochs::{Ended, Epochs};
use super::session::{self, DISMISSED_WITHIN, Over};
use super::{End, News, Ordered, Primary, PrimaryArgs, backup_lost, open_desk};
use crate::checkpoint::CheckpointId;
use crate::chronicle::{Chronicle, ms};
use crate::link::dial::Dialed;
use crate::link::relay::StreamWriter;
use crate::link::wire::Wire;
use crate::orders::Orders;
use crate::plane::Plane;
use crate::primary::flight::Receipt;
use crate::vm::SignsOfLife;
use crate::xen::READY;
use crate::xen::pipe::{Pipe, Waited};
use crate::xen::stream::{Follower, Mark};
use crate::xen::writer::Writer;
use serde_json::json;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tidegate_control::cli::XenSendArgs;

/// How often it is looked what the threads tell, while xl writes nothing.
const LOOK: Duration = Duration::from_millis(10);
/// Most that is read at once.
const CHUNK: usize = 256 << 10;
/// How long the fence and the last words may take once xl is gone.
const FENCED_WITHIN: Duration = Duration::from_secs(2);

/// Relays until xl or somebody else ends it. `Err`: it never began.
pub fn run(args: XenSendArgs, orders: &Orders) -> Result<End, String> {
    let XenSendArgs { to, send: args } = args;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let pipe = Pipe::new(stdin.map_err(|e| format!("cannot take the standard input: {e}"))?)?;
    let plane = Plane::connect(&args.socket, args.guest.as_deref()).map_err(|e| e.to_string())?;
    if args.takeover {
        plane.take_over().map_err(|e| e.to_string())?;
    }
    super::is_no_standby(&plane)?;
    let writer = Arc::new(Writer::new(args.stalled_after));
    let tied = PrimaryArgs { link: args.link, to, desk: args.desk, in_flight: u32::MAX, disk_hook: false };
    let chronicle = Chronicle::aside("xen-send", args.json);
    let signs = Arc::clone(&writer) as Arc<dyn SignsOfLife>;
    let (primary, heard) = Primary::new(tied, plane, signs, chronicle)?;
    let _desk = open_desk(&primary)?;
    primary.begin(orders)?;
    let dialed = match session::open(&primary) {
        Ok(dialed) => dialed,
        Err(session::NoSession::Unreachable(reason)) => return Err(reason),
        Err(session::NoSession::Superseded(reason)) => return Ok(superseded(&primary, &reason)),
    };
    let over = relay(&primary, &heard, pipe, &writer, dialed);
    Ok(ended(&primary, over))
}

/// One session is all there is: xl's stream cannot be begun again in the middle.
fn relay(primary: &Primary, heard: &Receiver<News>, pipe: Pipe, writer: &Writer, dialed: Dialed) -> Over {
    let Dialed { welcome, up, down, bulk, stopper } = dialed;
    let Some(bulk) = bulk else { return Over::Lost("the other side takes no checkpoints".into()) };
    primary.chronicle.tell("session", json!({ "standby": welcome.node }));
    let mut relay = Relay {
        primary,
        writer,
        pipe,
        follower: Follower::new(),
        link: StreamWriter::on(bulk),
        epochs: Epochs::new(true),
        standby: welcome.node,
        pause: None,
        last: None,
    };
    let over = session::attended(primary, (up, down), &stopper, |stop| {
        // The other side listens: xl may write. Nothing else is ever said on the standard output.
        let told = std::io::stdout().write_all(READY).and_then(|()| std::io::stdout().flush());
        let over = match told {
            Ok(()) => relay.pump(heard).unwrap_or_else(|over| over),
            Err(e) => Over::Gone(format!("xl does not listen: {e}")),
        };
        relay.let_run();
        if !matches!(over, Over::Stopped | Over::Dismiss(_)) {
            return over;
        }
        primary.stopping.store(true, Relaxed);
        stop.store(true, Relaxed);
        match (dismissed(primary, heard), over) {
            (true, Over::Dismiss(evidence)) => Over::Gone(format!("no backup any more: {evidence}")),
            (_, over) => over,
        }
    });
    session::leave(primary, heard);
    over
}

/// What the end means for the guest; xl lets it run by itself once nobody reads its pipe.
fn ended(primary: &Primary, over: Over) -> End {
    match over {
        Over::Stopped => {
            primary.chronicle.tell("stopped", json!({ "guest": primary.plane.guest() }));
            End::Stopped
        }
        Over::BackupLost(evidence) => {
            backup_lost(primary, &evidence);
            End::Failed(format!("no backup any more: {evidence}"))
        }
        Over::Dismiss(evidence) => match session::dismiss(primary, evidence) {
            Over::Again => End::Failed(
                "the other side is there and does not say that it gives up: what is held stays held".into(),
            ),
            over => ended(primary, over),
        },
        Over::Superseded(reason) => superseded(primary, &reason),
        Over::Lost(reason) => {
            primary.chronicle.tell("link-lost", json!({ "reason": reason }));
            End::Failed(format!(
                "{reason}; what is held stays held, until this runs again or you say otherwise"
            ))
        }
        Over::Gone(reason) => End::Failed(reason),
        // Of a domain that shuts down xl says nothing here.
        Over::ShutDown(_) => End::Stopped,
        Over::Again => End::Failed("the session ended".into()),
    }
}

fn superseded(primary: &Primary, reason: &str) -> End {
    let fenced = primary.plane.fence().unwrap_or(false);
    if let Err(error) = primary.plane.mute() {
        log::warn!("what is held was not discarded: {error}");
    }
    primary.chronicle.tell("superseded", json!({ "reason": reason, "fenced": fenced }));
    End::Failed(format!("{reason}; this domain is fenced and must not go on: xl destroy it"))
}

/// Waits for the other side's word that it will not start the domain; true if it came, and the guest goes on without it.
fn dismissed(primary: &Primary, heard: &Receiver<News>) -> bool {
    let deadline = Instant::now() + DISMISSED_WITHIN;
    while let Ok(news) = heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let News::GivenBack(reason) = news {
            backup_lost(primary, &reason);
            return true;
        }
    }
    false
}

/// What is known of the pause of the checkpoint that is being read.
#[derive(Debug)]
struct Pause {
    /// Seen at.
    began: Instant,
    /// The pipe was empty when it was made narrow.
    empty: bool,
    /// Most bytes that were in the pipe at the close.
    capacity: u64,
    /// What the plane said to the close.
    closed: Result<Ended, String>,
    took: Duration,
    /// When the guest was about to run again, and the bytes that it waited for.
    saved: Option<(Instant, u64)>,
}

impl Pause {
    /// Why the guest may have run before the epoch was closed, if it may.
    fn doubt(&self) -> Option<String> {
        if let Err(reason) = &self.closed {
            return Some(reason.clone());
        }
        if !self.empty {
            return Some("xl had begun it before its pipe was narrow".into());
        }
        match self.saved {
            Some((_, bytes)) if bytes > self.capacity => None,
            _ => Some(format!("it fits into xl's pipe of {} bytes", self.capacity)),
        }
    }
}

/// The pump and what it knows.
struct Relay<'p> {
    primary: &'p Primary,
    writer: &'p Writer,
    pipe: Pipe,
    follower: Follower,
    link: StreamWriter<Wire>,
    epochs: Epochs,
    standby: String,
    pause: Option<Pause>,
    /// The checkpoint that was sent last as one to start from.
    last: Option<CheckpointId>,
}

impl Relay<'_> {
    /// Reads and hands on until something ends it.
    fn pump(&mut self, heard: &Receiver<News>) -> Result<Over, Over> {
        let mut buffer = vec![0; CHUNK];
        loop {
            if self.follower.is_between() && self.pause.is_none() {
                let empty = self.pipe.narrow().map_err(|e| Over::Lost(format!("xl's pipe: {e}")))?;
                self.primary.chronicle.step("narrow", self.follower.checkpoints());
                self.wait(heard)?;
                self.close(empty);
                self.pipe.widen();
            }
            self.wait(heard)?;
            let most = self.follower.appetite().min(CHUNK);
            let room = buffer.get_mut(..most).unwrap_or_default();
            let count = self.pipe.read(room).map_err(|e| Over::Lost(format!("xl's pipe: {e}")))?;
            if count == 0 {
                return Err(self.xl_ended(heard));
            }
            self.writer.wrote();
            let bytes = buffer.get(..count).unwrap_or_default();
            let mark = self.follow(bytes)?;
            self.link.send(bytes).map_err(|e| Over::Lost(e.to_string()))?;
            match mark {
                Some(Mark::Saved { bytes, .. }) => self.saved(bytes),
                Some(Mark::Ended { number, bytes }) => self.ended(number, bytes)?,
                None => {}
            }
        }
    }

    /// At most one mark is in what was read: no more was read than the follower's appetite.
    fn follow(&mut self, bytes: &[u8]) -> Result<Option<Mark>, Over> {
        match self.follower.feed(bytes) {
            Ok((taken, mark)) if taken == bytes.len() => Ok(mark),
            Ok(_) => Err(Over::Lost("more was read of xl's stream than to a checkpoint's end".into())),
            Err(fault) => Err(Over::Lost(fault.to_string())),
        }
    }

    /// Waits until there is something to read, and does what the threads tell meanwhile.
    fn wait(&mut self, heard: &Receiver<News>) -> Result<(), Over> {
        loop {
            while let Ok(news) = heard.try_recv() {
                self.take_note(news)?;
            }
            match self.pipe.wait(LOOK).map_err(|e| Over::Lost(format!("xl's pipe: {e}")))? {
                Waited::Bytes => return Ok(()),
                Waited::Ended => return Err(self.xl_ended(heard)),
                Waited::Nothing => {}
            }
        }
    }

    fn take_note(&mut self, news: News) -> Result<(), Over> {
        match news {
            // xl's interval is xl's.
            News::Urge | News::Seeded(_) => Ok(()),
            News::Landed(landed) => {
                self.primary.committed(&landed, &self.standby);
                Ok(())
            }
            News::LinkLost(reason) => Err(Over::Lost(reason)),
            News::GivenBack(reason) => Err(Over::BackupLost(reason)),
            // A standby that lives after all has to know before the guest goes on without it.
            News::Ordered(Ordered::BackupLost(reason)) => Err(Over::Dismiss(reason)),
            News::Gone(reason) => Err(Over::Gone(reason)),
            News::ShutDown => Err(Over::ShutDown(false)),
            News::Ordered(Ordered::Stop) => Err(Over::Stopped),
        }
    }

    /// The first byte of a checkpoint is in the pipe, and nothing was read: the guest is suspended.
    fn close(&mut self, empty: bool) {
        let (began, capacity) = (Instant::now(), self.pipe.capacity());
        let closed = self.epochs.close(self.primary);
        let took = began.elapsed();
        let epoch = closed.as_ref().map_or(0, |ended| ended.id.epoch);
        self.primary.chronicle.step("close", epoch);
        self.pause = Some(Pause { began, empty, capacity, closed, took, saved: None });
    }

    /// All that the guest waits for was read: it is about to run again.
    fn saved(&mut self, bytes: u64) {
        self.let_run();
        if let Some(pause) = &mut self.pause {
            pause.saved = Some((Instant::now(), bytes));
        }
        self.primary.chronicle.step("saved", self.follower.checkpoints() + 1);
    }

    /// The lanes may read from the guest's port again.
    fn let_run(&self) {
        if self.pause.as_ref().is_some_and(|pause| pause.saved.is_none())
            && let Err(error) = self.primary.plane.resumed()
        {
            log::debug!("resumed: {error}");
        }
    }

    /// A checkpoint has ended: whether it may be started from, and commits its epoch, depends on its pause.
    fn ended(&mut self, number: u64, bytes: u64) -> Result<(), Over> {
        let Some(pause) = self.pause.take() else {
            self.primary.chronicle.tell("copied", json!({ "bytes": bytes }));
            return Ok(());
        };
        let doubt = pause.doubt();
        let (id, commits) = match (&pause.closed, self.last) {
            // What left before protection was sure to have begun is in no checkpoint that came before.
            (_, None) if doubt.is_some() => {
                self.void(number, doubt);
                return Ok(());
            }
            (Ok(closed), _) => (closed.id, !closed.begins && doubt.is_none()),
            // It is newer than the last one and closes nothing.
            (Err(_), Some(last)) => (last, false),
            (Err(reason), None) => return Err(Over::Lost(reason.clone())),
        };
        self.last = Some(id);
        let primary = self.primary;
        let ran = pause.saved.map_or(pause.began, |(at, _)| at);
        primary.flight.depart(id, commits, ran);
        primary.chronicle.step("send", id.epoch);
        let sent = self.link.end(id, number).map_err(|e| Over::Lost(e.to_string()))?;
        primary.flight.sent(Receipt { id, length: sent.length, checksum: sent.checksum, digest: None });
        let paused = ran.duration_since(pause.began);
        let frames = pause.closed.as_ref().map_or(0, |closed| closed.frames);
        primary.chronicle.checkpoint(
            paused,
            bytes,
            json!({
                "number": number, "epoch": id.epoch, "generation": id.generation, "pause_ms": ms(paused),
                "close_ms": ms(pause.took), "bytes": bytes, "held_frames": frames, "commits": commits,
            }),
        );
        if doubt.is_some() {
            self.void(number, doubt);
        }
        Ok(())
    }

    fn void(&self, number: u64, doubt: Option<String>) {
        self.primary.chronicle.tell("merged", json!({ "number": number, "reason": doubt }));
    }

    /// xl is gone. Whether the guest runs, stands still for good or was destroyed, nobody here can tell: once protection
    /// has begun, nothing leaves any more, and the other side may start it.
    fn xl_ended(&mut self, heard: &Receiver<News>) -> Over {
        let guest = self.primary.plane.guest();
        if !self.epochs.begun() {
            return Over::Gone(format!("xl ended before protection began; guest {guest} is as it was"));
        }
        self.writer.ended();
        let deadline = Instant::now() + FENCED_WITHIN;
        while let Ok(news) = heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            match self.take_note(news) {
                Err(over @ (Over::Gone(_) | Over::BackupLost(_))) => return over,
                _ => continue,
            }
        }
        let fenced = self.primary.plane.fence().unwrap_or(false);
        Over::Gone(format!("xl ended; the plane is fenced: {fenced}"))
    }
}
