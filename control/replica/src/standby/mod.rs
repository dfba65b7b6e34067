//! `tidegate standby`: holds the newest complete checkpoint of a VM, grants its primary the lease under which that may
//! speak, and takes over when the primary is dead.
//!
//! One thread waits for sessions; beside it, for each session, one hears the primary (`hear`) and one takes checkpoints
//! (`receive`). One watches this side's QEMU and plane (`watch`), one decides and promotes (`promote`).

mod bursts;
mod claim;
mod decide;
mod hear;
mod promote;
mod qemu;
mod receive;
mod reports;
mod session;
mod watch;
pub mod xen;

use crate::checkpoint::{CheckpointId, Image};
use crate::chronicle::Chronicle;
use crate::lease::{Former, Landlord, Terms};
use crate::link::bulk::{BulkLimits, BulkReader};
use crate::link::dial;
use crate::link::listen::{Listen, Peers};
use crate::link::message::{Down, Newest, Role};
use crate::link::socket::Stopper;
use crate::link::wire::{Sender, Wire};
use crate::orders::Orders;
use crate::plane::{Plane, monotonic_ns};
use crate::primary::{dial_witness, keys, node, patience};
use crate::vm::{Vm, streamed_ram};
use decide::{Order, Rules};
use reports::Reports;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate_control::cli::{Decide, GrantArgs, LinkArgs, StandbyArgs};
use tidegate_control::protocol::Failure;

/// How the process ended.
#[derive(Debug)]
pub enum End {
    /// It was told to; true after a promotion.
    Stopped(bool),
    /// It cannot be a standby any more.
    Failed(String),
}

/// What is ready to be started here.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// From this checkpoint.
    pub id: CheckpointId,
    /// What was still to be written of it took so long.
    pub apply: Duration,
    /// And this the loading.
    pub load: Duration,
}

/// What takes over: it keeps the newest checkpoint and can start the VM from it.
pub trait Backup: Send + Sync {
    /// Something here makes the disks those of a checkpoint before it is started from.
    fn has_disk_hook(&self) -> bool {
        false
    }
    /// The newest complete checkpoint, if there is one to start from.
    fn newest(&self) -> Option<Newest>;
    /// Whether it lives.
    fn look(&self, within: Duration) -> Result<(), String>;
    /// It never will again, and neither will anything that this process could start.
    fn is_gone(&self) -> bool;
    /// Takes what the primary sends, until the session ends.
    fn receive(&self, standby: &Standby, bulk: BulkReader<Wire>);
    /// Makes the newest checkpoint ready; takes none from now on.
    fn load(&self) -> Result<Loaded, String>;
    /// Lets the VM run.
    fn run(&self) -> Result<(), String>;
    /// The VM runs here now.
    fn promoted(&self) {}
    /// Whether the VM that was started here is still there, as far as it can be told.
    fn still_runs(&self) -> bool {
        true
    }
    /// A promotion has failed: what was made ready is not started by accident.
    fn give_up(&self) {}
    /// It will not be started here: nothing that is left behind may start it by accident.
    fn abandon(&self) {}
    /// For the status.
    fn report(&self) -> Value;
}

/// What every standby is told, whatever its VM is.
#[derive(Clone, Debug)]
pub struct StandingArgs {
    /// Where the primary finds it.
    pub listen: std::net::SocketAddr,
    /// The link.
    pub link: LinkArgs,
    /// What it grants.
    pub grants: GrantArgs,
    /// Hold at once after a promotion.
    pub protected: bool,
    /// This process's own socket.
    pub desk: std::path::PathBuf,
}

/// What is known of the primary.
#[derive(Debug, Default)]
struct View {
    /// Counts the sessions.
    session: u64,
    /// Of the process at the other end.
    incarnation: u64,
    beat_ns: Option<u64>,
    link_ended: bool,
    /// This side ended the session.
    refused: bool,
    bound: bool,
    surrender: Option<String>,
    surrendered_ns: Option<u64>,
    order: Option<Order>,
    down: Option<Sender<Down>>,
    stopper: Option<Stopper>,
}

/// See the module's head.
pub struct Standby {
    args: StandingArgs,
    plane: Plane,
    backup: Arc<dyn Backup>,
    chronicle: Chronicle,
    rules: Rules,
    landlord: Mutex<Landlord>,
    claim: claim::Claim,
    reports: Mutex<Reports>,
    /// Of this standby and, where one lends, of the witness.
    longest_term_ms: AtomicU64,
    view: Mutex<View>,
    able: AtomicBool,
    stop: AtomicBool,
    /// It gave back, and has had no checkpoint since.
    stale: AtomicBool,
    /// A promotion is under way.
    promoting: AtomicBool,
    promoted: AtomicBool,
    failed: Mutex<Option<String>>,
}

/// Longest wait for QEMU's monitor at the start.
const MONITOR_WITHIN: Duration = Duration::from_secs(30);
/// How often the main thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(20);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Standby {
    fn landlord(&self) -> MutexGuard<'_, Landlord> {
        locked(&self.landlord)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        locked(&self.view)
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        locked(&self.reports)
    }

    /// Says something to the primary, if there is one.
    fn say(&self, message: &Down) -> bool {
        let mut view = self.view();
        let Some(down) = view.down.as_mut() else { return false };
        if down.send(message).is_ok() {
            return true;
        }
        view.down = None;
        false
    }

    fn holds(&self) -> bool {
        self.backup.newest().is_some() && !self.stale.load(Relaxed)
    }

    /// A checkpoint was refused: the session is over by this side's word, which says nothing of the primary's life.
    fn refuse_session(&self) {
        self.view().refused = true;
        self.end_session();
    }

    /// A session whose checkpoints cannot be used is over: the primary dials again and begins from what is held.
    fn end_session(&self) {
        if let Some(stopper) = self.view().stopper.clone() {
            stopper.stop();
        }
    }

    /// Ends the process with this reason.
    fn fail(&self, reason: String) {
        locked(&self.failed).get_or_insert(reason);
        self.stop.store(true, Relaxed);
    }

    /// This standby cannot take over any more, and says so: the primary may act on it.
    fn give_back(&self, reason: &str) -> bool {
        let given = self.landlord().give_back();
        if given {
            // The guest goes on without a backup: what is held becomes a past that peers have seen more than.
            self.stale.store(true, Relaxed);
            self.view().bound = false;
            self.chronicle.tell("given-back", json!({ "reason": reason }));
            self.say(&Down::GivenBack { reason: reason.to_owned() });
            self.backup.abandon();
        }
        given
    }
}

/// Stands by until told to stop. `Err`: it never began.
pub fn run(args: StandbyArgs, orders: &Orders) -> Result<End, String> {
    let plane = muted(&args.vm.socket, args.vm.guest.as_deref(), args.vm.takeover)?;
    let vm = Vm::connect(&args.vm.qmp, MONITOR_WITHIN).map_err(|e| e.to_string())?;
    let image = {
        let mut driving = vm.drive();
        Image::prepare(&mut driving, args.full).map_err(|e| e.to_string())?
    };
    let streamed = if args.full { streamed_ram(&vm)? } else { 0 };
    let ram_pages = image
        .ram_bytes()
        .map_or(0, |bytes| u32::try_from(bytes / crate::checkpoint::PAGE as u64).unwrap_or(u32::MAX));
    let limits = BulkLimits { device_max: (u64::from(args.device_mib) << 20) + streamed, ram_pages };
    let backup = qemu::Qemu::new(vm, image, args.disk_hook);
    let chronicle = Chronicle::new("standby", args.vm.json);
    let StandbyArgs { listen, link, grants, protected, desk, .. } = args;
    let args = StandingArgs { listen, link, grants, protected, desk };
    stand(args, plane, Arc::new(backup), limits, chronicle, orders)
}

/// The plane of a standby, which must let nothing out.
fn muted(socket: &std::path::Path, guest: Option<&str>, takeover: bool) -> Result<Plane, String> {
    let plane = Plane::connect(socket, guest).map_err(|e| e.to_string())?;
    if takeover {
        plane.take_over().map_err(|e| e.to_string())?;
    }
    let report = plane.report().map_err(|e| e.to_string())?;
    if report["mode"] != "muted" {
        return Err(format!(
            "guest {} is {} here, not muted: a VM may run behind it. Set mode = \"muted\" in a standby's \
             configuration, or order it: tidegate mute",
            plane.guest(),
            report["mode"].as_str().unwrap_or("?")
        ));
    }
    Ok(plane)
}

/// Stands by, whatever the VM is.
fn stand(
    args: StandingArgs,
    plane: Plane,
    backup: Arc<dyn Backup>,
    limits: BulkLimits,
    chronicle: Chronicle,
    orders: &Orders,
) -> Result<End, String> {
    let terms = Terms::of(args.grants.term, args.grants.media_term, args.link.beat);
    let former = Former::Unknown { term_ms: terms.term_ms };
    let node = node(args.link.node.as_deref())?;
    let incarnation = dial::incarnation().map_err(|e| e.to_string())?;
    let witness = match args.link.decide {
        Decide::Witness => dial_witness(&args.link, plane.guest(), Role::Standby, incarnation)?,
        _ => None,
    };
    let listen = Listen {
        address: args.listen,
        node: node.clone(),
        incarnation,
        peers: args.link.peer.clone().map_or(Peers::OfTheCa, |peer| Peers::Named(vec![peer])),
        keys: keys(args.link.certs.as_deref(), &node)?,
        bulk: Some(limits),
        patience: patience(&args.link),
    };
    let standby = Arc::new(Standby {
        chronicle,
        rules: Rules { decide: args.link.decide, dead_after: args.link.dead_after },
        landlord: Mutex::new(Landlord::new(terms, monotonic_ns(), former)),
        view: Mutex::default(),
        claim: claim::Claim::default(),
        reports: Mutex::default(),
        longest_term_ms: AtomicU64::new(terms.term_ms),
        able: AtomicBool::new(true),
        stop: AtomicBool::new(false),
        stale: AtomicBool::new(false),
        promoting: AtomicBool::new(false),
        promoted: AtomicBool::new(false),
        failed: Mutex::new(None),
        plane,
        backup,
        args,
    });
    standby.landlord().set_able(Ok(()));
    let greeter = Arc::clone(&standby);
    let listener = listen.start(move |hello| session::greet(&greeter, hello)).map_err(|e| e.to_string())?;
    let _desk = open_desk(&standby)?;
    orders.on_stop({
        let standby = Arc::clone(&standby);
        move || standby.stop.store(true, Relaxed)
    });
    for (name, job) in [("watch", watch::watch as fn(&Standby)), ("promote", promote::decide)] {
        let standby = Arc::clone(&standby);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || job(&standby));
        thread.map_err(|e| format!("cannot start a thread: {e}"))?;
    }
    if let Some(dial) = witness {
        let attending = Arc::clone(&standby);
        std::thread::Builder::new()
            .name("witness".into())
            .spawn(move || claim::attend(&attending, &dial))
            .map_err(|e| format!("cannot start a thread: {e}"))?;
    }
    standby.chronicle.tell("waiting", json!({ "guest": standby.plane.guest(), "listen": listener.address }));
    while !standby.stop.load(Relaxed) {
        match listener.sessions.recv_timeout(LOOK) {
            Ok(accepted) => session::begin(&standby, accepted),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => standby.fail("the listener has ended".into()),
        }
    }
    let promoted = standby.promoted.load(Relaxed);
    if !promoted {
        standby.give_back("the standby was told to stop");
        standby.backup.abandon();
    }
    if let Some(stopper) = standby.view().stopper.take() {
        stopper.stop();
    }
    match locked(&standby.failed).take() {
        Some(reason) => Ok(End::Failed(reason)),
        None => Ok(End::Stopped(promoted)),
    }
}

fn open_desk(standby: &Arc<Standby>) -> Result<crate::desk::Desk, String> {
    let asked = Arc::clone(standby);
    let clerk = move |verb: &str, given: &Map<String, Value>| match verb {
        "status" => Ok(status(&asked)),
        "failover" => failover(&asked, given.get("primary_is_off") == Some(&json!(true))),
        "shutdown" => {
            asked.stop.store(true, Relaxed);
            Ok(json!({ "guest": asked.plane.guest() }))
        }
        other => Err(crate::desk::unknown(other, &["status", "failover", "shutdown"])),
    };
    crate::desk::Desk::open(&standby.args.desk, Arc::new(clerk))
}

/// A person or a manager orders the takeover; answered when it is done or has failed.
fn failover(standby: &Standby, primary_is_off: bool) -> Result<Value, Failure> {
    let refuse = |reason, what: &str| Err(Failure::new(reason, what));
    if standby.promoted.load(Relaxed) {
        return refuse("promoted", "this standby has taken over already");
    }
    if standby.stale.load(Relaxed) || standby.landlord().has_given_back() {
        return refuse(
            "given-back",
            "this standby was dismissed by its primary, or gave up by itself: what it holds is of then, and the primary \
             may have gone on since. Start the VM itself",
        );
    }
    if !standby.holds() {
        return refuse("no-checkpoint", "no complete checkpoint is here: there is nothing to take over with");
    }
    let bound = {
        let view = standby.view();
        view.bound || view.surrender.is_some()
    };
    if !primary_is_off && !bound {
        return refuse(
            "not-fenced",
            "the primary speaks under no lease, so no wait makes it silent: cut its power first, then say --primary-is-off",
        );
    }
    standby.view().order = Some(Order { primary_is_off });
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while std::time::Instant::now() < deadline {
        if standby.promoted.load(Relaxed) {
            return Ok(status(standby));
        }
        if let Some(reason) = locked(&standby.failed).clone() {
            return Err(Failure::new("failed", reason));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    refuse("timeout", "not promoted within 20 s: look at the standby's own log")
}

fn status(standby: &Standby) -> Value {
    let (beat_ns, bound, session) = {
        let view = standby.view();
        (view.beat_ns, view.bound, view.session)
    };
    let mut status = json!({
        "role": match standby.promoted.load(Relaxed) {
            // A cluster manager has to bring it back.
            true if !standby.able.load(Relaxed) => "ended",
            true => "promoted",
            false => "standby",
        },
        "guest": standby.plane.guest(),
        "decide": standby.rules.decide,
        "sessions": session,
        "silent_ms": beat_ns.map(|at| monotonic_ns().saturating_sub(at) / 1_000_000),
        "primary_leased": bound,
        "able": standby.able.load(Relaxed),
        "checkpoints": standby.chronicle.summary(),
    });
    if let (Some(status), Value::Object(more)) = (status.as_object_mut(), standby.backup.report()) {
        status.extend(more);
    }
    status
}

/// True where this standby grants leases at all.
fn grants(decide: Decide) -> bool {
    decide == Decide::Standby
}
