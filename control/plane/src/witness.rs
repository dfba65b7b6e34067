//! Sees what changed in a ledger and tells it as events, whoever changed it.

use crate::events::Hub;
use crate::moment::monotonic_ns;
use crate::report::closed;
use serde_json::json;
use tidegate_dataplane::guest::{Guest, Mode, Rings};

/// What was last told of a guest.
#[derive(Debug)]
pub struct Witness {
    mode: Mode,
    generation: u64,
    closed: u64,
    committed: u64,
    merged: u64,
    fenced: bool,
    rings: Vec<Option<Rings>>,
}

impl Witness {
    /// Takes the ledger as it stands; tells nothing yet.
    pub fn new(guest: &Guest, lanes: usize, now_tsc: u64) -> Self {
        Self {
            mode: guest.mode(),
            generation: guest.generation(),
            closed: guest.open_epoch() - 1,
            committed: guest.committed_epoch(),
            merged: guest.tally().merged,
            fenced: guest.is_fenced(now_tsc),
            rings: (0..lanes).map(|lane| guest.rings(lane)).collect(),
        }
    }

    /// Tells what changed since the last time.
    pub fn tell(&mut self, guest: &Guest, name: &str, now_tsc: u64, hub: &Hub) {
        for epoch in guest.epochs_in_flight().filter(|epoch| epoch.epoch > self.closed) {
            hub.publish("closed", json!(closed(name, &epoch)));
        }
        self.closed = self.closed.max(guest.open_epoch() - 1);
        let (committed, generation) = (guest.committed_epoch(), guest.generation());
        if committed > self.committed {
            let data = json!({ "guest": name, "generation": generation, "epoch": committed });
            hub.publish("committed", data);
            self.committed = committed;
        }
        let merged = guest.tally().merged;
        if merged > self.merged {
            hub.publish(
                "merged",
                json!({ "guest": name, "merged": merged, "open_epoch": guest.open_epoch() }),
            );
            self.merged = merged;
        }
        if (guest.mode(), generation) != (self.mode, self.generation) {
            (self.mode, self.generation) = (guest.mode(), generation);
            let (mode, open) = (self.mode.name(), guest.open_epoch());
            let data = json!({ "guest": name, "mode": mode, "generation": generation, "open_epoch": open,
                "monotonic_ns": monotonic_ns() });
            hub.publish("mode", data);
        }
        let fenced = guest.is_fenced(now_tsc);
        if fenced && !self.fenced {
            hub.publish("fenced", json!({ "guest": name, "generation": generation }));
        }
        self.fenced = fenced;
        for (lane, seen) in self.rings.iter_mut().enumerate() {
            let rings = guest.rings(lane);
            if rings != *seen {
                *seen = rings;
                let event = if rings == Some(Rings::Running) { "ring-started" } else { "ring-stopped" };
                hub.publish(event, json!({ "guest": name, "lane": lane }));
            }
        }
    }
}
