//! `tidegate witness`: the witness on the link.

use super::{Caller, Witness};
use crate::lease::{Answer, Terms};
use crate::link::LinkError;
use crate::link::dial::incarnation;
use crate::link::listen::{Accepted, Listen, Listener, Peers, State};
use crate::link::message::{Down, Hello, Role, Standing, Up, reason};
use crate::link::socket::Patience;
use crate::link::tls::{Keys, TlsFiles};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidegate_control::cli::WitnessArgs;

/// `tidegate witness`: serves until it is ended.
pub fn run(args: &WitnessArgs) -> ExitCode {
    let started = (|| {
        let files = args.certs.as_ref().map(|dir| TlsFiles::in_dir(dir, &args.node));
        let keys = files.map(|files| Keys::read(&files)).transpose()?;
        let peers = if args.peer.is_empty() { Peers::OfTheCa } else { Peers::Named(args.peer.clone()) };
        let patience = Patience { quiet: Duration::from_millis(20), ..Patience::default() };
        let listen = Listen {
            address: args.listen,
            node: args.node.clone(),
            incarnation: incarnation()?,
            peers,
            keys,
            bulk: None,
            patience,
        };
        let drain = Duration::from_millis(args.drain_ms);
        let terms = Terms { term_ms: args.term_ms, drift_ppm: args.drift_ppm, drain, ..Terms::default() };
        start(listen, terms, args.former_term_ms, Duration::from_millis(args.silent_ms))
    })();
    match started {
        Ok(running) => {
            log::info!("witness: listening on {}", running.address);
            if args.json {
                use std::io::Write;
                let line = serde_json::json!({ "event": "listening", "address": running.address });
                let _ = writeln!(std::io::stdout(), "{line}");
            }
            running.join();
            ExitCode::SUCCESS
        }
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "tidegate: {error}");
            ExitCode::from(1)
        }
    }
}

/// A witness at work; dropping it ends it and its sessions.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Running {
    fn join(mut self) {
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

/// The state and its clock.
struct Shared {
    witness: Mutex<Witness>,
    began: Instant,
    silent_ns: u64,
    stop: Arc<AtomicBool>,
}

impl Shared {
    fn witness(&self) -> MutexGuard<'_, Witness> {
        self.witness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn caller(hello: &Hello) -> Caller {
    Caller { node: hello.node.clone(), incarnation: hello.incarnation }
}

/// Starts a witness. `former_term_ms` is the longest term that one on this host may have lent before.
pub fn start(
    listen: Listen,
    terms: Terms,
    former_term_ms: u64,
    silent: Duration,
) -> Result<Running, LinkError> {
    let stop = Arc::new(AtomicBool::new(false));
    let shared = Arc::new(Shared {
        witness: Mutex::new(Witness::new(terms, 0, former_term_ms)),
        began: Instant::now(),
        silent_ns: u64::try_from(silent.as_nanos()).unwrap_or(u64::MAX),
        stop: stop.clone(),
    });
    let asked = shared.clone();
    let listener = listen.start(move |hello| {
        let now = asked.now_ns();
        let mut witness = asked.witness();
        // One that was promoted makes room for the process that replicates its guest from then on: it would take that
        // one's session from it, and speak for a guest that is no longer its own.
        if hello.role == Role::Standby && witness.is_succeeded(&hello.guest, &caller(hello)) {
            return Err("another process of this node holds the lease".to_owned());
        }
        witness.greet(now, &hello.guest, &caller(hello))?;
        let not_ready = witness.is_unsure(now).then(|| "this witness has just started".to_owned());
        Ok(State { newest: None, term_ms: terms.term_ms, not_ready, taken_over: false })
    })?;
    let address = listener.address;
    let serve = std::thread::Builder::new().name("witness".to_owned());
    let serving = serve.spawn(move || sessions(&listener, &shared))?;
    Ok(Running { address, stop, serving: Some(serving) })
}

fn sessions(listener: &Listener, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.sessions.recv_timeout(Duration::from_millis(50)) {
            Ok(accepted) => {
                let shared = shared.clone();
                let session = std::thread::Builder::new().name("witness-session".to_owned());
                if let Err(e) = session.spawn(move || session_of(accepted, &shared)) {
                    log::warn!("witness: no thread for a session: {e}");
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
}

fn session_of(mut accepted: Accepted, shared: &Shared) {
    let hello = accepted.hello.clone();
    log::info!("witness: guest {}: {} ({:?}) from {}", hello.guest, hello.node, hello.role, accepted.from);
    let mut told = HashMap::new();
    let ended = loop {
        let answer = match accepted.up.receive() {
            Ok(Up::Bye { reason }) => break format!("it ends: {reason}"),
            Ok(up) => answer(shared, &hello, up),
            Err(LinkError::Quiet) if shared.stop.load(Ordering::Relaxed) => {
                break "the witness ends".to_owned();
            }
            Err(LinkError::Quiet) => None,
            Err(error) => break error.to_string(),
        };
        let news = news(shared, &hello, &mut told);
        // Outside the lock: a peer that does not read holds up nobody else.
        if let Some(error) = answer.into_iter().chain(news).find_map(|down| accepted.down.send(&down).err()) {
            break error.to_string();
        }
    };
    log::info!("witness: guest {}: {} is gone: {ended}", hello.guest, hello.node);
}

fn answer(shared: &Shared, hello: &Hello, up: Up) -> Option<Down> {
    let (guest, caller) = (hello.guest.as_str(), caller(hello));
    let mut witness = shared.witness();
    // Behind the lock: time passes while waiting for it.
    let now = shared.now_ns();
    match up {
        // One that has taken over renews, to a witness too that started since and knows of nobody.
        Up::Beat(beat) if hello.role == Role::Standby && !beat.renewal && !witness.holds(guest, &caller) => {
            witness.alive(now, guest, &caller, beat.seq).then_some(Down::Noted { seq: beat.seq })
        }
        Up::Beat(beat) => match witness.beat(now, guest, &caller, &beat) {
            // What bypasses is no matter of the witness's: the standby's guard allows for the whole of its own term.
            Answer::Grant { seq, term_ms } => Some(Down::Grant { seq, term_ms, media_ms: term_ms }),
            Answer::Denied { seq, reason } => Some(Down::Denied { seq, reason }),
            Answer::Ignored => None,
        },
        Up::Claim { seq } => {
            let verdict = witness.claim(now, guest, &caller, seq)?;
            log::warn!("witness: guest {guest}: {} claims the lease: {verdict:?}", caller.node);
            Some(Down::Verdict { seq, verdict })
        }
        Up::Surrender { upto, reason } => {
            let done = witness.surrender(now, guest, &caller, upto);
            log::warn!("witness: guest {guest}: {} gives up its lease ({done}): {reason}", caller.node);
            None
        }
        Up::Withdraw { reason: why } => {
            log::warn!("witness: guest {guest}: {} withdraws: {why}", caller.node);
            witness.withdraw(now, guest, &caller, reason(why));
            None
        }
        Up::Guard(_) | Up::Settled(_) | Up::Dismiss { .. } | Up::Bye { .. } => None,
    }
}

/// What has changed with the other nodes since this one was told.
fn news(shared: &Shared, hello: &Hello, told: &mut HashMap<String, Standing>) -> Vec<Down> {
    let others = shared.witness().others(shared.now_ns(), &hello.guest, &hello.node, shared.silent_ns);
    let same = |a: &Standing, b: &Standing| std::mem::discriminant(a) == std::mem::discriminant(b);
    let mut news = Vec::new();
    for (node, standing) in others {
        if told.get(&node).is_none_or(|before| !same(before, &standing)) {
            told.insert(node.clone(), standing.clone());
            news.push(Down::Peer { node, standing });
        }
    }
    news
}
