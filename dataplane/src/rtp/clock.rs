//! The media clock of a stream: by its static payload type (RFC 3551, 6), else by how its timestamps run
//! against the TSC as the guest sends them.

use super::Sighting;
use crate::streams::Seen;
use crate::tsc::TscRate;

/// Clocks that dynamic payload types have.
const KNOWN: [u32; 9] = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 90000];
/// Half the distance of the two closest known clocks, in per cent.
const TOLERANCE: u64 = 4;
/// Before that, packets sent in bursts blur the estimate.
const EARLIEST_NS: u64 = 1_000_000_000;
/// After that the nearest one will do; this is also when a stream of constant timestamps gets 8000.
const LATEST_NS: u64 = 3_000_000_000;
const FEWEST_PACKETS: u64 = 8;

/// Units a second of a static payload type.
pub(super) fn by_payload_type(payload_type: u8) -> Option<u32> {
    match payload_type {
        0 | 3..=5 | 7..=9 | 12 | 13 | 15 | 18 => Some(8000),
        6 => Some(16000),
        10 | 11 => Some(44100),
        16 => Some(11025),
        17 => Some(22050),
        14 | 25 | 26 | 28 | 31..=34 => Some(90000),
        _ => None,
    }
}

/// The clock of a stream whose payload type does not tell, once it can be told.
pub(super) fn of(seen: &Seen, sighting: &Sighting<'_>, packets: u64, rate: TscRate) -> Option<u32> {
    let elapsed = rate.ns(sighting.now.saturating_sub(seen.first_seen.get()));
    if elapsed < EARLIEST_NS || packets < FEWEST_PACKETS {
        return None;
    }
    let advance = sighting.rtp.timestamp.wrapping_sub(seen.first_timestamp.get() as u32) as i32;
    let measured = (advance.max(0) as u128 * 1_000_000_000 / elapsed as u128) as u64;
    let nearest = KNOWN.into_iter().min_by_key(|known| measured.abs_diff(*known as u64))?;
    let close = measured.abs_diff(nearest as u64) * 100 <= nearest as u64 * TOLERANCE;
    (close || elapsed >= LATEST_NS).then_some(nearest)
}
