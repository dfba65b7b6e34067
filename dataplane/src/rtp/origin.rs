//! Where media comes from, and where it never does.

use super::Sighting;
use crate::wire::Headers;

/// Media has no source port below (RFC 3551 leaves those to others; they are DNS, NTP, SNMP) but one.
const LOWEST_PORT: u16 = 1024;
/// Relays and conference servers send from here, where firewalls let nothing else through.
const SERVER_PORT: u16 = 443;

/// True for a port and an address that media comes from.
pub(super) fn is_eligible(headers: &Headers) -> bool {
    is_source(&headers.src, headers.sport)
}

/// The same of an address and a port.
pub(super) fn is_source(address: &[u8; 16], port: u16) -> bool {
    (port >= LOWEST_PORT || port == SERVER_PORT) && is_host(address)
}

/// LISP (RFC 9300) on its own port: where RTP has its source stands an IP packet's first word, and a nonce that counts
/// is no sequence number.
pub(super) fn is_tunnel(sighting: &Sighting<'_>) -> bool {
    const LISP: u16 = 4341;
    let Sighting { headers, rtp, .. } = sighting;
    (headers.dport == LISP || headers.sport == LISP) && matches!(rtp.ssrc >> 28, 4 | 6)
}

/// True for an address that one host can have: not multicast, broadcast, loopback or none.
pub(crate) fn is_host(address: &[u8; 16]) -> bool {
    match crate::wire::display_address(*address) {
        std::net::IpAddr::V4(v4) => {
            !v4.is_multicast() && !v4.is_loopback() && v4.octets()[0] != 0 && v4.octets()[0] < 240
        }
        std::net::IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_loopback() && !v6.is_unspecified(),
    }
}
