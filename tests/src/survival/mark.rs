//! What the guest numbers outside TCP: a datagram every few milliseconds with a number and a draw of its own, and the
//! packets of its voice.
//!
//! A restored guest that does not know that it has sent number `n` sends it again, with another draw.

/// A datagram's length.
pub const MARK: usize = 24;
const MAGIC: [u8; 8] = *b"tg-mark\n";

/// A numbered datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// From 1, without a hole.
    pub number: u64,
    /// Drawn in the guest before it was sent.
    pub draw: u64,
}

impl Mark {
    /// As it travels.
    pub fn to_bytes(self) -> [u8; MARK] {
        let mut bytes = [0; MARK];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_be_bytes());
        bytes[16..].copy_from_slice(&self.draw.to_be_bytes());
        bytes
    }

    /// The mark at the beginning of a payload.
    pub fn parse(payload: &[u8]) -> Option<Mark> {
        let bytes: [u8; MARK] = payload.get(..MARK)?.try_into().ok()?;
        let word = |at: usize| Some(u64::from_be_bytes(bytes[at..at + 8].try_into().ok()?));
        (bytes[..8] == MAGIC).then_some(())?;
        Some(Mark { number: word(8)?, draw: word(16)? })
    }
}

/// RTP packet of 20 ms of G.711 A-law.
pub const VOICE: usize = 12 + 160;

/// One packet of silence; the first four bytes of its payload count the packets that came the other way.
pub fn voice(ssrc: u32, sequence: u16, timestamp: u32, heard: u32) -> [u8; VOICE] {
    let mut bytes = [0xd5; VOICE];
    bytes[0] = 0x80;
    bytes[1] = 8;
    bytes[2..4].copy_from_slice(&sequence.to_be_bytes());
    bytes[4..8].copy_from_slice(&timestamp.to_be_bytes());
    bytes[8..12].copy_from_slice(&ssrc.to_be_bytes());
    bytes[12..16].copy_from_slice(&heard.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = Mark { number: 3, draw: u64::MAX - 1 };
        assert_eq!(Mark::parse(&mark.to_bytes()), Some(mark));
        assert_eq!(Mark::parse(&mark.to_bytes()[..23]), None);
        assert_eq!(Mark::parse(&[0; 24]), None);
    }

    #[test]
    fn a_voice_packet_is_rtp_of_payload_type_8() {
        let packet = voice(0x0102_0304, 0xfffe, 160, 7);
        assert_eq!((packet[0] >> 6, packet[1], packet.len()), (2, 8, 172));
        assert_eq!(packet[2..4], [0xff, 0xfe]);
        assert_eq!(packet[8..16], [1, 2, 3, 4, 0, 0, 0, 7]);
    }
}
