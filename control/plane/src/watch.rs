//! Looks at what nobody tells: fences that fall by themselves, hold queues that fill up.

use crate::guest::GuestPlane;
use crate::plane::Plane;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// From one look to the next.
pub const EVERY: Duration = Duration::from_millis(2);
/// Share of the quota, per cent, at which `pressure` is told; and below which it may be told again.
const PRESSURE: (u64, u64) = (75, 50);

/// Looks for as long as the runtime lives.
pub async fn run(plane: Arc<Plane>) {
    let mut signalled = vec![0; plane.guests.len()];
    let mut pressed: Vec<Vec<bool>> = plane.guests.iter().map(|g| vec![false; g.lanes.len()]).collect();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for ((guest, pressed), signalled) in plane.guests.iter().zip(&mut pressed).zip(&mut signalled) {
            // A lease that ran out is told by the witness.
            guest.with(|_| ());
            signalling(&plane, guest, signalled);
            for (lane, pressed) in pressed.iter_mut().enumerate() {
                pressure(&plane, guest, lane, pressed);
            }
        }
    }
}

/// The guest's signalling waits since the last look, in an epoch that is still open: told once for each.
fn signalling(plane: &Plane, guest: &GuestPlane, told: &mut u64) {
    let epoch = guest.lanes.iter().map(|lane| lane.shared.counters.signalled_epoch.get()).max().unwrap_or(0);
    if epoch > *told {
        *told = epoch;
        // One that is closed by now has its checkpoint on the way.
        if guest.with(|ledger| ledger.open_epoch()) == epoch {
            plane.hub.publish("signalling", json!({ "guest": guest.name(), "epoch": epoch }));
        }
    }
}

/// Whether a queue is under pressure now, if it `was`.
fn pressed(percent: u64, was: bool) -> bool {
    percent >= if was { PRESSURE.1 } else { PRESSURE.0 }
}

fn pressure(plane: &Plane, guest: &GuestPlane, lane: usize, was: &mut bool) {
    let seat = &guest.lanes[lane];
    let counters = &seat.shared.counters;
    let (mbufs, bytes) = (counters.held_mbufs.get(), counters.held_bytes.get());
    let share = |held: u64, quota: u64| held.saturating_mul(100) / quota.max(1);
    let percent = share(mbufs, seat.config.hold_frames.into()).max(share(bytes, seat.config.hold_bytes.0));
    let is = pressed(percent, *was);
    if is && !*was {
        let data = json!({ "guest": guest.name(), "lane": lane, "percent": percent, "held_mbufs": mbufs,
            "held_bytes": bytes, "hold_frames": seat.config.hold_frames, "hold_bytes": seat.config.hold_bytes });
        plane.hub.publish("pressure", data);
    }
    *was = is;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_begins_at_three_quarters_and_ends_below_a_half() {
        let mut was = false;
        let told: Vec<bool> = [10, 74, 75, 90, 60, 74, 50, 49, 74, 75]
            .map(|percent| {
                was = pressed(percent, was);
                was
            })
            .into();
        assert_eq!(told, [false, false, true, true, true, true, true, false, false, true]);
    }
}
