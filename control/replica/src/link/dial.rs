//! The dialing side: primary to standby, both to a witness.

use crate::link::LinkError;
use crate::link::bulk::BulkWriter;
use crate::link::message::{Down, Role, Up, Welcome};
use crate::link::socket::{Patience, Stopper};
use crate::link::tls::Keys;

/// A connection of the link, plain or TLS: what bulk reads from and writes to.
#[derive(Debug)]
pub struct Wire {}

impl std::io::Read for Wire {
    fn read(&mut self, _to: &mut [u8]) -> std::io::Result<usize> {
        Ok(0)
    }
}

impl std::io::Write for Wire {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        Ok(from.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sends messages of one kind.
#[derive(Debug)]
pub struct Sender<M> {
    wire: Wire,
    kind: std::marker::PhantomData<M>,
}

impl<M: serde::Serialize> Sender<M> {
    /// Blocks at most [`Patience::stall`]; after an error the connection is over.
    pub fn send(&mut self, message: &M) -> Result<(), LinkError> {
        let _ = (&mut self.wire, message);
        Err(LinkError::Closed)
    }
}

/// Receives messages of one kind.
#[derive(Debug)]
pub struct Receiver<M> {
    wire: Wire,
    kind: std::marker::PhantomData<M>,
}

impl<M: serde::de::DeserializeOwned> Receiver<M> {
    /// The next message, or [`LinkError::Quiet`] after [`Patience::quiet`].
    pub fn receive(&mut self) -> Result<M, LinkError> {
        let _ = &mut self.wire;
        Err(LinkError::Closed)
    }
}

/// Whom to dial, and as whom.
#[derive(Clone, Debug)]
pub struct Dial {
    /// `HOST:PORT` of the listener.
    pub address: String,
    /// The listener's node name: its certificate must carry it.
    pub peer: String,
    /// This node's name.
    pub node: String,
    /// Which VM.
    pub guest: String,
    /// What this node is to it.
    pub role: Role,
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
        Err(LinkError::Closed)
    }

    /// A session with a witness: no bulk.
    pub fn witness(&self) -> Result<Dialed, LinkError> {
        Err(LinkError::Closed)
    }
}

/// A random number that names this start of the process; never 0.
pub fn incarnation() -> Result<u64, LinkError> {
    let random = getrandom::u64().map_err(|e| LinkError::Io(std::io::Error::other(e.to_string())))?;
    Ok(random.max(1))
}
