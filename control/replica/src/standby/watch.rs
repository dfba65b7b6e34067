//! Watches this side's VM and plane: without them nothing can take over, and the primary has to know.

use super::Standby;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Watches until the process ends; after a promotion, whether the VM is still there.
pub fn watch(standby: &Standby) {
    let dead_after = standby.args.link.dead_after;
    while !standby.stop.load(Relaxed) && !standby.promoted.load(Relaxed) {
        let able = standby.backup.look(dead_after);
        let able = able.and_then(|()| match standby.plane.pulse() {
            Ok(pulse) if pulse.mode == "muted" => Ok(()),
            Ok(pulse) => Err(format!("the standby's plane is {}", pulse.mode)),
            Err(error) => Err(format!("the standby's plane does not answer: {error}")),
        });
        // A promotion under way uses both; it says itself what becomes of it.
        if !standby.promoting.load(Relaxed) {
            let gone = standby.backup.is_gone() || standby.plane.is_dead();
            if let (true, Err(why)) = (gone, &able) {
                standby.give_back(why);
                return standby.fail(format!("{why}; start it again, then this process"));
            }
            standby.able.store(able.is_ok(), Relaxed);
            standby.landlord().set_able(able);
        }
        std::thread::sleep(standby.args.link.beat);
    }
    while !standby.stop.load(Relaxed) {
        if !standby.backup.still_runs() {
            standby.chronicle.tell("ended", json!({ "guest": standby.plane.guest() }));
            return standby.able.store(false, Relaxed);
        }
        std::thread::sleep(AFTERWARDS);
    }
}

/// How often the promoted VM is looked at: a cluster manager asks every few seconds.
const AFTERWARDS: Duration = Duration::from_millis(500);
