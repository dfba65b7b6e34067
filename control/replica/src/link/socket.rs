//! One TCP connection of the link: its options, its bounds in time, its end.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// Bounds in time of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// To connect, and for the whole handshake.
    pub handshake: Duration,
    /// Longest wait of one `receive`: it returns [`crate::link::LinkError::Quiet`] then.
    pub quiet: Duration,
    /// Longest time from a frame's first byte to its last, either way, and of unacknowledged data (TCP_USER_TIMEOUT).
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

/// Ends a session from any thread: whoever blocks on one of its connections returns with an error.
#[derive(Clone, Debug, Default)]
pub struct Stopper(Arc<Vec<TcpStream>>);

impl Stopper {
    /// Shuts the connections; again and again does nothing.
    pub fn stop(&self) {
        for stream in self.0.iter() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}
