//! What a trial's two captures say: what the guest that died let out and its successor does not know, who spoke when,
//! and what became of the voice.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::RangeInclusive;

use super::account::Answer;
use super::mark::Mark;
use crate::capture::{Frame, Kind};
use crate::qemu::Nic;

/// Ports of the phone in the guest (`guest/phone/config`).
const PHONE_MEDIA: RangeInclusive<u16> = 6500..=6599;

/// Something numbered that the guest says once: whose, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Saying {
    /// A mark.
    Mark(u64),
    /// An answer: client and transaction.
    Answer(u64, u64),
}

/// True when the guest's NIC sent the frame.
pub fn from_guest(frame: &&Frame) -> bool {
    frame.source_mac == Nic::mac(0)
}

/// The numbered things in a frame, with what was said.
pub fn sayings(frame: &Frame) -> Vec<(Saying, u64)> {
    match frame.kind {
        Kind::Udp(_) => Mark::parse(&frame.payload)
            .map(|mark| (Saying::Mark(mark.number), mark.draw))
            .into_iter()
            .collect(),
        // TCP cuts where it likes: only whole lines.
        Kind::Tcp(ends) if ends.source.port() == super::client::TELLER.port() => {
            let text = String::from_utf8_lossy(&frame.payload);
            let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            lines
                .filter_map(|line| match Answer::parse(line)? {
                    Answer::Link { client, number, link } => Some((Saying::Answer(client, number), link)),
                    Answer::Forgotten { .. } => None,
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

/// Sayings on the wire of a host, with what was said.
fn said(frames: &[Frame]) -> BTreeMap<Saying, BTreeSet<u64>> {
    let mut said: BTreeMap<Saying, BTreeSet<u64>> = BTreeMap::new();
    for (saying, what) in frames.iter().filter(from_guest).flat_map(sayings) {
        said.entry(saying).or_default().insert(what);
    }
    said
}

/// What was on the wire of the host that died, and its successor does not know: it says the same number with another
/// draw, or has never come that far.
pub fn early_releases(dead: &[Frame], successor: &[Frame]) -> Vec<Saying> {
    let (before, after) = (said(dead), said(successor));
    let newest = |said: &BTreeMap<Saying, BTreeSet<u64>>| {
        said.keys()
            .filter_map(|saying| match saying {
                Saying::Mark(number) => Some(*number),
                Saying::Answer(..) => None,
            })
            .max()
    };
    let reached = newest(&after);
    before
        .iter()
        .filter(|(saying, what)| match after.get(saying) {
            Some(again) => !again.is_subset(what) || what.len() > 1,
            // A mark is said once and its successor counts on: only one that it has not come to is unknown to it.
            None => matches!((saying, reached), (Saying::Mark(number), Some(reached)) if *number > reached),
        })
        .map(|(saying, _)| *saying)
        .collect()
}

/// Frames of the guest on the dead host's wire after its successor had begun to speak.
pub fn both_spoke(dead: &[Frame], successor: &[Frame]) -> usize {
    let Some(begin) = successor.iter().filter(from_guest).map(|frame| frame.at_ns).min() else { return 0 };
    dead.iter().filter(from_guest).filter(|frame| frame.at_ns > begin).count()
}

/// Numbered things seen on a wire: a capture of nothing proves nothing.
pub fn numbered(frames: &[Frame]) -> usize {
    frames.iter().filter(from_guest).map(|frame| sayings(frame).len()).sum()
}

/// What the peer heard.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Packets of the guest's voice.
    pub packets: usize,
    /// Those whose sequence number had been heard before.
    pub twice: usize,
    /// The longest silence that ended after the kill, nanoseconds.
    pub gap_ns: u64,
    /// Packets after the kill that came from the successor.
    pub after: usize,
}

/// The guest's voice on both wires; `killed_ns` is the moment of the kill.
pub fn heard(dead: &[Frame], successor: &[Frame], killed_ns: u64) -> Heard {
    let voice = |frame: &&Frame| {
        let Kind::Udp(ends) = frame.kind else { return false };
        ends.destination.port() == 6300 && frame.payload.len() >= 12 && frame.payload[0] == 0x80
    };
    let mut packets: Vec<(u64, [u8; 6])> = Vec::new();
    for frame in dead.iter().chain(successor).filter(from_guest).filter(voice) {
        let mut name = [0; 6];
        name[..2].copy_from_slice(&frame.payload[2..4]);
        name[2..].copy_from_slice(&frame.payload[8..12]);
        packets.push((frame.at_ns, name));
    }
    packets.sort_unstable();
    let mut known = HashSet::new();
    let twice = packets.iter().filter(|(_, name)| !known.insert(*name)).count();
    let gap_ns = packets
        .windows(2)
        .filter(|pair| pair[1].0 > killed_ns)
        .map(|pair| pair[1].0 - pair[0].0)
        .max()
        .unwrap_or(0);
    let after =
        successor.iter().filter(from_guest).filter(voice).filter(|frame| frame.at_ns > killed_ns).count();
    Heard { packets: packets.len(), twice, gap_ns, after }
}

/// What the phone in the guest sent by SRTP and SRTCP.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Secured {
    /// SRTP packets.
    pub packets: usize,
    /// Those from the successor.
    pub after: usize,
    /// Those whose SSRC and sequence number had been seen before: the same packet index and key, perhaps other contents.
    pub twice: usize,
    /// SRTCP packets.
    pub reports: usize,
    /// Those whose index had been seen before.
    pub reports_twice: usize,
    /// DTLS handshake messages after the kill: the keys were no longer known.
    pub handshakes: usize,
}

/// The SSRC of an SRTCP packet and its index (RFC 3711, 3.4): 31 bits before a tag of 80.
fn srtcp_index(payload: &[u8]) -> Option<(u32, u32)> {
    let word = |at: usize| Some(u32::from_be_bytes(payload.get(at..at + 4)?.try_into().ok()?));
    Some((word(4)?, word(payload.len().checked_sub(14)?)? & 0x7fff_ffff))
}

/// The media of the phones on both wires; `killed_ns` is the moment of the kill.
pub fn secured(dead: &[Frame], successor: &[Frame], killed_ns: u64) -> Secured {
    let mut told = Secured::default();
    let (mut packets, mut reports) = (HashSet::new(), HashSet::new());
    for (frames, promoted) in [(dead, false), (successor, true)] {
        for frame in frames.iter().filter(from_guest) {
            let Kind::Udp(ends) = frame.kind else { continue };
            let payload = frame.payload.as_slice();
            if !PHONE_MEDIA.contains(&ends.source.port()) || payload.len() < 12 {
                continue;
            }
            match payload[..2] {
                // Handshake messages; an alert (21) says good-bye.
                [22, _] => told.handshakes += usize::from(frame.at_ns > killed_ns),
                [128..=191, 192..=223] => {
                    told.reports += 1;
                    told.reports_twice += usize::from(!reports.insert(srtcp_index(payload)));
                }
                [128..=191, _] => {
                    told.packets += 1;
                    told.after += usize::from(promoted);
                    told.twice += usize::from(!packets.insert((&payload[2..4], &payload[8..12])));
                }
                _ => {}
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Ends;
    use crate::survival::mark::voice;

    const MS: u64 = 1_000_000;

    fn frame(at_ms: u64, source: &str, destination: &str, tcp: bool, payload: Vec<u8>) -> Frame {
        let ends = Ends {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
        };
        let kind = if tcp { Kind::Tcp(ends) } else { Kind::Udp(ends) };
        Frame { at_ns: at_ms * MS, source_mac: Nic::mac(0), vlan: None, kind, payload, checksums: None }
    }

    fn mark(at_ms: u64, number: u64, draw: u64) -> Frame {
        frame(at_ms, "10.9.0.2:40000", "10.9.0.1:9700", false, Mark { number, draw }.to_bytes().to_vec())
    }

    fn answers(at_ms: u64, lines: &str) -> Frame {
        frame(at_ms, "10.9.0.2:5100", "10.9.0.1:40000", true, lines.as_bytes().to_vec())
    }

    fn packet(at_ms: u64, sequence: u16) -> Frame {
        frame(at_ms, "10.9.0.2:6400", "10.9.0.1:6300", false, voice(9, sequence, 0, 0).to_vec())
    }

    #[test]
    fn a_successor_that_repeats_what_it_knows_and_goes_on_is_right() {
        let dead = [mark(1, 1, 11), mark(2, 2, 12), answers(3, "A 1 1 aa\n"), answers(4, "A 1 2 bb\n")];
        let successor = [mark(90, 2, 12), mark(91, 3, 13), answers(92, "A 1 2 bb\nA 1 3 cc\n")];
        assert_eq!(early_releases(&dead, &successor), []);
        assert_eq!((numbered(&dead), numbered(&successor)), (4, 4));
        assert_eq!(both_spoke(&dead, &successor), 0);
    }

    #[test]
    fn another_draw_for_a_number_that_was_out_is_an_early_release() {
        let dead = [mark(1, 1, 11), mark(2, 2, 12), answers(3, "A 1 1 aa\n")];
        assert_eq!(early_releases(&dead, &[mark(90, 2, 99), mark(91, 3, 1)]), [Saying::Mark(2)]);
        let again = [mark(90, 3, 1), answers(91, "A 1 1 ab\n")];
        assert_eq!(early_releases(&dead, &again), [Saying::Answer(1, 1)]);
    }

    #[test]
    fn a_number_that_the_successor_never_comes_to_is_an_early_release() {
        let dead = [mark(1, 7, 1), mark(2, 8, 2)];
        assert_eq!(early_releases(&dead, &[mark(90, 7, 1)]), [Saying::Mark(8)]);
        assert_eq!(early_releases(&dead, &[]), [], "nobody took over: that is another verdict");
    }

    #[test]
    fn the_frames_of_others_and_cut_lines_are_not_judged() {
        let mut stranger = mark(1, 1, 11);
        stranger.source_mac = [2; 6];
        assert_eq!(early_releases(&[stranger], &[mark(90, 1, 99)]), []);
        assert_eq!(numbered(&[answers(1, "A 1 1 a")]), 0);
    }

    #[test]
    fn a_zombie_is_seen() {
        let dead = [mark(1, 1, 1), packet(100, 7)];
        assert_eq!(both_spoke(&dead, &[packet(99, 6)]), 1);
        assert_eq!(both_spoke(&dead, &[packet(101, 8)]), 0);
    }

    #[test]
    fn the_gap_is_that_of_the_failover_and_repeated_packets_are_counted() {
        let dead = [packet(0, 1), packet(500, 2), packet(520, 3), packet(540, 4)];
        let successor = [packet(700, 4), packet(720, 5), packet(740, 6)];
        let heard = heard(&dead, &successor, 530 * MS);
        assert_eq!(heard, Heard { packets: 7, twice: 1, gap_ns: 160 * MS, after: 3 });
        let once = super::heard(&dead, &[packet(700, 5)], 530 * MS);
        assert_eq!((once.twice, once.after), (0, 1));
    }

    #[test]
    fn an_srtp_packet_an_srtcp_index_and_a_handshake_are_told_apart_and_found_again() {
        let phone =
            |at_ms, payload: &[u8]| frame(at_ms, "10.9.0.2:6500", "10.9.0.1:40000", false, payload.to_vec());
        let srtp = |at_ms, sequence, said: u8| {
            let mut bytes = voice(9, sequence, 0, 0).to_vec();
            bytes[40] = said;
            phone(at_ms, &bytes)
        };
        let srtcp = |at_ms, index: u8, said: u8| {
            let head = [0x80, 200, 0, 1, 0, 0, 0, 9, said, said, said, said];
            phone(at_ms, &[&head[..], &[0x80, 0, 0, index], &[said; 10]].concat())
        };
        let dead = [srtp(1, 7, 1), srtp(2, 8, 1), srtcp(3, 1, 1), phone(0, &[22; 60])];
        let right = secured(&dead, &[srtp(90, 9, 2), srtcp(91, 2, 2)], 50 * MS);
        assert_eq!(right, Secured { packets: 3, after: 1, reports: 2, ..Secured::default() });
        let again = [srtp(90, 8, 2), srtcp(91, 1, 2), phone(92, &[22; 60])];
        let wrong = secured(&dead, &again, 50 * MS);
        assert_eq!((wrong.twice, wrong.reports_twice, wrong.handshakes), (1, 1, 1));
    }
}
