//! The label that every test frame ends with: who made it, when, and as what. 22 bytes, big-endian, so that it
//! fits behind an ARP packet in a frame of 64.
//!
//! ```text
//! magic u16 | guest u4 lane u4 | kind u4 stream u4 | run u32 | sequence u32 | number u48 | crc u32
//! ```
//! The checksum (CRC-32C) covers the label, and what stands before it from the frame's byte 96 on, where no
//! header reaches: a frame that arrives with another's bytes is told from its own.

use super::kind::Kind;

/// Bytes of a label.
pub const LABEL_LEN: usize = 22;

/// "TG". Its first byte begins no STUN, DTLS, TURN or RTP packet.
const MAGIC: [u8; 2] = *b"TG";
/// Headers end before this byte of a frame.
const BODY: usize = 96;

/// What its generator knows of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Number of the guest, 0 to 15.
    pub guest: u8,
    /// Number of its lane, 0 to 15.
    pub lane: u8,
    /// What the frame is.
    pub kind: Kind,
    /// Which stream of that kind, 0 to 15.
    pub stream: u8,
    /// The run it was made in: the epoch as the generator knows it, from 1.
    pub run: u32,
    /// Counts the frames of this kind and stream, from 0.
    pub sequence: u32,
    /// Counts the frames of this lane, from 0, below 2^48.
    pub number: u64,
}

impl Label {
    /// Writes the label over the last bytes of `frame`, whose rest must be in place from byte 96 on.
    pub fn write(&self, frame: &mut [u8]) {
        let start = frame.len() - LABEL_LEN;
        let label = &mut frame[start..];
        label[0..2].copy_from_slice(&MAGIC);
        label[2] = self.guest << 4 | self.lane & 15;
        label[3] = (self.kind as u8) << 4 | self.stream & 15;
        label[4..8].copy_from_slice(&self.run.to_be_bytes());
        label[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        label[12..18].copy_from_slice(&self.number.to_be_bytes()[2..]);
        let end = frame.len() - 4;
        let crc = crc32c(&frame[start.min(BODY)..end]);
        frame[end..].copy_from_slice(&crc.to_be_bytes());
    }

    /// Reads the label of a frame; `None` for a frame that has none, or a broken one.
    pub fn read(frame: &[u8]) -> Option<Label> {
        let start = frame.len().checked_sub(LABEL_LEN)?;
        let label: &[u8; LABEL_LEN] = frame[start..].try_into().ok()?;
        let covered = &frame[start.min(BODY)..frame.len() - 4];
        if label[0..2] != MAGIC || label[18..22] != crc32c(covered).to_be_bytes() {
            return None;
        }
        let word = |at: usize| u32::from_be_bytes([label[at], label[at + 1], label[at + 2], label[at + 3]]);
        Some(Label {
            guest: label[2] >> 4,
            lane: label[2] & 15,
            kind: Kind::of(label[3] >> 4)?,
            stream: label[3] & 15,
            run: word(4),
            sequence: word(8),
            number: u64::from(word(12)) << 16 | u64::from(u16::from_be_bytes([label[16], label[17]])),
        })
    }
}

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4), four bytes a step.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        crc ^= u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let [a, b, c, d] = crc.to_le_bytes();
        crc = TABLES[3][usize::from(a)]
            ^ TABLES[2][usize::from(b)]
            ^ TABLES[1][usize::from(c)]
            ^ TABLES[0][usize::from(d)];
    }
    for &byte in words.remainder() {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    !crc
}

/// `TABLES[n][byte]`: what a byte does to the checksum `n` bytes later.
static TABLES: [[u32; 256]; 4] = tables();

const fn tables() -> [[u32; 256]; 4] {
    let mut tables = [[0u32; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut later = 1;
    while later < 4 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[later - 1][byte];
            tables[later][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        later += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label {
        guest: 3,
        lane: 1,
        kind: Kind::UdpVlan,
        stream: 9,
        run: 70_000,
        sequence: 5,
        number: 1 << 40,
    };

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa, "RFC 3720, B.4: 32 bytes of zeroes");
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e, "RFC 3720, B.4: 32 bytes rising");
    }

    #[test]
    fn a_label_is_read_as_written_and_any_changed_byte_is_noticed() {
        for len in [22, 64, 90, 96, 118, 119, 300, 1514] {
            let mut frame = vec![7; len];
            LABEL.write(&mut frame);
            assert_eq!(Label::read(&frame), Some(LABEL));
            for at in 0..len {
                let mut broken = frame.clone();
                broken[at] ^= 0x10;
                let covered = at >= len - LABEL_LEN || at >= BODY;
                assert_eq!(Label::read(&broken), (!covered).then_some(LABEL), "byte {at} of {len}");
            }
            for cut in 0..len {
                assert_eq!(Label::read(&frame[..cut]), None, "{len} cut to {cut}");
            }
        }
    }
}
