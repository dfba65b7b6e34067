//! One TCP connection of the link: its options, its bounds in time, its end.

use crate::link::LinkError;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Bounds in time of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// To connect, and for the whole handshake of a session.
    pub handshake: Duration,
    /// Longest wait of one `receive`: it returns [`LinkError::Quiet`] then.
    pub quiet: Duration,
    /// Longest wait for the rest of a frame that has begun, either way, and for the acknowledgement of what was sent
    /// (TCP_USER_TIMEOUT).
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            handshake: Duration::from_secs(2),
            quiet: Duration::from_millis(100),
            stall: Duration::from_secs(5),
        }
    }
}

/// A TCP connection that ends when it is dropped, whoever else holds a handle of it.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    deadline: Option<Instant>,
}

impl Socket {
    /// Sets the options; until [`Socket::settle`] everything must be done by `deadline`.
    pub(crate) fn new(stream: TcpStream, patience: Patience, deadline: Instant) -> io::Result<Socket> {
        stream.set_nodelay(true)?;
        let unacknowledged = u32::try_from(patience.stall.as_millis()).unwrap_or(u32::MAX).max(1);
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpKeepIdle, &1)?;
        setsockopt(&stream, sockopt::TcpKeepInterval, &1)?;
        setsockopt(&stream, sockopt::TcpUserTimeout, &unacknowledged)?;
        Ok(Socket { stream, deadline: Some(deadline) })
    }

    /// The handshake is over: from now on each read and write has its own bound.
    pub(crate) fn settle(&mut self, patience: Patience) -> io::Result<()> {
        self.deadline = None;
        self.stream.set_read_timeout(Some(patience.quiet.max(Duration::from_millis(1))))?;
        self.stream.set_write_timeout(Some(patience.stall.max(Duration::from_millis(1))))
    }

    pub(crate) fn handle(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Both ends are on this host's loopback: nobody else can listen in.
    pub(crate) fn is_loopback(&self) -> bool {
        let (here, there) = (self.stream.local_addr(), self.stream.peer_addr());
        here.is_ok_and(|a| is_loopback(a.ip())) && there.is_ok_and(|a| is_loopback(a.ip()))
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"));
        }
        // Zero would mean for ever.
        Ok(Some(left.max(Duration::from_millis(1))))
    }
}

impl Read for Socket {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if let Some(left) = self.left()? {
            self.stream.set_read_timeout(Some(left))?;
        }
        self.stream.read(to)
    }
}

impl Write for Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        if let Some(left) = self.left()? {
            self.stream.set_write_timeout(Some(left))?;
        }
        self.stream.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Ends a session from any thread: whoever blocks on one of its connections returns with an error.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Vec<TcpStream>>);

impl Stopper {
    pub(crate) fn of(sockets: &[&Socket]) -> io::Result<Stopper> {
        Ok(Stopper(Arc::new(sockets.iter().map(|socket| socket.handle()).collect::<io::Result<_>>()?)))
    }

    /// Shuts the connections; again and again does nothing.
    pub fn stop(&self) {
        for stream in self.0.iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn weak(&self) -> WeakStopper {
        WeakStopper(Arc::downgrade(&self.0))
    }
}

/// A [`Stopper`] that does not keep the connections' descriptors.
#[derive(Debug)]
pub(crate) struct WeakStopper(Weak<Vec<TcpStream>>);

impl WeakStopper {
    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    pub(crate) fn stop(&self) {
        if let Some(streams) = self.0.upgrade() {
            Stopper(streams).stop();
        }
    }
}

/// Whether an address never leaves this host.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Without keys only loopback will do.
pub(crate) fn plain_refused(address: SocketAddr) -> LinkError {
    LinkError::Refused(format!(
        "{address} is not on loopback, and no certificates are configured; make them with `tidegate certs DIR NODE...` \
         and name them with --certs DIR"
    ))
}
