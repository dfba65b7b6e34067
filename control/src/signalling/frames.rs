//! From a frame to a piece of signalling: headers as the lcore reads them, and UDP put together from IP fragments.
//!
//! Datagrams under way are bounded in number, size and time, each direction for itself. Fragments that overlap make
//! the whole datagram void (RFC 5722).

use super::{Piece, Transport};
use std::net::SocketAddr;
use tidegate_dataplane::wire::{Headers, Kind, display_address, tcp, udp};

/// Datagrams that are put together at once, in one direction.
const DATAGRAMS: usize = 32;
/// Fragments of one.
const PARTS: usize = 64;
/// Bytes of one.
const LONGEST: usize = u16::MAX as usize;
/// How long one may take, nanoseconds.
const PATIENCE_NS: u64 = 2_000_000_000;

#[derive(Debug)]
struct Datagram {
    src: [u8; 16],
    dst: [u8; 16],
    id: u32,
    since: u64,
    /// Where each part begins, and its bytes.
    parts: Vec<(usize, Vec<u8>)>,
    /// Where the last one ends.
    total: Option<usize>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    under_way: [Vec<Datagram>; 2],
    /// The last one that was completed.
    whole: Vec<u8>,
}

impl Datagrams {
    /// What `frame` carries, or completes.
    pub fn read<'a>(&'a mut self, frame: &'a [u8], from_guest: bool, now: u64) -> Option<Piece<'a>> {
        let headers = Headers::parse(frame, u32::try_from(frame.len()).ok()?);
        let address = |address, port| SocketAddr::new(display_address(address), port);
        if headers.final_dst_at != 0 || headers.surplus {
            return None;
        }
        if headers.is_fragment() {
            let bytes = frame.get(headers.transport_at.into()..headers.network_end as usize)?;
            self.whole = self.put(&headers, bytes, from_guest, now)?;
            let (header, payload) = self.whole.split_first_chunk::<{ udp::HEADER }>()?;
            let [s0, s1, d0, d1, l0, l1, ..] = *header;
            let (sport, dport) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
            let whole = usize::from(u16::from_be_bytes([l0, l1])) == self.whole.len();
            let (src, dst) = (address(headers.src, sport), address(headers.dst, dport));
            return whole.then_some(Piece {
                src,
                dst,
                from_guest,
                transport: Transport::Udp,
                bytes: payload,
            });
        }
        let bytes = headers.payload(frame);
        if bytes.len() != headers.payload_len as usize {
            return None;
        }
        let transport = match headers.kind {
            Kind::Udp => Transport::Udp,
            Kind::Tcp => {
                let header: &[u8; tcp::HEADER] = frame.get(headers.transport_at.into()..)?.first_chunk()?;
                let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                Transport::Tcp { sequence, syn: header[13] & 2 != 0, end: header[13] & 5 != 0 }
            }
            _ => return None,
        };
        let (src, dst) = (address(headers.src, headers.sport), address(headers.dst, headers.dport));
        Some(Piece { src, dst, from_guest, transport, bytes })
    }

    /// Adds a fragment; the datagram's bytes once they are complete.
    fn put(&mut self, headers: &Headers, bytes: &[u8], from_guest: bool, now: u64) -> Option<Vec<u8>> {
        let under_way = &mut self.under_way[usize::from(from_guest)];
        under_way.retain(|datagram| now.saturating_sub(datagram.since) <= PATIENCE_NS);
        let is_same =
            |d: &Datagram| d.id == headers.fragment_id && d.src == headers.src && d.dst == headers.dst;
        let at = match under_way.iter().position(is_same) {
            Some(at) => at,
            None => {
                if under_way.len() == DATAGRAMS {
                    under_way.remove(0);
                }
                let (src, dst, id) = (headers.src, headers.dst, headers.fragment_id);
                under_way.push(Datagram { src, dst, id, since: now, parts: Vec::new(), total: None });
                under_way.len() - 1
            }
        };
        let begin = usize::from(headers.fragment_offset);
        match under_way[at].add(begin, bytes, !headers.more_fragments) {
            Ok(false) => None,
            Ok(true) => Some(under_way.remove(at).join()),
            Err(()) => {
                under_way.remove(at);
                None
            }
        }
    }
}

impl Datagram {
    /// True when it is complete; `Err` when it cannot be one.
    fn add(&mut self, begin: usize, bytes: &[u8], last: bool) -> Result<bool, ()> {
        let end = begin + bytes.len();
        if self.parts.iter().any(|(at, had)| *at == begin && had == bytes) {
            return Ok(false);
        }
        let overlaps = self.parts.iter().any(|(at, had)| begin < at + had.len() && *at < end);
        let beyond = self.total.is_some_and(|total| last || end > total);
        if overlaps || beyond || end > LONGEST || self.parts.len() == PARTS || bytes.is_empty() {
            return Err(());
        }
        self.parts.push((begin, bytes.to_vec()));
        if last {
            self.total = Some(end);
        }
        let had: usize = self.parts.iter().map(|(_, bytes)| bytes.len()).sum();
        match self.total {
            // Nothing overlaps: as many bytes as it has, and none behind its end, are all of it.
            Some(total) if self.parts.iter().any(|(at, had)| at + had.len() > total) => Err(()),
            total => Ok(total == Some(had)),
        }
    }

    fn join(mut self) -> Vec<u8> {
        self.parts.sort_unstable_by_key(|(at, _)| *at);
        self.parts.into_iter().flat_map(|(_, bytes)| bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of a datagram from 10.0.0.2 to 10.0.0.9; IPv6 from ::2 to ::9.
    fn part(six: bool, id: u16, offset: usize, more: bool, bytes: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
        if six {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((8 + bytes.len() as u16).to_be_bytes());
            frame.extend([44, 64]);
            for last in [2, 9] {
                frame.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
            frame.extend([17, 0]);
            frame.extend((offset as u16 | u16::from(more)).to_be_bytes());
            frame.extend([0, 0]);
            frame.extend(id.to_be_bytes());
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + bytes.len() as u16).to_be_bytes());
            frame.extend(id.to_be_bytes());
            frame.extend(((offset as u16 / 8) | (u16::from(more) << 13)).to_be_bytes());
            frame.extend([64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 9]);
        }
        frame.extend(bytes);
        frame
    }

    fn datagram(payload: &[u8]) -> Vec<u8> {
        let mut udp = vec![0x13, 0xc4, 0x13, 0xc4];
        udp.extend((8 + payload.len() as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        udp
    }

    fn read(datagrams: &mut Datagrams, frame: &[u8], now: u64) -> Option<Vec<u8>> {
        datagrams.read(frame, true, now).map(|piece| {
            assert_eq!((piece.src.port(), piece.dst.port()), (5060, 5060));
            piece.bytes.to_vec()
        })
    }

    #[test]
    fn fragments_make_a_datagram_in_any_order_and_repeated() {
        let payload: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
        let whole = datagram(&payload);
        for six in [false, true] {
            let cut = |n: usize| part(six, 7, n * 1000, n < 3, &whole[n * 1000..(n * 1000 + 1000).min(3008)]);
            for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
                let mut datagrams = Datagrams::default();
                for n in &order[..3] {
                    assert_eq!(read(&mut datagrams, &cut(*n), 1), None);
                    assert_eq!(read(&mut datagrams, &cut(*n), 1), None, "again");
                }
                assert_eq!(read(&mut datagrams, &cut(order[3]), 2), Some(payload.clone()), "{order:?}");
            }
        }
    }

    #[test]
    fn a_datagram_with_a_surplus_or_on_its_way_through_others_is_not_read() {
        let whole = datagram(&[7; 100]);
        let mut datagrams = Datagrams::default();
        assert_eq!(read(&mut datagrams, &part(false, 7, 0, false, &whole), 1), Some(vec![7; 100]));
        assert_eq!(read(&mut datagrams, &part(false, 7, 0, false, &[&whole[..], &[0; 4]].concat()), 1), None);
        // An atomic fragment with a source route (RFC 8754) behind it that has `left` stops left.
        for (left, bytes) in [(0, Some(vec![7; 100])), (1, None)] {
            let route = [&[17, 2, 4, left, 0, 0, 0, 0][..], &[1; 16], &whole].concat();
            let mut frame = part(true, 7, 0, false, &route);
            frame[54] = 43;
            assert_eq!(read(&mut datagrams, &frame, 1), bytes, "{left}");
        }
    }

    #[test]
    fn what_overlaps_is_late_or_another_datagrams_makes_none() {
        let whole = datagram(&[7; 100]);
        let (first, last) = (part(false, 7, 0, true, &whole[..64]), part(false, 7, 64, false, &whole[64..]));
        for other in [part(false, 7, 56, false, &whole[56..]), part(false, 8, 64, false, &whole[64..])] {
            let mut datagrams = Datagrams::default();
            assert_eq!(read(&mut datagrams, &first, 1), None);
            assert_eq!(read(&mut datagrams, &other, 1), None);
        }
        // As many bytes as it has, with some of them twice and a hole.
        let mut datagrams = Datagrams::default();
        for (begin, end) in [(0, 64), (56, 72), (80, 108)] {
            let part = part(false, 7, begin, end < 108, &whole[begin..end]);
            assert_eq!(read(&mut datagrams, &part, 1), None, "{begin}");
        }
        let mut datagrams = Datagrams::default();
        assert_eq!(read(&mut datagrams, &first, 1), None);
        assert_eq!(read(&mut datagrams, &last, 2 + PATIENCE_NS), None);
        for id in 100..5000 {
            read(&mut datagrams, &part(false, id, 0, true, &whole[..64]), 1);
        }
        assert!(datagrams.under_way[1].len() <= DATAGRAMS);
    }
}
