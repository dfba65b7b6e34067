//! The listening side: a standby, a witness.
//!
//! Whoever dials is hostile until its hello is accepted: until then it has one thread and one descriptor, of a bounded
//! number, for a bounded time; when there are too many, those that came first from the address with the most go.

use crate::link::LinkError;
use crate::link::bulk::{BulkLimits, BulkReader};
use crate::link::dial::incarnation;
use crate::link::envelope::{FrameReader, FrameWriter};
use crate::link::gathering::{Complete, Gathering, Part};
use crate::link::message::{Direction, Down, Hello, NAME_MAX, Newest, Reply, Up, VERSION, Welcome};
use crate::link::message::{is_name, reason};
use crate::link::socket::{Patience, Socket, Stopper, is_loopback, plain_refused};
use crate::link::tls::{Keys, is_named};
use crate::link::wire::{Receiver, Sender, Wire, receive, send};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the accepting thread sleeps at most: its stop and the end of half sessions wait for it.
const TICK_MS: i64 = 50;

/// Sessions that nobody has taken from [`Listener::sessions`] yet.
const WAITING_MAX: usize = 64;

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

/// What the listener says in its welcome besides its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// See [`Welcome::newest`].
    pub newest: Option<Newest>,
    /// See [`Welcome::term_ms`].
    pub term_ms: u64,
    /// See [`Welcome::not_ready`].
    pub not_ready: Option<String>,
    /// See [`crate::link::message::Welcome::taken_over`].
    pub taken_over: bool,
}

/// A complete session, as the listener sees it. An older one of the same guest (on a witness: and of the same node) is
/// already stopped.
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
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

type AskState = dyn Fn(&Hello) -> Result<State, String> + Send + Sync;

struct Door {
    listen: Listen,
    state: Box<AskState>,
    gathering: Mutex<Gathering>,
    sessions: mpsc::SyncSender<Accepted>,
}

impl Listen {
    /// Binds and serves on threads of its own. `state` is asked at each hello on `up`, on one of these threads; its
    /// `Err` refuses the dialer with that reason (another guest, promoted already).
    pub fn start<F>(self, state: F) -> Result<Listener, LinkError>
    where
        F: Fn(&Hello) -> Result<State, String> + Send + Sync + 'static,
    {
        if self.keys.is_none() && !is_loopback(self.address.ip()) {
            return Err(plain_refused(self.address));
        }
        let busy = |e: std::io::Error| {
            LinkError::Refused(format!(
                "cannot listen on {}: {e}; choose another --listen ADDRESS:PORT",
                self.address
            ))
        };
        let listener = TcpListener::bind(self.address).map_err(busy)?;
        let address = listener.local_addr()?;
        let tick = TimeVal::milliseconds(TICK_MS);
        setsockopt(&listener, sockopt::ReceiveTimeout, &tick).map_err(std::io::Error::from)?;
        let (send, sessions) = mpsc::sync_channel(WAITING_MAX);
        let gathering = Mutex::new(Gathering::new(self.bulk.is_some(), self.patience.handshake));
        let door = Arc::new(Door { listen: self, state: Box::new(state), gathering, sessions: send });
        let stop = Arc::new(AtomicBool::new(false));
        let (inside, stopped) = (door.clone(), stop.clone());
        let accepting = std::thread::Builder::new()
            .name("link-accept".to_owned())
            .spawn(move || accept(&listener, &inside, &stopped))?;
        Ok(Listener { address, sessions, stop, accepting: Some(accepting) })
    }
}

fn accept(listener: &TcpListener, door: &Arc<Door>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let accepted = listener.accept();
        let now = Instant::now();
        door.gathering().expire(now);
        match accepted {
            Ok((stream, from)) => {
                if let Err(error) = door.clone().receive(stream, from, now) {
                    log::debug!("link: {from}: {error}");
                }
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(e) => {
                // No descriptors, no memory: it may pass.
                log::debug!("link: accept: {e}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    door.gathering().stop_all();
}

impl Door {
    fn gathering(&self) -> MutexGuard<'_, Gathering> {
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(self: Arc<Self>, stream: TcpStream, from: SocketAddr, now: Instant) -> Result<(), LinkError> {
        let Some(guest) = self.gathering().arrived(stream.try_clone()?, from.ip()) else {
            return Err(LinkError::Refused("too many at once".to_owned()));
        };
        let door = self.clone();
        let greet = move || {
            let deadline = now + door.listen.patience.handshake;
            if let Err(error) = door.greet(stream, from, deadline) {
                if door.gathering().may_complain(Instant::now()) {
                    log::warn!("link: {from} was not let in: {error}");
                } else {
                    log::debug!("link: {from} was not let in: {error}");
                }
            }
            door.gathering().left(guest);
        };
        if let Err(error) = std::thread::Builder::new().name("link-greet".to_owned()).spawn(greet) {
            self.gathering().left(guest);
            return Err(error.into());
        }
        Ok(())
    }

    fn greet(&self, stream: TcpStream, from: SocketAddr, deadline: Instant) -> Result<(), LinkError> {
        let patience = self.listen.patience;
        let socket = Socket::new(stream, patience, deadline)?;
        let (mut wire, hello, checked) = match &self.listen.keys {
            Some(keys) => {
                let mut stream = keys.accept(socket)?;
                let hello = self.hello(&mut stream)?;
                let named = is_named(&stream, &hello.node);
                let checked = named.map_err(|e| e.to_string()).and_then(|()| self.check(&hello));
                (Wire::accepted(stream), hello, checked)
            }
            None if socket.is_loopback() => {
                let mut socket = socket;
                let hello = self.hello(&mut socket)?;
                let checked = self.check(&hello);
                (Wire::plain(socket), hello, checked)
            }
            None => return Err(plain_refused(from)),
        };
        let checked = checked.and_then(|()| match hello.direction {
            Direction::Up => Ok(()),
            _ => self.gathering().expects(&hello),
        });
        if let Err(why) = checked {
            return self.refuse(&mut FrameWriter::new(&mut wire, patience.stall), why);
        }
        let part = match hello.direction {
            Direction::Up => return self.open(wire, hello, from, deadline),
            Direction::Down => Part::Down(FrameWriter::new(wire, patience.stall)),
            Direction::Bulk => Part::Bulk(after_hello(wire, patience)),
        };
        self.add(&hello, part)
    }

    fn add(&self, hello: &Hello, part: Part) -> Result<(), LinkError> {
        let added = self.gathering().add(hello, part);
        match added.map_err(LinkError::Refused)? {
            Some(complete) => self.complete(*complete),
            None => Ok(()),
        }
    }

    fn hello(&self, from: &mut impl std::io::Read) -> Result<Hello, LinkError> {
        let patience = self.listen.patience;
        let hello = receive(&mut FrameReader::new(from, patience.handshake, patience.handshake));
        hello.map_err(|error| match error {
            LinkError::Quiet => LinkError::Refused("it said nothing".to_owned()),
            error => error,
        })
    }

    fn check(&self, hello: &Hello) -> Result<(), String> {
        if hello.version != VERSION {
            return Err(format!(
                "this is version {VERSION} of the link, you speak {}: install the same tidegate on both",
                hello.version
            ));
        }
        if !is_name(&hello.node) {
            return Err("the node's name is not one".to_owned());
        }
        let guest = &hello.guest;
        if guest.is_empty() || guest.len() > NAME_MAX || guest.chars().any(char::is_control) {
            return Err("the guest's name is not one".to_owned());
        }
        if hello.direction == Direction::Bulk && self.listen.bulk.is_none() {
            return Err("no checkpoints are taken here".to_owned());
        }
        match &self.listen.peers {
            Peers::Named(names) if !names.contains(&hello.node) => {
                Err(format!("node `{}` is not the peer that is configured here", hello.node))
            }
            _ => Ok(()),
        }
    }

    fn refuse(&self, frames: &mut FrameWriter<impl std::io::Write>, why: String) -> Result<(), LinkError> {
        send(frames, &Reply::Unwelcome { reason: reason(&why) })?;
        Err(LinkError::Refused(why))
    }

    fn open(
        &self,
        mut wire: Wire,
        hello: Hello,
        from: SocketAddr,
        deadline: Instant,
    ) -> Result<(), LinkError> {
        let patience = self.listen.patience;
        let mut answer = FrameWriter::new(&mut wire, patience.stall);
        let state = match (self.state)(&hello) {
            Ok(state) => state,
            Err(why) => return self.refuse(&mut answer, why),
        };
        let welcome = Welcome {
            version: VERSION,
            node: self.listen.node.clone(),
            incarnation: self.listen.incarnation,
            session: incarnation()?,
            newest: state.newest,
            term_ms: state.term_ms,
            not_ready: state.not_ready.map(reason),
            taken_over: state.taken_over,
        };
        // Before the answer: the other connections come as soon as it is out.
        self.gathering().begin(welcome.clone(), &hello, from, deadline);
        send(&mut answer, &Reply::Welcome(welcome.clone()))?;
        let hello = Hello { session: welcome.session, ..hello };
        self.add(&hello, Part::Up(after_hello(wire, patience)))
    }

    fn complete(&self, complete: Complete) -> Result<(), LinkError> {
        let Complete { welcome, hello, from, mut up, mut down, mut bulk } = complete;
        let mut sockets = vec![up.get_ref().socket(), down.get_ref().socket()];
        sockets.extend(bulk.as_ref().map(|bulk| bulk.get_ref().socket()));
        let stopper = Stopper::of(&sockets)?;
        self.gathering().replace(&hello, &stopper)?;
        send(&mut down, &Reply::Welcome(welcome))?;
        let patience = self.listen.patience;
        up.get_mut().settle(patience)?;
        down.get_mut().settle(patience)?;
        if let Some(bulk) = &mut bulk {
            bulk.get_mut().settle(patience)?;
        }
        let bulk = bulk.zip(self.listen.bulk).map(|(frames, limits)| BulkReader::on(frames, limits));
        let (up, down) = (Receiver::new(up), Sender::new(down));
        let accepted = Accepted { hello, from, up, down, bulk, stopper };
        self.sessions
            .try_send(accepted)
            .map_err(|_| LinkError::Refused("sessions wait that nobody takes".to_owned()))
    }
}

fn after_hello(wire: Wire, patience: Patience) -> FrameReader<Wire> {
    let mut frames = FrameReader::new(wire, patience.quiet, patience.stall);
    frames.follows(1);
    frames
}
