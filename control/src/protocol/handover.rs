//! `guard` and `announce`: what a primary's plane tells its standby's, so that calls go on without a second probation and
//! without a packet that was sent before, and so that the network finds the guest.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// `guard`: without `streams` and `identities` it tells those of the guest; with them a muted guest takes them over. An
/// answer may be sent as it is, in parts where it is longer than a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// See [`super::Which`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// Only streams of which something went out since the answer with this `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Go on where the answer with this `next` ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Streams to take over, at most as many as fit in a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<Vec<GuardedStream>>,
    /// Identities to take over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identities: Option<Vec<GuestIdentity>>,
    /// With `streams`: how long their primary may have sent since it told of them, milliseconds. Each stream's margin is
    /// then what it sends in that time, on top of what the stream names itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin_ms: Option<u64>,
    /// Of an answer; means nothing here.
    #[serde(skip_serializing)]
    pub token: Option<u64>,
    /// Of an answer; means nothing here.
    #[serde(skip_serializing)]
    pub next: Option<u64>,
}

impl Guard {
    /// Something is handed over; otherwise it asks.
    pub fn tells(&self) -> bool {
        self.streams.is_some() || self.identities.is_some()
    }
}

impl GuardedStream {
    /// The margin, if the primary may have sent for so long since it told, not at all for 0. Of a stream whose rhythm is
    /// unknown: a packet in each millisecond.
    pub fn margin_after(&self, ms: u64) -> u16 {
        if ms == 0 {
            return self.margin;
        }
        let interval_us = if self.interval_us == 0 { 1000 } else { self.interval_us };
        // One more, because the first may have left right behind the answer.
        let packets = ms.saturating_mul(1000).div_ceil(interval_us).saturating_add(1);
        u16::try_from(packets).unwrap_or(u16::MAX).saturating_add(self.margin)
    }
}

/// Most streams of one answer.
pub const GUARD_STREAMS: usize = 4096;

/// A promoted RTP stream of which something went out. As JSON an array of its fields, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "StreamRow", into = "StreamRow")]
pub struct GuardedStream {
    /// Index of its lane.
    pub lane: usize,
    /// The guest's address.
    pub address: IpAddr,
    /// The guest's port.
    pub port: u16,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Highest sequence number that went out, extended by its wraps.
    pub highest: u32,
    /// Mean time between two packets, microseconds; 0 while unknown. It includes silences.
    pub interval_us: u64,
    /// It is SRTP (DTLS was seen on its port, or SIP says so), or SIP says that it is not; `null`: unknown, which counts as
    /// SRTP.
    pub secure: Option<bool>,
    /// Media clock, units a second; 0 while unknown.
    pub clock_rate: u32,
    /// RTP payload type of the last packet.
    pub payload_type: u8,
    /// Packets beyond `highest` that may have gone out since it was told, at most 20 000. In answers those that are late by
    /// the stream's own rhythm and may all come at once; [`Guard::margin_ms`] adds to them.
    pub margin: u16,
    /// The TURN channel that it goes through: its number, the server's address and port.
    pub channel: Option<(u16, IpAddr, u16)>,
}

type Channel = Option<(u16, IpAddr, u16)>;
type StreamRow = (usize, IpAddr, u16, u32, u32, u64, Option<bool>, u32, u8, u16, Channel);

impl From<StreamRow> for GuardedStream {
    fn from(row: StreamRow) -> Self {
        let (
            lane,
            address,
            port,
            ssrc,
            highest,
            interval_us,
            secure,
            clock_rate,
            payload_type,
            margin,
            channel,
        ) = row;
        Self {
            lane,
            address,
            port,
            ssrc,
            highest,
            interval_us,
            secure,
            clock_rate,
            payload_type,
            margin,
            channel,
        }
    }
}

impl From<GuardedStream> for StreamRow {
    fn from(s: GuardedStream) -> Self {
        let GuardedStream { lane, address, port, ssrc, highest, interval_us, secure, channel, .. } = s;
        let (clock_rate, payload_type, margin) = (s.clock_rate, s.payload_type, s.margin);
        (lane, address, port, ssrc, highest, interval_us, secure, clock_rate, payload_type, margin, channel)
    }
}

/// One address of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GuestIdentity {
    /// Index of its lane.
    pub lane: usize,
    /// Hardware address, `52:54:00:00:00:01`.
    pub mac: String,
    /// Its VLAN tags, the outermost first: Ethertype of the tag, and id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<(u16, u16)>,
    /// IPv4 or IPv6; `null` when only the hardware address is known.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The guest said so itself, by ARP, RARP or neighbour discovery. Others are announced to switches only.
    pub confirmed: bool,
    /// It advertised itself as a router.
    #[serde(default)]
    pub router: bool,
}

/// Answer to `guard` that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct GuardReport {
    /// The guest.
    pub guest: String,
    /// To ask with `since` next time. Of several answers that `next` chains, the first one's counts.
    pub token: u64,
    /// Streams that are alive.
    pub streams: Vec<GuardedStream>,
    /// There are more: ask again `from` here, with the same `since`.
    pub next: Option<u64>,
    /// Who the guest is; in the first answer only.
    pub identities: Vec<GuestIdentity>,
}

/// Answer to `guard` that hands over: the plane has all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct HandedOver {
    /// The guest.
    pub guest: String,
    /// Streams of this request that were taken over.
    pub inherited: u64,
    /// Streams for which there was no room, or from where no media can come.
    pub not_inherited: u64,
    /// Identities of this request.
    pub identities: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_margin_covers_what_is_sent_in_that_time_and_what_was_late_before() {
        let row = |interval_us: u64, margin: u16| {
            json!([0, "10.0.0.2", 1, 7, 5, interval_us, null, 8000, 8, margin, null])
        };
        let stream = |row| serde_json::from_value::<GuardedStream>(row).expect("a row");
        let after =
            |ms| [stream(row(20_000, 0)), stream(row(20_000, 2))].map(|stream| stream.margin_after(ms));
        assert_eq!([after(45), after(90), after(40)], [[4, 6], [6, 8], [3, 5]]);
        assert_eq!(after(0), [0, 2], "behind a fence: nothing left since");
        assert_eq!(stream(row(0, 0)).margin_after(45), 46);
    }

    #[test]
    fn a_stream_is_a_row_and_reads_back() {
        for (channel, read) in [
            (json!(null), None),
            (json!([0x4001, "192.0.2.1", 3478]), Some((0x4001, IpAddr::from([192, 0, 2, 1]), 3478))),
        ] {
            let row = json!([0, "10.0.0.2", 40000, 7, 65545, 20000, null, 8000, 8, 3, channel]);
            let stream: GuardedStream = serde_json::from_value(row.clone()).expect("a row");
            assert_eq!(
                (stream.address.to_string().as_str(), stream.highest, stream.margin, stream.channel),
                ("10.0.0.2", 65545, 3, read)
            );
            assert_eq!(serde_json::to_value(stream).expect("JSON"), row);
        }
        for bad in [
            json!([0, "10.0.0.2", 40000]),
            json!({"lane": 0}),
            json!([0, "x", 1, 1, 1, 1, null, 1, 1, 1, null]),
            json!([0, "10.0.0.2", 1, 1, 1, 1, null, 1, 1, 1, [1, 2]]),
        ] {
            assert!(serde_json::from_value::<GuardedStream>(bad).is_err());
        }
    }
}
