//! IPv4 (RFC 791): header, options, fragments.

use super::{Headers, Kind, Reach, be16, be32};

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Bytes of a header without options.
pub const HEADER: usize = 20;

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Reads the header at `at` of `frame`, then what stands behind it.
#[inline(always)]
pub(crate) fn read(headers: &mut Headers, frame: &Reach<'_>, at: usize) -> Result<Kind, Kind> {
    let ip: &[u8; HEADER] = frame.take(at)?;
    let header_len = ((ip[0] & 0x0f) as usize) * 4;
    let total = be16(ip, 2) as usize;
    if ip[0] >> 4 != 4 || header_len < HEADER || total < header_len || at + total > frame.end {
        return Err(Kind::Malformed);
    }
    if at + header_len > frame.head.len() {
        return Err(Kind::Unknown);
    }
    headers.version = 4;
    headers.extended = header_len > HEADER;
    headers.dscp = ip[1] >> 2;
    headers.hop_limit = ip[8];
    headers.protocol = ip[9];
    headers.network_end = (at + total) as u32;
    headers.src = mapped(ip, 12);
    headers.dst = mapped(ip, 16);
    let fragment = be16(ip, 6);
    if fragment & (MORE_FRAGMENTS | OFFSET) != 0 {
        headers.fragment_id = be16(ip, 4) as u32;
        headers.fragment_offset = (fragment & OFFSET) * 8;
        headers.more_fragments = fragment & MORE_FRAGMENTS != 0;
    }
    headers.read_transport(&Reach { head: frame.head, end: at + total }, at + header_len)
}

/// The four bytes at `at` as an IPv4-mapped IPv6 address. Its halves are written whole: whoever reads them
/// as words right after need not wait for the store of each byte.
#[inline(always)]
pub(crate) fn mapped(header: &[u8], at: usize) -> [u8; 16] {
    let low = 0xffff_0000_0000 | be32(header, at) as u64;
    (low as u128).to_be_bytes()
}
