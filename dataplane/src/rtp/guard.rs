//! The replay guard. What a primary let bypass is ahead of its last checkpoint: the guest that a standby restores from
//! there sends the same sequence numbers again, in SRTP perhaps with other contents under the same packet index.
//!
//! So a standby inherits the primary's streams, each with the highest number that may have gone out. They are media
//! without a second probation, but what is not beyond that number is refused. The guard of a stream ends with the first
//! packet beyond it, and when the stream has not been heard of for [`super::IDLE_NS`]. Numbers far away are those of a
//! sender that began anew: they prove themselves as any others do.
//!
//! A stream through a TURN channel brings its channel along: a standby cannot have learned it, and what the restored guest
//! sends through a channel that is not known would be seen by no guard.

use super::{IDLE_NS, Run, Streams, Through, Track, WAYS, Waiting, clock, is_source, words};
use crate::channels::Channel;
use crate::class::StreamRef;
use crate::endpoints::Endpoint;
use crate::quality::{MAX_DROPOUT, Sent};
use crate::streams::{Page, StreamTable, address};
use crate::tsc::TscRate;
use crate::wire::address_bytes;
use crate::wire::turn::CHANNELS;
use std::net::IpAddr;

/// A stream of the primary, as its standby takes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The guest's address; IPv4 as ::ffff:a.b.c.d.
    pub address: [u8; 16],
    /// The guest's port.
    pub port: u16,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Highest sequence number that may have gone out.
    pub highest: u16,
    /// Packets of `highest` that are mere caution: so many more than the primary reported.
    pub margin: u16,
    /// What is not beyond `highest` is refused.
    pub guarded: bool,
    /// It is SRTP for certain.
    pub secure: bool,
    /// Media clock in units a second; 0 while unknown.
    pub clock_rate: u32,
    /// Payload type of the last packet.
    pub payload_type: u8,
    /// The TURN channel that it goes through.
    pub channel: Option<Through>,
}

/// Largest [`Inherited::margin`].
pub const MAX_MARGIN: u16 = 20_000;

/// What may have gone out, in one word: the highest number, and how many up to it are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard(pub u64);

/// Where a number lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// Not beyond what may have gone out.
    Replayed,
    /// Beyond it.
    Beyond,
    /// Too far away to be either.
    Elsewhere,
}

impl Guard {
    /// Up to `highest`, of which `margin` are caution.
    pub fn new(highest: u16, margin: u16) -> Guard {
        let width = MAX_DROPOUT + margin.min(MAX_MARGIN);
        Guard((width as u64) << 16 | highest as u64)
    }

    /// The last number that is refused.
    pub fn highest(self) -> u16 {
        self.0 as u16
    }

    pub(super) fn judge(self, sequence: u16) -> Past {
        let behind = self.highest().wrapping_sub(sequence);
        if behind < (self.0 >> 16) as u16 {
            Past::Replayed
        } else if behind.wrapping_neg() < MAX_DROPOUT {
            Past::Beyond
        } else {
            Past::Elsewhere
        }
    }
}

impl Streams {
    /// Takes a stream over, or hears more of one that was. False when there is no room, or no media can come from there.
    pub fn inherit(&mut self, stream: &Inherited, now: u64) -> bool {
        let of = words(&stream.address);
        let through = stream.channel;
        let possible = through.is_none_or(|through| CHANNELS.contains(&through.number));
        if !is_source(&stream.address, stream.port) || !possible {
            return false;
        }
        let (number, server, server_port) = through
            .map_or((0, [0; 2], 0), |through| (through.number, words(&through.server), through.server_port));
        let name = (stream.ssrc as u64) << 32 | (stream.port as u64) << 16 | server_port as u64;
        let (set, tag) = self.place_in(of, name, number);
        let known = self.known(set, tag, of, number);
        let Some(way) = known.or_else(|| self.room(set, now)) else { return false };
        self.sets[set].tags[way] = tag;
        let index = set * WAYS + way;
        let at = Endpoint { address: of, port: stream.port, channel: number };
        if through.is_some() {
            self.channels.learn(Channel { at, server, server_port }, now);
        }
        // One that the guest has sent here, in an earlier life of this lane, begins anew.
        let fresh = known.is_none() || self.table.page(index).seen.packets.get() > 0;
        let mark = if fresh { self.next_mark(index) } else { self.runs[index].mark };
        let clock = Some(stream.clock_rate).filter(|rate| *rate > 0);
        let clock = clock.or_else(|| clock::by_payload_type(stream.payload_type));
        let mut track = Track::inherited(stream.highest, stream.payload_type, stream.secure);
        if clock.is_some() {
            track = track.with_clock();
        }
        if stream.guarded {
            track = track.guarded();
        }
        let Page { seen, sent } = self.table.page(index);
        if fresh {
            self.runs[index] = Run { waiting: Waiting::default(), era: self.era, mark };
            sent.reset(mark, clock.map_or(0, |clock| Sent::unit(self.rate, clock)));
        }
        let change = seen.version.open();
        seen.address[0].set(of[0]);
        seen.address[1].set(of[1]);
        seen.name.set(name);
        seen.track.set(track.0);
        seen.last_seen.set(now);
        for word in [&seen.packets, &seen.held, &seen.promoted_at] {
            word.set(0);
        }
        // Of one that is sent directly the peer is not known.
        seen.peer_high.set(server[0]);
        seen.peer_low.set(server[1]);
        seen.first_seen.set(now);
        seen.clock_rate.set(clock.unwrap_or(0) as u64);
        seen.channel.set(number.into());
        seen.guard.set(Guard::new(stream.highest, stream.margin).0);
        change.close_for(mark);
        if fresh {
            self.remember(at, StreamRef(mark), now);
        }
        true
    }
}

/// A promoted stream of which something went out, or may have: what a primary tells its standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoneOut {
    /// The guest's address.
    pub address: IpAddr,
    /// The guest's port.
    pub port: u16,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Highest sequence number, extended by its wraps; of a stream that is still guarded, what its guard refuses.
    pub highest: u32,
    /// Mean time between two packets, nanoseconds; 0 while unknown.
    pub interval_ns: u64,
    /// A DTLS handshake came from its port.
    pub secure: bool,
    /// Media clock in units a second; 0 while unknown.
    pub clock_rate: u32,
    /// Payload type of the last packet.
    pub payload_type: u8,
    /// The TURN channel that it goes through.
    pub channel: Option<Through>,
}

impl StreamTable {
    /// The stream at `index`, if it is alive and promoted and anything of it left at `since` or later; all in ticks of
    /// the lcore's clock.
    pub fn gone_out(&self, index: usize, since: u64, now: u64, rate: TscRate) -> Option<GoneOut> {
        let Page { seen, sent } = self.page(index);
        // Most places are empty, on probation, or silent for long: one look, without waiting for a change to end.
        if !Track(seen.track.get()).is_promoted()
            || rate.ns(now.saturating_sub(seen.last_seen.get())) > IDLE_NS
        {
            return None;
        }
        let (mark, (mut stream, guard)) = seen.version.read(|| {
            let (track, name) = (Track(seen.track.get()), seen.name.get());
            let through = Through {
                number: seen.channel.get() as u16,
                server: address_bytes(address(&seen.peer_high, &seen.peer_low)),
                server_port: name as u16,
            };
            let stream = GoneOut {
                address: address(&seen.address[0], &seen.address[1]),
                port: (name >> 16) as u16,
                ssrc: (name >> 32) as u32,
                highest: 0,
                interval_ns: 0,
                secure: track.is_secure(),
                clock_rate: seen.clock_rate.get() as u32,
                payload_type: track.payload_type(),
                channel: (through.number != 0).then_some(through),
            };
            (stream, track.is_guarded().then(|| Guard(seen.guard.get())))
        })?;
        if mark == 0 {
            return None;
        }
        let quality = sent.quality(mark, rate);
        stream.interval_ns = quality.delta_mean_ns;
        stream.highest = match (guard, quality.highest_sent) {
            (Some(guard), _) => guard.highest().into(),
            (None, Some(highest)) if quality.last_sent_tsc >= since => highest,
            _ => return None,
        };
        Some(stream)
    }
}

#[cfg(test)]
mod tests;
