//! Which protocol shares a media port (RFC 7983, RFC 9443), and the checks of RTP and RTCP headers
//! (RFC 3550, 5.1 and 6.4; RFC 5761, 4).
//!
//! There is no padding check: under SRTP the padding count is encrypted.

use super::{Headers, Kind, be16, be32};

/// Bytes of an RTP header without contributing sources and extension.
pub const HEADER: usize = 12;

/// What the first two bytes of a datagram on a media port say, after the checks that this protocol has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// RTP whose header fits.
    Rtp(Rtp),
    /// RTCP whose first packet fits.
    Rtcp {
        /// Packet type, 192-223.
        packet_type: u8,
    },
    /// STUN with the right length and its cookie (RFC 8489), or from before there was one (RFC 3489).
    Stun,
    /// A DTLS record (RFC 6347).
    Dtls,
    /// Nothing of these.
    Other,
}

/// The fields of an RTP header that a gate needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtp {
    /// Payload type, 0-63 or 96-127.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp in units of the media clock.
    pub timestamp: u32,
    /// Synchronisation source. 0 is legal.
    pub ssrc: u32,
}

/// Whose packet a datagram is, as far as its first segment tells: what a rule by SSRC asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Neither RTP nor RTCP.
    None,
    /// The source of RTP, or the sender of RTCP (types 200 to 207: their fifth to eighth byte).
    Ssrc(u32),
    /// It may be either: the header lies in another segment.
    Untold,
}

impl Tag {
    /// Of the datagram that `headers` were read from; of a fragmented one, of its first part.
    #[inline(never)]
    pub fn of(headers: &Headers, head: &[u8]) -> Tag {
        if headers.kind != Kind::Udp {
            return Tag::None;
        }
        Tag::of_payload(headers.payload(head), headers.payload_len as usize)
    }

    /// Of a datagram of `len` bytes of which `payload` are at hand.
    pub(crate) fn of_payload(payload: &[u8], len: usize) -> Tag {
        match Packet::read(payload, len) {
            Packet::Rtp(rtp) => Tag::Ssrc(rtp.ssrc),
            Packet::Rtcp { packet_type: 200..=207 } => Tag::Ssrc(be32(payload, 4)),
            Packet::Other if payload.len() < len && payload.first().is_none_or(|first| first >> 6 == 2) => {
                Tag::Untold
            }
            _ => Tag::None,
        }
    }
}

/// True for RTCP as it is written: packets of version 2 with types of RTCP (192 to 223), whose lengths lead from one to
/// the next and exactly to the end of the datagram (RFC 3550, 6.1). SRTCP is not so: an index and a tag follow the last
/// one, and what follows the first one's eighth byte is encrypted (RFC 3711, 3.4). `payload` is all of it that is at hand.
pub fn is_plain_rtcp(payload: &[u8], len: usize) -> bool {
    let mut rest = payload;
    while let Some([first, packet_type, high, low]) = rest.first_chunk() {
        let end = (be16(&[*high, *low], 0) as usize + 1) * 4;
        match rest.get(end..) {
            Some(next) if first >> 6 == 2 && (192..=223).contains(packet_type) => rest = next,
            _ => return false,
        }
    }
    rest.is_empty() && payload.len() == len && len > 0
}

impl Packet {
    /// Reads a datagram of `len` bytes of which `payload` are at hand.
    #[inline(always)]
    pub fn read(payload: &[u8], len: usize) -> Packet {
        let Some(&[first, second, ..]) = payload.first_chunk::<2>() else { return Packet::Other };
        if first >> 6 != 2 {
            return if first < 64 { Packet::session(payload, len) } else { Packet::Other };
        }
        // Payload types 64-95, whatever the marker says: the types of RTCP and what collides with them.
        if second & 0x60 == 0x40 {
            return Packet::rtcp(payload, len);
        }
        let Some(header) = payload.first_chunk::<HEADER>() else { return Packet::Other };
        // Contributing sources or an extension: the rare form.
        if first & 0x1f != 0 && !Packet::long_header_fits(payload, len) {
            return Packet::Other;
        }
        Packet::Rtp(Rtp {
            payload_type: second & 0x7f,
            sequence: be16(header, 2),
            timestamp: be32(header, 4),
            ssrc: be32(header, 8),
        })
    }

    fn long_header_fits(payload: &[u8], len: usize) -> bool {
        let mut end = HEADER + 4 * (payload[0] & 0x0f) as usize;
        if payload[0] & 0x10 != 0 {
            let Some(extension) = payload.get(end..).and_then(<[u8]>::first_chunk::<4>) else { return false };
            end += 4 + 4 * be16(extension, 2) as usize;
        }
        end <= len
    }

    #[inline(never)]
    fn rtcp(payload: &[u8], len: usize) -> Packet {
        let packet_type = payload[1];
        match payload.first_chunk::<8>() {
            Some(header) if packet_type >= 192 && (be16(header, 2) as usize + 1) * 4 <= len => {
                Packet::Rtcp { packet_type }
            }
            _ => Packet::Other,
        }
    }

    /// What sets a session up on the same port: STUN or DTLS.
    #[inline(never)]
    fn session(payload: &[u8], len: usize) -> Packet {
        match payload[0] {
            0..=3 => match payload.first_chunk::<20>() {
                Some(stun)
                    if be16(stun, 2) as usize + 20 == len
                        && len.is_multiple_of(4)
                        && (be32(stun, 4) == super::turn::COOKIE || is_classic_stun(payload, len)) =>
                {
                    Packet::Stun
                }
                _ => Packet::Other,
            },
            20..=25 => match payload.first_chunk::<13>() {
                Some(dtls)
                    if dtls[1] == 0xfe
                        && matches!(dtls[2], 0xff | 0xfd)
                        && (1..=len - 13).contains(&(be16(dtls, 11) as usize)) =>
                {
                    Packet::Dtls
                }
                _ => Packet::Other,
            },
            _ => Packet::Other,
        }
    }
}

/// A binding or shared-secret message of RFC 3489, by its type and its attributes, which fill it. One without any shows
/// too little.
fn is_classic_stun(payload: &[u8], len: usize) -> bool {
    if payload.len() != len
        || !matches!(be16(payload, 0), 0x0001 | 0x0101 | 0x0111 | 0x0002 | 0x0102 | 0x0112)
    {
        return false;
    }
    let mut attributes = &payload[20..];
    while let Some((head, rest)) = attributes.split_first_chunk::<4>() {
        let Some(behind) = rest.get(be16(head, 2) as usize..).filter(|_| (1..=11).contains(&be16(head, 0)))
        else {
            return false;
        };
        attributes = behind;
    }
    attributes.is_empty() && len > 20
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &[u8]) -> Packet {
        Packet::read(payload, payload.len())
    }

    const PCMA: [u8; 14] = [0x80, 8, 0x12, 0x34, 0, 0, 0, 160, 0xca, 0xfe, 0xba, 0xbe, 0xd5, 0xd5];

    #[test]
    fn plain_rtcp_leads_to_its_end_and_secured_rtcp_does_not() {
        let packet = |packet_type: u8, words: u8| {
            let mut packet = vec![0x81, packet_type, 0, words];
            packet.resize(4 + 4 * words as usize, 0x5a);
            packet
        };
        let plain = |bytes: &[u8]| is_plain_rtcp(bytes, bytes.len());
        let compound = [packet(200, 6), packet(202, 3), packet(203, 1)].concat();
        assert!(plain(&compound) && plain(&packet(201, 1)) && plain(&packet(205, 3)));
        // AES-CM: index and a tag of 80 bits. AES-GCM: a tag of 128 bits and the index, a multiple of 4 in all.
        for trailer in [14, 4, 20, 1] {
            assert!(!plain(&[packet(200, 6), vec![0x80; trailer]].concat()), "{trailer}");
        }
        let mut encrypted = compound.clone();
        encrypted[28..].iter_mut().for_each(|byte| *byte ^= 0xa7);
        assert!(!plain(&encrypted));
        assert!(!plain(&compound[..compound.len() - 1]) && !plain(&[]));
        assert!(!is_plain_rtcp(&compound, compound.len() + 4), "the rest is in another segment");
    }

    #[test]
    fn an_rtp_header_is_read() {
        let rtp = Rtp { payload_type: 8, sequence: 0x1234, timestamp: 160, ssrc: 0xcafe_babe };
        assert_eq!(read(&PCMA), Packet::Rtp(rtp));
        assert_eq!(read(&PCMA[..12]), Packet::Rtp(rtp), "no payload is legal");
        let mut marked = PCMA;
        marked[1] = 0x80 | 101;
        assert_eq!(read(&marked), Packet::Rtp(Rtp { payload_type: 101, ..rtp }));
        let mut padded = PCMA;
        padded[0] |= 0x20;
        assert_eq!(read(&padded), Packet::Rtp(rtp), "padding is not checked");
    }

    #[test]
    fn headers_that_do_not_fit_are_not_rtp() {
        for len in 0..12 {
            assert_eq!(read(&PCMA[..len]), Packet::Other, "{len} bytes");
        }
        let mut sources = PCMA.to_vec();
        sources[0] = 0x82;
        sources.resize(19, 0);
        assert_eq!(read(&sources), Packet::Other, "two sources need 20 bytes");
        sources.resize(20, 0);
        assert!(matches!(read(&sources), Packet::Rtp(_)));
        sources[0] = 0x92;
        assert_eq!(read(&sources), Packet::Other, "and an extension 4 more");
        sources.extend([0xbe, 0xde, 0, 1]);
        assert_eq!(read(&sources), Packet::Other, "whose length is 4 more");
        sources.extend([0; 4]);
        assert!(matches!(read(&sources), Packet::Rtp(_)));
        assert_eq!(Packet::read(&sources[..22], 28), Packet::Other, "extension in another segment");
    }

    #[test]
    fn payload_types_64_to_95_are_never_rtp() {
        for second in 0..=255u8 {
            let mut packet = PCMA;
            packet[1] = second;
            packet[2..4].copy_from_slice(&[0, 1]);
            let rtp = !(64..=95).contains(&(second & 0x7f));
            let rtcp = (192..=223).contains(&second);
            assert_eq!(matches!(read(&packet), Packet::Rtp(_)), rtp, "{second}");
            assert_eq!(matches!(read(&packet), Packet::Rtcp { .. }), rtcp, "{second}");
        }
    }

    #[test]
    fn rtcp_must_fit_its_datagram() {
        let mut report = [0x80, 201, 0, 1, 0, 0, 0, 9];
        assert_eq!(read(&report), Packet::Rtcp { packet_type: 201 });
        report[3] = 2;
        assert_eq!(read(&report), Packet::Other);
        assert_eq!(read(&report[..7]), Packet::Other);
    }

    #[test]
    fn a_tag_is_that_of_rtp_and_of_the_sender_of_rtcp_and_untold_where_it_is_not_at_hand() {
        use crate::wire::sample;
        let tag = |frame: &[u8]| Tag::of(&Headers::parse(frame, frame.len() as u32), frame);
        let media = sample::udp(40000, 5004, &sample::rtp(9, 0xcafe_babe));
        assert_eq!(tag(&media), Tag::Ssrc(0xcafe_babe));
        assert_eq!(tag(&sample::udp(40000, 5005, &[0x80, 200, 0, 1, 1, 2, 3, 4])), Tag::Ssrc(0x0102_0304));
        assert_eq!(tag(&sample::udp(40000, 5005, &[0x80, 192, 0, 1, 1, 2, 3, 4])), Tag::None, "no sender");
        assert_eq!(tag(&sample::udp(40000, 53, &[1; 40])), Tag::None);
        assert_eq!(tag(&sample::tcp(40000, 53, &sample::rtp(1, 2))), Tag::None);
        for cut in 42..54 {
            let headers = Headers::parse(&media[..cut], media.len() as u32);
            assert_eq!(Tag::of(&headers, &media[..cut]), Tag::Untold, "cut at {cut}");
        }
        let short = sample::udp(40000, 5004, &[0x80, 8, 0]);
        assert_eq!(tag(&short), Tag::None, "there is no more of it");
    }

    #[test]
    fn first_bytes_of_other_protocols() {
        let mut stun = [0u8; 20];
        stun[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(read(&stun), Packet::Stun);
        stun[3] = 4;
        assert_eq!(read(&stun), Packet::Other, "length");
        stun[3] = 0;
        stun[4] = 0;
        assert_eq!(read(&stun), Packet::Other, "cookie");
        let classic = [&stun[..], &[0, 3, 0, 4, 0, 0, 0, 0]].concat();
        for (at, value, found) in [
            (3, 8, Packet::Stun),
            (0, 2, Packet::Other),
            (21, 12, Packet::Other),
            (23, 3, Packet::Other),
            (23, 5, Packet::Other),
        ] {
            let mut changed = classic.clone();
            changed[3] = 8;
            changed[at] = value;
            assert_eq!(read(&changed), found, "without a cookie, {value} at {at}");
        }
        let mut dtls = [0u8; 14];
        dtls[..3].copy_from_slice(&[22, 0xfe, 0xfd]);
        dtls[12] = 1;
        assert_eq!(read(&dtls), Packet::Dtls);
        dtls[12] = 2;
        assert_eq!(read(&dtls), Packet::Other, "length");
        for first in [16u8, 19, 30, 63, 64, 79, 100, 127, 192, 255] {
            let mut packet = PCMA;
            packet[0] = first;
            assert_eq!(read(&packet), Packet::Other, "first byte {first}");
        }
    }
}
