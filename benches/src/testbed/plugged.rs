//! What a router's sch_plug did while it was measured: how exactly it followed the closes and commits that it was told of.

use crate::failure::Result;
use crate::stats::Spread;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_tests::plug::{Done, Order, Plug};
use tidegate_tests::survival::telling::Telling;

/// See the module's head. Kept with the samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plugged {
    /// The kernel that has the sch_plug.
    pub kernel: String,
    /// Epochs that began in it.
    pub buffered: usize,
    /// Epochs that it released.
    pub released: usize,
    /// Epochs merged into the next one, because sch_plug remembers one only.
    pub merged: u64,
    /// From an order to the router's answer, milliseconds: median and longest.
    pub order_ms: Option<(f64, f64)>,
    /// Closes that it had carried out before the VM ran again. Behind the others a frame of the next epoch may have been
    /// taken for one of the last: sch_plug has no answer that a VM waits for.
    pub in_time: usize,
    /// What `tc -s qdisc show` says of it at the end.
    pub counters: String,
}

/// A plug that follows what the replication tells.
pub struct Follower {
    plug: Arc<Mutex<Plug>>,
    broken: Arc<Mutex<Option<String>>>,
}

impl Follower {
    /// From the next step on: "close" begins an epoch in the plug, "commit" releases one.
    pub fn of(steps: &Telling, plug: Plug) -> Follower {
        let plug = Arc::new(Mutex::new(plug));
        let broken: Arc<Mutex<Option<String>>> = Arc::default();
        let (driven, failed) = (Arc::clone(&plug), Arc::clone(&broken));
        steps.follow(Box::new(move |event: &Value| {
            let (Some("step"), Some(epoch)) = (event["event"].as_str(), event["epoch"].as_u64()) else {
                return;
            };
            let mut plug = driven.lock().unwrap_or_else(PoisonError::into_inner);
            let done = match event["step"].as_str() {
                Some("close") => plug.close(epoch),
                Some("commit") => plug.commit(epoch),
                _ => Ok(()),
            };
            if let Err(failure) = done {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure.to_string());
            }
        }));
        Follower { plug, broken }
    }

    /// What it did in that time; `told` are the primary's events. A failure when it did not follow.
    pub fn finish(&self, measured: RangeInclusive<u64>, told: &[Value]) -> Result<Plugged> {
        if let Some(why) = self.broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(crate::failure::Failure::new(format!("sch_plug did not follow: {why}")));
        }
        let plug = self.plug.lock().unwrap_or_else(PoisonError::into_inner);
        let resumed: Vec<u64> = told
            .iter()
            .filter(|event| event["step"] == "resume")
            .filter_map(|event| event["at_ns"].as_u64())
            .collect();
        Ok(Plugged { merged: plug.merged, ..summed(&plug.done, &resumed, &measured) })
    }
}

/// `resumed`: when the VM ran again, in order.
fn summed(done: &[Done], resumed: &[u64], measured: &RangeInclusive<u64>) -> Plugged {
    let done: Vec<&Done> = done.iter().filter(|done| measured.contains(&done.told_ns)).collect();
    let count = |order: Order| done.iter().filter(|done| done.order == order).count();
    let in_time = |buffer: &&&Done| {
        let next = resumed.partition_point(|&at_ns| at_ns < buffer.told_ns);
        resumed.get(next).is_some_and(|&at_ns| buffer.done_ns <= at_ns)
    };
    let took = Spread::of(done.iter().map(|done| done.done_ns.saturating_sub(done.told_ns) as f64 / 1e6));
    Plugged {
        buffered: count(Order::Buffer),
        released: count(Order::Release),
        order_ms: took.map(|took| (took.median, took.max)),
        in_time: done.iter().filter(|done| done.order == Order::Buffer).filter(in_time).count(),
        ..Plugged::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_is_in_time_when_it_is_done_before_the_vm_runs_again() {
        let ms = 1_000_000;
        let done = |order, told: u64, done: u64| Done { order, told_ns: told * ms, done_ns: done * ms };
        let all = [
            done(Order::Buffer, 1, 2),
            done(Order::Buffer, 100, 102),
            done(Order::Release, 120, 121),
            done(Order::Buffer, 200, 230),
            done(Order::Buffer, 400, 401),
        ];
        let plugged = summed(&all, &[110 * ms, 220 * ms, 410 * ms], &(50 * ms..=300 * ms));
        assert_eq!((plugged.buffered, plugged.released, plugged.in_time), (2, 1, 1));
        assert_eq!(plugged.order_ms, Some((2.0, 30.0)));
    }
}
