//! Protection, leases, standbys and policies through the socket.

mod rig;

use rig::{Rig, within};
use serde_json::json;
use std::time::Duration;

fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    Duration::from(now).as_nanos() as u64
}

#[test]
fn protection_begins_inside_a_pause_and_what_was_before_passes() {
    let rig = Rig::one("mode = \"open\"");
    let mut client = rig.client();
    client.grant("subscribe", json!({"events": ["mode"]}));
    rig.send(0, 1);
    assert_eq!(rig.wire_sees(0, 1), [1], "open");
    rig.plane.guests[0].ring_started(0);
    assert_eq!(client.refuse("protect", json!({})), "rings-run");
    rig.plane.guests[0].ring_stopped(0);
    let protect = client.grant("protect", json!({"first_epoch": 100}));
    assert_eq!((&protect["mode"], &protect["epoch"]), (&json!("protected"), &json!(100)));
    let mode = client.event("mode");
    assert_eq!((&mode["mode"], &mode["generation"]), (&json!("protected"), &protect["generation"]));
    rig.send(0, 2);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.on_wire(0), [1]);
    client.grant("unprotect", json!({"mode": "release"}));
    assert_eq!(rig.wire_sees(0, 2), [1, 2], "only unprotect lets it go");
    assert_eq!(client.refuse("protect", json!({"first_epoch": u64::MAX})), "first-epoch");
    client.grant("protect", json!({"first_epoch": 1u64 << 62}));
    rig.send(0, 3);
    assert_eq!(
        client.grant("close", json!({}))["epoch"],
        1u64 << 62,
        "the largest that is taken goes on as any other"
    );
    client.grant("unprotect", json!({"mode": "drop"}));
    rig.send(0, 4);
    assert_eq!(rig.wire_sees(0, 3), [1, 2, 4]);
}

#[test]
fn a_standby_is_silent_until_it_is_promoted() {
    let rig = Rig::one("mode = \"muted\"");
    let mut client = rig.client();
    rig.send(0, 1);
    assert_eq!(client.refuse("close", json!({})), "wrong-mode");
    assert_eq!(client.refuse("protect", json!({})), "wrong-mode");
    let promoted = client.grant("unmute", json!({}));
    assert_eq!(promoted["mode"], "open");
    rig.send(0, 2);
    assert_eq!(rig.wire_sees(0, 1), [2]);
    client.grant("mute", json!({}));
    let protected = client.grant("unmute", json!({"protected": true}));
    assert!(protected["generation"].as_u64() > promoted["generation"].as_u64());
    rig.send(0, 3);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.on_wire(0), [2], "promoted with a backup: held");
}

#[test]
fn a_leased_guest_starts_fenced_and_falls_silent_when_its_lease_ends() {
    let rig = Rig::one("mode = \"protected\"\nleased = true\npolicy = \"bypass-all\"");
    let mut client = rig.client();
    client.grant("subscribe", json!({"events": ["fenced"]}));
    rig.send(0, 1);
    assert_eq!(client.refuse("protect", json!({})), "fenced", "only a lease lifts it");
    let generation = client.grant("protect", json!({"term_ms": 60_000}))["generation"].clone();
    rig.send(0, 2);
    assert_eq!(rig.wire_sees(0, 1), [2]);
    let left = client.grant("guests", json!({}))["guests"][0]["lease_left_ms"].as_u64().expect("a lease");
    assert!((50_000..=60_000).contains(&left), "{left}");
    client.grant("fence", json!({}));
    assert_eq!(client.event("fenced")["guest"], "pbx");
    assert_eq!(client.refuse("lease", json!({"generation": generation, "term_ms": 1000})), "fenced");
    let fresh = client.grant("protect", json!({"term_ms": 100}))["generation"].clone();
    assert_eq!(client.refuse("lease", json!({"generation": generation, "term_ms": 1000})), "generation");
    assert_eq!(client.event("fenced")["generation"], fresh, "the lease ran out by itself");
    rig.send(0, 3);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.on_wire(0), [2]);
    assert_eq!(client.refuse("unprotect", json!({"mode": "drop"})), "fenced", "without evidence");
    client.grant("unprotect", json!({"mode": "drop", "evidence": "the standby is switched off"}));
}

#[test]
fn what_bypasses_waits_behind_its_part_of_the_lease_for_a_renewal() {
    let rig = Rig::one("mode = \"protected\"\nleased = true\npolicy = \"bypass-all\"");
    let mut client = rig.client();
    for media_ms in [0, 60_001] {
        let asked = json!({"term_ms": 60_000, "media_ms": media_ms});
        assert_eq!(client.refuse("protect", asked), "bad-arguments", "{media_ms}");
    }
    let told = client.grant("protect", json!({"term_ms": 60_000, "media_ms": 1}));
    std::thread::sleep(Duration::from_millis(5));
    rig.send(0, 1);
    rig.send(0, 2);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(rig.on_wire(0), [0_u8; 0]);
    let pulse = client.grant("pulse", json!({}));
    assert_eq!((&pulse["fenced"], &pulse["held_frames"]), (&json!(false), &json!(2)));
    let renewal = json!({"generation": told["generation"], "term_ms": 60_000, "media_ms": 30_000});
    client.grant("lease", renewal);
    assert_eq!(rig.wire_sees(0, 2), [1, 2]);
    // Nothing is taken back: an answer may have been overtaken.
    client.grant("lease", json!({"generation": told["generation"], "term_ms": 60_000, "media_ms": 1}));
    std::thread::sleep(Duration::from_millis(5));
    rig.send(0, 3);
    assert_eq!(rig.wire_sees(0, 3), [1, 2, 3]);
}

#[test]
fn a_delay_on_the_way_makes_a_lease_shorter_and_never_longer() {
    let rig = Rig::one("mode = \"protected\"");
    let mut client = rig.client();
    let ago = |ms: u64| monotonic_ns() - ms * 1_000_000;
    assert_eq!(client.refuse("protect", json!({"term_ms": 50, "since_ns": ago(60)})), "late");
    let protect = client.grant("protect", json!({"term_ms": 60_000, "since_ns": ago(30_000)}));
    let left = client.grant("guests", json!({}))["guests"][0]["lease_left_ms"].as_u64().expect("a lease");
    assert!((20_000..=30_000).contains(&left), "{left}");
    let generation = &protect["generation"];
    let future =
        json!({"generation": generation, "term_ms": 1000, "since_ns": monotonic_ns() + 10_000_000_000});
    assert_eq!(client.refuse("lease", future), "bad-arguments");
    client.grant("lease", json!({"generation": generation, "term_ms": 3_600_000}));
    let long = json!({"generation": generation, "term_ms": 3_600_001});
    assert_eq!(client.refuse("lease", long), "bad-arguments");
}

#[test]
fn backup_lost_does_what_the_configuration_says_and_only_on_evidence() {
    for (does, seen, mode) in
        [("stay", vec![], "protected"), ("drop", vec![], "open"), ("release", vec![1], "open")]
    {
        let rig = Rig::one(&format!("mode = \"protected\"\non_backup_lost = \"{does}\""));
        let mut client = rig.client();
        rig.send(0, 1);
        assert_eq!(client.refuse("backup-lost", json!({"evidence": " "})), "bad-arguments");
        let standing = client.grant("backup-lost", json!({"evidence": "the witness says so"}));
        assert_eq!(standing["mode"], mode, "{does}");
        assert_eq!(rig.wire_sees(0, seen.len()), seen, "{does}");
    }
}

#[test]
fn a_guest_that_stays_held_speaks_under_no_lease_any_more_unless_the_fence_has_fallen() {
    let rig = Rig::one("mode = \"protected\"\non_backup_lost = \"stay\"\npolicy = \"bypass-all\"");
    let mut client = rig.client();
    client.grant("protect", json!({"term_ms": 60_000}));
    let leased = |client: &mut rig::Client| client.grant("guests", json!({}))["guests"][0]["leased"] == true;
    assert!(leased(&mut client));
    client.grant("backup-lost", json!({"evidence": "it was dismissed"}));
    assert!(!leased(&mut client), "what is bypassed would end with the lease");
    client.grant("fence", json!({}));
    client.grant("backup-lost", json!({"evidence": "it was dismissed"}));
    rig.send(0, 1);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.on_wire(0), [0; 0], "evidence lifted a fence");
    assert_eq!(client.refuse("protect", json!({})), "fenced");
}

#[test]
fn a_policy_changes_while_the_lane_runs_and_moves_nothing_that_is_held() {
    let rig = Rig::one("mode = \"protected\"\npolicy = \"hold-all\"");
    let mut client = rig.client();
    rig.send(0, 1);
    let rule = json!({"protocol": "udp", "verdict": "bypass"});
    assert_eq!(client.refuse("policy", json!({"rules": [rule]})), "bad-policy", "hold-all bypasses nothing");
    let policy = client.grant("policy", json!({"name": "bypass-all", "rules": [rule]}));
    assert_eq!(policy["name"], "bypass-all");
    rig.send(0, 2);
    assert_eq!(rig.wire_sees(0, 1), [2], "the held frame stays");
    let kept = client.grant("policy", json!({"name": "realtime"}));
    assert_eq!(kept["rules"].as_array().map(Vec::len), Some(1), "what is left out is kept");
    assert_eq!(client.grant("guests", json!({}))["guests"][0]["policy"], "realtime");
    for n in 0..20 {
        let name = if n % 2 == 0 { "non-tcp" } else { "realtime" };
        client.grant("policy", json!({"name": name}));
    }
}

#[test]
fn numbers_balance_and_histograms_are_told_in_nanoseconds() {
    let rig = Rig::one("mode = \"protected\"");
    let mut client = rig.client();
    (0..10).for_each(|n| rig.send(0, n));
    let (generation, epoch) = client.close();
    client.grant("commit", json!({"generation": generation, "epoch": epoch}));
    assert_eq!(rig.wire_sees(0, 10).len(), 10);
    let balanced = within(Duration::from_secs(2), || {
        let frames = client.grant("stats", json!({}))["guests"][0]["frames"].clone();
        (frames["received"] == 10) && (frames["released"] == 10) && (frames["held"] == 0)
    });
    assert!(balanced, "{}", client.grant("stats", json!({})));
    let report = client.grant("histograms", json!({"buckets": true}));
    let hold = report["histograms"].as_array().expect("a list").iter().find(|h| h["name"] == "hold");
    let hold = hold.expect("hold is there");
    assert_eq!((&hold["count"], &hold["unit"]), (&json!(10), &json!("ns")));
    assert!(hold["quantiles"]["max"].as_u64() > Some(1_000_000), "held for milliseconds: {hold}");
    let counted: u64 =
        hold["buckets"].as_array().expect("a list").iter().map(|b| b[1].as_u64().unwrap()).sum();
    assert_eq!(counted, 10);
    assert_eq!(client.grant("streams", json!({}))["streams"], json!([]));
}

#[test]
fn the_guests_pauses_are_recorded_whoever_makes_them() {
    let rig = Rig::one("mode = \"protected\"");
    let mut client = rig.client();
    let pauses = |client: &mut rig::Client| {
        let report = client.grant("histograms", json!({}));
        let all = report["histograms"].as_array().expect("a list").clone();
        all.into_iter().find(|h| h["name"] == "guest_pause").expect("it is there")
    };
    let guest = &rig.plane.guests[0];
    guest.ring_started(0);
    assert_eq!(pauses(&mut client)["count"], 0);
    guest.ring_stopping();
    guest.ring_stopped(0);
    std::thread::sleep(Duration::from_millis(5));
    guest.ring_started(0);
    assert_eq!(pauses(&mut client)["count"], 1);
    assert!(pauses(&mut client)["quantiles"]["max"].as_u64() >= Some(5_000_000), "{}", pauses(&mut client));
    client.grant("close", json!({"vouched": true}));
    client.grant("close", json!({"vouched": true}));
    client.grant("resumed", json!({}));
    assert_eq!(pauses(&mut client)["count"], 2, "a hypervisor that leaves its rings on");
}
