//! Tells switches and neighbours where a guest lives: the plane itself does, because the guest may not speak for seconds.

use crate::guest::GuestPlane;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_control::protocol::Failure;
use tidegate_dataplane::announcement::Announcement;
use tidegate_dataplane::guest::Mode;

/// Announces the guest once. Returns how many frames that takes.
pub fn once(guest: &GuestPlane) -> usize {
    let mut frames = 0;
    for lane in &guest.lanes {
        let known = lane.shared.identities.snapshot();
        // Each address has its hardware address said; once is enough.
        let all: BTreeSet<Announcement> = known.iter().flat_map(Announcement::all).collect();
        frames += all.into_iter().filter(|frame| lane.shared.inbox.announce(*frame)).count();
    }
    frames
}

/// Announces the guest now if the first moment has come, and at the others; ends when its role changes. Returns the frames
/// of the first time, and how often it is announced in all.
pub fn begin(guest: &Arc<GuestPlane>) -> Result<(usize, usize), Failure> {
    let now = guest.now_tsc();
    let (mode, fenced, generation) =
        guest.with(|ledger| (ledger.mode(), ledger.is_fenced(now), ledger.generation()));
    if mode == Mode::Muted {
        return Err(Failure::new("wrong-mode", "the guest is muted: another host announces it"));
    }
    if fenced {
        return Err(Failure::new("fenced", "the guest is fenced: nothing leaves, announcements neither"));
    }
    let (begin, moments) = (Instant::now(), guest.config.announce_ms.clone());
    let times = moments.len();
    let at_once = moments.iter().take_while(|ms| **ms == 0).count();
    let frames = if at_once > 0 { once(guest) } else { 0 };
    let guest = Arc::clone(guest);
    tokio::task::spawn_local(async move {
        for ms in moments.into_iter().skip(at_once) {
            tokio::time::sleep_until((begin + Duration::from_millis(ms)).into()).await;
            let speaks =
                guest.with(|ledger| ledger.mode() != Mode::Muted && ledger.generation() == generation);
            if !speaks {
                return;
            }
            once(&guest);
        }
    });
    Ok((frames, times))
}
