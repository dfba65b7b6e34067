//! Whether the primary is dead, and whether that is for the standby to say. Pure: what is known goes in, what to do
//! comes out. When the promotion may *begin to speak* is the lease's to say (`lease.rs`); this decides that it shall.

use std::time::Duration;
use tidegate_control::cli::Decide;

/// Why the standby takes over.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Cause {
    /// No beat for so long.
    Silence {
        /// Nanoseconds.
        ns: u64,
    },
    /// The link's connections have ended.
    LinkEnded,
    /// The primary fenced itself and said so.
    Surrender {
        /// Its words.
        reason: String,
    },
    /// A person or a cluster manager.
    Order,
}

/// What a person or a manager ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// They vouch that the primary is off or fenced.
    pub primary_is_off: bool,
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Nanoseconds since the last beat, if there ever was one.
    pub silent_ns: Option<u64>,
    /// The session's connections have ended, and no other has begun.
    pub link_ended: bool,
    /// The primary's last word.
    pub surrender: Option<String>,
    /// An order.
    pub order: Option<Order>,
    /// A complete checkpoint is here.
    pub holds: bool,
    /// The primary said that it speaks under a lease: only then does waiting for its end mean anything.
    pub bound: bool,
    /// This side's QEMU and plane are alive.
    pub able: bool,
}

/// Decides by these.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Who decides.
    pub decide: Decide,
    /// Silence that counts as death.
    pub dead_after: Duration,
}

impl Rules {
    /// A reason to take over now, or none.
    pub fn cause(&self, sight: &Sight) -> Option<Cause> {
        if !sight.holds || !sight.able {
            return None;
        }
        if let Some(order) = sight.order {
            // Without a lease that can be waited for, somebody must vouch that the primary is silent.
            let safe = order.primary_is_off || sight.bound || sight.surrender.is_some();
            return safe.then_some(Cause::Order);
        }
        if let Some(reason) = &sight.surrender {
            return (self.decide != Decide::Manager).then(|| Cause::Surrender { reason: reason.clone() });
        }
        if self.decide == Decide::Manager || !sight.bound {
            return None;
        }
        if sight.link_ended {
            return Some(Cause::LinkEnded);
        }
        let ns = sight.silent_ns?;
        (u128::from(ns) >= self.dead_after.as_nanos()).then_some(Cause::Silence { ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn rules(decide: Decide) -> Rules {
        Rules { decide, dead_after: Duration::from_millis(100) }
    }

    fn dead() -> Sight {
        Sight { silent_ns: Some(100 * MS), holds: true, bound: true, able: true, ..Sight::default() }
    }

    fn cause(decide: Decide, sight: &Sight) -> Option<Cause> {
        rules(decide).cause(sight)
    }

    #[test]
    fn silence_the_end_of_the_link_and_a_surrender_are_deaths_where_the_standby_decides() {
        assert_eq!(cause(Decide::Standby, &dead()), Some(Cause::Silence { ns: 100 * MS }));
        let alive = Sight { silent_ns: Some(99 * MS), ..dead() };
        assert_eq!(cause(Decide::Standby, &alive), None);
        assert_eq!(
            cause(Decide::Standby, &Sight { link_ended: true, ..alive.clone() }),
            Some(Cause::LinkEnded)
        );
        let gone = Sight { surrender: Some("QEMU ended".into()), ..alive };
        assert!(matches!(cause(Decide::Standby, &gone), Some(Cause::Surrender { .. })));
        assert_eq!(cause(Decide::Manager, &gone), None, "a manager is asked");
    }

    #[test]
    fn without_a_checkpoint_a_living_qemu_or_a_bound_primary_there_is_no_takeover() {
        for sight in [
            Sight { holds: false, ..dead() },
            Sight { able: false, ..dead() },
            Sight { bound: false, ..dead() },
            Sight { silent_ns: None, ..dead() },
        ] {
            assert_eq!(cause(Decide::Standby, &sight), None, "{sight:?}");
        }
        let order = Some(Order { primary_is_off: true });
        assert_eq!(
            cause(Decide::Standby, &Sight { holds: false, order, ..dead() }),
            None,
            "an order loads nothing"
        );
    }

    #[test]
    fn a_manager_orders_and_vouches_where_there_is_no_lease() {
        let order = |primary_is_off, bound| Sight { order: Some(Order { primary_is_off }), bound, ..dead() };
        assert_eq!(cause(Decide::Manager, &dead()), None);
        assert_eq!(cause(Decide::Manager, &order(false, false)), None);
        assert_eq!(cause(Decide::Manager, &order(true, false)), Some(Cause::Order));
        assert_eq!(cause(Decide::Standby, &order(false, true)), Some(Cause::Order));
    }
}
