//! Reads captures: pcap and pcapng; Ethernet, Linux's cooked links, bare IP, and BSD's loopback.

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
    /// Of links that are none of these: not looked at.
    pub other_links: u64,
    /// The file ends in the middle of a packet.
    pub cut: bool,
}

/// Where the packet starts behind a link's own header, and what Ethertype it would have.
fn behind(link: Linktype, bytes: &[u8]) -> Option<(usize, [u8; 2])> {
    let told = |skip: usize, at: usize| Some((skip, *bytes.get(..skip)?.get(at..)?.first_chunk()?));
    let ip = |skip: usize| match bytes.get(skip)? >> 4 {
        4 => Some((skip, [0x08, 0x00])),
        6 => Some((skip, [0x86, 0xdd])),
        _ => None,
    };
    match link {
        // The last two bytes of either cooked header, or the first two of the newer, are the Ethertype.
        Linktype::LINUX_SLL => told(16, 14),
        Linktype(276) => told(20, 0),
        // Bare IP, by its five numbers.
        Linktype(12 | 14 | 101 | 228 | 229) => ip(0),
        // BSD's loopback: the family, in whichever byte order.
        Linktype(0 | 108) => ip(4),
        _ => None,
    }
}

/// An Ethernet header in front of a packet of another link.
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
        if link == Linktype::ETHERNET {
            return see(read.packets, Captured { at_ns, bytes, len });
        }
        let Some((skip, ethertype)) = behind(link, bytes) else {
            read.other_links += 1;
            return;
        };
        cooked.clear();
        cooked.extend(COOKED);
        cooked.extend(ethertype);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::sample::{capture, rtp, udp};

    #[test]
    fn behind_any_link_it_is_the_same_packet() {
        let frame = udp(5, 40_000, &rtp(1));
        let packet = &frame[14..];
        for (link, header) in [
            (1u32, &frame[..14]),
            (113, &[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0]),
            (276, &[8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 4, 6, 2, 0, 0, 0, 0, 1, 0, 0]),
            (101, &[]),
            (12, &[]),
            (228, &[]),
            (0, &[2, 0, 0, 0]),
            (108, &[0, 0, 0, 2]),
        ] {
            let (_dir, path) = capture(&[[header, packet].concat(), header.to_vec()]);
            let mut file = std::fs::read(&path).expect("read");
            file[20..24].copy_from_slice(&link.to_le_bytes());
            std::fs::write(&path, file).expect("written");
            let mut packets = Vec::new();
            let read = self::read(&path, |seen| packets.push((seen.bytes[12..].to_vec(), seen.len)));
            assert_eq!(packets[0], (frame[12..].to_vec(), frame.len() as u32), "link {link}");
            let read = read.expect("a capture");
            assert_eq!(read.packets, 2, "link {link}");
            assert_eq!(packets.len() as u64 + read.other_links, 2, "link {link}");
        }
    }
}
