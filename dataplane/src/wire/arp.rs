//! ARP (RFC 826) and the RARP (RFC 903) by which a hypervisor announces where its guest now lives.

use super::{Headers, Kind, be16, ethernet};

/// Bytes of a packet for Ethernet and IPv4.
pub const PACKET: usize = 28;
/// An announcement with its padding; DPDK's vhost makes a RARP of 64 bytes.
const MAX_FRAME: u32 = 64;

/// Operation of a request.
pub const REQUEST: u16 = 1;
/// Operation of a reply.
pub const REPLY: u16 = 2;
const REVERSE_REQUEST: u16 = 3;
/// Hardware Ethernet, protocol IPv4, addresses of 6 and 4 bytes.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// True for a well-formed ARP request or reply whose sender is the frame's own: short, and with nothing
/// to tell but addresses.
pub fn is_arp(headers: &Headers, head: &[u8], frame_len: u32) -> bool {
    headers.kind == Kind::Arp
        && packet(headers, head, frame_len).is_some_and(|(packet, source)| {
            matches!(be16(packet, 6), REQUEST | REPLY) && packet[8..14] == source && is_unicast(source)
        })
}

/// True for the announcement that QEMU and DPDK's vhost send for a guest: a broadcast reverse request
/// for the frame's own hardware address, without protocol addresses.
pub fn is_rarp_announcement(headers: &Headers, head: &[u8], frame_len: u32) -> bool {
    headers.kind == Kind::Rarp
        && ethernet::destination(head) == Some([0xff; 6])
        && packet(headers, head, frame_len).is_some_and(|(packet, source)| {
            be16(packet, 6) == REVERSE_REQUEST
                && packet[8..14] == source
                && packet[18..24] == source
                && packet[14..18] == [0; 4]
                && packet[24..28] == [0; 4]
                && is_unicast(source)
        })
}

fn build(operation: u16, mac: [u8; 6], address: [u8; 4], target: [u8; 6]) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    packet[..6].copy_from_slice(&ETHERNET_IPV4);
    packet[6..8].copy_from_slice(&operation.to_be_bytes());
    packet[8..14].copy_from_slice(&mac);
    packet[14..18].copy_from_slice(&address);
    packet[18..24].copy_from_slice(&target);
    packet[24..].copy_from_slice(&address);
    packet
}

/// Gratuitous ARP: the address is at this hardware address. Some hosts take a [`REQUEST`] only (RFC 5227, 3), some a
/// [`REPLY`] only.
pub fn gratuitous(mac: [u8; 6], address: [u8; 4], operation: u16) -> [u8; PACKET] {
    build(operation, mac, address, if operation == REPLY { mac } else { [0; 6] })
}

/// The packet of [`is_rarp_announcement`].
pub fn reverse_announcement(mac: [u8; 6]) -> [u8; PACKET] {
    build(REVERSE_REQUEST, mac, [0; 4], mac)
}

/// The packet and the frame's source address, if the frame is a short one for Ethernet and IPv4.
fn packet<'a>(headers: &Headers, head: &'a [u8], frame_len: u32) -> Option<(&'a [u8; PACKET], [u8; 6])> {
    if frame_len > MAX_FRAME + ethernet::TAG as u32 * headers.tags as u32 {
        return None;
    }
    let packet: &[u8; PACKET] = head.get(headers.network_at as usize..)?.first_chunk()?;
    if packet[..6] == ETHERNET_IPV4 { Some((packet, ethernet::source(head)?)) } else { None }
}

fn is_unicast(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sample;

    fn judge(frame: &[u8]) -> (bool, bool) {
        let len = frame.len() as u32;
        let headers = Headers::parse(frame, len);
        (is_arp(&headers, frame, len), is_rarp_announcement(&headers, frame, len))
    }

    #[test]
    fn requests_replies_and_the_announcement_are_told_apart() {
        assert_eq!(judge(&sample::arp(1)), (true, false));
        assert_eq!(judge(&sample::arp(2)), (true, false));
        assert_eq!(judge(&sample::rarp()), (false, true));
        assert_eq!(judge(&sample::tagged(&sample::rarp(), &[0x8100])), (false, true));
    }

    #[test]
    fn anything_more_than_an_announcement_is_none() {
        assert_eq!(judge(&sample::arp(3)), (false, false), "operation of RARP");
        let mut long = sample::arp(1);
        long.resize(65, 0);
        assert_eq!(judge(&long), (false, false), "bytes behind it");
        for at in [6, 14, 16, 18, 19, 20, 22, 32] {
            let mut frame = sample::arp(1);
            frame[at] ^= 0x20;
            assert_eq!(judge(&frame).0, matches!(at, 32), "byte {at}");
        }
        for at in [0, 6, 12, 14, 21, 22, 28, 32, 38] {
            let mut frame = sample::rarp();
            frame[at] ^= 0x01;
            assert!(!judge(&frame).1, "byte {at}");
        }
        let whole = sample::rarp();
        for len in 0..42 {
            assert_eq!(judge(&whole[..len]), (false, false), "{len} bytes");
        }
    }
}
