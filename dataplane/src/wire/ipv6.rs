//! IPv6 (RFC 8200): header and the chain of extension headers, which is followed for [`MAX_CHAIN`] of them.

use super::{Headers, Kind, Reach, be16, be32};

/// Bytes of the fixed header.
pub const HEADER: usize = 40;
/// Extension headers that are looked through; a longer chain is unknown.
pub const MAX_CHAIN: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// Routing headers with whole addresses: the deprecated source route, Mobile IPv6, segment routing.
const SOURCE_ROUTE: u8 = 0;
const MOBILE: u8 = 2;
const SEGMENTS: u8 = 4;

/// True for a header that another one follows.
pub fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6
    )
}

/// Reads the header at `at` of `frame`, the chain, then what stands behind it.
#[inline(always)]
pub(crate) fn read(headers: &mut Headers, frame: &Reach<'_>, at: usize) -> Result<Kind, Kind> {
    let ip: &[u8; HEADER] = frame.take(at)?;
    let end = at + HEADER + be16(ip, 4) as usize;
    if ip[0] >> 4 != 6 || end > frame.end {
        return Err(Kind::Malformed);
    }
    headers.version = 6;
    headers.dscp = (be16(ip, 0) >> 6) as u8 & 0x3f;
    headers.protocol = ip[6];
    headers.hop_limit = ip[7];
    headers.network_end = end as u32;
    headers.src.copy_from_slice(&ip[8..24]);
    headers.dst.copy_from_slice(&ip[24..40]);
    let packet = Reach { head: frame.head, end };
    let mut at = at + HEADER;
    if is_extension(headers.protocol) {
        at = chain(headers, &packet, at)?;
    }
    headers.read_transport(&packet, at)
}

/// Follows the chain; returns where the first thing stands that is not an extension header, or where
/// the bytes of a later fragment start.
#[inline(never)]
fn chain(headers: &mut Headers, packet: &Reach<'_>, mut at: usize) -> Result<usize, Kind> {
    headers.extended = true;
    for _ in 0..MAX_CHAIN {
        let bytes: &[u8; 8] = packet.take(at)?;
        let len = match headers.protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (bytes[1] as usize + 2) * 4,
            _ => (bytes[1] as usize + 1) * 8,
        };
        match headers.protocol {
            // An atomic fragment (RFC 6946) is a whole packet.
            FRAGMENT if be16(bytes, 2) & !0x0006 != 0 => {
                if headers.is_fragment() {
                    return Err(Kind::Malformed);
                }
                headers.fragment_offset = be16(bytes, 2) & 0xfff8;
                headers.more_fragments = bytes[3] & 1 != 0;
                headers.fragment_id = be32(bytes, 4);
            }
            ROUTING => headers.final_dst_at = last_stop(bytes, at, len)?,
            _ => {}
        }
        at += len;
        if at > packet.end {
            return Err(Kind::Malformed);
        }
        headers.protocol = bytes[0];
        if headers.fragment_offset != 0 || !is_extension(headers.protocol) {
            return Ok(at);
        }
    }
    Err(Kind::Unknown)
}

/// Where the address stands that the checksum's pseudo header means (RFC 8200, 8.1); 0 if the packet
/// has arrived, and the destination in the fixed header is the one.
fn last_stop(bytes: &[u8; 8], at: usize, len: usize) -> Result<u16, Kind> {
    if bytes[3] == 0 {
        return Ok(0);
    }
    let offset = match bytes[2] {
        MOBILE | SEGMENTS => 8,
        SOURCE_ROUTE => len.saturating_sub(16).max(8),
        _ => return Err(Kind::Unknown),
    };
    if offset + 16 > len { Err(Kind::Malformed) } else { Ok((at + offset) as u16) }
}
