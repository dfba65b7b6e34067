//! What a guest's SIP says of its media, which of its ports carry RTP or a fax, from when on and until when; and which
//! TURN channels it binds.
//!
//! Runs on copies, off the lcore. [`Learner`] takes frames ([`frames`]) or pieces of signalling, makes messages of them
//! ([`segments`] for TCP, [`message`]), reads the descriptions in those ([`media`]) and keeps account by call
//! ([`calls`]). STUN messages ([`stun`]) are read beside that, from any port ([`turn`]). What comes out are lessons for the lcores. Only what the guest itself sent names ports, and only ports
//! of its own; what comes to the guest may end a call, never open anything. What cannot be read teaches nothing: media
//! is then found by its probation.

mod calls;
mod frames;
mod media;
mod message;
mod segments;
mod stun;
mod turn;

pub use tidegate_dataplane::ear::{Learned, Lesson};

use calls::Calls;
use frames::Datagrams;
use message::Message;
use segments::Segments;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use turn::Channels;

/// Addresses of the guest that are remembered: those it sent SIP from.
const HOMES: usize = 16;

/// How a piece travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A whole datagram.
    Udp,
    /// A segment.
    Tcp {
        /// Sequence number of its first byte (of the SYN, if it has one).
        sequence: u32,
        /// It begins the connection.
        syn: bool,
        /// It ends it (FIN or RST).
        end: bool,
    },
}

/// One datagram or segment.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Who sent it.
    pub src: SocketAddr,
    /// To whom.
    pub dst: SocketAddr,
    /// The guest sent it.
    pub from_guest: bool,
    /// UDP or TCP.
    pub transport: Transport,
    /// Its payload.
    pub bytes: &'a [u8],
}

/// Learns from the SIP and the TURN of one guest. All its memory is bounded.
#[derive(Debug)]
pub struct Learner {
    ports: Vec<u16>,
    turn: bool,
    datagrams: Datagrams,
    /// What the guest sent, and what was sent to it: a flood from the wire displaces nothing of the guest's.
    sent: Segments,
    received: Segments,
    calls: Calls,
    channels: Channels,
    homes: VecDeque<IpAddr>,
}

impl Learner {
    /// For SIP from or to these ports, and for TURN channels if `turn`.
    pub fn new(ports: &[u16], turn: bool) -> Learner {
        Learner::at_home(ports, turn, &[])
    }

    /// The same for a guest whose addresses are known, besides those it sends SIP from.
    pub fn at_home(ports: &[u16], turn: bool, homes: &[IpAddr]) -> Learner {
        Learner {
            ports: ports.to_vec(),
            turn,
            datagrams: Datagrams::default(),
            sent: Segments::default(),
            received: Segments::default(),
            calls: Calls::default(),
            channels: Channels::default(),
            homes: homes.iter().copied().take(HOMES).collect(),
        }
    }

    /// Hears a frame, `now` in nanoseconds of a clock that only rises. Lessons are added to `lessons`.
    pub fn hear_frame(&mut self, frame: &[u8], from_guest: bool, now: u64, lessons: &mut Vec<Lesson>) {
        let mut datagrams = std::mem::take(&mut self.datagrams);
        if let Some(piece) = datagrams.read(frame, from_guest, now) {
            self.hear(&piece, now, lessons);
        }
        self.datagrams = datagrams;
    }

    /// Hears a piece of signalling.
    pub fn hear(&mut self, piece: &Piece<'_>, now: u64, lessons: &mut Vec<Lesson>) {
        self.calls.expire(now, lessons);
        if self.turn && piece.transport == Transport::Udp && self.channels.hear(piece, now, lessons) {
            return;
        }
        if !self.ports.contains(&piece.src.port()) && !self.ports.contains(&piece.dst.port()) {
            return;
        }
        let Learner { sent, received, calls, homes, .. } = self;
        let mut heard = |message: Message| {
            if piece.from_guest {
                remember(homes, piece.src.ip());
            }
            calls.hear(&message, piece.from_guest, piece.src.ip(), homes.make_contiguous(), now, lessons);
        };
        match piece.transport {
            Transport::Udp => {
                if let Some(message) = Message::of_datagram(piece.bytes) {
                    heard(message);
                }
            }
            Transport::Tcp { .. } => {
                let segments = if piece.from_guest { sent } else { received };
                segments.hear(piece, now, |bytes| {
                    if let Some(message) = Message::of_stream(bytes) {
                        heard(message);
                    }
                });
            }
        }
    }
}

fn remember(homes: &mut VecDeque<IpAddr>, home: IpAddr) {
    if !homes.contains(&home) {
        if homes.len() == HOMES {
            homes.pop_front();
        }
        homes.push_back(home);
    }
}

#[cfg(test)]
pub(crate) use turn::sample as stun_sample;

#[cfg(test)]
mod tests;
