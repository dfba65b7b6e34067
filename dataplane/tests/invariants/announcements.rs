//! What the plane says for a guest itself.

use crate::rig::{Rig, arp, starting, tcp};
use tidegate_dataplane::announcement::Announcement;
use tidegate_dataplane::gate::FENCE;
use tidegate_dataplane::guest::Mode;
use tidegate_dataplane::policy::PolicyName::*;

/// The announcements of the one guest that [`arp`] is from.
fn announcements(rig: &Rig) -> usize {
    let known = rig.shared.identities.snapshot();
    let all = known.iter().flat_map(Announcement::all);
    all.map(|frame| assert!(rig.shared.inbox.announce(frame))).count()
}

#[test]
fn announcements_wait_for_nothing_under_no_policy_and_are_counted_apart() {
    for policy in [Realtime, HoldAll] {
        let mut rig = Rig::protected(policy);
        rig.guest_sends(arp());
        rig.polls(2);
        let (before, epoch) = (rig.total(), rig.close());
        rig.commit(epoch);
        rig.polls(2);
        rig.guest_sends(tcp(1, 0));
        rig.poll();
        let seen = rig.wire.outbound.borrow().len();
        assert_eq!(announcements(&rig), 3, "RARP and both forms of ARP");
        rig.poll();
        assert_eq!(rig.wire.outbound.borrow().len(), seen + 3, "{policy:?}");
        assert_eq!((rig.shared.inbox.announced.get(), rig.shared.inbox.not_announced.get()), (3, 0));
        assert_eq!(rig.total().received, before.received + 1, "they are none of the guest's");
        rig.wire.room.set(Some(1));
        announcements(&rig);
        rig.polls(3);
        assert_eq!((rig.shared.inbox.announced.get(), rig.shared.inbox.not_announced.get()), (4, 2));
        assert!(rig.shared.inbox.is_taken());
    }
}

#[test]
fn i9_no_announcement_passes_a_fence_or_leaves_a_muted_guest() {
    let mut fenced = Rig::leased(BypassAll, starting(Mode::Open), true);
    fenced.shared.gate.set_lease(u64::MAX);
    let ticket = fenced.ledger.begin_unprotect(true, true).unwrap();
    fenced.done(ticket);
    fenced.guest_sends(arp());
    fenced.polls(2);
    assert_eq!(fenced.wire.outbound.borrow().len(), 1);
    fenced.shared.gate.set_lease(FENCE);
    assert_eq!(announcements(&fenced), 3);
    fenced.polls(3);
    assert_eq!((fenced.wire.outbound.borrow().len(), fenced.shared.inbox.not_announced.get()), (1, 3));
    // The lease ends between the look at it and the burst.
    let mut late = Rig::new(BypassAll, starting(Mode::Open));
    late.guest_sends(arp());
    late.polls(2);
    announcements(&late);
    late.shared.gate.set_lease(late.clock.0.get() + 2);
    late.poll();
    assert_eq!((late.wire.outbound.borrow().len(), late.shared.inbox.not_announced.get()), (1, 3));
    let mut muted = Rig::new(BypassAll, starting(Mode::Open));
    muted.guest_sends(arp());
    muted.polls(2);
    let ticket = muted.ledger.begin_mute().unwrap();
    muted.done(ticket);
    announcements(&muted);
    muted.polls(3);
    assert_eq!((muted.wire.outbound.borrow().len(), muted.shared.inbox.not_announced.get()), (1, 3));
}
