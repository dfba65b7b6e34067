//! The listening side: a standby, a witness.

use crate::link::LinkError;
use crate::link::bulk::{BulkLimits, BulkReader};
use crate::link::dial::{Receiver, Sender, Wire};
use crate::link::message::{Down, Hello, Newest, Up};
use crate::link::socket::{Patience, Stopper};
use crate::link::tls::Keys;
use std::net::SocketAddr;
use std::sync::mpsc;

/// Who may dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// These nodes.
    Named(Vec<String>),
    /// Every node of the CA, under the name in its certificate.
    OfTheCa,
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where.
    pub address: SocketAddr,
    /// This node's name.
    pub node: String,
    /// Random per process start.
    pub incarnation: u64,
    /// Who may dial.
    pub peers: Peers,
    /// None only on loopback.
    pub keys: Option<Keys>,
    /// What bulk may bring; none: sessions have no bulk (a witness).
    pub bulk: Option<BulkLimits>,
    /// Bounds in time.
    pub patience: Patience,
}

/// What the standby says in its welcome besides its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// See [`crate::link::message::Welcome::newest`].
    pub newest: Option<Newest>,
    /// See [`crate::link::message::Welcome::term_ms`].
    pub term_ms: u64,
    /// See [`crate::link::message::Welcome::not_ready`].
    pub not_ready: Option<String>,
}

/// A complete session, as the listener sees it. An older one of the same guest and node is already stopped.
#[derive(Debug)]
pub struct Accepted {
    /// What the dialer said on `up`.
    pub hello: Hello,
    /// From where.
    pub from: SocketAddr,
    /// From the dialer.
    pub up: Receiver<Up>,
    /// To the dialer.
    pub down: Sender<Down>,
    /// From the dialer; none on a witness.
    pub bulk: Option<BulkReader<Wire>>,
    /// Ends all of them.
    pub stopper: Stopper,
}

/// A listener at work; dropping it ends it, and the sessions go on.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens (the port, when 0 was asked for).
    pub address: SocketAddr,
    /// Complete sessions.
    pub sessions: mpsc::Receiver<Accepted>,
}

impl Listen {
    /// Binds and serves on threads of its own. `state` is asked at each hello on `up`, on one of these threads; its
    /// `Err` refuses the dialer with that reason (another guest, promoted already).
    pub fn start<F>(self, state: F) -> Result<Listener, LinkError>
    where
        F: Fn(&Hello) -> Result<State, String> + Send + Sync + 'static,
    {
        drop(state);
        Err(LinkError::Closed)
    }
}
