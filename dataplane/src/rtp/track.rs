//! Where a stream stands in its sequence, in one word: the rules of RFC 3550, A.1.
//!
//! | bits | |
//! |---|---|
//! | 0-15 | highest number, once promoted |
//! | 16-31 | the number that continues the run |
//! | 32-39 | packets in the run |
//! | 40 | promoted |
//! | 41 | proven (a promoted stream that is not has only its port to vouch for it) |
//! | 42 | the media clock is known |
//! | 43 | signalling named its port before it had proven itself |
//! | 44 | guarded: what the dead primary may have sent is refused |
//! | 45 | a DTLS handshake came from its port: it is SRTP |
//! | 48-54 | payload type of the last packet |

use super::WINDOW;
use crate::wire::rtp::Rtp;

/// See the module's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Track(pub u64);

const PROMOTED: u64 = 1 << 40;
const PROVEN: u64 = 1 << 41;
const CLOCK: u64 = 1 << 42;
const SETTLED: u64 = PROMOTED | PROVEN | CLOCK;
const NAMED: u64 = 1 << 43;
const GUARDED: u64 = 1 << 44;
const SECURE: u64 = 1 << 45;
/// What stays as it is while packets come.
const KEPT: u64 = SETTLED | NAMED | GUARDED | SECURE;

/// What a packet is to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A duplicate: neither counted nor a break.
    Again,
    /// The first of a run.
    Start,
    /// One more.
    Next,
    /// The one that completes it.
    Proof,
}

impl Track {
    /// The first packet: of a run, or of a stream that its port vouches for.
    pub fn new(rtp: &Rtp, promoted: bool) -> Track {
        let run = Track::default().run(rtp, 1);
        if promoted { run.promoted(rtp) } else { run }
    }

    #[inline(always)]
    pub fn is_promoted(self) -> bool {
        self.0 & PROMOTED != 0
    }

    #[inline(always)]
    pub fn is_proven(self) -> bool {
        self.0 & PROVEN != 0
    }

    #[inline(always)]
    pub fn has_clock(self) -> bool {
        self.0 & CLOCK != 0
    }

    /// Promoted, proven, its clock known and no guard over it: nothing is left to find out.
    #[inline(always)]
    pub fn is_settled(self) -> bool {
        self.0 & (SETTLED | GUARDED) == SETTLED
    }

    /// A stream of the dead primary, whose highest number may have been `highest`.
    pub fn inherited(highest: u16, payload_type: u8, secure: bool) -> Track {
        let secure = if secure { SECURE } else { 0 };
        Track(PROMOTED | PROVEN | secure | highest as u64 | ((payload_type & 0x7f) as u64) << 48)
    }

    pub fn guarded(self) -> Track {
        Track(self.0 | GUARDED)
    }

    pub fn unguarded(self) -> Track {
        Track(self.0 & !GUARDED)
    }

    #[inline(always)]
    pub fn is_guarded(self) -> bool {
        self.0 & GUARDED != 0
    }

    pub fn secure(self) -> Track {
        Track(self.0 | SECURE)
    }

    pub fn is_secure(self) -> bool {
        self.0 & SECURE != 0
    }

    /// Highest number, once promoted.
    pub fn highest(self) -> u16 {
        self.0 as u16
    }

    /// Packets of the run that is under way.
    pub fn in_row(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// The number that continues the run.
    pub fn expected(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Payload type of the last packet.
    pub fn payload_type(self) -> u8 {
        (self.0 >> 48) as u8 & 0x7f
    }

    /// True for a number within (-100, +3000) of the highest.
    #[inline(always)]
    pub fn is_within(self, sequence: u16) -> bool {
        let (behind, ahead) = WINDOW;
        sequence.wrapping_sub(self.0 as u16).wrapping_add(behind - 1) < ahead + behind - 1
    }

    /// After a packet within the window; a run that was under way elsewhere is over.
    #[inline(always)]
    pub fn advanced(self, rtp: &Rtp) -> Track {
        let ahead = rtp.sequence.wrapping_sub(self.0 as u16) as i16 > 0;
        let highest = if ahead { rtp.sequence } else { self.0 as u16 };
        Track(self.0 & KEPT | highest as u64 | (rtp.payload_type as u64) << 48)
    }

    /// Promoted, with this packet as the highest.
    pub fn promoted(self, rtp: &Rtp) -> Track {
        Track(self.0 & (CLOCK | SECURE) | PROMOTED | rtp.sequence as u64 | (rtp.payload_type as u64) << 48)
    }

    /// Promoted in the middle of its run, which goes on behind its last packet.
    pub fn vouched(self) -> Track {
        let highest = ((self.0 >> 16) as u16).wrapping_sub(1);
        Track(self.0 & (CLOCK | SECURE | 0x7f << 48) | PROMOTED | NAMED | highest as u64)
    }

    /// Signalling is what promoted it.
    pub fn named(self) -> Track {
        Track(self.0 | NAMED)
    }

    pub fn is_named(self) -> bool {
        self.0 & NAMED != 0
    }

    pub fn proven(self) -> Track {
        Track(self.0 | PROVEN)
    }

    pub fn with_clock(self) -> Track {
        Track(self.0 | CLOCK)
    }

    fn run(self, rtp: &Rtp, count: u8) -> Track {
        Track(
            self.0 & (KEPT | 0xffff)
                | (rtp.sequence.wrapping_add(1) as u64) << 16
                | (count as u64) << 32
                | (rtp.payload_type as u64) << 48,
        )
    }

    /// A packet that is not within the window of a promoted stream. `unbroken`: nothing but its number
    /// can break the run. `needed`: packets in a run that prove the stream.
    pub fn step(self, rtp: &Rtp, unbroken: bool, needed: u8) -> (Track, Step) {
        let count = (self.0 >> 32) as u8;
        let behind = ((self.0 >> 16) as u16).wrapping_sub(rtp.sequence);
        if count == 0 || !unbroken || behind > count as u16 {
            (self.run(rtp, 1), Step::Start)
        } else if behind > 0 {
            (self, Step::Again)
        } else if count + 1 >= needed {
            (self.promoted(rtp), Step::Proof)
        } else {
            (self.run(rtp, count + 1), Step::Next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtp(sequence: u16) -> Rtp {
        Rtp { payload_type: 8, sequence, timestamp: 0, ssrc: 1 }
    }

    fn steps(numbers: &[u16], needed: u8) -> Vec<Step> {
        let mut track = Track::default();
        let walk = numbers.iter().map(|n| {
            let (next, step) = track.step(&rtp(*n), true, needed);
            track = next;
            step
        });
        walk.collect()
    }

    #[test]
    fn consecutive_numbers_prove_a_stream() {
        use Step::{Again, Next, Proof, Start};
        assert_eq!(steps(&[7, 8, 9], 3), [Start, Next, Proof]);
        assert_eq!(steps(&[65535, 0, 1], 3), [Start, Next, Proof]);
        assert_eq!(steps(&[7, 8], 2), [Start, Proof]);
        assert_eq!(steps(&[7, 7, 8, 7, 8, 9], 3), [Start, Again, Next, Again, Again, Proof], "duplicates");
        assert_eq!(steps(&[7, 8, 10, 11, 12], 3), [Start, Next, Start, Next, Proof], "a gap");
        assert_eq!(steps(&[7, 9, 8, 10], 3), [Start, Start, Start, Start], "out of order");
        assert_eq!(steps(&[5, 5, 5, 5], 3), [Start, Again, Again, Again], "a constant");
        assert_eq!(steps(&[7, 6, 5, 4], 3), [Start; 4], "backwards");
    }

    #[test]
    fn the_window_is_what_rfc_3550_says() {
        let track = Track::default().promoted(&rtp(100));
        for (n, within) in [(1, true), (0, false), (3099, true), (3100, false), (100, true), (40000, false)] {
            assert_eq!(track.is_within(n), within, "{n}");
        }
        assert!(Track::default().promoted(&rtp(65535)).is_within(5));
        assert!(Track::default().promoted(&rtp(5)).is_within(65535));
        assert_eq!(track.advanced(&rtp(99)).0 as u16, 100, "a late one does not move it back");
        assert_eq!(track.advanced(&rtp(101)).0 as u16, 101);
    }

    #[test]
    fn a_run_elsewhere_leaves_the_window_until_it_is_proven() {
        let track = Track::default().promoted(&rtp(100));
        let (track, step) = track.step(&rtp(9000), true, 3);
        assert_eq!((step, track.is_within(101), track.is_within(9001)), (Step::Start, true, false));
        let (track, _) = track.step(&rtp(9001), true, 3);
        assert_eq!(track.advanced(&rtp(101)).step(&rtp(9002), true, 3).1, Step::Start, "the stream went on");
        let (track, step) = track.step(&rtp(9002), true, 3);
        assert_eq!((step, track.is_within(101), track.is_within(9003)), (Step::Proof, false, true));
    }
}
