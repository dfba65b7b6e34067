//! UDP (RFC 768).

use super::{Headers, Kind, Reach, be16};

/// Protocol number.
pub const PROTOCOL: u8 = 17;
/// Bytes of the header.
pub const HEADER: usize = 8;

/// Reads the header at `at` of `packet`.
#[inline(always)]
pub(crate) fn read(headers: &mut Headers, packet: &Reach<'_>, at: usize) -> Result<Kind, Kind> {
    let udp: &[u8; HEADER] = packet.take(at)?;
    headers.sport = be16(udp, 0);
    headers.dport = be16(udp, 2);
    let length = be16(udp, 4) as usize;
    let available = packet.end - at;
    // The length is that of the whole datagram: more than a first fragment has, exactly what a whole
    // packet has, or less where UDP options follow.
    let lies = if headers.more_fragments { length <= available } else { length > available };
    if length < HEADER || lies {
        return Err(Kind::Malformed);
    }
    headers.payload_at = (at + HEADER) as u16;
    headers.payload_len = (length.min(available) - HEADER) as u32;
    headers.surplus = length < available;
    Ok(Kind::Udp)
}
