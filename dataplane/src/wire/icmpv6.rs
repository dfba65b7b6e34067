//! IPv6 neighbour discovery (RFC 4861), as far as it announces or asks where an address lives.

use super::{Headers, Kind, be16};

/// Protocol number of ICMPv6.
pub const PROTOCOL: u8 = 58;

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Type of a neighbour advertisement.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Where ff02::1 is sent to.
pub const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// Bytes of an advertisement with its IPv6 header and its one option.
pub const ADVERTISEMENT: usize = 40 + 24 + 8;
/// A solicitation with target, link-layer address and nonce (RFC 7527) has 40 bytes; no more is let through.
const MAX_LEN: usize = 64;

/// True for a well-formed neighbour solicitation or advertisement, or a router solicitation: hop limit
/// 255 (RFC 4861, 6.1 and 7.1), no extension header, no fragment, options that fill it exactly.
pub fn is_discovery(headers: &Headers, head: &[u8]) -> bool {
    if headers.kind != Kind::Icmpv6
        || headers.hop_limit != 255
        || headers.extended
        || headers.is_fragment()
        || headers.payload_len as usize > MAX_LEN
    {
        return false;
    }
    let message = headers.payload(head);
    if message.len() != headers.payload_len as usize || message.len() < 8 || message[1] != 0 {
        return false;
    }
    let options = match message[0] {
        ROUTER_SOLICITATION => 8,
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => {
            // The target is an address that one host has.
            if message.len() < 24 || message[8] == 0xff || be16(message, 8) == 0 {
                return false;
            }
            24
        }
        _ => return false,
    };
    options_fill(&message[options..])
}

/// An unsolicited neighbour advertisement (RFC 4861, 7.2.6), with its IPv6 header: to all nodes, and what they knew before
/// is overridden.
pub fn unsolicited_advertisement(mac: [u8; 6], address: [u8; 16], router: bool) -> [u8; ADVERTISEMENT] {
    let mut packet = [0; ADVERTISEMENT];
    packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, (ADVERTISEMENT - 40) as u8, PROTOCOL, 255]);
    packet[8..24].copy_from_slice(&address);
    packet[24..40].copy_from_slice(&ALL_NODES);
    packet[40] = NEIGHBOUR_ADVERTISEMENT;
    packet[44] = if router { 0xa0 } else { 0x20 };
    packet[48..64].copy_from_slice(&address);
    packet[64..66].copy_from_slice(&[2, 1]);
    packet[66..].copy_from_slice(&mac);
    // The pseudo header: addresses, length, protocol (RFC 8200, 8.1).
    let pseudo = u64::from((ADVERTISEMENT - 40) as u8) + u64::from(PROTOCOL);
    let mut sum: u64 = pseudo + packet[8..].chunks_exact(2).map(|two| u64::from(be16(two, 0))).sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[42..44].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

/// Options in units of 8 bytes (RFC 4861, 4.6), none of them empty.
fn options_fill(mut options: &[u8]) -> bool {
    while let [_, units, ..] = options {
        match options.get(*units as usize * 8..) {
            Some(rest) if *units > 0 => options = rest,
            _ => return false,
        }
    }
    options.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sample;

    fn judge(frame: &[u8]) -> bool {
        is_discovery(&Headers::parse(frame, frame.len() as u32), frame)
    }

    #[test]
    fn neighbour_discovery_is_recognised() {
        assert!(judge(&sample::neighbour(135, 255, &[1, 1, 2, 0, 0, 0, 0, 1])));
        assert!(judge(&sample::neighbour(136, 255, &[2, 1, 2, 0, 0, 0, 0, 1])));
        assert!(judge(&sample::neighbour(136, 255, &[])));
    }

    #[test]
    fn forwarded_oversized_or_torn_discovery_is_not() {
        assert!(!judge(&sample::neighbour(135, 254, &[])), "hop limit");
        assert!(!judge(&sample::neighbour(134, 255, &[])), "a router's advertisement is not a guest's");
        assert!(!judge(&sample::neighbour(135, 255, &[1, 0, 2, 0, 0, 0, 0, 1])), "empty option");
        assert!(!judge(&sample::neighbour(135, 255, &[1, 2, 2, 0, 0, 0, 0, 1])), "option beyond the end");
        assert!(!judge(&sample::neighbour(135, 255, &[1])), "half an option");
        assert!(!judge(&sample::neighbour(135, 255, &[1, 6].repeat(24))), "too long");
        let mut multicast = sample::neighbour(135, 255, &[]);
        multicast[14 + 40 + 8] = 0xff;
        assert!(!judge(&multicast), "target");
    }
}
