//! `tidegate replicate`: the primary. One thread takes checkpoints; beside it, for each session with the standby, one
//! beats (`heart`), one listens (`answers`) and one sends (`freight`).

mod answers;
mod cycle;
mod epochs;
mod flight;
mod freight;
mod heart;
mod lender;
mod session;
pub mod xen;

pub use lender::dial as dial_witness;
pub use session::{keys, node, patience};

use crate::chronicle::Chronicle;
use crate::disks::DiskGuard;
use crate::lease::{Lease, Tenant};
use crate::link::dial;
use crate::link::message::Role;
use crate::pacing::Pacing;
use crate::plane::{Plane, monotonic_ns};
use crate::vm::{SignsOfLife, Vm, streamed_ram};
use flight::{Flight, Landed};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tidegate_control::cli::{Decide, Disks, LinkArgs, ReplicateArgs};
use tidegate_control::protocol::Pulse;

use crate::checkpoint::{RamDigest, TakeOptions, Taker};

/// What the threads tell the one that takes checkpoints.
#[derive(Debug)]
pub enum News {
    /// The hold queue fills, or signalling waits in it.
    Urge,
    /// A checkpoint is held by the standby, and committed.
    Landed(Landed),
    /// The first copy is in place there.
    Seeded(RamDigest),
    /// The session is over.
    LinkLost(String),
    /// The standby cannot take over and says so itself.
    GivenBack(String),
    /// The VM or its plane is gone for certain; the standby was told.
    Gone(String),
    /// The guest has shut down; the standby was told.
    ShutDown,
    /// A person ordered something.
    Ordered(Ordered),
}

/// Orders of a person.
#[derive(Debug)]
pub enum Ordered {
    /// End: the guest goes on without a backup.
    Stop,
    /// No standby can take over, they say, and why.
    BackupLost(String),
}

/// Why the process ends.
#[derive(Debug)]
pub enum End {
    /// It was told to.
    Stopped,
    /// It cannot go on.
    Failed(String),
}

/// What every primary is told, whatever its VM is.
#[derive(Clone, Debug)]
pub struct PrimaryArgs {
    /// The link.
    pub link: LinkArgs,
    /// The standby.
    pub to: std::net::SocketAddr,
    /// This process's own socket.
    pub desk: std::path::PathBuf,
    /// Checkpoints that may be on their way at once.
    pub in_flight: u32,
    /// A hook keeps the disks in step: the standby needs one too.
    pub disk_hook: bool,
}

/// See the module's head: what the threads share.
pub struct Primary {
    args: PrimaryArgs,
    plane: Plane,
    vm: Arc<dyn SignsOfLife>,
    flight: Flight,
    chronicle: Chronicle,
    /// Drawn anew whenever the guest speaks without a lease again: what the standby heard of one is over then.
    incarnation: AtomicU64,
    tenant: Mutex<Tenant>,
    /// The newest grant.
    lease: Mutex<Option<Lease>>,
    /// The guest shall speak under a lease only: from the first checkpoint that the standby has.
    leased: AtomicBool,
    /// The plane was given one, in this generation.
    bound: AtomicBool,
    /// Held by whoever gives the plane a lease, or takes it from it.
    binding: Mutex<()>,
    /// It was told that a standby can take over.
    protected: AtomicBool,
    /// Somebody said stop.
    stopping: AtomicBool,
    generation: AtomicU64,
    /// No epoch is numbered lower than this.
    first_epoch: AtomicU64,
    held_frames: AtomicU64,
    /// RTP that bypassed, as the plane counts it.
    media_frames: AtomicU64,
    /// Frames of signalling that had to wait, as it counts them.
    signalling: AtomicU64,
    /// The interval of the checkpoints and what decided about it, for who asks.
    pace: Mutex<serde_json::Value>,
    /// The standby that has every committed checkpoint, for the witness.
    standby: Mutex<Option<String>>,
    /// The first request to the witness that named none, since there was one.
    unnamed_from: AtomicU64,
    /// The witness's evidence that nobody can take over was acted on.
    alone: AtomicBool,
    news: mpsc::Sender<News>,
}

impl Primary {
    fn tenant(&self) -> MutexGuard<'_, Tenant> {
        self.tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn binding(&self) -> MutexGuard<'_, ()> {
        self.binding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> Option<Lease> {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which standby could take over.
    fn named(&self) -> Option<String> {
        self.standby.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This standby has every committed checkpoint, or (none) no standby is sure to.
    fn name(&self, standby: Option<&str>) {
        let mut named = self.standby.lock().unwrap_or_else(PoisonError::into_inner);
        if named.as_deref() != standby {
            *named = standby.map(str::to_owned);
            self.unnamed_from.store(u64::MAX, Relaxed);
            self.alone.store(false, Relaxed);
        }
    }

    /// The plane keeps a lease that has not run out.
    fn speaks_under_a_lease(&self, pulse: &Pulse) -> bool {
        let valid = self.lease().is_some_and(|lease| lease.end_ns() > monotonic_ns());
        self.bound.load(Relaxed) && !pulse.fenced && valid
    }

    fn tell(&self, news: News) {
        // Without a receiver the process is ending.
        let _ = self.news.send(news);
    }

    /// The standby holds this checkpoint.
    fn committed(&self, landed: &Landed, standby: &str) {
        self.name(Some(standby));
        self.chronicle.committed(landed.after);
        self.chronicle.step("commit", landed.id.epoch);
        // From here on the standby can take over: this side speaks under a lease only.
        self.leased.fetch_or(self.wants_lease(), Relaxed);
        let speaks_safely = !self.wants_lease() || self.bound.load(Relaxed);
        if speaks_safely && !self.protected.swap(true, Relaxed) {
            let id = landed.id;
            self.chronicle.tell("protected", json!({ "generation": id.generation, "epoch": id.epoch }));
        }
    }

    /// Checkpoints come at this pace from now on.
    fn paces(&self, report: serde_json::Value) {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// Whoever holds this epoch takes a later one only.
    fn counts_on(&self, held: u64) {
        self.first_epoch.fetch_max(held.saturating_add(1), Relaxed);
    }

    /// True where a lease says who may speak. A manager cuts the power instead.
    fn wants_lease(&self) -> bool {
        self.args.link.decide != Decide::Manager
    }
}

/// Longest wait for QEMU's monitor at the start.
const MONITOR_WITHIN: Duration = Duration::from_secs(10);

/// The largest state of devices.
const DEVICE_MAX: usize = 64 << 20;
/// How long QEMU may take to give that; and with all of RAM in it.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);
const WHOLE_WITHIN: Duration = Duration::from_secs(30);

/// Replicates until told to stop. `Err`: it never began.
pub fn run(args: ReplicateArgs, orders: &crate::orders::Orders) -> Result<End, String> {
    let pacing = Pacing::new(args.interval, args.floor, args.ceiling)?;
    let plane = Plane::connect(&args.vm.socket, args.vm.guest.as_deref()).map_err(|e| e.to_string())?;
    if args.vm.takeover {
        plane.take_over().map_err(|e| e.to_string())?;
    }
    is_no_standby(&plane)?;
    let vm = Arc::new(Vm::connect(&args.vm.qmp, MONITOR_WITHIN).map_err(|e| e.to_string())?);
    let streamed = if args.full { streamed_ram(&vm)? } else { 0 };
    let options = TakeOptions {
        full: args.full,
        threads: args.compare_threads.map_or(0, |n| n as usize),
        soft_dirty: !args.compare_all && !args.full,
        device_limit: DEVICE_MAX.saturating_add(usize::try_from(streamed).unwrap_or(usize::MAX)),
        within: if args.full { WHOLE_WITHIN } else { TAKEN_WITHIN },
    };
    let (disks, taker) = {
        let mut driving = vm.drive();
        let disks = DiskGuard::new(&mut driving, args.disks, args.disk_hook.as_deref())?;
        let mut taker = Taker::prepare(&mut driving, options).map_err(|e| e.to_string())?;
        taker.set_writers(&[i32::try_from(plane.pid()).unwrap_or(0)]);
        driving.answered();
        (disks, taker)
    };
    let chronicle = Chronicle::new("replicate", args.vm.json);
    let tied = PrimaryArgs {
        link: args.link,
        to: args.to,
        desk: args.desk,
        in_flight: args.in_flight,
        disk_hook: args.disks == Disks::External,
    };
    let (primary, heard) = Primary::new(tied, plane, Arc::clone(&vm) as Arc<dyn SignsOfLife>, chronicle)?;
    let _desk = open_desk(&primary)?;
    primary.begin(orders)?;
    let end = replicate(&primary, &heard, cycle::Cycle::new(&primary, &vm, pacing, taker, disks));
    vm.give_back();
    Ok(end)
}

impl Primary {
    /// Nothing has begun. What the threads tell comes out of the receiver.
    pub fn new(
        args: PrimaryArgs,
        plane: Plane,
        vm: Arc<dyn SignsOfLife>,
        chronicle: Chronicle,
    ) -> Result<(Arc<Primary>, mpsc::Receiver<News>), String> {
        let report = plane.report().map_err(|e| e.to_string())?;
        let (news, heard) = mpsc::channel();
        let primary = Primary {
            plane,
            vm,
            chronicle,
            flight: Flight::default(),
            incarnation: AtomicU64::new(dial::incarnation().map_err(|e| e.to_string())?),
            tenant: Mutex::new(Tenant::new()),
            lease: Mutex::new(None),
            leased: AtomicBool::new(report["leased"] == true),
            bound: AtomicBool::new(false),
            binding: Mutex::new(()),
            protected: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            generation: AtomicU64::new(report["generation"].as_u64().unwrap_or(0)),
            first_epoch: AtomicU64::new(0),
            held_frames: AtomicU64::new(0),
            media_frames: AtomicU64::new(0),
            signalling: AtomicU64::new(0),
            pace: Mutex::default(),
            standby: Mutex::new(None),
            unnamed_from: AtomicU64::new(u64::MAX),
            alone: AtomicBool::new(false),
            news,
            args,
        };
        Ok((Arc::new(primary), heard))
    }

    /// Starts what runs beside the sessions: who hears a stop, the witness and the plane.
    fn begin(self: &Arc<Self>, orders: &crate::orders::Orders) -> Result<(), String> {
        orders.on_stop({
            let news = self.news.clone();
            move || {
                let _ = news.send(News::Ordered(Ordered::Stop));
            }
        });
        if self.args.link.decide == Decide::Witness
            && let Some(dial) = lender::dial(
                &self.args.link,
                self.plane.guest(),
                Role::Primary,
                self.incarnation.load(Relaxed),
            )?
        {
            let asking = Arc::clone(self);
            std::thread::Builder::new()
                .name("witness".into())
                .spawn(move || lender::ask(&asking, &dial))
                .map_err(|e| format!("cannot start a thread: {e}"))?;
        }
        let listening = Arc::clone(self);
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || urges(&listening))
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(())
    }
}

fn is_no_standby(plane: &Plane) -> Result<(), String> {
    let report = plane.report().map_err(|e| e.to_string())?;
    if report["mode"] != "muted" {
        return Ok(());
    }
    Err(format!(
        "guest {} is muted here: this is a standby's plane. Set mode = \"open\" where the VM runs",
        plane.guest()
    ))
}

/// One session with the standby after the other.
fn replicate(primary: &Primary, heard: &mpsc::Receiver<News>, mut cycle: cycle::Cycle<'_>) -> End {
    let mut told = String::new();
    loop {
        let over = match session::open(primary) {
            Ok(dialed) => {
                told.clear();
                session::run(primary, heard, &mut cycle, dialed)
            }
            Err(session::NoSession::Superseded(reason)) => session::Over::Superseded(reason),
            Err(session::NoSession::Unreachable(reason)) => {
                if told != reason {
                    primary
                        .chronicle
                        .tell("unreachable", json!({ "standby": primary.args.to, "reason": reason }));
                    told = reason;
                }
                session::wait_without(primary, heard, Duration::from_millis(200))
            }
        };
        let over = match over {
            session::Over::Dismiss(evidence) => session::dismiss(primary, evidence),
            over => over,
        };
        match over {
            session::Over::Again => {}
            session::Over::Lost(reason) => {
                primary.chronicle.tell("link-lost", json!({ "reason": reason }));
            }
            session::Over::BackupLost(evidence) => backup_lost(primary, &evidence),
            session::Over::Dismiss(_) => {}
            session::Over::Superseded(reason) => {
                // Its frames must not leave any more, whatever the lease says and whoever lifts the fence: they are of a
                // history that has not happened.
                let fenced = primary.plane.fence().unwrap_or(false);
                if let Err(error) = primary.plane.mute() {
                    log::warn!("what is held was not discarded: {error}");
                }
                primary.chronicle.tell("superseded", json!({ "reason": reason, "fenced": fenced }));
                return End::Failed(format!(
                    "{reason}; this VM is fenced and must not go on: end its QEMU, then take it in as a standby"
                ));
            }
            session::Over::Gone(reason) => return End::Failed(reason),
            session::Over::Stopped => return stop(primary),
            session::Over::ShutDown(dismissed) => {
                let data = json!({ "guest": primary.plane.guest(), "standby_dismissed": dismissed });
                primary.chronicle.tell("guest-shutdown", data);
                return match dismissed {
                    true => End::Stopped,
                    false => End::Failed(format!(
                        "guest {} has shut down, and its standby could not be told: it may bring it back; end it there",
                        primary.plane.guest()
                    )),
                };
            }
        }
    }
}

/// Evidence says that no standby can take over: what the operator chose for this.
fn backup_lost(primary: &Primary, evidence: &str) {
    // A lease that comes now must find the guest as it is afterwards: it would fence one that has no standby.
    let _binding = primary.binding();
    let became = primary.plane.backup_lost(evidence);
    let data = match &became {
        Ok(standing) => json!({ "evidence": evidence, "mode": standing["mode"] }),
        Err(error) => json!({ "evidence": evidence, "error": error.to_string() }),
    };
    primary.chronicle.tell("backup-lost", data);
    if became.is_err() {
        return;
    }
    // It speaks without a lease from here on, until a standby is there again.
    primary.protected.store(false, Relaxed);
    primary.leased.store(false, Relaxed);
    primary.bound.store(false, Relaxed);
    match dial::incarnation() {
        Ok(incarnation) => primary.incarnation.store(incarnation, Relaxed),
        Err(error) => log::warn!("no new incarnation: {error}"),
    }
}

fn stop(primary: &Primary) -> End {
    primary.chronicle.tell("stopped", json!({ "guest": primary.plane.guest() }));
    End::Stopped
}

/// Hears what the plane tells by itself.
fn urges(primary: &Primary) {
    let mut last = None;
    while let Ok(mut events) = primary.plane.subscribe(&["pressure", "signalling", "fenced"]) {
        while let Ok(event) = events.event() {
            if event["data"]["guest"] != primary.plane.guest() {
                continue;
            }
            if event["event"] == "fenced" {
                primary.chronicle.tell("fenced", event["data"].clone());
            } else {
                primary.tell(News::Urge);
            }
        }
        // A plane that is gone for good ends everything by the heart; this thread only must not spin.
        if last.replace(Instant::now()).is_some_and(|last: Instant| last.elapsed() < Duration::from_secs(1)) {
            return;
        }
    }
}

fn open_desk(primary: &std::sync::Arc<Primary>) -> Result<crate::desk::Desk, String> {
    let clerk = {
        let primary = std::sync::Arc::clone(primary);
        move |verb: &str, given: &serde_json::Map<String, serde_json::Value>| match verb {
            "status" => Ok(status(&primary)),
            "backup-lost" => {
                let evidence = given.get("evidence").and_then(|text| text.as_str()).unwrap_or_default();
                if evidence.trim().is_empty() {
                    return Err(tidegate_control::protocol::Failure::new(
                        "bad-arguments",
                        "backup-lost acts on evidence that the standby cannot take over: say what it is",
                    ));
                }
                primary.tell(News::Ordered(Ordered::BackupLost(evidence.to_owned())));
                Ok(json!({ "guest": primary.plane.guest() }))
            }
            "shutdown" => {
                primary.tell(News::Ordered(Ordered::Stop));
                Ok(json!({ "guest": primary.plane.guest() }))
            }
            other => Err(crate::desk::unknown(other, &["status", "backup-lost", "shutdown"])),
        }
    };
    crate::desk::Desk::open(&primary.args.desk, std::sync::Arc::new(clerk))
}

fn status(primary: &Primary) -> serde_json::Value {
    let pulse = primary.plane.pulse().ok();
    json!({
        "role": "primary",
        "guest": primary.plane.guest(),
        "standby": primary.args.to,
        "decide": primary.args.link.decide,
        "leased": primary.leased.load(Relaxed),
        "lease_left_ms": primary.lease().map(|lease| {
            lease.end_ns().saturating_sub(monotonic_ns()) / 1_000_000
        }),
        "in_flight": primary.flight.len(),
        "pace": *primary.pace.lock().unwrap_or_else(PoisonError::into_inner),
        "plane": pulse.map(|pulse| json!({
            "mode": pulse.mode, "fenced": pulse.fenced, "generation": pulse.generation, "epoch": pulse.epoch,
            "committed": pulse.committed, "held_frames": pulse.held_frames, "held_bytes": pulse.held_bytes,
        })),
        "checkpoints": primary.chronicle.summary(),
    })
}
