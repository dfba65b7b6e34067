//! Watches this side's VM and plane: without them nothing can take over, and the primary has to know.

use super::Standby;
use std::sync::atomic::Ordering::Relaxed;

/// Watches until the process ends or the standby is promoted.
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
}
