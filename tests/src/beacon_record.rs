//! What the beacon in the guest and the laboratory outside it agree on: the page in guest memory that
//! holds the counter, and the record that each numbered frame carries.
//!
//! This file is also compiled into the beacon itself, so it uses nothing but the standard library.

/// Bytes of a page; the counter's page begins at a multiple of it in guest memory.
pub const PAGE: usize = 4096;
/// Bytes of a record in a frame.
pub const RECORD: usize = 40;
/// What a record begins with. Its first byte is none that RTP, STUN or DTLS begin with.
const RECORD_MAGIC: [u8; 8] = *b"TGbeacon";
/// What the page begins with, but for [`VEIL`]: so neither the beacon's program file nor the test's
/// own memory has a page that looks like it.
const VEILED: [u64; 2] = [0x7469_6465_6761_7465, 0x6265_6163_6f6e_2131];
const VEIL: u64 = 0xa5c3_9617_e84b_2d71;

/// The two words that mark the page.
pub fn page_magic() -> [u64; 2] {
    // Kept from the optimiser, which would otherwise write the finished words into the program.
    let veil = std::hint::black_box(VEIL);
    [VEILED[0] ^ veil, VEILED[1] ^ veil]
}

/// How a numbered frame travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Carrier {
    /// UDP over IPv4.
    Udp4 = 1,
    /// UDP over IPv6.
    Udp6 = 2,
    /// UDP over IPv4 on a VLAN.
    Vlan = 3,
    /// A record within one TCP stream.
    Tcp = 4,
}

/// What one numbered frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Drawn anew by each start of the guest.
    pub boot: u64,
    /// How it travels.
    pub carrier: Carrier,
    /// The counter in guest memory had this value before the frame was sent.
    pub number: u64,
    /// Counts the frames that were sent this way, from 0 and without a hole: what is missing is lost.
    pub sequence: u64,
}

impl Record {
    /// The record's bytes in a frame: magic, boot, carrier, number, sequence, each 8 bytes, big endian.
    pub fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&RECORD_MAGIC);
        bytes[8..16].copy_from_slice(&self.boot.to_be_bytes());
        bytes[16..24].copy_from_slice(&(self.carrier as u64).to_be_bytes());
        bytes[24..32].copy_from_slice(&self.number.to_be_bytes());
        bytes[32..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    /// The record at the beginning of `bytes`.
    pub fn parse(bytes: &[u8]) -> Option<Record> {
        let word = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if bytes.get(..8)? != RECORD_MAGIC {
            return None;
        }
        let carrier = match word(16)? {
            1 => Carrier::Udp4,
            2 => Carrier::Udp6,
            3 => Carrier::Vlan,
            4 => Carrier::Tcp,
            _ => return None,
        };
        Some(Record { boot: word(8)?, carrier, number: word(24)?, sequence: word(32)? })
    }

    /// All records in a payload, wherever they begin: TCP cuts its stream where it likes. A record
    /// that is cut in two is not found; its number is only one of many.
    pub fn all_in(payload: &[u8]) -> Vec<Record> {
        let mut found = Vec::new();
        let mut at = 0;
        while at + RECORD <= payload.len() {
            match Record::parse(&payload[at..]) {
                Some(record) => {
                    found.push(record);
                    at += RECORD;
                }
                None => at += 1,
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_wherever_tcp_has_cut() {
        let record = |number| Record { boot: 1, carrier: Carrier::Tcp, number, sequence: number - 1 };
        let mut stream = record(1).to_bytes()[30..].to_vec();
        stream.extend(record(2).to_bytes());
        stream.extend(record(3).to_bytes());
        stream.extend(&record(4).to_bytes()[..39]);
        assert_eq!(Record::all_in(&stream), [record(2), record(3)]);
    }
}
