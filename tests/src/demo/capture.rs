//! What the sink keeps of the frames that come: labels with their time, and the calls.

use super::reports::{Kind, Seen};
use super::rtp_meter::RtpMeter;
use super::{MAX_CALLS, MEDIA_PORT, label};

/// The sink's record.
#[derive(Debug, Default)]
pub(super) struct Capture {
    /// Labelled frames, in the order in which they came.
    pub seen: Vec<Seen>,
    /// The calls.
    pub meter: RtpMeter,
}

impl Capture {
    /// A frame came at `at_ns`.
    pub(super) fn take(&mut self, frame: &[u8], at_ns: u64) {
        let Some(label) = label::read(frame) else { return };
        self.seen.push(Seen { label, at_ns });
        if kind(frame) == Kind::Media {
            self.meter.take(&frame[UDP + 8..frame.len() - label::LEN], at_ns);
        }
    }
}

/// Where an IPv4 packet and the UDP or TCP header behind its (here always short) header begin in a frame.
const IP: usize = 14;
const UDP: usize = IP + 20;

/// What the demo's own stacks can have put into a frame.
pub(super) fn kind(frame: &[u8]) -> Kind {
    let media = MEDIA_PORT..MEDIA_PORT + 2 * MAX_CALLS;
    match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x06, ..] => Kind::Announce,
        _ if frame.get(12..14) != Some(&[0x08, 0x00]) => Kind::Datagram,
        _ if frame.get(IP + 9) == Some(&6) => Kind::Tcp,
        _ => match frame.get(UDP + 2..UDP + 4) {
            Some(port) if media.contains(&u16::from_be_bytes([port[0], port[1]])) => Kind::Media,
            _ => Kind::Datagram,
        },
    }
}
