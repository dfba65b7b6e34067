//! Who runs the domain when something dies.

use crate::pair::{FAITHFUL, Pair, Plan, READY, SOON, a_while};
use crate::rig::within;
use crate::writer;

fn leased() -> Plan {
    Plan { keys: "mode = \"open\"\nclose_timeout_ms = 500", decide: "standby", ..Plan::default() }
}

/// A pair whose primary speaks under a lease, with two checkpoints held by the backup.
fn under_a_lease() -> Pair {
    let mut pair = Pair::start(&leased()).ready();
    pair.protect();
    pair.checkpoint(2);
    pair.acknowledged();
    pair.narrow();
    let bound = || pair.status()["primary_leased"] == true;
    assert!(within(SOON, bound), "the lease reaches the plane, and the backup knows");
    pair
}

#[test]
fn the_death_of_the_primary_starts_the_domain_from_the_newest_whole_checkpoint() {
    let mut pair = under_a_lease();
    let whole = pair.written().len();
    let body = writer::body(3, 9);
    pair.write(&body[..9000]);
    pair.send.kill();
    let promoted = pair.receive.event("promoted", |_| true);
    assert!(promoted["epoch"].as_u64() > Some(0), "{promoted}");
    // From the last beat, which was granted a lease, to the unmuting: all of --term's 90 ms.
    let waited = promoted["detection_ms"].as_f64().unwrap() + promoted["decision_ms"].as_f64().unwrap();
    assert!(waited > 90.0, "it spoke while the primary still might: {promoted}");
    assert!(within(SOON, || pair.started()));
    assert_eq!(pair.fed(), pair.written()[..whole], "half a checkpoint is none");
    assert_eq!(pair.pulse(&pair.backup)["mode"], "open");
    assert_eq!(pair.pulse(&pair.primary)["fenced"], true, "the lease ran out first");
}

#[test]
fn when_xl_is_gone_the_guest_is_silent_here_before_it_runs_there() {
    let mut pair = under_a_lease();
    pair.primary.send(0, 1);
    pair.hang_up();
    assert_eq!(pair.send.ends(), 1);
    assert_eq!(pair.pulse(&pair.primary)["fenced"], true);
    let promoted = pair.receive.event("promoted", |_| true);
    assert_eq!(promoted["cause"]["why"], "surrender", "{promoted}");
    assert!(within(SOON, || pair.started()));
    a_while();
    assert_eq!(pair.primary.on_wire(0), [] as [u8; 0]);
    assert_eq!(pair.said(), READY);
}

#[test]
fn an_xl_that_ends_before_protection_changes_nothing_and_nothing_starts() {
    for checkpoint in [false, true] {
        let mut pair = Pair::start(&leased()).ready();
        if checkpoint {
            pair.copy();
        } else {
            pair.write(&writer::opening());
        }
        pair.hang_up();
        assert_eq!(pair.send.ends(), 1);
        pair.receive.event("session-ended", |_| true);
        a_while();
        assert!(!pair.started(), "nothing ever starts from checkpoint 1");
        let pulse = pair.pulse(&pair.primary);
        assert_eq!((&pulse["mode"], &pulse["fenced"]), (&"open".into(), &false.into()));
        pair.primary.send(0, 1);
        assert_eq!(pair.primary.wire_sees(0, 1), [1]);
    }
}

#[test]
fn stopping_in_order_is_no_failover() {
    let keys = "mode = \"open\"\non_backup_lost = \"release\"";
    let mut pair = Pair::start(&Plan { keys, ..leased() }).ready();
    pair.protect();
    pair.primary.send(0, 1);
    pair.send.terminate();
    assert_eq!(pair.send.ends(), 0);
    assert_eq!(pair.primary.wire_sees(0, 1), [1], "as the operator's policy says");
    assert_eq!(pair.stands().0, "open");
    a_while();
    assert!(!pair.started());
    pair.receive.terminate();
    assert_eq!(pair.receive.ends(), 0);
    a_while();
    assert!(!pair.started(), "the end of its input is no order when its parent ends");
}

/// Somebody says that the backup is lost, and it lives: it learns of it before the guest goes on without it.
#[test]
fn a_backup_that_is_given_up_does_not_take_over() {
    let keys = "mode = \"open\"\nclose_timeout_ms = 500\non_backup_lost = \"release\"";
    let mut pair = Pair::start(&Plan { keys, ..leased() }).ready();
    pair.protect();
    pair.checkpoint(2);
    pair.acknowledged();
    let bound = || pair.status()["primary_leased"] == true;
    assert!(within(SOON, bound), "the lease reaches the plane, and the backup knows");
    pair.give_up("its disk is broken");
    assert_eq!(pair.send.ends(), 1);
    assert_eq!(pair.stands().0, "open");
    pair.receive.event("given-back", |_| true);
    a_while();
    assert!(!pair.started());
    assert_eq!(pair.pulse(&pair.backup)["mode"], "muted");
}

/// The same of a backup that has taken over, and whose word was lost: it is asked once more before anything leaves.
#[test]
fn a_backup_that_has_taken_over_is_found_before_the_gate_opens() {
    let keys = "mode = \"open\"\nclose_timeout_ms = 500\non_backup_lost = \"release\"";
    let mut pair = Pair::start(&Plan { keys, both: "--dead-after 2s", ..Plan::default() }).ready();
    pair.protect();
    pair.primary.send(0, 1);
    pair.proxy.silence_the_backup();
    pair.order("failover", serde_json::json!({ "primary_is_off": true }));
    pair.give_up("somebody looked at the wrong host");
    a_while();
    pair.proxy.let_it_speak();
    assert_eq!(pair.send.ends(), 1);
    assert_eq!(pair.stands().0, "muted", "{:#?}", pair.send.lines());
    assert!(!pair.send.events("superseded").is_empty());
    assert_eq!(pair.primary.on_wire(0), [] as [u8; 0]);
}

/// Where the records of a checkpoint with pages end.
fn records() -> Vec<usize> {
    let parts = [writer::pages(2, 3).len(), 8 + 24, 8 + 2304, 8 + 200, 8, 8];
    parts
        .iter()
        .scan(0, |at, part| {
            *at += part;
            Some(*at)
        })
        .collect()
}

#[test]
fn a_receiver_that_dies_at_any_record_commits_nothing_more_and_starts_nothing() {
    let checkpoint = [writer::body(2, 3), writer::end()].concat();
    assert_eq!(records().last(), Some(&checkpoint.len()));
    for at in records() {
        let mut pair = Pair::start(&Plan::default()).ready();
        pair.protect();
        pair.primary.send(0, 1);
        pair.write(&checkpoint[..at - 8]);
        pair.receive.kill();
        pair.write(&checkpoint[at - 8..]);
        assert_eq!(pair.send.ends(), 1, "at {at}");
        a_while();
        assert_eq!(pair.primary.on_wire(0), [] as [u8; 0], "at {at}");
        assert_eq!(pair.stands().0, "protected");
        assert!(!pair.started(), "at {at}");
    }
}

#[test]
fn a_waiting_domain_that_dies_at_any_record_is_given_back() {
    let before = {
        let opening = writer::opening();
        opening.len() + writer::checkpoint(40, 1).len() + writer::checkpoint(3, 2).len()
    };
    for at in records() {
        let xl = FAITHFUL.replace(
            "cat > fed; sleep 0.2; echo started > started",
            &format!("head -c {} > fed", before + at - 4),
        );
        let mut pair = Pair::start(&Plan { xl, ..Plan::default() }).ready();
        pair.protect();
        pair.checkpoint(2);
        let reason = pair.receive.event("given-back", |_| true);
        assert!(reason["reason"].as_str().unwrap().contains("xl migrate-receive"), "{reason}");
        assert_eq!(pair.send.ends(), 1);
        assert!(pair.send.lines().join("\n").contains("no backup any more"));
        pair.primary.send(0, 9);
        a_while();
        assert!(!pair.primary.on_wire(0).contains(&9), "held: the policy is `stay`");
    }
}

#[test]
fn a_new_stream_takes_the_place_of_the_old_domain() {
    let mut pair = Pair::start(&Plan::default()).ready();
    pair.protect();
    pair.send.kill();
    pair.receive.event("session-ended", |_| true);
    assert!(!pair.started(), "a manager decides");
    let mut pair = pair.again().ready();
    pair.copy();
    pair.primary.send(0, 4);
    pair.checkpoint(2);
    pair.acknowledged();
    pair.narrow();
    pair.checkpoint(2);
    assert!(within(SOON, || pair.primary.on_wire(0).contains(&4)));
    assert!(!pair.started());
    assert_eq!(pair.fed(), pair.written());
}
