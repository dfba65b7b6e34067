//! The `timer` source: epochs at a fixed interval, each committed after a delay. For labs: it pauses nothing,
//! so an epoch is a cut through the output alone, not a consistent state of the guest.

use crate::guest::{GuestPlane, failure};
use std::sync::Arc;
use std::time::Duration;
use tidegate_control::config::Timer;
use tidegate_dataplane::guest::{ClosedEpoch, Closer, Guest, Mode};
use tokio::time::{Instant, MissedTickBehavior};

/// Ticks for as long as the runtime lives. Runs within a `LocalSet`.
pub async fn run(guest: Arc<GuestPlane>, timer: Timer) {
    let interval = Duration::from_millis(timer.interval_ms);
    let delay = Duration::from_millis(timer.commit_delay_ms);
    let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let untold = guest.rings_untold();
    loop {
        ticks.tick().await;
        if guest.with(|ledger| ledger.mode()) != Mode::Protected {
            continue;
        }
        match guest.close(Closer::VouchingSource).await {
            Ok(closed) => {
                tokio::task::spawn_local(commit(Arc::clone(&guest), closed, delay));
            }
            Err(refusal) => log::debug!("guest {}: the timer's close: {refusal}", guest.name()),
        }
        if untold && let Err(refusal) = guest.order(Guest::begin_resumed).await {
            log::warn!("guest {}: the timer's resumed: {refusal}", guest.name());
        }
    }
}

/// Several may wait at once, when the delay is longer than the interval.
async fn commit(guest: Arc<GuestPlane>, closed: ClosedEpoch, delay: Duration) {
    tokio::time::sleep(delay).await;
    let now = guest.now_tsc();
    if let Err(refusal) = guest.with(|ledger| ledger.commit(closed.generation, closed.epoch, now)) {
        log::debug!("guest {}: the timer's commit: {}", guest.name(), failure(refusal));
    }
}
