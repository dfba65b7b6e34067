//! I9, its earlier half: what bypasses may do so until a moment before the lease's end, waits behind it, and goes on with
//! a renewal.

use super::rig::{Rig, arp, tcp};
use super::{Class, DropReason, GENERATION, LaneConfig};
use tidegate_dataplane::egress::BYPASS_BACKLOG;
use tidegate_dataplane::gate::Lease;
use tidegate_dataplane::policy::PolicyName::{BypassAll, Realtime};
use tidegate_dataplane::tsc::Clock;

const NEXT: u64 = GENERATION + 1;

/// Under a lease in whose first half frames may bypass; the moments of both.
fn leased(policy: tidegate_dataplane::policy::PolicyName) -> (Rig, Lease) {
    let mut rig = Rig::leased(policy, LaneConfig::default(), true);
    let now = rig.clock.now();
    let lease = Lease::new(now + 100_000, now + 200_000);
    let ticket = rig.ledger.begin_protect(NEXT, 1, true, Some(lease), now).unwrap();
    rig.done(ticket);
    (rig, lease)
}

#[test]
fn behind_its_moment_nothing_bypasses_and_a_renewal_lets_it_go_in_order() {
    let (mut rig, lease) = leased(BypassAll);
    rig.guest_sends(tcp(1, 0));
    rig.polls(3);
    assert_eq!(rig.on_the_wire(), [1]);
    rig.clock.0.set(lease.media);
    (2..=100).for_each(|n| rig.guest_sends(tcp(n, 0)));
    rig.polls(20);
    assert_eq!(rig.on_the_wire(), [1], "the lease goes on, and nothing bypasses");
    assert!(!rig.shared.gate.is_fenced());
    assert_eq!(rig.total().held, 99);
    let now = rig.clock.now();
    rig.ledger.lease(NEXT, Lease::new(now + 100_000, now + 200_000), now).unwrap();
    rig.guest_sends(tcp(101, 0));
    rig.polls(5);
    assert_eq!(rig.on_the_wire(), (1..=101).collect::<Vec<_>>());
    assert_eq!(rig.total().dropped_all(), 0);
}

#[test]
fn what_waits_is_bounded_and_gone_when_the_lease_ends() {
    let (mut rig, lease) = leased(BypassAll);
    rig.clock.0.set(lease.media);
    (1..=3000).for_each(|n| rig.guest_sends(tcp(n, 0)));
    rig.polls(100);
    let total = rig.total();
    assert!(total.held as usize <= BYPASS_BACKLOG + 32 && total.held > 0, "{}", total.held);
    assert_eq!(total.dropped[DropReason::WireFull as usize], 3000 - total.held);
    rig.clock.0.set(lease.end);
    rig.polls(3);
    assert!(rig.shared.gate.is_fenced());
    assert_eq!(rig.total().dropped[DropReason::Fenced as usize], total.held);
    assert_eq!(rig.on_the_wire(), [0_u32; 0]);
}

#[test]
fn what_is_committed_leaves_until_the_end_of_the_lease() {
    let (mut rig, lease) = leased(Realtime);
    rig.guest_sends(tcp(1, 0));
    let epoch = rig.close();
    rig.clock.0.set(lease.media);
    let now = rig.clock.now();
    rig.ledger.commit(NEXT, epoch, now).unwrap();
    rig.polls(3);
    assert_eq!(rig.on_the_wire(), [1]);
    rig.guest_sends(arp());
    rig.polls(3);
    assert_eq!(rig.wire.outbound.borrow().len(), 1);
    assert_eq!(rig.shared.counters.totals(Class::Announce).held, 1);
}
