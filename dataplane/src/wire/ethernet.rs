//! Ethernet II and its VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).

/// Bytes of the header.
pub const HEADER: usize = 14;
/// Bytes that a VLAN tag adds.
pub const TAG: usize = 4;

/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of ARP (RFC 826).
pub const ARP: u16 = 0x0806;
/// Ethertype of RARP (RFC 903).
pub const RARP: u16 = 0x8035;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Tag of a customer VLAN (802.1Q).
pub const VLAN: u16 = 0x8100;
/// Tag of a service VLAN (802.1ad).
pub const SERVICE_VLAN: u16 = 0x88a8;
/// Tag that switches used for QinQ before 802.1ad.
pub const OLD_SERVICE_VLAN: u16 = 0x9100;

/// The Ethertype of a header, or of an LLC frame its length (below 1536).
#[inline(always)]
pub fn ethertype(header: &[u8; HEADER]) -> u16 {
    u16::from_be_bytes([header[12], header[13]])
}

/// Source address of a frame; `None` when it is too short to have one.
pub fn source(head: &[u8]) -> Option<[u8; 6]> {
    head.get(6..12)?.try_into().ok()
}

/// Destination address of a frame.
pub fn destination(head: &[u8]) -> Option<[u8; 6]> {
    head.get(..6)?.try_into().ok()
}

/// True for an Ethertype that says that a tag follows.
#[inline(always)]
pub fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, VLAN | SERVICE_VLAN | OLD_SERVICE_VLAN)
}

/// Tag control information and the Ethertype behind it.
#[inline(always)]
pub fn tag(bytes: &[u8; TAG]) -> (u16, u16) {
    (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]))
}
