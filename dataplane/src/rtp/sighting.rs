//! An RTP packet as its stream meets it, and the words that name the stream.

use crate::endpoints::Endpoint;
use crate::policy::CompiledPolicy;
use crate::wire::Headers;
use crate::wire::rtp::Rtp;

/// An RTP packet with its addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting<'a> {
    pub headers: &'a Headers,
    pub rtp: Rtp,
    /// Number of the TURN channel that it comes through; 0 when it is sent directly.
    pub channel: u16,
    pub policy: &'a CompiledPolicy,
    pub now: u64,
}

pub(super) fn words(bytes: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// SSRC, the guest's port, the peer's port.
#[inline(always)]
pub(super) fn name(headers: &Headers, rtp: &Rtp) -> u64 {
    (rtp.ssrc as u64) << 32 | (headers.sport as u64) << 16 | headers.dport as u64
}

impl Sighting<'_> {
    pub(super) fn name(&self) -> u64 {
        name(self.headers, &self.rtp)
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        endpoint(self.headers, self.channel)
    }
}

pub(super) fn endpoint(headers: &Headers, channel: u16) -> Endpoint {
    Endpoint { address: words(&headers.src), port: headers.sport, channel }
}

/// Where a stream would be: its set of `sets` (a power of two), and its tag there.
#[inline(always)]
pub(super) fn place(sets: usize, address: [u64; 2], name: u64) -> (usize, u64) {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let of_address = (address[0].rotate_left(32) ^ address[1]).wrapping_mul(GOLDEN);
    let of_all = ((name >> 16) ^ of_address) as u128 * GOLDEN as u128;
    // The middle of the product: every bit of the key has a say in it.
    let set = (of_all >> 64) as usize & sets.wrapping_sub(1);
    (set, (name & !0xffff) | (of_address >> 48) | 1)
}
