//! What learns from SIP and TURN: any bytes, by UDP or TCP, from the guest or to it, give lessons or nothing. A panic here would
//! end the plane, and the bytes are those of anybody who can send the guest a packet. The code is the control crate's
//! own, taken in alone.
//!
//! An input is a row of pieces: one byte of flags, two of length, so many bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use signalling::{Learner, Piece, Transport};

#[allow(dead_code, unused_imports)]
#[path = "../../../control/src/signalling/mod.rs"]
mod signalling;

/// Flags of a piece.
const FROM_GUEST: u8 = 1;
const TCP: u8 = 2;
const SYN: u8 = 4;
const END: u8 = 8;
/// The piece is a frame, headers and all.
const FRAME: u8 = 16;

fuzz_target!(|data: &[u8]| {
    let mut learner = Learner::new(&[5060], true);
    let (mut lessons, mut rest, mut now, mut sequence) = (Vec::new(), data, 1, [1u32; 2]);
    while let [flags, high, low, more @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (bytes, left) = more.split_at(len);
        rest = left;
        now += 1_000_000;
        let from_guest = flags & FROM_GUEST != 0;
        if flags & FRAME != 0 {
            learner.hear_frame(bytes, from_guest, now, &mut lessons);
            continue;
        }
        let (guest, peer) = ("10.0.0.1:5060".parse().unwrap(), "10.0.0.2:5060".parse().unwrap());
        let (src, dst) = if from_guest { (guest, peer) } else { (peer, guest) };
        let next = &mut sequence[usize::from(from_guest)];
        let transport = match flags & TCP {
            0 => Transport::Udp,
            _ => Transport::Tcp { sequence: *next, syn: flags & SYN != 0, end: flags & END != 0 },
        };
        if flags & TCP != 0 {
            *next = next.wrapping_add(len as u32);
        }
        learner.hear(&Piece { src, dst, from_guest, transport, bytes }, now, &mut lessons);
    }
    assert!(lessons.iter().all(|lesson| lesson.port >= 1024), "{lessons:?}");
});
