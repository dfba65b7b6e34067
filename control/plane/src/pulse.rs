//! The words of one guest that change all the time. Reading them stops no lcore and walks no table.

use crate::guest::GuestPlane;
use crate::moment::Moment;
use tidegate_control::protocol::Pulse;
use tidegate_dataplane::class::Class;
use tidegate_dataplane::counters::{Counter, Counters};
use tidegate_dataplane::gate::{FENCE, NO_LEASE};
use tidegate_dataplane::tsc::TscRate;

/// The guest's pulse.
pub fn of(guest: &GuestPlane, rate: TscRate) -> Pulse {
    let now = guest.now_tsc();
    let moment = Moment::now(now, rate);
    let counters = || guest.lanes.iter().map(|lane| &lane.shared.counters);
    let sum = |of: fn(&Counters) -> u64| counters().map(of).sum();
    let lease = guest.lanes.iter().map(|lane| lane.shared.gate.lease()).min();
    let lease = lease.filter(|deadline| ![FENCE, NO_LEASE].contains(deadline));
    // The earliest on any lane; 0 stands for never.
    let earliest = |of: fn(&Counters) -> &Counter| {
        counters().map(|c| of(c).get()).filter(|tsc| *tsc > 0).min().map(|tsc| moment.ns(tsc))
    };
    let (mode, fenced, generation, epoch, committed) = guest.with(|ledger| {
        let (generation, committed) = (ledger.generation(), ledger.committed_epoch());
        (ledger.mode().name(), ledger.is_fenced(now), generation, ledger.open_epoch(), committed)
    });
    Pulse {
        guest: guest.name().into(),
        mode: mode.into(),
        fenced,
        lease_left_ms: lease.map(|deadline| rate.ns(deadline.saturating_sub(now)) / 1_000_000),
        generation,
        epoch,
        committed,
        polls: guest.lanes.iter().map(|lane| lane.shared.gate.polls()).min().unwrap_or(0),
        held_frames: sum(|c| c.class.iter().map(|class| class.held.get()).sum()),
        held_bytes: sum(|c| c.held_bytes.get()),
        media_frames: sum(|c| c.class[Class::Rtp as usize].bypassed.get()),
        signalling: sum(|c| c.signalling.get()),
        signalled_epoch: counters().map(|c| c.signalled_epoch.get()).max().unwrap_or(0),
        unmuted_ns: unmuted_tsc(guest).map(|tsc| moment.ns(tsc)),
        first_frame_ns: earliest(|c| &c.first_frame_tsc),
        first_taken_ns: earliest(|c| &c.first_taken_tsc),
        first_rtp_ns: earliest(|c| &c.first_rtp_tsc),
    }
}

/// When the last of the lanes was unmuted.
pub fn unmuted_tsc(guest: &GuestPlane) -> Option<u64> {
    guest.lanes.iter().map(|lane| lane.shared.counters.unmuted_tsc.get()).max().filter(|tsc| *tsc > 0)
}
