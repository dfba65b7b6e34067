//! Header views: the bytes of a frame are checked once, and everything read afterwards cannot fail.
//!
//! [`Headers::parse`] walks Ethernet, up to three VLAN tags, IPv4 with options or IPv6 with its extension
//! headers, and UDP, TCP or ICMP. It is total: any bytes give a [`Headers`], and what it could not read
//! is a [`Kind`] that every policy but `bypass-all` holds. It looks at the first segment only.
//!
//! Lengths are believed in one order: the frame's own length, then the IP length within it, then the UDP
//! length within that. One that claims more than its surroundings have makes the frame malformed; bytes
//! behind the IP length (Ethernet padding) are ignored.

pub mod arp;
pub mod ethernet;
pub mod express;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod rtp;
#[cfg(test)]
pub(crate) mod sample;
pub mod tcp;
pub mod turn;
pub mod udp;

use std::net::{IpAddr, Ipv6Addr};

/// VLAN tags that are looked through.
pub const MAX_TAGS: usize = 3;

/// What kind of frame the headers make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Headers that end too early or contradict themselves.
    #[default]
    Malformed,
    /// Headers that reach beyond the first segment, or nest deeper than is looked at. May be anything.
    Unknown,
    /// Neither IP nor ARP nor RARP: LLC, PPPoE, LLDP, MPLS and the rest.
    Other,
    /// Ethertype 0x0806.
    Arp,
    /// Ethertype 0x8035.
    Rarp,
    /// UDP with its header: a whole datagram or its first fragment.
    Udp,
    /// TCP with its header.
    Tcp,
    /// ICMP over IPv4.
    Icmp,
    /// ICMPv6 over IPv6.
    Icmpv6,
    /// Any other protocol over IP, tunnels and ESP among them.
    Ip,
    /// A fragment that is not the first: no ports.
    Fragment,
}

/// What the headers say. Offsets are bytes from the start of the frame. Fields that the frame does not
/// have are 0; after [`Kind::Malformed`] and [`Kind::Unknown`] only `tags`, `vlan` and `ethertype` mean
/// anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Source address; IPv4 as ::ffff:a.b.c.d.
    pub src: [u8; 16],
    /// Destination address; IPv4 as ::ffff:a.b.c.d.
    pub dst: [u8; 16],
    /// Where the IP packet ends.
    pub network_end: u32,
    /// Bytes of payload behind the UDP or TCP header; for UDP by the UDP length, as far as this fragment
    /// has them. For other protocols all bytes behind the IP headers.
    pub payload_len: u32,
    /// IP identification (IPv6: of the fragment header), if this is a fragment.
    pub fragment_id: u32,
    /// Where the fragment's bytes belong in the datagram.
    pub fragment_offset: u16,
    /// Where ARP, IPv4 or IPv6 starts.
    pub network_at: u16,
    /// Where UDP, TCP, ICMP or the unknown protocol starts.
    pub transport_at: u16,
    /// Where the payload starts.
    pub payload_at: u16,
    /// Where the last address of an IPv6 routing header stands that is still to be visited; 0 for none.
    pub final_dst_at: u16,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// The innermost Ethertype, or the length of an LLC frame.
    pub ethertype: u16,
    /// Tag control information of each tag, the outermost first.
    pub vlan: [u16; MAX_TAGS],
    /// How many of `vlan` are there.
    pub tags: u8,
    /// See [`Kind`].
    pub kind: Kind,
    /// 4, 6, or 0 when this is not IP.
    pub version: u8,
    /// The protocol behind all IP headers; for a later fragment, what its fragment header says.
    pub protocol: u8,
    /// Differentiated services code point, 0-63.
    pub dscp: u8,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// More fragments follow.
    pub more_fragments: bool,
    /// There are IPv4 options or IPv6 extension headers.
    pub extended: bool,
    /// The IP packet has bytes behind the UDP datagram (RFC 9868 calls it the surplus area).
    pub surplus: bool,
}

/// What a header needs, within what there is.
pub(crate) struct Reach<'a> {
    /// The bytes of the first segment, cut at the frame's length.
    pub head: &'a [u8],
    /// Where the surrounding layer ends, in bytes from the start of the frame.
    pub end: usize,
}

impl<'a> Reach<'a> {
    /// `N` bytes at `at`; [`Kind::Malformed`] if the surrounding layer is too short for them,
    /// [`Kind::Unknown`] if they lie in another segment.
    #[inline(always)]
    pub fn take<const N: usize>(&self, at: usize) -> Result<&'a [u8; N], Kind> {
        if at + N > self.end {
            return Err(Kind::Malformed);
        }
        self.head.get(at..).and_then(<[u8]>::first_chunk).ok_or(Kind::Unknown)
    }
}

/// Two bytes in network order.
#[inline(always)]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Four bytes in network order.
#[inline(always)]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Headers {
    /// Reads the headers of a frame of `frame_len` bytes whose first segment is `head`.
    #[inline]
    pub fn parse(head: &[u8], frame_len: u32) -> Headers {
        match Headers::usual(head, frame_len) {
            Some(headers) => headers,
            None => Headers::any(head, frame_len),
        }
    }

    /// What most frames are: UDP or TCP over IPv4 without tags, options or fragments. Reads them as
    /// [`Headers::any`] does, at fixed places.
    #[inline(always)]
    fn usual(head: &[u8], frame_len: u32) -> Option<Headers> {
        const TRANSPORT: usize = ethernet::HEADER + ipv4::HEADER;
        let bytes: &[u8; TRANSPORT + udp::HEADER] = head.first_chunk()?;
        let total = be16(bytes, 16) as u32;
        let network_end = ethernet::HEADER as u32 + total;
        if be32(bytes, 12) >> 8 != 0x08_0045 || be16(bytes, 20) & 0x3fff != 0 || network_end > frame_len {
            return None;
        }
        let room = total.checked_sub(ipv4::HEADER as u32)?;
        let protocol = bytes[23];
        let (kind, header, length) = match protocol {
            udp::PROTOCOL => (Kind::Udp, udp::HEADER as u32, be16(bytes, TRANSPORT + 4) as u32),
            tcp::PROTOCOL => {
                let tcp: &[u8; tcp::HEADER] = head.get(TRANSPORT..)?.first_chunk()?;
                let header = (tcp[12] >> 4) as u32 * 4;
                if header < tcp::HEADER as u32 {
                    return None;
                }
                (Kind::Tcp, header, room)
            }
            _ => return None,
        };
        if length < header || length > room {
            return None;
        }
        Some(Headers {
            src: ipv4::mapped(bytes, 26),
            dst: ipv4::mapped(bytes, 30),
            network_end,
            payload_len: length - header,
            fragment_id: 0,
            fragment_offset: 0,
            network_at: ethernet::HEADER as u16,
            transport_at: TRANSPORT as u16,
            payload_at: TRANSPORT as u16 + header as u16,
            final_dst_at: 0,
            sport: be16(bytes, TRANSPORT),
            dport: be16(bytes, TRANSPORT + 2),
            ethertype: ethernet::IPV4,
            vlan: [0; MAX_TAGS],
            tags: 0,
            kind,
            version: 4,
            protocol,
            dscp: bytes[15] >> 2,
            hop_limit: bytes[22],
            more_fragments: false,
            extended: false,
            surplus: length < room,
        })
    }

    /// Any frame.
    #[inline(never)]
    fn any(head: &[u8], frame_len: u32) -> Headers {
        let mut headers = Headers::default();
        let head = &head[..head.len().min(frame_len as usize)];
        headers.kind = headers.read(head, frame_len as usize).unwrap_or_else(|kind| kind);
        headers
    }

    #[inline(always)]
    fn read(&mut self, head: &[u8], frame_len: usize) -> Result<Kind, Kind> {
        let frame = Reach { head, end: frame_len };
        let mut ethertype = ethernet::ethertype(frame.take(0)?);
        let mut at = ethernet::HEADER;
        while ethernet::is_tag(ethertype) {
            let tag = frame.take(at)?;
            let slot = self.vlan.get_mut(self.tags as usize).ok_or(Kind::Unknown)?;
            (*slot, ethertype) = ethernet::tag(tag);
            self.tags += 1;
            at += ethernet::TAG;
        }
        self.ethertype = ethertype;
        self.network_at = at as u16;
        match ethertype {
            ethernet::IPV4 => ipv4::read(self, &frame, at),
            ethernet::IPV6 => ipv6::read(self, &frame, at),
            ethernet::ARP => Ok(Kind::Arp),
            ethernet::RARP => Ok(Kind::Rarp),
            _ => Ok(Kind::Other),
        }
    }

    /// What stands behind the IP headers, at `at`, within `packet`.
    #[inline(always)]
    pub(crate) fn read_transport(&mut self, packet: &Reach<'_>, at: usize) -> Result<Kind, Kind> {
        self.transport_at = at as u16;
        self.payload_at = at as u16;
        self.payload_len = (packet.end - at) as u32;
        if self.fragment_offset != 0 {
            // The last byte of a datagram is its 65535th at most.
            let fits = self.fragment_offset as u32 + self.payload_len <= u16::MAX as u32;
            return if fits && self.payload_len > 0 { Ok(Kind::Fragment) } else { Err(Kind::Malformed) };
        }
        match (self.protocol, self.version) {
            (udp::PROTOCOL, _) => udp::read(self, packet, at),
            (tcp::PROTOCOL, _) => tcp::read(self, packet, at),
            (ipv4::ICMP, 4) => packet.take::<8>(at).map(|_| Kind::Icmp),
            (icmpv6::PROTOCOL, 6) => packet.take::<4>(at).map(|_| Kind::Icmpv6),
            _ => Ok(Kind::Ip),
        }
    }

    /// The VLAN id of the outermost tag; 0 for an untagged or priority-tagged frame.
    #[inline]
    pub fn vlan_id(&self) -> u16 {
        self.vlan[0] & 0x0fff
    }

    /// True for the first or a later part of a datagram.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// True when the ports are known.
    #[inline]
    pub fn has_ports(&self) -> bool {
        matches!(self.kind, Kind::Udp | Kind::Tcp)
    }

    /// The payload's bytes, as far as `head` (the one given to [`Headers::parse`]) has them.
    #[inline(always)]
    pub fn payload<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        let rest = head.get(self.payload_at as usize..).unwrap_or(&[]);
        &rest[..rest.len().min(self.payload_len as usize)]
    }
}

/// `address` as people write it: IPv4 if it is a mapped one.
pub fn display_address(address: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(address)).to_canonical()
}

/// An address as IPv4-mapped or plain IPv6 bytes.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
