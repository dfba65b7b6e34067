//! The follower of a Xen migration stream: any bytes, in any pieces, are followed or refused, and the same bytes in other
//! pieces end the same way. What it calls a boundary becomes a commit. The code is the replica crate's own, taken in alone.
//!
//! An input is the stream, behind one byte that says how long the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stream::{Fault, Follower, Mark};

#[allow(dead_code, missing_docs)]
#[path = "../../../control/replica/src/xen/stream.rs"]
mod stream;

fn follow(bytes: &[u8], piece: usize) -> (Vec<(usize, Mark)>, Option<Fault>) {
    let (mut follower, mut marks, mut at) = (Follower::new(), Vec::new(), 0);
    while at < bytes.len() {
        let most = if piece == 0 { follower.appetite() } else { piece };
        let end = at.saturating_add(most).min(bytes.len());
        match follower.feed(&bytes[at..end]) {
            Ok((taken, mark)) => {
                assert!(taken > 0 && at + taken <= end);
                at += taken;
                // Whoever reads by appetite has read nothing of the next checkpoint.
                assert!(piece != 0 || mark.is_none() || at == end);
                marks.extend(mark.map(|mark| (at, mark)));
            }
            Err(fault) => return (marks, Some(fault)),
        }
    }
    (marks, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((piece, bytes)) = data.split_first() else { return };
    let whole = follow(bytes, bytes.len().max(1));
    assert_eq!(whole, follow(bytes, usize::from(*piece)));
    let mut saved = false;
    for (_, mark) in whole.0 {
        // CHECKPOINT and CHECKPOINT_END in turns.
        assert_eq!(saved, matches!(mark, Mark::Ended { .. }));
        saved = !saved;
    }
});
