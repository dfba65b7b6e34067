//! What the service supervisor is told (`sd_notify`): ready, stopping, alive.

use crate::plane::Plane;
use sd_notify::NotifyState;
use std::sync::Arc;

fn tell(state: NotifyState) {
    // Without a supervisor this does nothing.
    if let Err(e) = sd_notify::notify(&[state]) {
        log::warn!("cannot notify the service supervisor: {e}");
    }
}

/// The lanes run and the socket answers.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// The end has begun.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Says that the process lives, for as long as every lcore polls: one that hangs is no reason to live on.
pub async fn watchdog(plane: Arc<Plane>) {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(within / 2);
    let mut before: Vec<u64> = Vec::new();
    loop {
        ticks.tick().await;
        let polls: Vec<u64> = plane.lcores.iter().map(|(_, lcore)| lcore.polls()).collect();
        let hangs = polls.iter().zip(&before).position(|(now, before)| now == before);
        match hangs {
            None => tell(NotifyState::Watchdog),
            Some(n) => log::error!("lcore {} has not polled for {within:?}", plane.lcores[n].0),
        }
        before = polls;
    }
}
