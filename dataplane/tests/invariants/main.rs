//! The invariants of the design, I1 to I9, each on one shipped lane over ports in memory.
//! The simulator looks for what nobody thought of; these say what is meant.

mod announcements;
mod media;
mod rig;

use rig::{GENERATION, Rig, TestFrame, arp, rtp, starting, tcp};
use tidegate_dataplane::class::{Class, DropReason};
use tidegate_dataplane::egress::BYPASS_BACKLOG;
use tidegate_dataplane::guest::{Closer, Mode, Refusal};
use tidegate_dataplane::hold::Quota;
use tidegate_dataplane::lane::LaneConfig;
use tidegate_dataplane::policy::PolicyName::*;
use tidegate_dataplane::tsc::Clock;

#[test]
fn i1_a_held_frame_waits_for_its_commit() {
    let mut rig = Rig::protected(Realtime);
    rig.guest_sends(tcp(1, 0));
    rig.polls(100);
    assert_eq!(rig.on_the_wire(), [], "no close, no commit");
    let first = rig.close();
    rig.guest_sends(tcp(2, 0));
    rig.polls(100);
    assert_eq!(rig.on_the_wire(), [], "closed is not committed");
    rig.commit(first);
    rig.polls(3);
    assert_eq!(rig.on_the_wire(), [1], "the frame of the next epoch stays");
    let second = rig.close();
    rig.commit(second);
    rig.polls(3);
    assert_eq!(rig.on_the_wire(), [1, 2]);
}

#[test]
fn i1_many_epochs_may_be_in_flight_and_a_commit_covers_all_before_it() {
    let mut rig = Rig::protected(HoldAll);
    let epochs: Vec<u64> = (1..=64)
        .map(|n| {
            rig.guest_sends(tcp(n, 0));
            rig.close()
        })
        .collect();
    assert_eq!(rig.ledger.begin_close(Closer::VouchingSource), Err(Refusal::InFlight(64)));
    rig.commit(epochs[40]);
    rig.polls(10);
    assert_eq!(rig.on_the_wire(), (1..=41).collect::<Vec<_>>());
    rig.commit(epochs[63]);
    rig.polls(10);
    assert_eq!(rig.on_the_wire().len(), 64);
}

#[test]
fn i2_what_was_available_before_the_close_belongs_to_it_and_the_rest_does_not() {
    let mut rig = Rig::protected(HoldAll);
    (1..=100).for_each(|n| rig.guest_sends(tcp(n, 0)));
    let epoch = rig.close(); // three bursts and a bit: drained by the close itself
    (101..=120).for_each(|n| rig.guest_sends(tcp(n, 0)));
    rig.commit(epoch);
    rig.polls(20);
    assert_eq!(rig.on_the_wire(), (1..=100).collect::<Vec<_>>());
}

#[test]
fn i3_held_frames_keep_their_order_and_so_do_the_packets_of_a_stream() {
    let mut rig = Rig::protected(Realtime);
    for n in 1..=90u16 {
        rig.guest_sends(rtp(7, n));
        rig.guest_sends(tcp(1000 + u32::from(n), 10));
    }
    rig.polls(10);
    assert_eq!(
        rig.on_the_wire(),
        (1..=90).collect::<Vec<_>>(),
        "promoted on the third, the first two before it"
    );
    let epoch = rig.close();
    rig.commit(epoch);
    rig.polls(10);
    assert_eq!(rig.on_the_wire()[90..], (1001..=1090).collect::<Vec<_>>());
}

#[test]
fn i3_a_stream_that_proves_itself_does_not_overtake_its_own_packets_before_a_full_wire() {
    let mut rig = Rig::protected(Realtime);
    rig.guest_sends(tcp(1000, 0));
    (1..=2).for_each(|n| rig.guest_sends(rtp(7, n)));
    rig.guest_sends(tcp(1001, 0));
    let epoch = rig.close();
    rig.wire.room.set(Some(0)); // committed and staged, but the wire takes nothing
    rig.commit(epoch);
    rig.polls(2);
    rig.guest_sends(rtp(7, 3));
    rig.polls(2);
    rig.wire.room.set(None);
    rig.polls(5);
    assert_eq!(rig.on_the_wire(), [1, 2, 3, 1000, 1001]);
    assert_eq!(rig.total().bypassed, 3, "what goes with the proof counts as bypassed");
}

#[test]
fn i3_after_unprotect_new_frames_line_up_behind_those_that_were_held() {
    let mut rig = Rig::protected(HoldAll);
    (1..=100).for_each(|n| rig.guest_sends(tcp(n, 0)));
    rig.polls(5);
    let ticket = rig.ledger.begin_unprotect(true, false).unwrap();
    (101..=110).for_each(|n| rig.guest_sends(tcp(n, 0)));
    rig.done(ticket);
    rig.polls(10);
    assert_eq!(rig.on_the_wire(), (1..=110).collect::<Vec<_>>());
    rig.guest_sends(tcp(111, 0));
    rig.poll();
    assert_eq!(rig.on_the_wire().last(), Some(&111), "open: everything passes");
}

#[test]
fn i4_nothing_but_unprotect_releases_what_is_not_committed() {
    let held = || {
        let mut rig = Rig::protected(Realtime);
        (1..=10).for_each(|n| rig.guest_sends(tcp(n, 0)));
        rig.polls(2);
        rig
    };
    let mut stopped = held();
    stopped.stop();
    assert_eq!(stopped.on_the_wire(), []);
    assert_eq!(stopped.total().dropped[DropReason::Discarded as usize], 10);

    let mut muted = held();
    let ticket = muted.ledger.begin_mute().unwrap();
    muted.done(ticket);
    muted.polls(5);
    assert_eq!((muted.on_the_wire(), muted.total().held), (vec![], 0));

    let mut dropped = held();
    let ticket = dropped.ledger.begin_unprotect(false, false).unwrap();
    dropped.done(ticket);
    dropped.polls(5);
    assert_eq!((dropped.on_the_wire(), dropped.total().held), (vec![], 0));

    let mut again = held(); // a new generation releases nothing either
    let ticket = again.ledger.begin_protect(43, 1, true, None, 0).unwrap();
    again.done(ticket);
    again.polls(5);
    assert_eq!((again.on_the_wire(), again.total().held), (vec![], 10));
}

#[test]
fn i4_a_change_of_policy_moves_no_held_frame() {
    let mut rig = Rig::protected(HoldAll);
    rig.guest_sends(rtp(7, 1));
    rig.guest_sends(tcp(2, 0));
    rig.poll();
    rig.shared.policy.put(rig::compiled(BypassAll));
    let ticket = rig.ledger.begin_policy().unwrap();
    rig.done(ticket);
    rig.guest_sends(tcp(3, 0));
    rig.polls(3);
    assert_eq!(rig.on_the_wire(), [3], "the new policy holds for new frames");
    assert_eq!(rig.total().held, 2);
}

#[test]
fn i5_a_commit_must_name_a_closed_epoch_of_this_generation() {
    let mut rig = Rig::protected(HoldAll);
    rig.guest_sends(tcp(1, 0));
    let epoch = rig.close();
    let refused = |rig: &mut Rig, generation, epoch| rig.ledger.commit(generation, epoch, 0).unwrap_err();
    assert_eq!(refused(&mut rig, GENERATION, epoch + 1), Refusal::Unclosed(epoch + 1));
    assert_eq!(refused(&mut rig, GENERATION, u64::MAX), Refusal::Unclosed(epoch + 1));
    assert_eq!(refused(&mut rig, GENERATION - 1, epoch), Refusal::Generation(GENERATION));
    rig.polls(5);
    assert_eq!(rig.on_the_wire(), []);
    assert_eq!(rig.ledger.tally().commits_refused, 3);
    rig.commit(epoch);
    rig.commit(epoch); // idempotent
    rig.polls(5);
    assert_eq!(rig.on_the_wire(), [1]);
}

#[test]
fn i5_an_epoch_whose_close_came_late_merges_into_the_next() {
    let mut rig = Rig::protected(HoldAll);
    rig.guest_sends(tcp(1, 0));
    let ticket = rig.ledger.begin_close(Closer::VouchingSource).unwrap();
    rig.ledger.give_up(ticket); // nobody polled: the wait ran out and the guest runs again
    rig.guest_sends(tcp(2, 0));
    rig.polls(5);
    assert_eq!(rig.ledger.commit(GENERATION, 1, 0), Err(Refusal::Void(1)));
    let epoch = rig.close();
    assert_eq!(epoch, 2);
    rig.commit(epoch);
    rig.polls(5);
    assert_eq!(rig.on_the_wire(), [1, 2]);
}

#[test]
fn i6_every_frame_is_accounted_for() {
    let config = LaneConfig { quota: Quota { mbufs: 20, bytes: 1 << 20 }, ..LaneConfig::default() };
    let mut rig = Rig::new(Realtime, config);
    for n in 1..=50 {
        rig.guest_sends(tcp(n, 100));
        rig.guest_sends(rtp(1, n as u16));
        rig.guest_sends(arp());
    }
    rig.polls(20); // balanced after each poll, see the rig
    let epoch = rig.close();
    rig.commit(epoch);
    rig.polls(20);
    let total = rig.total();
    assert_eq!((total.received, total.held), (150, 0));
    assert_eq!(total.bypassed + total.released + total.dropped_all(), 150);
    assert!(total.dropped[DropReason::HoldFull as usize] >= 30);
    assert_eq!(rig.shared.counters.totals(Class::Announce).bypassed, 50);
}

#[test]
fn i7_what_is_committed_leaves_within_a_bounded_number_of_polls() {
    let mut rig = Rig::protected(HoldAll);
    (1..=1000).for_each(|n| rig.guest_sends(tcp(n, 0)));
    let epoch = rig.close();
    rig.commit(epoch);
    rig.polls(1000_usize.div_ceil(32));
    assert_eq!(rig.on_the_wire().len(), 1000);
    assert!(rig.wire.largest.get() <= 32, "a chunk is a burst at most");
}

#[test]
fn i7_a_pace_spreads_the_release() {
    let config = LaneConfig { pace_bits_per_s: Some(1_000_000_000), ..LaneConfig::default() };
    let mut rig = Rig::new(HoldAll, config);
    (1..=400).for_each(|n| rig.guest_sends(tcp(n, 1440)));
    let epoch = rig.close();
    rig.commit(epoch);
    let begin = rig.clock.0.get();
    while rig.on_the_wire().len() < 400 {
        rig.clock.0.set(rig.clock.0.get() + 2_000); // 2 us a poll
        rig.poll();
        assert!(rig.clock.0.get() - begin < 20_000_000, "the release never ends");
    }
    let took_ns = rig.clock.0.get() - begin;
    let wire_ns = 400 * (14 + 20 + 24 + 1440 + 24) * 8;
    assert!(
        took_ns >= wire_ns - 60_000 && took_ns < wire_ns + wire_ns / 10,
        "{took_ns} ns for {wire_ns} ns of wire time"
    );
}

#[test]
fn i8_a_full_hold_queue_and_a_release_do_not_delay_a_bypassed_frame() {
    let config = LaneConfig { quota: Quota { mbufs: 1000, bytes: 1 << 20 }, ..LaneConfig::default() };
    let mut rig = Rig::new(Realtime, config);
    (1..=3u16).for_each(|n| rig.guest_sends(rtp(7, n)));
    (1..=2000).for_each(|n| rig.guest_sends(tcp(10_000 + n, 0)));
    rig.polls(80);
    assert!(rig.total().dropped[DropReason::HoldFull as usize] > 0, "the hold queue is full");
    let epoch = rig.close();
    rig.commit(epoch);
    for n in 4..=20u16 {
        rig.guest_sends(rtp(7, n));
        let before = rig.on_the_wire().len();
        rig.poll();
        let sent = &rig.on_the_wire()[before..];
        assert_eq!(sent[0], u32::from(n), "bypass first, in the poll it came in");
        assert!(sent.len() > 1 && sent.len() <= 33, "and the release goes on behind it");
    }
}

#[test]
fn i8_a_wire_that_takes_nothing_costs_bounded_memory_and_the_rings_are_polled_on() {
    let mut rig = Rig::protected(Realtime);
    rig.wire.room.set(Some(0));
    for n in 1..=3000u16 {
        rig.guest_sends(rtp(7, n));
    }
    rig.polls(200);
    assert!(rig.guest.inbound.borrow().is_empty());
    let total = rig.total();
    assert_eq!(total.held, (BYPASS_BACKLOG + 32) as u64);
    assert_eq!(total.dropped[DropReason::WireFull as usize], 3000 - total.held);
    rig.wire.room.set(None);
    rig.polls(3);
    assert_eq!(rig.on_the_wire(), (1..=total.held as u32).collect::<Vec<_>>(), "in order, none twice");
}

#[test]
fn i9_the_fence_falls_without_any_other_thread() {
    let mut rig = Rig::leased(Realtime, LaneConfig::default(), true);
    rig.guest_sends(arp());
    rig.polls(5);
    assert_eq!(rig.wire.outbound.borrow().len(), 0, "a leased guest starts fenced");
    let now = rig.clock.now();
    let ticket = rig.ledger.begin_protect(GENERATION + 1, 1, true, Some((now + 500).into()), now).unwrap();
    rig.done(ticket);
    rig.guest_sends(arp());
    rig.poll();
    assert_eq!(rig.wire.outbound.borrow().len(), 1, "under a lease the announcement passes");
    rig.guest_sends(tcp(1, 0));
    let epoch = rig.close();
    let now = rig.clock.now();
    rig.ledger.commit(GENERATION + 1, epoch, now).unwrap();
    rig.wire.room.set(Some(0)); // staged for the wire, but it takes nothing
    rig.poll();
    rig.clock.0.set(now + 1000); // the lease ends; the control side does nothing
    rig.wire.room.set(None);
    rig.guest_sends(arp());
    rig.polls(5);
    assert_eq!(rig.wire.outbound.borrow().len(), 1, "neither committed nor bypassed frames leave");
    assert!(rig.shared.gate.is_fenced());
    let now = rig.clock.now();
    assert_eq!(rig.ledger.lease(GENERATION + 1, now + 5000, now), Err(Refusal::Fenced), "too late");
    rig.shared.gate.set_lease(now + 5000); // even a late word in the gate lifts nothing
    rig.guest_sends(arp());
    rig.polls(5);
    assert_eq!(rig.wire.outbound.borrow().len(), 1);
}

#[test]
fn i9_only_a_new_lease_in_a_new_generation_lifts_the_fence_and_what_was_held_is_gone() {
    let mut rig = Rig::protected(HoldAll);
    rig.guest_sends(tcp(1, 0));
    rig.poll();
    rig.ledger.fence();
    rig.guest_sends(tcp(2, 0));
    rig.polls(3);
    assert_eq!(rig.total().dropped[DropReason::Fenced as usize], 1);
    assert_eq!(rig.ledger.begin_protect(50, 1, true, None, 5000), Err(Refusal::Fenced));
    let now = rig.clock.now();
    let ticket = rig.ledger.begin_protect(50, 1, true, Some((now + 1_000_000).into()), now).unwrap();
    rig.done(ticket);
    rig.guest_sends(tcp(3, 0));
    let epoch = rig.close();
    rig.ledger.commit(50, epoch, now).unwrap();
    rig.polls(5);
    assert_eq!(rig.on_the_wire(), [3]);
    assert_eq!(rig.total().dropped[DropReason::Discarded as usize], 1);
}

#[test]
fn i9_unprotecting_a_leased_guest_needs_evidence() {
    let mut rig = Rig::leased(HoldAll, LaneConfig::default(), true);
    assert_eq!(rig.ledger.begin_unprotect(true, false), Err(Refusal::Fenced));
    let ticket = rig.ledger.begin_unprotect(true, true).unwrap();
    rig.done(ticket);
    rig.guest_sends(tcp(1, 0));
    rig.polls(2);
    assert_eq!(rig.on_the_wire(), [1]);
}

#[test]
fn protection_begins_in_the_pause_what_came_before_passes() {
    let mut rig = Rig::new(HoldAll, starting(Mode::Open));
    (1..=50).for_each(|n| rig.guest_sends(tcp(n, 0)));
    let ticket = rig.ledger.begin_protect(7, 10, true, None, 0).unwrap();
    rig.done(ticket);
    rig.guest_sends(tcp(51, 0));
    rig.polls(20);
    assert_eq!(rig.on_the_wire(), (1..=50).collect::<Vec<_>>());
    assert_eq!(rig.ledger.open_epoch(), 10, "epoch numbers go on where the source says");
    let epoch = rig.close();
    rig.ledger.commit(7, epoch, 0).unwrap();
    rig.polls(2);
    assert_eq!(rig.on_the_wire().last(), Some(&51));
}

#[test]
fn a_vif_is_left_alone_from_the_close_until_resumed() {
    let mut rig = Rig::new(HoldAll, LaneConfig { rings_tell: false, ..LaneConfig::default() });
    rig.guest_sends(tcp(1, 0));
    rig.close();
    rig.guest_sends(tcp(2, 0));
    rig.wire.inbound.borrow_mut().push_back(tcp(9, 0));
    rig.polls(10);
    assert_eq!(rig.guest.inbound.borrow().len(), 1, "its ring is not read");
    assert_eq!(rig.guest.outbound.borrow().len(), 0, "nor its memory written");
    let ticket = rig.ledger.begin_resumed().unwrap();
    rig.done(ticket);
    rig.polls(2);
    assert_eq!(rig.guest.inbound.borrow().len(), 0);
    assert_eq!(rig.guest.outbound.borrow().len(), 1, "what came meanwhile was queued");
}

#[test]
fn a_guest_that_never_reads_costs_bounded_memory() {
    let mut rig = Rig::protected(HoldAll);
    rig.guest.room.set(Some(0));
    (1..=5000).for_each(|n| rig.wire.inbound.borrow_mut().push_back(tcp(n, 0)));
    rig.polls(200);
    let counters = &rig.shared.counters;
    let queued = counters.guestward_queued.get();
    assert!(queued <= 1024 + 32, "{queued}");
    assert_eq!(counters.guestward_dropped.get() + queued, 5000);
    rig.guest.room.set(None);
    rig.polls(100);
    let numbers: Vec<u32> = rig.guest.outbound.borrow().iter().map(|f| rig::number(&f.bytes)).collect();
    assert_eq!(numbers, (1..=queued as u32).collect::<Vec<_>>(), "the oldest, in order");
}

#[test]
fn a_wrong_a_missing_and_an_unfinished_checksum_never_reach_the_wire() {
    let mut rig = Rig::protected(BypassAll);
    let mut wrong = tcp(1, 33);
    *wrong.bytes.last_mut().unwrap() ^= 1;
    let mut header = rtp(1, 2);
    header.bytes[24] ^= 1;
    let mut missing = tcp(3, 0);
    missing.bytes[50..52].fill(0);
    let unfinished = TestFrame { unfinished: true, ..tcp(4, 0) };
    let chained = TestFrame { cut: Some(61), ..tcp(5, 700) };
    let mut chained_wrong = TestFrame { cut: Some(61), ..tcp(6, 701) };
    chained_wrong.bytes[700] ^= 4;
    for frame in [wrong, header, missing, unfinished, chained, chained_wrong] {
        rig.guest_sends(frame);
    }
    rig.polls(3);
    assert_eq!(rig.on_the_wire(), [5], "a chain with a right sum passes");
    assert_eq!(rig.total().dropped[DropReason::Checksum as usize], 4);
    assert_eq!(rig.total().dropped[DropReason::Oversize as usize], 1);
}

#[test]
fn a_frame_with_a_wrong_checksum_proves_no_stream() {
    let mut rig = Rig::protected(Realtime);
    for sequence in 1..=3 {
        let mut frame = rtp(7, sequence);
        if sequence == 3 {
            frame.bytes[100] ^= 1;
        }
        rig.guest_sends(frame);
    }
    rig.polls(3);
    assert_eq!((rig.on_the_wire(), rig.total().held), (vec![], 2), "two good ones wait");
    rig.guest_sends(rtp(7, 3));
    rig.polls(2);
    assert_eq!(rig.on_the_wire(), [1, 2, 3]);
}

#[test]
fn a_frame_longer_than_the_mtu_never_reaches_the_wire() {
    let mut rig = Rig::protected(BypassAll);
    rig.guest_sends(tcp(1, 1500 - 44));
    rig.guest_sends(tcp(2, 1500 - 43));
    rig.polls(2);
    assert_eq!(rig.on_the_wire(), [1]);
    assert_eq!(rig.total().dropped[DropReason::Oversize as usize], 1);
}

#[test]
fn chains_count_each_of_their_mbufs_against_the_quota() {
    let config = LaneConfig { quota: Quota { mbufs: 10, bytes: 1 << 20 }, ..LaneConfig::default() };
    let mut rig = Rig::new(HoldAll, config);
    (1..=10).for_each(|n| rig.guest_sends(TestFrame { cut: Some(58), ..tcp(n, 100) }));
    rig.poll();
    assert_eq!((rig.total().held, rig.shared.counters.held_mbufs.get()), (5, 10));
}

#[test]
fn latencies_are_recorded_in_ticks_of_the_clock() {
    let mut rig = Rig::protected(Realtime);
    rig.guest_sends(arp());
    rig.guest_sends(tcp(1, 0));
    rig.poll();
    rig.clock.0.set(rig.clock.0.get() + 200_000_000);
    let epoch = rig.close();
    rig.commit(epoch);
    rig.clock.0.set(rig.clock.0.get() + 4_000);
    rig.polls(2);
    let shared = rig.shared.clone();
    let latency = &shared.latency;
    assert_eq!(latency.bypass.snapshot().count(), 1);
    assert!(latency.bypass.snapshot().max() < 100);
    assert!((200_000_000..200_010_000).contains(&latency.hold.snapshot().max()));
    assert!((4_000..4_100).contains(&latency.commit_to_first.snapshot().max()));
    rig.poll();
    assert!((4_000..4_100).contains(&latency.commit_to_last.snapshot().max()));
}
