//! Looks at the ports themselves: links that go up and down, and kernel devices that began to leak.

use crate::plane::Plane;
use crate::tapcheck;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tidegate_dataplane::dpdk::{Link, LinkWatch};

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(100);
/// Each so manieth look starts a program to see whether the kernel is still cut off.
const LOOKS_TO_CUT: u32 = 10;

/// A port that is looked at.
pub struct Seat {
    /// Name of the guest.
    pub guest: String,
    /// Which of its lanes.
    pub lane: usize,
    /// `guest` or `wire`.
    pub port: &'static str,
    /// Where to look.
    pub watch: LinkWatch,
    /// The kernel's interface, when it is a guest port: it must not leak.
    pub tap: Option<String>,
}

/// What was seen of a port.
struct Seen {
    link: Link,
    problems: Vec<String>,
}

impl Seat {
    fn look(&self) -> Seen {
        let problems = self.tap.as_deref().map(tapcheck::leaks).unwrap_or_default();
        Seen { link: self.watch.link(), problems }
    }

    /// Puts the cut in again if somebody took it away. What failed, if that did.
    async fn mend_cut(&self) -> Option<String> {
        let interface = self.tap.clone()?;
        let mended = tokio::task::spawn_blocking(move || {
            if tapcheck::is_cut(&interface) {
                return None;
            }
            log::error!(
                "{interface}: somebody took the filter away that cuts it off from the kernel; it is put in again"
            );
            tapcheck::cut(&interface).err()
        });
        mended.await.ok().flatten()
    }
}

/// Looks for as long as the runtime lives. Who made a tap leak is told at once, and every subscriber with it; the
/// guest is left as it is, because nobody but the operator knows whether its silence is worth more.
pub async fn run(plane: Arc<Plane>, seats: Vec<Seat>) {
    let mut before: Vec<Seen> = seats.iter().map(Seat::look).collect();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut uncut: Vec<Option<String>> = vec![None; seats.len()];
    let mut looks = 0;
    loop {
        ticks.tick().await;
        looks += 1;
        if looks % LOOKS_TO_CUT == 0 {
            for (seat, uncut) in seats.iter().zip(&mut uncut) {
                *uncut = seat.mend_cut().await;
            }
        }
        for ((seat, before), uncut) in seats.iter().zip(&mut before).zip(&uncut) {
            let mut now = seat.look();
            now.problems.extend(uncut.clone());
            let place = format!("guest {}, lane {}, {} port", seat.guest, seat.lane, seat.port);
            if now.link != before.link {
                log::warn!("{place}: link {}", if now.link.up { "up" } else { "down" });
                let data = json!({ "guest": seat.guest, "lane": seat.lane, "port": seat.port,
                    "up": now.link.up, "mbit": now.link.mbit });
                plane.hub.publish("link", data);
            }
            if now.problems != before.problems {
                now.problems.iter().for_each(|problem| log::error!("{place} leaks: {problem}"));
                let data = json!({ "guest": seat.guest, "lane": seat.lane, "problems": now.problems });
                plane.hub.publish("leak", data);
            }
            *before = now;
        }
    }
}
