//! The frames that nearly all traffic is, read at fixed places: RTP without contributing sources or extension in UDP, and
//! TCP, over IPv4, without VLAN tags, IP options, fragments or a surplus, all headers in the first segment and all bytes
//! in the frame. What [`super::Headers::parse`] and [`super::rtp::Packet::read`] say of such a frame takes them several
//! times as long, because they must be ready for any other.

use super::rtp::{self, Rtp};
use super::{be16, be32, ethernet, ipv4, tcp, udp};

/// Where the UDP or TCP header of such a frame starts.
pub const TRANSPORT: usize = ethernet::HEADER + ipv4::HEADER;
const PAYLOAD: usize = TRANSPORT + udp::HEADER;
/// Bytes that are looked at: both headers end here.
const LOOKED_AT: usize = TRANSPORT + tcp::HEADER;
const _: () = assert!(tcp::HEADER == udp::HEADER + rtp::HEADER);

/// The bytes of a frame that has been found to be one, or of any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Express<'a>(&'a [u8; LOOKED_AT]);

/// Which of them a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain<'a> {
    /// A whole RTP packet.
    Rtp(Express<'a>),
    /// A whole TCP segment.
    Tcp(Express<'a>),
}

impl<'a> Plain<'a> {
    /// `None` for any other frame. `head` is the first segment of a frame of `frame_len` bytes.
    #[inline(always)]
    pub fn read(head: &'a [u8], frame_len: u32) -> Option<Plain<'a>> {
        let express = Express::of(head)?;
        let bytes = express.0;
        // Ethertype, version and header length.
        if express.ne32(12) & ne([0xff, 0xff, 0xff, 0]) != ne([0x08, 0, 0x45, 0]) {
            return None;
        }
        let transport = express.transport_len();
        let end = TRANSPORT + transport as usize;
        if end > head.len() || end > frame_len as usize {
            return None;
        }
        // No fragment, and the protocol.
        let protocol = express.ne32(20) & ne([0x3f, 0xff, 0, 0xff]);
        if protocol == ne([0, 0, 0, udp::PROTOCOL]) {
            // RTP version 2 without what makes its header longer; not the payload types of RTCP.
            if be16(bytes, TRANSPORT + 4) as u32 != transport
                || transport < (udp::HEADER + rtp::HEADER) as u32
                || bytes[PAYLOAD] & !0x20 != 0x80
                || bytes[PAYLOAD + 1] & 0x60 == 0x40
            {
                return None;
            }
            return Some(Plain::Rtp(express));
        }
        let header = (bytes[TRANSPORT + 12] >> 4) as u32 * 4;
        if protocol != ne([0, 0, 0, tcp::PROTOCOL]) || header < tcp::HEADER as u32 || header > transport {
            return None;
        }
        Some(Plain::Tcp(express))
    }
}

/// Four bytes of a frame as [`Express`] compares them.
const fn ne(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

impl<'a> Express<'a> {
    /// The first bytes of a frame that [`Plain::read`] has read before; `None` if there are not as many.
    #[inline(always)]
    pub fn of(head: &'a [u8]) -> Option<Express<'a>> {
        head.first_chunk().map(Express)
    }

    /// The bytes.
    #[inline(always)]
    pub fn bytes(&self) -> &'a [u8; LOOKED_AT] {
        self.0
    }

    /// Bytes of the UDP datagram or the TCP segment with its header; more than any frame has if the packet claims to be
    /// shorter than its own header.
    #[inline(always)]
    pub fn transport_len(&self) -> u32 {
        (be16(self.0, 16) as u32).wrapping_sub(ipv4::HEADER as u32)
    }

    /// The guest's address, as the last four bytes of [`super::Headers::src`].
    #[inline(always)]
    pub fn src(&self) -> u32 {
        self.ne32(26)
    }

    /// The peer's, in the same way.
    #[inline(always)]
    pub fn dst(&self) -> u32 {
        self.ne32(30)
    }

    /// Differentiated services code point.
    #[inline(always)]
    pub fn dscp(&self) -> usize {
        (self.0[ethernet::HEADER + 1] >> 2) as usize
    }

    /// The guest's port, and as the lower half the peer's.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        be32(self.0, TRANSPORT)
    }

    /// What the RTP header says.
    #[inline(always)]
    pub fn rtp(&self) -> Rtp {
        Rtp {
            payload_type: self.0[PAYLOAD + 1] & 0x7f,
            sequence: be16(self.0, PAYLOAD + 2),
            timestamp: be32(self.0, PAYLOAD + 4),
            ssrc: be32(self.0, PAYLOAD + 8),
        }
    }

    #[inline(always)]
    fn ne32(&self, at: usize) -> u32 {
        // Read as one word: of single bytes the compiler reads only those that a mask leaves.
        self.0[at..].first_chunk().map_or(0, |bytes| ne(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtp::Packet;
    use crate::wire::{Headers, Kind, sample};
    use proptest::prelude::*;

    /// What is read of a frame, in words that both ways have.
    type Read = (u8, [u32; 2], u32, u32, Option<Rtp>);

    fn the_short_way(head: &[u8], frame_len: u32) -> Option<Read> {
        let read =
            |of: Express<'_>, rtp| (of.0[23], [of.src(), of.dst()], of.ports(), of.transport_len(), rtp);
        Plain::read(head, frame_len).map(|plain| match plain {
            Plain::Rtp(express) => read(express, Some(express.rtp())),
            Plain::Tcp(express) => read(express, None),
        })
    }

    /// What the long way says of the frame, if it is one for the short way.
    fn the_long_way(frame: &[u8]) -> Option<Read> {
        let headers = Headers::parse(frame, frame.len() as u32);
        let fits = headers.version == 4
            && headers.tags == 0
            && !headers.extended
            && !headers.is_fragment()
            && !headers.surplus;
        let rtp = match headers.kind {
            Kind::Tcp => None,
            Kind::Udp => {
                let payload = headers.payload(frame);
                match Packet::read(payload, headers.payload_len as usize) {
                    Packet::Rtp(rtp) if payload[0] & 0x1f == 0 => Some(rtp),
                    _ => return None,
                }
            }
            _ => return None,
        };
        let low = |address: &[u8; 16]| u32::from_ne_bytes(address[12..].try_into().unwrap());
        fits.then(|| {
            (
                headers.protocol,
                [low(&headers.src), low(&headers.dst)],
                (headers.sport as u32) << 16 | headers.dport as u32,
                headers.network_end - u32::from(headers.transport_at),
                rtp,
            )
        })
    }

    #[test]
    fn a_plain_packet_is_read_and_nothing_behind_the_frame() {
        for frame in [sample::udp(40000, 5004, &sample::rtp(9, 0xcafe)), sample::tcp(40000, 5004, b"data")] {
            let (_, _, ports, _, rtp) = the_short_way(&frame, frame.len() as u32).unwrap();
            assert_eq!(ports, 40000 << 16 | 5004);
            assert!(rtp.is_none_or(|rtp| (rtp.sequence, rtp.ssrc) == (9, 0xcafe)));
            for len in 0..frame.len() {
                let cut = Plain::read(&frame[..len], frame.len() as u32);
                assert_eq!(cut, None, "the rest is in another segment");
                assert_eq!(Plain::read(&frame, len as u32), None, "the frame ends before");
            }
        }
    }

    proptest! {
        #[test]
        fn both_ways_say_the_same(
            tcp: bool, payload in 0..40usize, flips in proptest::collection::vec((12..60usize, any::<u8>()), 0..3),
            cut in 0..90usize,
        ) {
            let mut frame = if tcp {
                sample::tcp(40000, 5004, &vec![1; payload])
            } else {
                sample::udp(40000, 5004, &[&sample::rtp(9, 7)[..12], &vec![1; payload]].concat())
            };
            for (at, value) in flips {
                let last = frame.len() - 1;
                frame[at.min(last)] = value;
            }
            prop_assert_eq!(the_short_way(&frame, frame.len() as u32), the_long_way(&frame));
            frame.truncate(cut.max(14));
            prop_assert_eq!(the_short_way(&frame, frame.len() as u32), the_long_way(&frame));
        }
    }
}
