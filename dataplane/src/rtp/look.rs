//! What is known of a packet's stream before the packet is judged: for whoever explains a verdict, never on the way of
//! a frame.

use super::{
    IDLE_NS, RUN, RUN_AFTER_SET_UP, Sighting, Streams, Track, WAYS, is_eligible, is_tunnel, place, words,
};
use crate::ear::Learned;

/// A stream as its next packet finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Packets before this one.
    pub packets: u64,
    /// It is media, and was promoted with this packet (from 1).
    pub promoted_at: Option<u64>,
    /// A run has proven it; `false` for a promoted stream that only its port vouches for.
    pub proven: bool,
    /// The packet's number lies in the window of a promoted stream.
    pub within: bool,
    /// Packets of the run that is under way, before this one.
    pub in_row: u8,
    /// The number that continues the run.
    pub expected: u16,
    /// It was silent for so long that it begins anew.
    pub idle: bool,
}

/// What stands about a packet in the tables, and what will be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its stream, if there is one.
    pub stream: Option<Look>,
    /// Packets in a row that would prove it.
    pub needed: u8,
    /// Its port was named as a media port.
    pub media_port: bool,
    /// Signalling named its port for RTP.
    pub learned: bool,
    /// A stream can be made of it: from a port and an address that media comes from.
    pub eligible: bool,
}

impl Streams {
    /// See [`Standing`]. Changes nothing.
    pub(crate) fn standing(&self, sighting: &Sighting<'_>) -> Standing {
        let address = words(&sighting.headers.src);
        let (set, tag) = place(self.sets.len(), address, sighting.name());
        let look = |way: usize| {
            let seen = &self.table.page(set * WAYS + way).seen;
            let track = Track(seen.track.get());
            Look {
                packets: seen.packets.get(),
                promoted_at: Some(seen.promoted_at.get()).filter(|at| *at > 0 && track.is_promoted()),
                proven: track.is_proven(),
                within: track.is_promoted() && track.is_within(sighting.rtp.sequence),
                in_row: track.in_row(),
                expected: track.expected(),
                idle: self.rate.ns(sighting.now.saturating_sub(seen.last_seen.get())) > IDLE_NS,
            }
        };
        let is_set_up = self.endpoints.is_set_up(sighting.endpoint(), sighting.now, self.idle);
        Standing {
            stream: self.known(set, tag, address).map(look),
            needed: if is_set_up { RUN_AFTER_SET_UP } else { RUN },
            media_port: sighting.policy.is_media_port(sighting.headers.sport),
            learned: self.is_learned(sighting.headers, Learned::Rtp, sighting.now),
            eligible: is_eligible(sighting.headers) && !is_tunnel(sighting),
        }
    }
}
