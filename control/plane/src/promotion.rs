//! Promotion of a standby: its lanes are unmuted, the network hears of it, and who asked is told when.

use crate::announce;
use crate::guest::GuestPlane;
use crate::moment::Moment;
use crate::pulse::unmuted_tsc;
use serde_json::{Value, json};
use std::sync::Arc;
use tidegate_control::protocol::{Failure, Unmute};
use tidegate_dataplane::gate::Lease;
use tidegate_dataplane::tsc::TscRate;

/// Unmutes the guest in a new `generation`; `lease` is one on the lcores' clock.
pub async fn unmute(
    guest: &Arc<GuestPlane>,
    asked: &Unmute,
    generation: u64,
    lease: Option<Lease>,
    rate: TscRate,
) -> Result<Value, Failure> {
    let (protected, first) = (asked.protected, asked.first_epoch);
    guest.order(|ledger| ledger.begin_unmute(generation, protected, first, lease, guest.now_tsc())).await?;
    // A guest that was fenced just now stays silent, and so does the plane.
    if let Err(failure) = announce::begin(guest) {
        log::warn!("guest {}: not announced: {failure}", guest.name());
    }
    let moment = Moment::now(guest.now_tsc(), rate);
    let tsc = unmuted_tsc(guest);
    let data = guest.with(|ledger| {
        json!({
            "guest": guest.name(),
            "mode": ledger.mode().name(),
            "generation": ledger.generation(),
            "epoch": ledger.open_epoch(),
            "unmuted_ns": tsc.map(|tsc| moment.ns(tsc)),
            "unmuted_tsc": tsc,
        })
    });
    guest.hub().publish("unmuted", data.clone());
    Ok(data)
}
