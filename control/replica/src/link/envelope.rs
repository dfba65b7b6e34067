//! The frame of everything on the link: a fixed header, then a payload of bounded length.
//!
//! ```text
//! 0       2      4        8          12         16
//! | magic | kind | length | sequence | checksum | payload ...      big endian
//! ```
//!
//! The sequence counts the frames of one connection and one way, from 0, so that a repeated, reordered or missing
//! frame is refused. The checksum (of header and payload) is against accidents; against people there is TLS.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};
use twox_hash::XxHash3_128;

/// Bytes of a header.
pub const HEADER: usize = 16;

const MAGIC: [u8; 2] = *b"TG";

/// Most payload of a frame of seed or checkpoint.
pub const CHUNK: usize = 1 << 20;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// [`crate::link::message::Hello`]
    Hello = 1,
    /// [`crate::link::message::Reply`]
    Reply = 2,
    /// [`crate::link::message::Up`]
    Up = 3,
    /// [`crate::link::message::Down`]
    Down = 4,
    /// Head of a checkpoint.
    Begin = 16,
    /// A piece of its device stream.
    Device = 17,
    /// Some of its pages.
    Pages = 18,
    /// Its length and checksum.
    End = 19,
    /// Pages of the first live copy.
    Seed = 20,
    /// Digest of RAM after it.
    SeedEnd = 21,
    /// Bytes of a Xen migration stream.
    Stream = 22,
    /// Name, length and checksum of a checkpoint in it.
    StreamEnd = 23,
}

impl Kind {
    const ALL: [Kind; 12] = [
        Kind::Hello,
        Kind::Reply,
        Kind::Up,
        Kind::Down,
        Kind::Begin,
        Kind::Device,
        Kind::Pages,
        Kind::End,
        Kind::Seed,
        Kind::SeedEnd,
        Kind::Stream,
        Kind::StreamEnd,
    ];

    fn of(number: u16) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// Longest payload, bytes.
    pub const fn max(self) -> usize {
        match self {
            Kind::Hello | Kind::Reply => 4096,
            // A guard report names every stream of the guest.
            Kind::Up => CHUNK,
            Kind::Down => 16 << 10,
            Kind::Begin => 128,
            Kind::Device | Kind::Stream => CHUNK,
            // Count, numbers, contents.
            Kind::Pages | Kind::Seed => CHUNK + 2048,
            Kind::End => 24,
            Kind::SeedEnd => 16,
            Kind::StreamEnd => 48,
        }
    }
}

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

fn protocol(what: impl Into<String>) -> LinkError {
    LinkError::Protocol(what.into())
}

fn checksum(head: &[u8], payload: &[&[u8]]) -> u32 {
    let mut hasher = XxHash3_128::new();
    hasher.write(head);
    for part in payload {
        hasher.write(part);
    }
    // The low 32 bits.
    hasher.finish_128() as u32
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter<W> {
    to: W,
    sequence: u32,
    stall: Duration,
    small: Vec<u8>,
    dead: bool,
}

impl<W: Write> FrameWriter<W> {
    /// On a connection that carried nothing this way; a frame must be through within `stall`.
    pub fn new(to: W, stall: Duration) -> FrameWriter<W> {
        FrameWriter { to, sequence: 0, stall, small: Vec::new(), dead: false }
    }

    /// What it writes to.
    pub fn get_ref(&self) -> &W {
        &self.to
    }

    /// What it writes to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.to
    }

    /// Writes one frame and flushes. A payload that is too long is refused and nothing sent; after any other error
    /// every further call fails.
    pub fn send(&mut self, kind: Kind, payload: &[&[u8]]) -> Result<(), LinkError> {
        if self.dead {
            return Err(protocol("this connection has failed before"));
        }
        let length: usize = payload.iter().map(|part| part.len()).sum();
        if length > kind.max() {
            let max = kind.max();
            return Err(protocol(format!("{kind:?} of {length} bytes is longer than its {max}; not sent")));
        }
        let mut header = [0; HEADER];
        header[..2].copy_from_slice(&MAGIC);
        header[2..4].copy_from_slice(&(kind as u16).to_be_bytes());
        header[4..8].copy_from_slice(&(length as u32).to_be_bytes());
        header[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        let sum = checksum(&header[..12], payload);
        header[12..].copy_from_slice(&sum.to_be_bytes());
        // Until proven otherwise: a frame that is half out ends the connection.
        self.dead = true;
        let began = Instant::now();
        if length <= 16 << 10 {
            // One segment, one TLS record.
            self.small.clear();
            self.small.extend_from_slice(&header);
            payload.iter().for_each(|part| self.small.extend_from_slice(part));
            write_within(&mut self.to, &self.small, began, self.stall)?;
        } else {
            write_within(&mut self.to, &header, began, self.stall)?;
            for part in payload {
                write_within(&mut self.to, part, began, self.stall)?;
            }
        }
        self.to.flush()?;
        self.sequence = self.sequence.wrapping_add(1);
        self.dead = false;
        Ok(())
    }
}

fn write_within(to: &mut impl Write, mut from: &[u8], began: Instant, stall: Duration) -> io::Result<()> {
    while !from.is_empty() {
        match to.write(from) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => from = from.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(stalled()),
            Err(e) => return Err(e),
        }
        if !from.is_empty() && began.elapsed() > stall {
            return Err(stalled());
        }
    }
    Ok(())
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it stalled in the middle of a message")
}

/// Reads frames; what has arrived of one is kept across [`LinkError::Quiet`].
#[derive(Debug)]
pub struct FrameReader<R> {
    from: R,
    sequence: u32,
    quiet: Duration,
    stall: Duration,
    buffer: Vec<u8>,
    filled: usize,
    /// Time spent in waiting for the rest of a frame that has begun.
    waited: Duration,
    dead: bool,
}

impl<R: Read> FrameReader<R> {
    /// On a connection that carried nothing this way. See [`crate::link::socket::Patience`].
    pub fn new(from: R, quiet: Duration, stall: Duration) -> FrameReader<R> {
        let (sequence, buffer) = (0, Vec::new());
        FrameReader { from, sequence, quiet, stall, buffer, filled: 0, waited: Duration::ZERO, dead: false }
    }

    /// What it reads from.
    pub fn get_ref(&self) -> &R {
        &self.from
    }

    /// What it reads from.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.from
    }

    /// So many frames were read from this connection before.
    pub fn follows(&mut self, frames: u32) {
        self.sequence = frames;
    }

    /// How long one call may wait.
    pub fn set_quiet(&mut self, quiet: Duration) {
        self.quiet = quiet;
    }

    /// Makes every further call fail: what was read is not to be believed.
    pub fn poison(&mut self) {
        self.dead = true;
        self.buffer = Vec::new();
    }

    /// The next frame, if it is of a kind in `allowed`. After any error but [`LinkError::Quiet`] every further call
    /// fails.
    pub fn receive(&mut self, allowed: &[Kind]) -> Result<(Kind, &[u8]), LinkError> {
        if self.dead {
            return Err(protocol("this connection has failed before"));
        }
        match self.fill(allowed) {
            Ok(kind) => {
                let payload = self.buffer.get(HEADER..self.filled).unwrap_or_default();
                self.sequence = self.sequence.wrapping_add(1);
                self.filled = 0;
                Ok((kind, payload))
            }
            Err(LinkError::Quiet) => Err(LinkError::Quiet),
            Err(error) => {
                self.poison();
                Err(error)
            }
        }
    }

    fn fill(&mut self, allowed: &[Kind]) -> Result<Kind, LinkError> {
        let asked = Instant::now();
        let mut mark = asked;
        self.fill_to(HEADER, asked, &mut mark)?;
        let (kind, length, sum) = self.header(allowed)?;
        self.fill_to(HEADER + length, asked, &mut mark)?;
        let (head, payload) = self.buffer.split_at(HEADER);
        let payload = payload.get(..length).unwrap_or_default();
        if checksum(&head[..12], &[payload]) != sum {
            return Err(protocol(format!("a corrupt {kind:?}: its checksum does not match")));
        }
        Ok(kind)
    }

    fn header(&self, allowed: &[Kind]) -> Result<(Kind, usize, u32), LinkError> {
        let word = |at: usize| {
            let bytes = self.buffer.get(at..at + 4).and_then(|b| b.try_into().ok());
            u32::from_be_bytes(bytes.unwrap_or_default())
        };
        if let Some(stranger) = self.stranger() {
            return Err(stranger);
        }
        let kind = word(0) as u16;
        let number = kind;
        let kind = Kind::of(number).filter(|kind| allowed.contains(kind));
        let kind = kind.ok_or_else(|| protocol(format!("a frame of kind {number} is out of place")))?;
        let (length, sequence) = (word(4), word(8));
        if sequence != self.sequence {
            let wanted = self.sequence;
            return Err(protocol(format!(
                "frame {sequence} where {wanted} is due: repeated, reordered or lost"
            )));
        }
        match usize::try_from(length) {
            Ok(length) if length <= kind.max() => Ok((kind, length, word(12))),
            _ => Err(protocol(format!("a {kind:?} of {length} bytes: at most {}", kind.max()))),
        }
    }

    fn fill_to(&mut self, wanted: usize, asked: Instant, mark: &mut Instant) -> Result<(), LinkError> {
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        while self.filled < wanted {
            let room = self.buffer.get_mut(self.filled..wanted).unwrap_or_default();
            let read = self.from.read(room);
            let now = Instant::now();
            let waited = now.duration_since(std::mem::replace(mark, now));
            self.waited = if self.filled == 0 { Duration::ZERO } else { self.waited + waited };
            if self.waited > self.stall {
                return Err(stalled().into());
            }
            match read {
                Ok(0) => return Err(self.ended(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => self.filled += n.min(wanted - self.filled),
                Err(e) => match e.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Err(LinkError::Quiet),
                    // TLS without its farewell: between two frames nothing is lost by it.
                    io::ErrorKind::UnexpectedEof => return Err(self.ended(e)),
                    _ => return Err(e.into()),
                },
            }
            if self.filled < wanted && now.duration_since(asked) > self.quiet {
                return Err(LinkError::Quiet);
            }
        }
        Ok(())
    }

    fn ended(&self, error: io::Error) -> LinkError {
        match self.stranger() {
            _ if self.filled == 0 => LinkError::Closed,
            Some(stranger) => stranger,
            None => error.into(),
        }
    }

    /// What a frame that does not begin like one tells of the peer.
    fn stranger(&self) -> Option<LinkError> {
        let magic = self.buffer.get(..2).filter(|magic| self.filled >= 2 && *magic != MAGIC)?;
        Some(protocol(match magic {
            [0x16, 3] => "it speaks TLS, and no certificates are configured here (--certs DIR)",
            [0x15, 3] => "it wants TLS: configure certificates here too (--certs DIR)",
            _ => "this is no tidegate link",
        }))
    }
}
