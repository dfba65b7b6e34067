//! Epochs through the socket: the shipped lanes hold what they must until the commit that covers it.

mod rig;

use rig::{Rig, guest};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROTECTED: &str = "mode = \"protected\"";

#[test]
fn a_frame_leaves_with_the_commit_of_its_epoch_and_not_before() {
    let rig = Rig::one(PROTECTED);
    let mut client = rig.client();
    rig.send(0, 1);
    let closed = client.grant("close", json!({}));
    assert_eq!((&closed["epoch"], &closed["frames"], &closed["bytes"]), (&json!(1), &json!(1), &json!(60)));
    rig.plane.guests[0].ring_started(0);
    rig.send(0, 2);
    rig.plane.guests[0].ring_stopped(0);
    let (generation, epoch) = client.close();
    assert_eq!((epoch, rig.on_wire(0)), (2, vec![]), "closing releases nothing");
    client.grant("commit", json!({"generation": generation, "epoch": 1}));
    assert_eq!(rig.wire_sees(0, 1), [1]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.on_wire(0), [1], "the second epoch is not committed");
    let again = client.grant("commit", json!({"generation": generation, "epoch": 2}));
    assert_eq!(again["epochs"], 1);
    assert_eq!(rig.wire_sees(0, 2), [1, 2]);
    let idempotent = client.grant("commit", json!({"generation": generation, "epoch": 1}));
    assert_eq!(idempotent["epochs"], 0);
}

#[test]
fn commits_of_the_future_of_another_generation_and_of_nothing_are_refused_and_counted() {
    let rig = Rig::one(PROTECTED);
    let mut client = rig.client();
    rig.send(0, 1);
    let (generation, epoch) = client.close();
    let commit = |generation: u64, epoch: u64| json!({"generation": generation, "epoch": epoch});
    assert_eq!(client.refuse("commit", commit(generation, epoch + 1)), "unclosed", "the open epoch");
    assert_eq!(client.refuse("commit", commit(generation, u64::MAX)), "unclosed");
    assert_eq!(client.refuse("commit", commit(generation + 1, epoch)), "generation");
    assert_eq!(client.refuse("commit", commit(0, epoch)), "generation");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.on_wire(0), [] as [u8; 0], "nothing left");
    let stats = client.grant("stats", json!({}));
    assert_eq!(stats["guests"][0]["epochs"]["commits_refused"], 4);
    assert_eq!(stats["control"]["requests_refused"], 4);
    // A new generation: the old one's commit is worth nothing.
    let protect = client.grant("protect", json!({}));
    assert!(protect["generation"].as_u64() > Some(generation));
    assert_eq!(client.refuse("commit", commit(generation, epoch)), "generation");
    assert_eq!(rig.on_wire(0), [] as [u8; 0]);
}

#[test]
fn a_close_while_a_ring_runs_is_refused_unless_the_source_vouches() {
    let rig = Rig::one(PROTECTED);
    let mut client = rig.client();
    rig.plane.guests[0].ring_started(0);
    assert_eq!(client.refuse("close", json!({})), "rings-run");
    assert_eq!(client.grant("close", json!({"vouched": true}))["epoch"], 1);
}

#[test]
fn one_pause_closes_one_epoch_however_many_ask() {
    let rig = Rig::one(PROTECTED);
    let pbx = &rig.plane.guests[0];
    pbx.ring_started(0);
    rig.send(0, 1);
    pbx.ring_stopping(); // Blocks until the lcore has answered: the barrier.
    pbx.ring_stopped(0);
    let mut client = rig.client();
    let closed = client.grant("close", json!({}));
    assert_eq!((&closed["epoch"], &closed["frames"]), (&json!(1), &json!(1)));
    assert_eq!(client.close().1, 1, "asked again within the pause");
    assert_eq!(client.grant("seal", json!({"epoch": 1}))["sealed"], true);
    pbx.ring_started(0);
    assert_eq!(client.grant("seal", json!({"epoch": 1}))["sealed"], false, "it ran: the checkpoint is void");
    assert_eq!(client.refuse("commit", json!({"generation": closed["generation"], "epoch": 1})), "void");
}

#[test]
fn an_lcore_that_does_not_answer_costs_the_epoch_and_not_the_pause() {
    let rig = Rig::one("mode = \"protected\"\nclose_timeout_ms = 30");
    let mut client = rig.client();
    client.grant("subscribe", json!({"events": ["merged"]}));
    rig.freeze(true);
    let before = Instant::now();
    assert_eq!(client.refuse("close", json!({})), "merged");
    let waited = before.elapsed();
    assert!(waited >= Duration::from_millis(30) && waited < Duration::from_millis(600), "{waited:?}");
    assert_eq!(client.event("merged")["open_epoch"], 2);
    // The vhost library's thread is bounded likewise.
    let before = Instant::now();
    rig.plane.guests[0].ring_stopping();
    assert!(before.elapsed() < Duration::from_millis(600), "{:?}", before.elapsed());
    rig.freeze(false);
    assert!(client.close().1 >= 3, "merged epochs do not come back");
}

#[test]
fn the_runtime_serves_others_while_a_close_waits() {
    let rig = Rig::one("mode = \"protected\"\nclose_timeout_ms = 1000");
    rig.freeze(true);
    let mut waiting = rig.client();
    waiting.write(b"{\"id\":1,\"execute\":\"close\"}\n");
    std::thread::sleep(Duration::from_millis(20));
    let before = Instant::now();
    rig.client().grant("hello", json!({}));
    assert!(before.elapsed() < Duration::from_millis(300), "{:?}", before.elapsed());
    rig.freeze(false);
    assert_eq!(waiting.read().expect("an answer")["return"]["epoch"], 1);
}

#[test]
fn at_the_limit_of_epochs_in_flight_a_close_is_refused() {
    let rig = Rig::one("mode = \"protected\"\nmax_epochs_in_flight = 2");
    let mut client = rig.client();
    for _ in 0..2 {
        client.grant("close", json!({"vouched": true}));
    }
    assert_eq!(client.refuse("close", json!({"vouched": true})), "in-flight");
}

#[test]
fn the_timer_closes_and_commits_by_itself_and_says_that_it_pauses_nothing() {
    let keys = "mode = \"protected\"\nsource = \"timer\"\ntimer = { interval_ms = 20, commit_delay_ms = 50 }";
    let rig = Rig::one(keys);
    let mut client = rig.client();
    client.grant("subscribe", json!({"events": ["closed", "committed"]}));
    rig.send(0, 7);
    let first = client.event("committed")["epoch"].as_u64().expect("a number");
    assert_eq!(rig.wire_sees(0, 1), [7]);
    let guest = &client.grant("guests", json!({}))["guests"][0];
    assert_eq!((&guest["source"], &guest["source_pauses"]), (&json!("timer"), &json!(false)));
    let in_flight = guest["in_flight"].as_array().expect("a list").len();
    assert!(in_flight >= 1, "the delay is longer than the interval, so several are in flight: {guest}");
    assert!(client.event("committed")["epoch"].as_u64() > Some(first));
    assert_eq!(client.refuse("close", json!({})), "other-source");
    assert_eq!(client.refuse("commit", json!({"generation": 1, "epoch": 1})), "other-source");
}

#[test]
fn stopping_flushes_nothing() {
    let mut rig = Rig::one(PROTECTED);
    rig.send(0, 1);
    let mut client = rig.client();
    client.close();
    rig.stop();
    assert_eq!(rig.on_wire(0), [] as [u8; 0]);
    let totals = rig.plane.guests[0].lanes[0].shared.counters.total();
    assert_eq!((totals.received, totals.held, totals.dropped_all()), (1, 0, 1));
    assert!(!rig.path.exists(), "and the socket is gone");
}

#[test]
fn guests_do_not_share_epochs_and_must_be_named_when_there_are_two() {
    let rig = Rig::new(&(guest("a", 0, PROTECTED) + &guest("b", 1, PROTECTED)), &[]);
    let mut client = rig.client();
    assert_eq!(client.refuse("close", json!({})), "which-guest");
    assert_eq!(client.refuse("close", json!({"guest": "c"})), "no-guest");
    rig.send(0, 1);
    rig.send(1, 2);
    let a = client.grant("close", json!({"guest": "a"}));
    client.grant("close", json!({"guest": "b"}));
    let commit = json!({"guest": "a", "generation": a["generation"], "epoch": a["epoch"]});
    client.grant("commit", commit.clone());
    assert_eq!(rig.wire_sees(0, 1), [1]);
    assert_eq!(rig.on_wire(1), [] as [u8; 0]);
    let of_a = json!({"guest": "b", "generation": a["generation"], "epoch": 1});
    assert_eq!(client.refuse("commit", of_a), "generation", "another guest's generation");
}

#[test]
fn pressure_is_told_before_the_queue_is_full() {
    let rig = Rig::one(PROTECTED); // 64 frames
    let mut client = rig.client();
    client.grant("subscribe", json!({"events": ["pressure"]}));
    (0..50).for_each(|n| rig.send(0, n));
    let pressure = client.event("pressure");
    assert!(pressure["percent"].as_u64() >= Some(75), "{pressure}");
}

#[test]
fn the_hypervisor_gets_its_answer_only_once_the_lane_has_answered() {
    let rig = Rig::one("mode = \"protected\"\nclose_timeout_ms = 5000");
    rig.send(0, 1);
    rig.freeze(true);
    let guest = Arc::clone(&rig.plane.guests[0]);
    let stopping = std::thread::spawn(move || guest.ring_stopping());
    std::thread::sleep(Duration::from_millis(100));
    assert!(!stopping.is_finished(), "the pause would begin with the epoch open");
    rig.freeze(false);
    stopping.join().expect("ends well");
    let guest = &rig.plane.guests[0];
    assert_eq!(guest.with(|ledger| (ledger.open_epoch(), ledger.tally().merged)), (2, 0), "closed by then");
}
