//! The frame of everything on the link: a fixed header, then a payload of bounded length.

use std::io;

/// Why the link failed. All but [`LinkError::Quiet`] end the connection: what follows is never read.
#[derive(Debug)]
pub enum LinkError {
    /// Nothing came within the time; the connection is as it was, and may be read again.
    Quiet,
    /// The peer closed the connection between two frames.
    Closed,
    /// It ended or stalled inside a frame, or the system refused.
    Io(io::Error),
    /// The bytes are not what the protocol allows: corrupt, repeated, reordered, too long.
    Protocol(String),
    /// The peer is not who it must be, or the keys are unusable; says what to do.
    Refused(String),
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LinkError::Quiet => f.write_str("nothing was heard in time"),
            LinkError::Closed => f.write_str("the peer closed the connection"),
            LinkError::Io(error) => write!(f, "the connection broke: {error}"),
            LinkError::Protocol(what) => write!(f, "the peer broke the protocol: {what}"),
            LinkError::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for LinkError {}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        LinkError::Io(error)
    }
}
