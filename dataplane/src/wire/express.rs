//! The frame that nearly all media is, read at fixed places: RTP without contributing sources or extension, in UDP over
//! IPv4, without VLAN tags, IP options, fragments or a surplus, all in the first segment. What
//! [`super::Headers::parse`] and [`super::rtp::Packet::read`] say of such a frame takes them four times as long, because
//! they must be ready for any other.

use super::rtp::{self, Rtp};
use super::{be16, be32, ethernet, ipv4, udp};

/// Where the UDP header of such a frame starts.
pub const TRANSPORT: usize = ethernet::HEADER + ipv4::HEADER;
const PAYLOAD: usize = TRANSPORT + udp::HEADER;

/// An RTP packet that has been read so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Express {
    /// The guest's address, as the last four bytes of [`super::Headers::src`].
    pub src: u32,
    /// The peer's, in the same way.
    pub dst: u32,
    /// The guest's port.
    pub sport: u16,
    /// The peer's port.
    pub dport: u16,
    /// Bytes of the UDP datagram with its header.
    pub udp_len: u16,
    /// What the RTP header says.
    pub rtp: Rtp,
}

impl Express {
    /// `None` for any other frame. `head` is the first segment of a frame of `frame_len` bytes.
    #[inline(always)]
    pub fn read(head: &[u8], frame_len: u32) -> Option<Express> {
        let bytes: &[u8; PAYLOAD + rtp::HEADER] = head.first_chunk()?;
        // What is not UDP is found out first: TCP is the other half of what there is.
        if bytes[23] != udp::PROTOCOL {
            return None;
        }
        // Ethertype, version and header length; no fragment; RTP version 2 without what makes its header longer.
        let plain = be32(bytes, 12) >> 8 == 0x08_0045
            && be16(bytes, 20) & 0x3fff == 0
            && bytes[PAYLOAD] & !0x20 == 0x80
            && bytes[PAYLOAD + 1] & 0x60 != 0x40;
        let total = be16(bytes, 16);
        let udp_len = be16(bytes, TRANSPORT + 4);
        let end = ethernet::HEADER + usize::from(total);
        let whole = udp_len.checked_add(ipv4::HEADER as u16) == Some(total)
            && usize::from(udp_len) >= udp::HEADER + rtp::HEADER
            && end <= head.len()
            && end <= frame_len as usize;
        if !plain || !whole {
            return None;
        }
        let ne32 = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Some(Express {
            src: ne32(26),
            dst: ne32(30),
            sport: be16(bytes, TRANSPORT),
            dport: be16(bytes, TRANSPORT + 2),
            udp_len,
            rtp: Rtp {
                payload_type: bytes[PAYLOAD + 1] & 0x7f,
                sequence: be16(bytes, PAYLOAD + 2),
                timestamp: be32(bytes, PAYLOAD + 4),
                ssrc: be32(bytes, PAYLOAD + 8),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtp::Packet;
    use crate::wire::{Headers, Kind, sample};
    use proptest::prelude::*;

    /// What the long way says of the frame, if it is one for the short way.
    fn the_long_way(frame: &[u8]) -> Option<Express> {
        let headers = Headers::parse(frame, frame.len() as u32);
        let fits = headers.kind == Kind::Udp
            && headers.version == 4
            && headers.tags == 0
            && !headers.extended
            && !headers.is_fragment()
            && !headers.surplus;
        let payload = headers.payload(frame);
        match Packet::read(payload, headers.payload_len as usize) {
            Packet::Rtp(rtp) if fits && payload[0] & 0x1f == 0 => Some(Express {
                src: u32::from_ne_bytes(headers.src[12..].try_into().unwrap()),
                dst: u32::from_ne_bytes(headers.dst[12..].try_into().unwrap()),
                sport: headers.sport,
                dport: headers.dport,
                udp_len: headers.payload_len as u16 + 8,
                rtp,
            }),
            _ => None,
        }
    }

    #[test]
    fn a_plain_rtp_packet_is_read_and_nothing_behind_the_frame() {
        let frame = sample::udp(40000, 5004, &sample::rtp(9, 0xcafe));
        let express = Express::read(&frame, frame.len() as u32).unwrap();
        assert_eq!((express.sport, express.rtp.sequence, express.rtp.ssrc), (40000, 9, 0xcafe));
        for len in 0..frame.len() {
            assert_eq!(
                Express::read(&frame[..len], frame.len() as u32),
                None,
                "the rest is in another segment"
            );
            assert_eq!(Express::read(&frame, len as u32), None, "the frame ends before");
        }
    }

    proptest! {
        #[test]
        fn both_ways_say_the_same(
            payload in 0..40usize, flips in proptest::collection::vec((12..60usize, any::<u8>()), 0..3), cut in 0..90usize,
        ) {
            let mut frame = sample::udp(40000, 5004, &[&sample::rtp(9, 7)[..12], &vec![1; payload]].concat());
            for (at, value) in flips {
                let last = frame.len() - 1;
                frame[at.min(last)] = value;
            }
            prop_assert_eq!(Express::read(&frame, frame.len() as u32), the_long_way(&frame));
            frame.truncate(cut.max(14));
            prop_assert_eq!(Express::read(&frame, frame.len() as u32), the_long_way(&frame));
        }
    }
}
