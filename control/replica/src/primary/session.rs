//! One session with the standby: dialed, run by four threads, over when any of them says so.

use super::cycle::Cycle;
use super::{News, Ordered, Primary, answers, freight, heart};
use crate::link::LinkError;
use crate::link::dial::{Dial, Dialed};
use crate::link::message::{Down, Role, Up, Welcome};
use crate::link::socket::{Patience, Stopper};
use crate::link::tls::{Keys, TlsFiles};
use crate::link::wire::{Receiver, Sender};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tidegate_control::cli::LinkArgs;

/// How long the standby may take to say that it gives up.
pub const DISMISSED_WITHIN: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Debug)]
pub enum Over {
    /// Dial again.
    Again,
    /// The link broke, or the standby said something wrong.
    Lost(String),
    /// There is evidence that no standby can take over.
    BackupLost(String),
    /// A person says so, and the standby, which may be there all the same, has not answered.
    Dismiss(String),
    /// The standby has taken over.
    Superseded(String),
    /// The VM or its plane is gone.
    Gone(String),
    /// Somebody said stop.
    Stopped,
    /// The guest has shut down; true: the standby knows, and will not bring it back.
    ShutDown(bool),
}

/// Why there is none.
#[derive(Debug)]
pub enum NoSession {
    /// It may come.
    Unreachable(String),
    /// The standby has taken over.
    Superseded(String),
}

/// This host's name, unless another was given.
pub fn node(given: Option<&str>) -> Result<String, String> {
    match given {
        Some(name) => Ok(name.to_owned()),
        None => nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .map_err(|e| format!("cannot tell this host's name: {e}; give one with --node")),
    }
}

/// The certificates, where there are any.
pub fn keys(certs: Option<&std::path::Path>, node: &str) -> Result<Option<Keys>, String> {
    certs.map(|dir| Keys::read(&TlsFiles::in_dir(dir, node)).map_err(|e| e.to_string())).transpose()
}

/// Bounds in time that go with a heartbeat.
pub fn patience(link: &LinkArgs) -> Patience {
    Patience { quiet: link.dead_after, ..Patience::default() }
}

/// Dials the standby once.
pub fn open(primary: &Primary) -> Result<Dialed, NoSession> {
    let link = &primary.args.link;
    let unreachable = NoSession::Unreachable;
    let node = node(link.node.as_deref()).map_err(unreachable)?;
    let keys = keys(link.certs.as_deref(), &node).map_err(unreachable)?;
    let dial = Dial {
        address: primary.args.to.to_string(),
        peer: link.peer.clone().unwrap_or_default(),
        node,
        guest: primary.plane.guest().to_owned(),
        role: Role::Primary,
        decide: link.decide,
        disk_hook: primary.args.disk_hook,
        incarnation: primary.incarnation.load(Relaxed),
        keys,
        patience: patience(link),
    };
    let dialed = dial.standby().map_err(|error| NoSession::Unreachable(error.to_string()))?;
    if dialed.welcome.taken_over {
        let Welcome { node, .. } = dialed.welcome;
        return Err(NoSession::Superseded(format!("{node} has taken over guest {}", primary.plane.guest())));
    }
    Ok(dialed)
}

/// Somebody says that no standby can take over, and none has said so itself. One that has taken over, or could, is found by
/// dialing it once more: only one that is not there is believed to be lost.
pub fn dismiss(primary: &Primary, evidence: String) -> Over {
    let mut dialed = match open(primary) {
        Ok(dialed) => dialed,
        Err(NoSession::Superseded(reason)) => return Over::Superseded(reason),
        Err(NoSession::Unreachable(_)) => return Over::BackupLost(evidence),
    };
    let reason = crate::link::message::reason(&evidence);
    let until = Instant::now() + DISMISSED_WITHIN;
    let given = dialed.up.send(&Up::Dismiss { reason }).is_ok()
        && loop {
            match dialed.down.receive() {
                Ok(Down::GivenBack { .. }) => break true,
                Ok(_) | Err(LinkError::Quiet) if Instant::now() < until => {}
                _ => break false,
            }
        };
    dialed.stopper.stop();
    if given {
        return Over::BackupLost(evidence);
    }
    let advice = "the standby is there and does not say that it gives up, so it may take over: end it, then say it again";
    primary.chronicle.tell("not-lost", serde_json::json!({ "evidence": evidence, "reason": advice }));
    Over::Again
}

/// Runs it to its end.
pub fn run(primary: &Primary, heard: &mpsc::Receiver<News>, cycle: &mut Cycle<'_>, dialed: Dialed) -> Over {
    let Dialed { welcome, up, down, bulk, stopper } = dialed;
    let Some(bulk) = bulk else { return Over::Lost("the standby takes no checkpoints".into()) };
    // One loaded and one in the hands of the sender: the rest of what is in flight is on the wire.
    let (loads, waiting) = mpsc::sync_channel(1);
    let over = std::thread::scope(|scope| {
        scope.spawn(move || freight::carry(primary, bulk, &waiting));
        attended(primary, (up, down), &stopper, |stop| cycle.run(&welcome, heard, loads, stop))
    });
    leave(primary, heard);
    cycle.session_over();
    over
}

/// Does `work`, while the heart beats and the standby's answers are heard; then the session is over, whatever happened.
pub fn attended(
    primary: &Primary,
    (up, down): (Sender<Up>, Receiver<Down>),
    stopper: &Stopper,
    work: impl FnOnce(&AtomicBool) -> Over,
) -> Over {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| heart::beat(primary, up, &stop));
        scope.spawn(|| answers::listen(primary, down));
        let over = work(&stop);
        stop.store(true, Relaxed);
        // The heart says its last word, then the connections end under whoever still waits on them.
        std::thread::sleep(primary.args.link.beat * 2);
        stopper.stop();
        over
    })
}

/// Forgets a session, once all its threads have ended.
pub fn leave(primary: &Primary, heard: &mpsc::Receiver<News>) {
    primary.flight.clear();
    primary.name(None);
    // What the ended threads still had to say concerns a session that is over; what a person ordered does not.
    let orders: Vec<News> = heard
        .try_iter()
        .filter(|news| matches!(news, News::Ordered(_) | News::Gone(_) | News::ShutDown))
        .collect();
    orders.into_iter().for_each(|news| primary.tell(news));
}

/// Without a standby: waits for an order, at most this long.
pub fn wait_without(primary: &Primary, heard: &mpsc::Receiver<News>, limit: Duration) -> Over {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match heard.recv_timeout(left) {
            Ok(News::Ordered(Ordered::Stop)) => return Over::Stopped,
            Ok(News::Ordered(Ordered::BackupLost(evidence))) => return Over::Dismiss(evidence),
            Ok(News::Gone(reason)) => return Over::Gone(reason),
            Ok(News::ShutDown) => return Over::ShutDown(false),
            Ok(News::GivenBack(reason)) => return Over::BackupLost(reason),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    match primary.vm.look(limit) {
        _ if primary.vm.has_shut_down() => Over::ShutDown(false),
        Some(Err(error)) if primary.vm.is_gone() => {
            let fenced = primary.plane.fence().unwrap_or(false);
            Over::Gone(format!("{} has ended ({error}); the plane is fenced: {fenced}", primary.vm.who()))
        }
        _ if primary.plane.is_dead() => Over::Gone("the plane has ended".into()),
        _ => Over::Again,
    }
}
