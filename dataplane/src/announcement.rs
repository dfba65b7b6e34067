//! Frames by which the plane itself announces where a guest lives: what its switches and neighbours would otherwise
//! find out only when the guest happens to speak.

use crate::identities::{Identity, TAG_BYTES};
use crate::wire::{arp, ethernet, icmpv6};

/// Bytes of the longest: an advertisement behind three tags.
const LONGEST: usize = ethernet::HEADER + TAG_BYTES + icmpv6::ADVERTISEMENT;
/// Bytes of the shortest frame without FCS.
const SHORTEST: usize = 60;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announcement {
    bytes: [u8; LONGEST],
    len: u8,
}

impl Announcement {
    /// The frame, from the first byte of the Ethernet header.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(LONGEST)]
    }

    fn new(identity: &Identity, destination: [u8; 6], ethertype: u16, packet: &[u8]) -> Announcement {
        let mut frame = Announcement { bytes: [0; LONGEST], len: 0 };
        for part in [&destination, &identity.mac, identity.tags(), &ethertype.to_be_bytes(), packet] {
            let at = usize::from(frame.len);
            if let Some(room) = frame.bytes.get_mut(at..at + part.len()) {
                room.copy_from_slice(part);
                frame.len += part.len() as u8;
            }
        }
        frame.len = frame.len.max(SHORTEST as u8);
        frame
    }

    /// What announces an identity. To switches: a RARP, as hypervisors send it. To neighbours, if the guest has confirmed
    /// the address: gratuitous ARP in both its forms, or an unsolicited neighbour advertisement.
    pub fn all(identity: &Identity) -> impl Iterator<Item = Announcement> {
        const EVERYBODY: [u8; 6] = [0xff; 6];
        let rarp = arp::reverse_announcement(identity.mac);
        let rarp = Announcement::new(identity, EVERYBODY, ethernet::RARP, &rarp);
        let arp = |address: [u8; 4], operation| {
            let packet = arp::gratuitous(identity.mac, address, operation);
            Announcement::new(identity, EVERYBODY, ethernet::ARP, &packet)
        };
        let neighbours = match identity.address.filter(|_| identity.confirmed) {
            None => [None, None],
            Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]) => {
                [arp::REQUEST, arp::REPLY].map(|operation| Some(arp([a, b, c, d], operation)))
            }
            Some(address) => {
                let packet = icmpv6::unsolicited_advertisement(identity.mac, address, identity.router);
                let nodes = icmpv6::ALL_NODES_MAC;
                [Some(Announcement::new(identity, nodes, ethernet::IPV6, &packet)), None]
            }
        };
        [Some(rarp)].into_iter().chain(neighbours).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Headers, Kind, sample};

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

    fn identity(address: Option<[u8; 16]>) -> Identity {
        Identity { address, ..Identity::of_mac(MAC) }
    }

    fn mapped(address: [u8; 4]) -> [u8; 16] {
        let mut mapped = [0; 16];
        mapped[10..12].copy_from_slice(&[0xff; 2]);
        mapped[12..].copy_from_slice(&address);
        mapped
    }

    fn frames(identity: &Identity) -> Vec<Vec<u8>> {
        Announcement::all(identity).map(|frame| frame.bytes().to_vec()).collect()
    }

    #[test]
    fn ipv4_is_announced_to_switches_and_in_both_forms_to_neighbours() {
        let ether = |ethertype: [u8; 2]| [&[0xff; 6][..], &MAC, &ethertype].concat();
        let packet = |operation: u8, sender: [u8; 4], target_mac: [u8; 6], target: [u8; 4]| {
            [&[0, 1, 8, 0, 6, 4, 0, operation][..], &MAC, &sender, &target_mac, &target, &[0; 18]].concat()
        };
        let address = [10, 0, 0, 2];
        let expected = [
            [ether([0x80, 0x35]), packet(3, [0; 4], MAC, [0; 4])].concat(),
            [ether([8, 6]), packet(1, address, [0; 6], address)].concat(),
            [ether([8, 6]), packet(2, address, MAC, address)].concat(),
        ];
        assert_eq!(frames(&identity(Some(mapped(address)))), expected);
        assert_eq!(frames(&identity(None)), expected[..1]);
        let seen = Identity { confirmed: false, ..identity(Some(mapped(address))) };
        assert_eq!(frames(&seen), expected[..1], "an address that is merely seen may be a stranger's");
    }

    #[test]
    fn ipv6_is_advertised_to_all_nodes_with_the_override_flag() {
        let all = frames(&identity(Some(sample::GUEST6)));
        assert_eq!(all.len(), 2);
        let mut expected = vec![0x33, 0x33, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 1, 0x86, 0xdd];
        expected.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
        expected.extend(sample::GUEST6);
        expected.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        expected.extend([136, 0, 0xaa, 0xaa, 0x20, 0, 0, 0]);
        expected.extend(sample::GUEST6);
        expected.extend([2, 1, 0x52, 0x54, 0, 0, 0, 1]);
        // The sum of 0x2001 0db8 0002 twice, 0xff02 0001, length 0x20, protocol 0x3a, 0x8800 2000, 0x0201 5254 0001.
        let sum: u32 =
            2 * (0x2001 + 0x0db8 + 2) + 0xff02 + 1 + 0x20 + 0x3a + 0x8800 + 0x2000 + 0x0201 + 0x5254 + 1;
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        expected[56..58].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(all[1], expected);
        let router = Identity { router: true, ..identity(Some(sample::GUEST6)) };
        assert_eq!(frames(&router)[1][58], 0xa0, "a router stays one");
    }

    #[test]
    fn tags_are_those_of_the_guest_and_what_is_announced_is_an_announcement() {
        for tags in 0..=3usize {
            let mut tagged = [0; TAG_BYTES];
            tagged.chunks_exact_mut(4).take(tags).for_each(|tag| tag.copy_from_slice(&[0x81, 0, 0, 7]));
            for address in [mapped([10, 0, 0, 2]), sample::GUEST6] {
                let identity =
                    Identity { tags: tagged, tag_bytes: 4 * tags as u8, ..identity(Some(address)) };
                for frame in frames(&identity) {
                    assert!(frame.len() >= 60);
                    let len = frame.len() as u32;
                    let headers = Headers::parse(&frame, len);
                    assert_eq!(
                        (headers.tags as usize, headers.vlan_id()),
                        (tags, if tags > 0 { 7 } else { 0 })
                    );
                    let announces = match headers.kind {
                        Kind::Arp => arp::is_arp(&headers, &frame, len),
                        Kind::Rarp => arp::is_rarp_announcement(&headers, &frame, len),
                        Kind::Icmpv6 => icmpv6::is_discovery(&headers, &frame),
                        _ => false,
                    };
                    assert!(announces, "{frame:x?}");
                }
            }
        }
    }
}
