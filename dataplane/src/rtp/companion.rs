//! What shares a port with RTP: that which sets media up, and RTCP.

use super::{Streams, endpoint, lives};
use crate::endpoints::Endpoint;
use crate::wire::Headers;

impl Streams {
    /// STUN, RTCP or `dtls` came from the guest's port, or through a channel of it: media is being set up there.
    pub fn set_up(&mut self, headers: &Headers, channel: u16, dtls: bool, now: u64) {
        let Streams { table, runs, endpoints, idle, .. } = self;
        let at = endpoint(headers, channel);
        endpoints.note_set_up(at, dtls, now, |mark| lives(table, runs, *idle, mark, now));
    }

    /// True when a living promoted stream comes from this port, a neighbour, or the one that signalling named: RTCP
    /// goes with it. Through a channel: from the same channel of one of these.
    pub fn has_stream(&self, headers: &Headers, channel: u16, now: u64) -> bool {
        let at = endpoint(headers, channel);
        let named = if self.lessons.is_empty() { None } else { self.lessons.media_of(at, now) };
        [Some(at.port), at.port.checked_add(1), at.port.checked_sub(1), named]
            .into_iter()
            .flatten()
            .any(|port| self.endpoints.has_stream(Endpoint { port, ..at }, |mark| self.lives(mark, now)))
    }
}
