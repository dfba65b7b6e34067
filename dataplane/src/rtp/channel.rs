//! Streams inside TURN channels: a channel of the guest's port is a port of its own, with streams, set-up and RTCP of
//! its own. Nobody's word about the port counts there: what comes through a channel proves itself.

use super::{Sighting, Streams, place, words};
use crate::channels::Channel;
use crate::ear::Lesson;
use crate::endpoints::Endpoint;
use crate::wire::Headers;

/// The TURN channel that a stream goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Through {
    /// The channel's number.
    pub number: u16,
    /// The server that it is bound at.
    pub server: [u8; 16],
    /// The server's port.
    pub server_port: u16,
}

impl Streams {
    /// Where the stream of a packet would be: its set, and its tag there. The last bit of a tag says whether it is that
    /// of a stream sent directly, so the two are never taken for each other.
    pub(super) fn place_of(&self, sighting: &Sighting<'_>) -> (usize, u64) {
        self.place_in(words(&sighting.headers.src), sighting.name(), sighting.channel)
    }

    /// The same of a stream by its address, its name, and the number of its channel.
    pub(super) fn place_in(&self, address: [u64; 2], name: u64, channel: u16) -> (usize, u64) {
        if channel == 0 {
            return place(self.sets.len(), address, name);
        }
        let apart = u64::from(channel).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (set, tag) = place(self.sets.len(), [address[0] ^ apart, address[1]], name);
        (set, tag & !1)
    }

    /// True when any channel is learned.
    #[inline(always)]
    pub fn channel_is_learned(&self) -> bool {
        !self.channels.is_empty()
    }

    /// True when the guest has bound this channel of its port at the server that the packet goes to.
    pub fn is_bound(&self, headers: &Headers, number: u16, now: u64) -> bool {
        let at = Endpoint { address: words(&headers.src), port: headers.sport, channel: number };
        self.channels.is_bound(Channel { at, server: words(&headers.dst), server_port: headers.dport }, now)
    }

    /// A lesson about a channel.
    pub(super) fn learn_channel(
        &mut self,
        lesson: &Lesson,
        number: u16,
        server: &[u8; 16],
        server_port: u16,
        now: u64,
    ) {
        let at = Endpoint { address: words(&lesson.address), port: lesson.port, channel: number };
        let channel = Channel { at, server: words(server), server_port };
        match lesson.open {
            true => self.channels.learn(channel, now),
            false => self.channels.forget(channel),
        }
    }
}
