//! TURN (RFC 8656) as far as a gate needs it: the ChannelData message, four bytes in front of what a relay passes on, and
//! which STUN messages speak of channels.

use super::{Headers, Kind, be16, be32};
use std::ops::RangeInclusive;

/// Numbers that a channel may have (RFC 8656, 12).
pub const CHANNELS: RangeInclusive<u16> = 0x4000..=0x4fff;
/// The first eight bytes of a STUN message: type, length, cookie.
pub const FRONT: usize = 8;
/// The magic cookie of STUN (RFC 8489, 5).
pub const COOKIE: u32 = 0x2112_a442;

/// ChannelBind, a request.
pub const BIND: u16 = 0x0009;
/// ChannelBind, granted.
pub const BOUND: u16 = 0x0109;
/// ChannelBind, refused.
pub const NOT_BOUND: u16 = 0x0119;
/// Refresh, a request.
pub const REFRESH: u16 = 0x0004;

const HEADER: usize = 4;

/// A ChannelData message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// The channel, one of [`CHANNELS`].
    pub number: u16,
    /// What it carries, as far as it is at hand.
    pub data: &'a [u8],
    /// Bytes that it carries.
    pub len: usize,
}

impl<'a> ChannelData<'a> {
    /// Reads it from the frame that `headers` were read from: whole, without a surplus, on the usual route.
    pub fn of(headers: &Headers, head: &'a [u8]) -> Option<ChannelData<'a>> {
        let plain = headers.kind == Kind::Udp
            && !headers.is_fragment()
            && !headers.surplus
            && headers.final_dst_at == 0;
        if plain { ChannelData::read(headers.payload(head), headers.payload_len as usize) } else { None }
    }

    /// Reads a datagram of `len` bytes of which `payload` are at hand. Over UDP it may be padded to a multiple of four
    /// bytes; whatever else is behind the data makes it none.
    pub fn read(payload: &'a [u8], len: usize) -> Option<ChannelData<'a>> {
        let header: &[u8; HEADER] = payload.first_chunk()?;
        let (number, data) = (be16(header, 0), usize::from(be16(header, 2)));
        let padding = len.checked_sub(HEADER + data)?;
        if !CHANNELS.contains(&number) || padding > 3 || padding > 0 && !len.is_multiple_of(4) {
            return None;
        }
        let rest = &payload[HEADER..];
        Some(ChannelData { number, data: &rest[..rest.len().min(data)], len: data })
    }
}

/// True when these first bytes of a datagram are those of a message that binds channels or lets them go, or answers
/// that: what is worth a copy.
#[inline(always)]
pub(crate) fn is_about_channels(front: &[u8; FRONT], from_guest: bool) -> bool {
    be32(front, 4) == COOKIE
        && match be16(front, 0) {
            BIND | REFRESH => from_guest,
            BOUND | NOT_BOUND => !from_guest,
            _ => false,
        }
}

/// The same of a whole payload: for whoever reads captures.
pub fn speaks_of_channels(payload: &[u8], from_guest: bool) -> bool {
    payload.first_chunk().is_some_and(|front| is_about_channels(front, from_guest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &[u8]) -> Option<(u16, &[u8])> {
        let data = ChannelData::read(payload, payload.len())?;
        assert_eq!(data.data.len(), data.len);
        Some((data.number, data.data))
    }

    #[test]
    fn channel_data_is_read_with_its_padding_and_nothing_else_behind_it() {
        assert_eq!(read(&[0x40, 1, 0, 3, 7, 8, 9]), Some((0x4001, &[7, 8, 9][..])));
        assert_eq!(read(&[0x40, 1, 0, 3, 7, 8, 9, 0]), Some((0x4001, &[7, 8, 9][..])), "padded");
        assert_eq!(read(&[0x40, 1, 0, 0]), Some((0x4001, &[][..])));
        assert_eq!(read(&[0x4f, 0xff, 0, 1, 7, 0, 0, 0]), Some((0x4fff, &[7][..])));
        for other in [
            &[0x40, 1, 0, 3, 7, 8][..],               // too short
            &[0x40, 1, 0, 3, 7, 8, 9, 0, 0],          // padded beyond four
            &[0x40, 1, 0, 1, 7, 0],                   // not to four
            &[0x40, 1, 0, 4, 7, 8, 9, 0, 0, 0, 0, 0], // four too many
            &[0x3f, 0xff, 0, 1, 7],                   // no channel
            &[0x50, 0, 0, 1, 7],                      // reserved since RFC 8656
            &[0x40, 1, 0],
            &[],
        ] {
            assert_eq!(read(other), None, "{other:x?}");
        }
        let cut = [0x40, 1, 0, 9, 7, 8];
        assert_eq!(
            ChannelData::read(&cut, 13),
            Some(ChannelData { number: 0x4001, data: &[7, 8], len: 9 }),
            "the rest is in another segment"
        );
        assert_eq!(ChannelData::read(&cut, 12), None);
    }

    #[test]
    fn messages_about_channels_are_told_by_their_first_bytes_and_their_direction() {
        let front = |kind: u16| {
            let [a, b] = kind.to_be_bytes();
            [a, b, 0, 0, 0x21, 0x12, 0xa4, 0x42]
        };
        for kind in 0..=u16::MAX {
            let wanted = match kind {
                0x0004 | 0x0009 => [true, false],
                0x0109 | 0x0119 => [false, true],
                _ => [false, false],
            };
            assert_eq!([true, false].map(|from_guest| is_about_channels(&front(kind), from_guest)), wanted);
        }
        assert!(!is_about_channels(&[0, 9, 0, 0, 0x21, 0x12, 0xa4, 0x43], true));
    }
}
