//! The dialing side: primary to standby, both to a witness.

use crate::link::LinkError;
use crate::link::bulk::BulkWriter;
use crate::link::envelope::{FrameReader, FrameWriter};
use crate::link::message::{Direction, Down, Hello, Reply, Role, Up, VERSION, Welcome};
use crate::link::socket::{Patience, Socket, Stopper, is_loopback, plain_refused};
use crate::link::tls::Keys;
use crate::link::wire::{Receiver, Sender, Wire, receive, send};
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Instant;
use tidegate_control::cli::Decide;

/// Whom to dial, and as whom.
#[derive(Clone, Debug)]
pub struct Dial {
    /// `HOST:PORT` of the listener. Looking a name up takes as long as the resolver does; an address takes no time.
    pub address: String,
    /// The listener's node name: its certificate must carry it. Empty on loopback: any.
    pub peer: String,
    /// This node's name.
    pub node: String,
    /// Which VM.
    pub guest: String,
    /// What this node is to it.
    pub role: Role,
    /// See [`Hello::decide`].
    pub decide: Decide,
    /// See [`Hello::disk_hook`].
    pub disk_hook: bool,
    /// Random per process start: [`incarnation`].
    pub incarnation: u64,
    /// None only between loopback addresses.
    pub keys: Option<Keys>,
    /// Bounds in time.
    pub patience: Patience,
}

/// A session, as the dialer sees it. Its parts go to the threads that use them.
#[derive(Debug)]
pub struct Dialed {
    /// What the listener said.
    pub welcome: Welcome,
    /// To the listener.
    pub up: Sender<Up>,
    /// From the listener.
    pub down: Receiver<Down>,
    /// To the standby; none to a witness.
    pub bulk: Option<BulkWriter<Wire>>,
    /// Ends all of them.
    pub stopper: Stopper,
}

impl Dial {
    /// A session with a standby: three connections.
    pub fn standby(&self) -> Result<Dialed, LinkError> {
        self.session(true)
    }

    /// A session with a witness: no bulk.
    pub fn witness(&self) -> Result<Dialed, LinkError> {
        self.session(false)
    }

    fn session(&self, with_bulk: bool) -> Result<Dialed, LinkError> {
        let deadline = Instant::now() + self.patience.handshake;
        let mut up = FrameWriter::new(self.wire(deadline)?, self.patience.stall);
        self.greet(&mut up, Direction::Up, 0)?;
        let welcome = self.welcomed(&mut FrameReader::new(
            up.get_mut(),
            self.patience.handshake,
            self.patience.handshake,
        ))?;
        let bulk = if with_bulk {
            let mut bulk = FrameWriter::new(self.wire(deadline)?, self.patience.stall);
            self.greet(&mut bulk, Direction::Bulk, welcome.session)?;
            Some(bulk)
        } else {
            None
        };
        let mut wire = self.wire(deadline)?;
        self.greet(&mut FrameWriter::new(&mut wire, self.patience.stall), Direction::Down, welcome.session)?;
        let mut down = FrameReader::new(wire, self.patience.handshake, self.patience.stall);
        // The second welcome: the listener has all connections.
        let complete = self.welcomed(&mut down)?;
        if complete.session != welcome.session {
            return Err(LinkError::Protocol("the listener changed the session's number".to_owned()));
        }
        let mut sockets = vec![up.get_ref().socket(), down.get_ref().socket()];
        sockets.extend(bulk.as_ref().map(|bulk| bulk.get_ref().socket()));
        let stopper = Stopper::of(&sockets)?;
        up.get_mut().settle(self.patience)?;
        down.get_mut().settle(self.patience)?;
        down.set_quiet(self.patience.quiet);
        let bulk = bulk.map(|mut bulk| bulk.get_mut().settle(self.patience).map(|()| bulk)).transpose()?;
        Ok(Dialed {
            welcome,
            up: Sender::new(up),
            down: Receiver::new(down),
            bulk: bulk.map(BulkWriter::on),
            stopper,
        })
    }

    fn greet(
        &self,
        frames: &mut FrameWriter<impl Write>,
        direction: Direction,
        session: u64,
    ) -> Result<(), LinkError> {
        let hello = Hello {
            version: VERSION,
            direction,
            role: self.role,
            decide: self.decide,
            disk_hook: self.disk_hook,
            guest: self.guest.clone(),
            node: self.node.clone(),
            incarnation: self.incarnation,
            session,
        };
        send(frames, &hello)
    }

    fn welcomed(&self, frames: &mut FrameReader<impl Read>) -> Result<Welcome, LinkError> {
        let reply = receive(frames).map_err(|error| match error {
            LinkError::Quiet => {
                LinkError::Refused(format!("{} took the connection but does not answer", self.address))
            }
            LinkError::Closed => LinkError::Refused(format!(
                "{} closed the connection without an answer: does it want certificates, or is it busy?",
                self.address
            )),
            error => error,
        })?;
        match reply {
            Reply::Welcome(welcome) if welcome.version != VERSION => Err(LinkError::Refused(format!(
                "{} speaks version {} of the link, this is {VERSION}: install the same tidegate on both",
                self.address, welcome.version
            ))),
            Reply::Welcome(welcome) if !self.peer.is_empty() && welcome.node != self.peer => {
                Err(LinkError::Refused(format!(
                    "{} is node `{}`, not `{}`",
                    self.address, welcome.node, self.peer
                )))
            }
            Reply::Welcome(welcome) => Ok(welcome),
            Reply::Unwelcome { reason } => Err(LinkError::Refused(format!("{}: {reason}", self.address))),
        }
    }

    fn wire(&self, deadline: Instant) -> Result<Wire, LinkError> {
        let socket = Socket::new(self.connect(deadline)?, self.patience, deadline)?;
        match &self.keys {
            Some(keys) => Ok(Wire::dialed(keys.dial(socket, &self.peer)?)),
            None if socket.is_loopback() => Ok(Wire::plain(socket)),
            None => Err(LinkError::Refused(format!(
                "{}: the way there leaves loopback; configure certificates (--certs DIR)",
                self.address
            ))),
        }
    }

    fn connect(&self, deadline: Instant) -> Result<TcpStream, LinkError> {
        let unknown = |e| {
            LinkError::Refused(format!(
                "`{}` is no address to dial: {e}; write HOST:PORT or [IPV6]:PORT",
                self.address
            ))
        };
        let mut last = LinkError::Refused(format!("`{}` has no address", self.address));
        for address in self.address.to_socket_addrs().map_err(unknown)? {
            if self.keys.is_none() && !is_loopback(address.ip()) {
                last = plain_refused(address);
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => return Ok(stream),
                Err(e) => last = LinkError::Io(std::io::Error::new(e.kind(), format!("{address}: {e}"))),
            }
        }
        Err(last)
    }
}

/// A random number that names this start of the process, or a session; never 0.
pub fn incarnation() -> Result<u64, LinkError> {
    let random = getrandom::u64().map_err(|e| LinkError::Io(std::io::Error::other(e.to_string())))?;
    Ok(random.max(1))
}
