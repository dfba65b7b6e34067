//! TCP (RFC 9293), as far as a gate needs it: ports and where the data starts.

use super::{Headers, Kind, Reach, be16};

/// Protocol number.
pub const PROTOCOL: u8 = 6;
/// Bytes of a header without options.
pub const HEADER: usize = 20;
/// The flags FIN, SYN and RST, at byte 13: a connection begins or ends.
pub const TURNS: u8 = 0b111;

/// Reads the header at `at` of `packet`.
#[inline(always)]
pub(crate) fn read(headers: &mut Headers, packet: &Reach<'_>, at: usize) -> Result<Kind, Kind> {
    let tcp: &[u8; HEADER] = packet.take(at)?;
    let header_len = (tcp[12] >> 4) as usize * 4;
    if header_len < HEADER || at + header_len > packet.end {
        return Err(Kind::Malformed);
    }
    headers.sport = be16(tcp, 0);
    headers.dport = be16(tcp, 2);
    headers.payload_at = (at + header_len) as u16;
    headers.payload_len = (packet.end - at - header_len) as u32;
    Ok(Kind::Tcp)
}
