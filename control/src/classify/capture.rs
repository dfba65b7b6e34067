//! Reads captures: pcap and pcapng, Ethernet and Linux's cooked links.

use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};
use std::fs::File;
use std::path::Path;

/// Bytes read at a time; a packet that is longer makes the file unreadable.
const CHUNK: usize = 1 << 20;
/// Two interfaces of a pcapng file are told apart by their number; more than so many are not believed.
const INTERFACES: usize = 4096;

/// A packet as it was captured.
pub struct Captured<'a> {
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// From the first byte of the Ethernet header.
    pub bytes: &'a [u8],
    /// Bytes that the frame had; more than `bytes` when the capture cut it.
    pub len: u32,
}

/// What a file had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Packets, all of them.
    pub packets: u64,
    /// Of links that are neither Ethernet nor Linux's cooked form: not looked at.
    pub other_links: u64,
    /// The file ends in the middle of a packet.
    pub cut: bool,
}

/// An Ethernet header in front of a cooked packet.
const COOKED: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// Calls `see` with each packet of a file, in the file's order.
pub fn read(path: &Path, mut see: impl FnMut(Captured<'_>)) -> Result<Read, String> {
    read_numbered(path, |_, packet| see(packet))
}

/// The same, with each packet's number among all that the file has, from 1.
pub fn read_numbered(path: &Path, see: impl FnMut(u64, Captured<'_>)) -> Result<Read, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    read_from(file, see)
}

/// The same from any bytes: hostile ones give an error or an end, and take no more memory than a packet may have.
pub fn read_from(
    file: impl std::io::Read + Send,
    mut see: impl FnMut(u64, Captured<'_>),
) -> Result<Read, String> {
    let no_capture = |e| format!("it is no capture (pcap or pcapng): {e:?}");
    let mut reader = create_reader(CHUNK, file).map_err(no_capture)?;
    let mut read = Read::default();
    let (mut link, mut nanos, mut interfaces) = (Linktype::ETHERNET, false, Vec::new());
    let mut cooked = Vec::new();
    let mut packet = |read: &mut Read, link: Linktype, at_ns: u64, bytes: &[u8], len: u32| {
        read.packets += 1;
        let header = match link {
            Linktype::ETHERNET => return see(read.packets, Captured { at_ns, bytes, len }),
            // The last two bytes of either cooked header, or the first two of the newer, are the Ethertype.
            Linktype::LINUX_SLL if bytes.len() >= 16 => (16, 14),
            Linktype(276) if bytes.len() >= 20 => (20, 0),
            _ => {
                read.other_links += 1;
                return;
            }
        };
        let (skip, ethertype) = header;
        cooked.clear();
        cooked.extend(COOKED);
        cooked.extend(&bytes[ethertype..ethertype + 2]);
        cooked.extend(&bytes[skip..]);
        let len = len.saturating_sub(skip as u32).saturating_add(14);
        see(read.packets, Captured { at_ns, bytes: &cooked, len });
    };
    loop {
        match reader.next() {
            Ok((used, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        link = header.network;
                        nanos = header.is_nanosecond_precision();
                    }
                    PcapBlockOwned::Legacy(p) => {
                        let fraction = u64::from(p.ts_usec) * if nanos { 1 } else { 1000 };
                        let at_ns = u64::from(p.ts_sec) * 1_000_000_000 + fraction;
                        packet(&mut read, link, at_ns, p.data, p.origlen);
                    }
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => interfaces.clear(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(i)) => {
                        let unit = i.ts_resolution().filter(|unit| *unit > 0).unwrap_or(1_000_000);
                        if interfaces.len() < INTERFACES {
                            interfaces.push((i.linktype, i.if_tsoffset as u64, unit));
                        }
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(p)) => {
                        let known = interfaces.get(p.if_id as usize);
                        let (link, offset, unit) =
                            *known.ok_or("a packet names an interface that was not described")?;
                        let (seconds, fraction) = p.decode_ts(offset, unit);
                        let fraction = u128::from(fraction) * 1_000_000_000 / u128::from(unit);
                        let at_ns =
                            u64::from(seconds).wrapping_mul(1_000_000_000).wrapping_add(fraction as u64);
                        let bytes = &p.data[..p.data.len().min(p.caplen as usize)];
                        packet(&mut read, link, at_ns, bytes, p.origlen);
                    }
                    PcapBlockOwned::NG(Block::SimplePacket(p)) => {
                        let (link, ..) = *interfaces.first().ok_or("a packet comes before its interface")?;
                        packet(&mut read, link, 0, p.data, p.origlen);
                    }
                    PcapBlockOwned::NG(_) => {}
                }
                reader.consume(used);
            }
            Err(PcapError::Eof) => return Ok(read),
            Err(PcapError::UnexpectedEof) => return Ok(Read { cut: true, ..read }),
            Err(PcapError::Incomplete(_)) => {
                let had = reader.data().len();
                reader.refill().map_err(|e| format!("after {} packets: {e:?}", read.packets))?;
                if reader.data().len() == had {
                    // Nothing came, and the same bytes would ask for more again. Without any, the file is whole.
                    return Ok(Read { cut: had > 0, ..read });
                }
            }
            Err(e) => return Err(format!("after {} packets: {e:?}", read.packets)),
        }
    }
}
