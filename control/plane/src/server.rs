//! The control socket: sessions, who controls which guest, when to stop.

use crate::plane::Plane;
use crate::session;
use crate::socket::ControlSocket;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tidegate_control::protocol::{ControlStats, Failure, Peer};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;

/// Sessions at most.
pub const SESSIONS: u64 = 32;
/// Connections beside them, which may fence and nothing else: whoever fills the seats does not keep a guest from
/// being fenced.
const FENCERS: u64 = 8;
/// A peer that takes no bytes for so long is gone.
pub const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// What the sessions share. Lives on the control thread only.
pub struct Server {
    /// The plane.
    pub plane: Arc<Plane>,
    allow_uids: Vec<u32>,
    controllers: RefCell<Vec<Option<Peer>>>,
    numbers: Cell<u64>,
    sessions: Cell<u64>,
    sessions_refused: Cell<u64>,
    requests_refused: Cell<u64>,
    stop: watch::Sender<bool>,
}

impl Server {
    /// `allow_uids`: users that may connect beside root and our own.
    pub fn new(plane: Arc<Plane>, allow_uids: Vec<u32>) -> Rc<Self> {
        let guests = plane.guests.len();
        Rc::new(Self {
            plane,
            allow_uids,
            controllers: RefCell::new(vec![None; guests]),
            numbers: Cell::new(0),
            sessions: Cell::new(0),
            sessions_refused: Cell::new(0),
            requests_refused: Cell::new(0),
            stop: watch::channel(false).0,
        })
    }

    /// Ends every session and [`Server::serve`].
    pub fn stop(&self) {
        if !self.stop.send_replace(true) {
            self.plane.hub.publish("shutdown", json!({}));
        }
    }

    /// Returns once [`Server::stop`] was called.
    pub async fn stopped(&self) {
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Takes connections until it is stopped. Runs within a `LocalSet`.
    pub async fn serve(self: Rc<Self>, socket: &ControlSocket) {
        loop {
            let accepted = tokio::select! {
                accepted = socket.listener().accept() => accepted,
                () = self.stopped() => break,
            };
            match accepted {
                Ok((stream, _)) => self.take(stream),
                Err(e) => {
                    // Out of descriptors, say: not worth a busy loop, nor the end of the plane.
                    log::warn!("control socket: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // The sessions see the same word; they tell their subscribers and end.
        for _ in 0..100 {
            if self.sessions.get() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn take(self: &Rc<Self>, stream: UnixStream) {
        self.numbers.set(self.numbers.get() + 1);
        let peer = match stream.peer_cred() {
            Ok(cred) => Peer { session: self.numbers.get(), pid: cred.pid().unwrap_or(0), uid: cred.uid() },
            Err(e) => return log::warn!("control socket: a peer without credentials: {e}"),
        };
        let own = nix::unistd::geteuid().as_raw();
        let full = self.sessions.get() >= SESSIONS;
        let refusal = if ![0, own].contains(&peer.uid) && !self.allow_uids.contains(&peer.uid) {
            let desc = format!("user {} may not connect; add it to control.allow_uids", peer.uid);
            Some(Failure::new("not-allowed", desc))
        } else if self.sessions.get() >= SESSIONS + FENCERS {
            Some(too_many())
        } else {
            None
        };
        if let Some(failure) = refusal {
            log::warn!("control socket: process {} of user {}: {failure}", peer.pid, peer.uid);
            self.sessions_refused.set(self.sessions_refused.get() + 1);
            tokio::task::spawn_local(turn_away(stream, failure));
            return;
        }
        self.sessions.set(self.sessions.get() + 1);
        log::debug!("session {}: process {} of user {}", peer.session, peer.pid, peer.uid);
        let server = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if full {
                session::run_fencer(&server, stream, peer).await;
            } else {
                session::run(&server, stream, peer).await;
            }
            server.ended(peer);
        });
    }

    fn ended(&self, peer: Peer) {
        self.sessions.set(self.sessions.get() - 1);
        let mut controllers = self.controllers.borrow_mut();
        for (guest, controller) in self.plane.guests.iter().zip(controllers.iter_mut()) {
            if controller.is_some_and(|c| c.session == peer.session) {
                *controller = None;
                // Nothing is released (I4): the guest stays as it is until somebody takes it up.
                let data = json!({ "guest": guest.name(), "session": peer.session, "pid": peer.pid });
                self.plane.hub.publish("controller-lost", data);
            }
        }
    }

    // ---- who controls ----

    /// Who controls the guest with this index.
    pub fn controller(&self, guest: usize) -> Option<Peer> {
        self.controllers.borrow()[guest]
    }

    /// The peer controls the guest from now on, unless another session does.
    pub fn claim(&self, guest: usize, peer: Peer) -> Result<(), Failure> {
        let mut controllers = self.controllers.borrow_mut();
        match controllers[guest] {
            Some(other) if other.session != peer.session => Err(Failure::new(
                "not-controller",
                format!(
                    "session {} (process {}) controls guest {}; wait until it ends, or take over",
                    other.session,
                    other.pid,
                    self.plane.guests[guest].name()
                ),
            )),
            _ => {
                controllers[guest] = Some(peer);
                Ok(())
            }
        }
    }

    /// The peer controls the guest from now on, whoever did before.
    pub fn take_over(&self, guest: usize, peer: Peer) -> Option<Peer> {
        let before = self.controllers.borrow_mut()[guest].replace(peer);
        let before = before.filter(|other| other.session != peer.session);
        if let Some(other) = before {
            let name = self.plane.guests[guest].name();
            log::warn!("session {} takes guest {name} over from session {}", peer.session, other.session);
            let data =
                json!({ "guest": name, "session": other.session, "pid": other.pid, "by": peer.session });
            self.plane.hub.publish("controller-lost", data);
        }
        before
    }

    // ---- what is counted ----

    /// A request was refused.
    pub fn count_refused(&self) {
        self.requests_refused.set(self.requests_refused.get() + 1);
    }

    /// The socket's counters.
    pub fn stats(&self) -> ControlStats {
        ControlStats {
            sessions: self.sessions.get(),
            sessions_refused: self.sessions_refused.get(),
            requests_refused: self.requests_refused.get(),
            events_lost: self.plane.hub.lost(),
        }
    }
}

/// Why there is no seat.
pub fn too_many() -> Failure {
    Failure::new(
        "too-many-sessions",
        format!("{SESSIONS} sessions are open; end one first (only fence is served now)"),
    )
}

/// Tells why and hangs up.
async fn turn_away(mut stream: UnixStream, failure: Failure) {
    let mut line = json!({ "error": failure }).to_string();
    line.push('\n');
    let _ = tokio::time::timeout(WRITE_WITHIN, stream.write_all(line.as_bytes())).await;
}
