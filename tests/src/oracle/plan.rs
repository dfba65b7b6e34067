//! What a generator is to do, what it tells when it is done, and why it could not do it.

use super::control::Broken;
use super::incident::Incident;
use super::kind::Policy;
use super::lane::LanePorts;
use crate::virtio::RingPath;
use std::fmt;
use std::path::PathBuf;
use tidegate_dataplane::dpdk::PortError;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The guest's name at the control socket.
    pub guest: String,
    /// The control socket.
    pub control: PathBuf,
    /// The guest's lanes.
    pub lanes: Vec<LanePorts>,
    /// What the plane was told to hold.
    pub policy: Policy,
    /// The ring path of the guest's ports.
    pub rings: RingPath,
    /// How many runs.
    pub runs: u32,
    /// Frames a run, in the mean, all lanes together.
    pub frames: u32,
    /// Runs by which a commit follows its close, at most.
    pub lag: u32,
    /// The same seed makes the same frames and the same commits.
    pub seed: u64,
    /// Ask for protection first; else the plane must hold by itself.
    pub protect: bool,
    /// Pause by taking the guest's devices away, so that the plane itself closes the epoch.
    pub in_band: bool,
    /// What is done to the plane.
    pub incidents: Vec<Incident>,
    /// The plane's process, for incidents that end it.
    pub plane: Option<i32>,
}

/// Why generating came to an end before its end.
#[derive(Debug)]
pub enum GenerateError {
    /// A port.
    Port(PortError),
    /// A port's other side is not there.
    Down(u8),
    /// The plane fetches no frames.
    Stuck(u8),
    /// No mbuf is left: a bug here, or a driver that gives none back.
    Pool,
    /// The control socket.
    Control(Broken),
    /// The plane refused something that nothing goes without.
    Refused(&'static str, String),
    /// Log or capture could not be written.
    File(std::io::Error),
    /// An incident needs the plane's process, which was not named or could not be signalled.
    Plane(String),
}

impl fmt::Display for GenerateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GenerateError::Port(error) => write!(f, "{error}"),
            GenerateError::Down(lane) => {
                write!(f, "lane {lane}: its ports do not come up; see that the plane serves both its sockets")
            }
            GenerateError::Stuck(lane) => {
                write!(f, "lane {lane}: the plane takes no frames; see that its lcore runs")
            }
            GenerateError::Pool => write!(f, "no mbuf is left; give fewer lanes or more memory"),
            GenerateError::Control(error) => write!(f, "{error}; see that the plane still runs"),
            GenerateError::Refused(verb, why) => {
                write!(f, "the plane refused `{verb}`: {why}; see its configuration")
            }
            GenerateError::File(error) => write!(f, "cannot write: {error}; name another file or make room"),
            GenerateError::Plane(why) => {
                write!(f, "cannot end the plane: {why}; name its process with --plane")
            }
        }
    }
}

impl std::error::Error for GenerateError {}

impl From<PortError> for GenerateError {
    fn from(error: PortError) -> Self {
        GenerateError::Port(error)
    }
}

impl From<Broken> for GenerateError {
    fn from(error: Broken) -> Self {
        GenerateError::Control(error)
    }
}

impl From<std::io::Error> for GenerateError {
    fn from(error: std::io::Error) -> Self {
        GenerateError::File(error)
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Summary {
    /// Runs.
    pub runs: u32,
    /// The plane was ended by an incident.
    pub plane_gone: bool,
    /// Frames sent.
    pub frames: u64,
    /// Frames that came out of the wire.
    pub captured: u64,
    /// Seconds from the first frame to the last.
    pub seconds: f64,
    /// Frames sent in one of these.
    pub frames_per_second: f64,
    /// Mean time from asking for a close to its answer, microseconds.
    pub close_us: f64,
}
