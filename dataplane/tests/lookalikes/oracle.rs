//! Says whether a frame may leave at once, from its bytes and from what came before. Shares no code with the plane, and
//! reads only what the generator and its mutations can make: what it cannot read may not go.

use std::collections::{HashMap, HashSet};

/// Streams that are told apart; an older one gives way unless it is proven.
const ENTRIES: usize = 1 << 17;
/// Frames after which what set a port up is forgotten: longer than the plane remembers it.
const ROUND: u64 = 2_000_000;

type Address = [u8; 4];

/// A datagram over IPv4.
struct Udp<'a> {
    src: Address,
    dst: Address,
    sport: u16,
    dport: u16,
    payload: &'a [u8],
    /// More fragments follow.
    first_part: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Key {
    src: Address,
    sport: u16,
    ssrc: u32,
}

#[derive(Clone, Copy, Default)]
struct Stream {
    key: Key,
    peer: (Address, u16),
    next: u16,
    run: u16,
    /// Highest number that went, once a run has proven the stream.
    highest: Option<u16>,
}

/// See the module's head.
pub struct Oracle {
    streams: Vec<Stream>,
    /// Ports where media was set up: in this round, and in the one before.
    set_up: [HashSet<(Address, u16)>; 2],
    frames: u64,
    proven: HashSet<(Address, u16)>,
    /// Datagrams whose first fragment went, and bytes that they may still have.
    begun: HashMap<(Address, Address, u16), usize>,
}

fn slot(src: Address, rest: u64) -> usize {
    let mixed = (u32::from_be_bytes(src) as u64 ^ rest.rotate_left(17)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed >> 40) as usize % ENTRIES
}

impl Oracle {
    pub fn new() -> Self {
        Oracle {
            streams: vec![Stream::default(); ENTRIES],
            set_up: Default::default(),
            frames: 0,
            proven: HashSet::new(),
            begun: HashMap::new(),
        }
    }

    /// Takes account of the frame, and whether it `goes`, and answers. What went moves the window of its stream, so that
    /// a plane that is stricter (it may have forgotten that a port was set up) is not left behind.
    pub fn may_go(&mut self, frame: &[u8], goes: bool) -> bool {
        self.frames += 1;
        if self.frames.is_multiple_of(ROUND) {
            self.set_up.swap(0, 1);
            self.set_up[0].clear();
        }
        let (tags, ethertype) = match ethertype(frame) {
            Some(found) => found,
            None => return false,
        };
        let Some(rest) = frame.get(14 + 4 * tags..) else { return false };
        match ethertype {
            0x0806 | 0x8035 => rest.len() >= 28 && frame.len() <= 64 + 4 * tags && announces(frame, rest),
            0x0800 => self.packet(rest, goes),
            _ => false,
        }
    }

    fn packet(&mut self, ip: &[u8], goes: bool) -> bool {
        let Some(body) = body(ip) else { return false };
        let name = || Some((ip[12..16].try_into().ok()?, ip[16..20].try_into().ok()?, be16(ip, 4)));
        if be16(ip, 6) & 0x1fff != 0 {
            // A later fragment: no more of them than a datagram can have.
            let left = name().and_then(|name| self.begun.get_mut(&name));
            return left.is_some_and(|left| {
                let fits = body.len() <= *left;
                *left = left.saturating_sub(body.len());
                fits
            });
        }
        let may_go = udp(ip, body).is_some_and(|udp| self.datagram(&udp, goes));
        if be16(ip, 6) & 0x2000 != 0
            && let Some(name) = name()
        {
            self.begun.remove(&name);
            if may_go && goes {
                self.begun.insert(name, 65_535 - body.len());
            }
        }
        may_go
    }

    fn datagram(&mut self, udp: &Udp<'_>, goes: bool) -> bool {
        let &[first, second, ..] = udp.payload else { return false };
        let len = udp.payload.len();
        if first & 0xc0 != 0x80 {
            if first < 64 && len >= 13 && !udp.first_part {
                self.sets_up(udp);
            }
            return false;
        }
        if second & 0x60 == 0x40 {
            if udp.first_part {
                return false;
            }
            let whole = len >= 8 && second >= 192 && (be16(udp.payload, 2) as usize + 1) * 4 <= len;
            if whole {
                self.sets_up(udp);
            }
            let near = [udp.sport.checked_sub(1), Some(udp.sport), udp.sport.checked_add(1)];
            return whole && near.into_iter().flatten().any(|port| self.proven.contains(&(udp.src, port)));
        }
        is_rtp(udp.payload) && self.rtp(udp, goes)
    }

    fn sets_up(&mut self, udp: &Udp<'_>) {
        self.set_up[0].insert((udp.src, udp.sport));
    }

    fn rtp(&mut self, udp: &Udp<'_>, goes: bool) -> bool {
        if udp.sport < 1024 && udp.sport != 443 || matches!(udp.src[0], 0 | 127 | 224..) {
            return false;
        }
        let ssrc = (be16(udp.payload, 8) as u32) << 16 | be16(udp.payload, 10) as u32;
        let sequence = be16(udp.payload, 2);
        let key = Key { src: udp.src, sport: udp.sport, ssrc };
        let at = slot(udp.src, (udp.sport as u64) << 32 | ssrc as u64);
        let place = (0..8).map(|way| (at + way) % ENTRIES);
        let known = place.clone().find(|at| self.streams[*at].key == key);
        let free = || place.clone().find(|at| self.streams[*at].highest.is_none());
        let Some(at) = known.or_else(free) else { return false };
        let is_set_up = self.set_up.iter().any(|ports| ports.contains(&(udp.src, udp.sport)));
        let needed = if is_set_up { 2 } else { 3 };
        let stream = &mut self.streams[at];
        let peer = (udp.dst, udp.dport);
        if stream.key != key {
            *stream = Stream { key, peer, ..Stream::default() };
        }
        let ahead = stream.highest.map(|highest| sequence.wrapping_sub(highest) as i16);
        let within = ahead.is_some_and(|ahead| (-99..3000).contains(&ahead));
        if within && goes && ahead > Some(0) {
            stream.highest = Some(sequence);
        }
        if udp.first_part {
            // It proves nothing.
            return within;
        }
        let behind = stream.next.wrapping_sub(sequence);
        if stream.run > 0 && stream.peer == peer && behind == 0 {
            stream.run += 1;
        } else if stream.run == 0 || stream.peer != peer || behind > stream.run {
            stream.run = 1;
        } else {
            return within;
        }
        (stream.peer, stream.next) = (peer, sequence.wrapping_add(1));
        if goes && !within && stream.run >= needed {
            stream.highest = Some(sequence);
            self.proven.insert((udp.src, udp.sport));
        }
        within || stream.run >= needed
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Number of VLAN tags, and what stands behind them.
fn ethertype(frame: &[u8]) -> Option<(usize, u16)> {
    (0..=3).find_map(|tags| {
        let at = 12 + 4 * tags;
        let ethertype = u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?);
        (!matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)).then_some((tags, ethertype))
    })
}

/// ARP or RARP for Ethernet and IPv4 whose sender is the frame's own.
fn announces(frame: &[u8], arp: &[u8]) -> bool {
    arp[..6] == [0, 1, 8, 0, 6, 4] && matches!(be16(arp, 6), 1..=3) && arp[8..14] == frame[6..12]
}

/// What stands behind the header of a UDP packet over IPv4.
fn body(ip: &[u8]) -> Option<&[u8]> {
    let header = (*ip.first()? & 0x0f) as usize * 4;
    if ip.len() < 20 || ip[0] >> 4 != 4 || header < 20 || ip[9] != 17 {
        return None;
    }
    ip.get(header..be16(ip, 2) as usize)
}

fn udp<'a>(ip: &[u8], datagram: &'a [u8]) -> Option<Udp<'a>> {
    let first_part = be16(ip, 6) & 0x2000 != 0;
    if datagram.len() < 8 {
        return None;
    }
    // As long as the packet, not a byte less: a surplus is no media.
    let len = be16(datagram, 4) as usize;
    if len < datagram.len() || (len > datagram.len()) != first_part {
        return None;
    }
    Some(Udp {
        src: ip[12..16].try_into().ok()?,
        dst: ip[16..20].try_into().ok()?,
        sport: be16(datagram, 0),
        dport: be16(datagram, 2),
        payload: &datagram[8..],
        first_part,
    })
}

fn is_rtp(payload: &[u8]) -> bool {
    if payload.len() < 12 {
        return false;
    }
    let sources = 12 + 4 * (payload[0] & 0x0f) as usize;
    match payload[0] & 0x10 {
        0 => sources <= payload.len(),
        _ => {
            sources + 4 <= payload.len()
                && sources + 4 + 4 * be16(payload, sources + 2) as usize <= payload.len()
        }
    }
}
