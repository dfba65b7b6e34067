//! The guest's ledger over gates whose lcores are played by hand: pauses, rings, lanes, leases.

use std::sync::Arc;
use tidegate_dataplane::gate::{Closed, Gate, Lease};
use tidegate_dataplane::guest::{Closer, Guest, Mode, Outcome, Refusal, Rings};

const GENERATION: u64 = 9;

fn guest(lanes: usize) -> (Guest, Vec<Arc<Gate>>) {
    let mut guest = Guest::new(Mode::Protected, false, GENERATION, 4);
    let gates: Vec<_> = (0..lanes).map(|_| guest.gate()).collect();
    for gate in &gates {
        guest.add(gate.clone(), Rings::Running);
    }
    (guest, gates)
}

/// The lcore of a lane looks at its gate once.
fn poll(gate: &Gate, frames: u64) {
    if gate.wanted_close() > gate.closed().epoch {
        gate.answer_closed(Closed { epoch: gate.wanted_close(), frames, bytes: frames * 60 });
    }
    gate.answer_order(gate.order_number());
}

fn outcome(guest: &mut Guest, ticket: tidegate_dataplane::guest::Ticket) -> Option<Outcome> {
    guest.step();
    guest.outcome(ticket)
}

#[test]
fn a_close_covers_every_lane() {
    let (mut guest, gates) = guest(3);
    let ticket = guest.begin_close(Closer::VouchingSource).unwrap();
    poll(&gates[0], 5);
    poll(&gates[2], 7);
    assert_eq!(outcome(&mut guest, ticket), None, "one lane has not answered");
    poll(&gates[1], 0);
    let Some(Outcome::Closed(closed)) = outcome(&mut guest, ticket) else { panic!() };
    assert_eq!((closed.epoch, closed.frames, closed.bytes), (1, 12, 720));
    assert_eq!(guest.open_epoch(), 2);
}

#[test]
fn a_source_that_does_not_vouch_is_refused_while_a_ring_runs() {
    let (mut guest, gates) = guest(2);
    guest.rings_stopped(0);
    assert_eq!(guest.begin_close(Closer::Source), Err(Refusal::RingsRun(1)));
    assert_eq!(guest.begin_protect(10, 1, false, None, 0), Err(Refusal::RingsRun(1)));
    guest.rings_stopped(1);
    let ticket = guest.begin_close(Closer::Source).unwrap();
    gates.iter().for_each(|gate| poll(gate, 1));
    assert!(matches!(outcome(&mut guest, ticket), Some(Outcome::Closed(_))));
}

#[test]
fn one_pause_closes_one_epoch_however_many_parties_ask() {
    let (mut guest, gates) = guest(2);
    let first = guest.begin_close(Closer::Rings).unwrap(); // lane 0's hook
    let shared = guest.begin_close(Closer::Rings).unwrap(); // lane 1's, at the same time
    assert_eq!(first, shared);
    gates.iter().for_each(|gate| poll(gate, 3));
    assert!(outcome(&mut guest, first).is_some());
    guest.rings_stopped(0);
    let again = guest.begin_close(Closer::Rings).unwrap(); // lane 1's, after the answer
    guest.rings_stopped(1);
    let source = guest.begin_close(Closer::Source).unwrap();
    for ticket in [again, source] {
        let Some(Outcome::Closed(closed)) = guest.outcome(ticket) else { panic!("answered at once") };
        assert_eq!(closed.epoch, 1);
    }
    assert_eq!(guest.tally().closed, 1);
}

#[test]
fn a_pause_after_a_driver_reset_closes_its_own_epoch() {
    let (mut guest, gates) = guest(2);
    let reset = guest.begin_close(Closer::Rings).unwrap();
    gates.iter().for_each(|gate| poll(gate, 1));
    assert!(outcome(&mut guest, reset).is_some());
    guest.rings_stopped(0); // lane 0 stays down; the guest runs on and lane 1 sends
    gates[1].tell_poll(9, 4);
    guest.rings_stopped(1);
    let ticket = guest.begin_close(Closer::Source).unwrap();
    assert_eq!(guest.outcome(ticket), None, "the reset's epoch does not cover what lane 1 sent since");
    gates.iter().for_each(|gate| poll(gate, 4));
    let Some(Outcome::Closed(closed)) = outcome(&mut guest, ticket) else { panic!() };
    assert_eq!(closed.epoch, 2);
}

#[test]
fn a_pause_that_ended_lends_its_epoch_to_nobody() {
    let (mut guest, gates) = guest(1);
    let first = guest.begin_close(Closer::Rings).unwrap();
    poll(&gates[0], 1);
    outcome(&mut guest, first);
    guest.rings_stopped(0);
    guest.rings_started(0);
    guest.rings_stopped(0);
    let ticket = guest.begin_close(Closer::Source).unwrap();
    assert_eq!(guest.outcome(ticket), None);
    poll(&gates[0], 0);
    let Some(Outcome::Closed(closed)) = outcome(&mut guest, ticket) else { panic!() };
    assert_eq!(closed.epoch, 2);
}

#[test]
fn a_checkpoint_in_which_a_ring_started_is_void() {
    let (mut guest, gates) = guest(1);
    guest.rings_stopped(0);
    let ticket = guest.begin_close(Closer::Source).unwrap();
    poll(&gates[0], 1);
    outcome(&mut guest, ticket);
    guest.rings_started(0);
    assert!(!guest.seal(1), "the guest ran between close and seal");
    assert_eq!(guest.commit(GENERATION, 1, 0), Err(Refusal::Void(1)));
    guest.rings_stopped(0);
    let ticket = guest.begin_close(Closer::Source).unwrap();
    poll(&gates[0], 1);
    outcome(&mut guest, ticket);
    assert!(guest.seal(2));
    assert_eq!(guest.commit(GENERATION, 2, 0), Ok(2), "a later commit covers the void one's frames");
}

#[test]
fn resets_of_a_hostile_driver_cannot_use_up_the_epochs_in_flight() {
    let (mut guest, gates) = guest(1);
    for _ in 0..50 {
        let ticket = guest.begin_close(Closer::Rings).unwrap();
        poll(&gates[0], 1);
        outcome(&mut guest, ticket);
        guest.rings_stopped(0);
        guest.rings_started(0);
    }
    assert!(guest.epochs_in_flight().count() <= 4);
    guest.rings_stopped(0);
    let ticket = guest.begin_close(Closer::Source).unwrap();
    poll(&gates[0], 1);
    let Some(Outcome::Closed(closed)) = outcome(&mut guest, ticket) else { panic!() };
    assert!(guest.commit(GENERATION, closed.epoch, 0).is_ok());
}

#[test]
fn a_late_answer_does_not_count_and_one_in_time_does() {
    let (mut guest, gates) = guest(1);
    let late = guest.begin_close(Closer::VouchingSource).unwrap();
    guest.give_up(late);
    poll(&gates[0], 1);
    assert_eq!(outcome(&mut guest, late), Some(Outcome::Merged(1)));
    assert_eq!(guest.commit(GENERATION, 1, 0), Err(Refusal::Void(1)));
    let in_time = guest.begin_close(Closer::VouchingSource).unwrap();
    poll(&gates[0], 1);
    guest.give_up(in_time);
    assert!(matches!(guest.outcome(in_time), Some(Outcome::Closed(c)) if c.epoch == 2));
}

#[test]
fn a_lane_joins_with_what_the_guest_is() {
    let (mut guest, gates) = guest(1);
    for _ in 0..3 {
        let ticket = guest.begin_close(Closer::VouchingSource).unwrap();
        poll(&gates[0], 1);
        outcome(&mut guest, ticket);
    }
    guest.commit(GENERATION, 2, 0).unwrap();
    let stale = Arc::new(Gate::new(1, tidegate_dataplane::gate::NO_LEASE));
    let ticket = guest.begin_join(stale.clone(), Rings::Running, 0).unwrap();
    assert_eq!(guest.begin_close(Closer::VouchingSource), Err(Refusal::Busy), "serialised with close");
    assert_eq!((stale.wanted_close(), stale.committed()), (3, 2));
    poll(&stale, 0);
    assert_eq!(outcome(&mut guest, ticket), Some(Outcome::Done));
    let ticket = guest.begin_leave(1).unwrap();
    poll(&stale, 0);
    assert_eq!(outcome(&mut guest, ticket), Some(Outcome::Done));
    let ticket = guest.begin_close(Closer::VouchingSource).unwrap();
    poll(&gates[0], 0);
    assert!(outcome(&mut guest, ticket).is_some(), "a lane that left is not waited for");
    guest.commit(GENERATION, 4, 0).unwrap();
    assert_eq!(stale.committed(), 4, "but what it holds leaves with the commits");
}

/// The renewal that was on its way when somebody opened the guest would fence one that has no standby.
#[test]
fn a_late_lease_finds_an_open_guest_and_leaves_it_open() {
    let (mut guest, gates) = guest(1);
    guest.lease(GENERATION, 1000_u64, 10).unwrap();
    let ticket = guest.begin_unprotect(true, true).unwrap();
    poll(&gates[0], 0);
    assert_eq!(outcome(&mut guest, ticket), Some(Outcome::Done));
    assert_eq!(guest.lease(GENERATION, 2000_u64, 20), Err(Refusal::WrongMode(Mode::Open)));
    assert!(!guest.is_leased() && !guest.is_fenced(3000));
}

#[test]
fn a_lease_never_shrinks_and_ends_for_good() {
    let (mut guest, gates) = guest(1);
    guest.lease(GENERATION, Lease::new(700, 1000), 10).unwrap();
    guest.lease(GENERATION, 900_u64, 20).unwrap();
    assert_eq!(gates[0].whole_lease(), Lease::new(900, 1000), "neither moment");
    assert_eq!(guest.lease(GENERATION + 1, 5000_u64, 20), Err(Refusal::Generation(GENERATION)));
    assert_eq!(guest.lease(GENERATION, 5000_u64, 1000), Err(Refusal::Fenced));
    assert!(guest.is_fenced(1000) && guest.is_leased());
    assert_eq!(guest.begin_protect(10, 1, true, None, 2000), Err(Refusal::Fenced));
    assert_eq!(guest.begin_protect(10, 1, true, Some(1999.into()), 2000), Err(Refusal::Late));
    let ticket = guest.begin_protect(10, 1, true, Some(Lease::new(8000, 9000)), 2000).unwrap();
    poll(&gates[0], 0);
    assert_eq!(outcome(&mut guest, ticket), Some(Outcome::Done));
    assert_eq!(guest.generation(), 10);
}
