//! What a failover asks of the plane: its pulse, a promotion that says when, and no commit that comes too late.

mod rig;

use rig::{Client, Rig, within};
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_plane::moment::monotonic_ns;

fn pulse(client: &mut Client) -> Value {
    client.grant("pulse", json!({}))
}

#[test]
fn the_pulse_tells_epochs_and_what_is_held_and_beats_with_the_lcore() {
    let rig = Rig::one("mode = \"protected\"");
    let (mut client, mut reader) = (rig.client(), rig.client());
    rig.send(0, 1);
    let (generation, epoch) = client.close();
    let held = || rig.client().grant("pulse", json!({"guest": "pbx"}))["held_frames"] == 1;
    assert!(within(Duration::from_secs(2), held));
    let first = pulse(&mut reader);
    assert_eq!(
        (&first["guest"], &first["mode"], &first["fenced"]),
        (&json!("pbx"), &json!("protected"), &json!(false))
    );
    assert_eq!(
        (&first["generation"], &first["epoch"], &first["committed"]),
        (&json!(generation), &json!(2), &json!(0))
    );
    assert_eq!(
        (&first["held_bytes"], &first["unmuted_ns"], &first["lease_left_ms"]),
        (&json!(60), &Value::Null, &Value::Null)
    );
    client.grant("commit", json!({"generation": generation, "epoch": epoch}));
    assert_eq!(pulse(&mut reader)["committed"], 1);
    assert!(within(Duration::from_secs(2), || pulse(&mut reader)["polls"].as_u64() > first["polls"].as_u64()));
    rig.freeze(true);
    let still = pulse(&mut reader)["polls"].clone();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(pulse(&mut reader)["polls"], still, "an lcore that hangs has no pulse");
    rig.freeze(false);
    assert_eq!(reader.refuse("pulse", json!({"guest": "web"})), "no-guest");
}

#[test]
fn a_promotion_counts_epochs_on_and_says_when_the_first_frame_left() {
    let rig = Rig::one("mode = \"muted\"\npolicy = \"bypass-all\"");
    let mut client = rig.client();
    client.grant("subscribe", json!({"events": ["unmuted", "mode"]}));
    rig.send(0, 1);
    let before = monotonic_ns();
    let promoted = client.grant("unmute", json!({"protected": true, "first_epoch": 1200, "term_ms": 60_000}));
    let after = monotonic_ns();
    assert_eq!((&promoted["mode"], &promoted["epoch"]), (&json!("protected"), &json!(1200)));
    let at = promoted["unmuted_ns"].as_u64().expect("a moment");
    assert!((before..=after).contains(&at), "{before} {at} {after}");
    let mode = client.event("mode");
    assert!((before..=after).contains(&mode["monotonic_ns"].as_u64().expect("a moment")), "{mode}");
    assert_eq!(client.event("unmuted"), promoted);
    let waiting = pulse(&mut client);
    assert_eq!((&waiting["first_frame_ns"], &waiting["first_rtp_ns"]), (&Value::Null, &Value::Null));
    assert!(waiting["lease_left_ms"].as_u64() > Some(50_000));
    let sent = monotonic_ns();
    rig.send(0, 2);
    assert_eq!(rig.wire_sees(0, 1), [2], "what came before is gone");
    let first = pulse(&mut client);
    let left = first["first_frame_ns"].as_u64().expect("a moment");
    assert!((sent..=monotonic_ns()).contains(&left), "{first}");
    assert_eq!(first["first_rtp_ns"], Value::Null);
    rig.send(0, 3);
    assert_eq!(
        pulse(&mut client)["first_frame_ns"].as_u64().map(|ns| ns.abs_diff(left) < 1_000_000),
        Some(true)
    );
    let (generation, epoch) = client.close();
    assert_eq!((json!(generation), epoch), (promoted["generation"].clone(), 1200));
}

#[test]
fn a_promotion_without_a_backup_counts_on_as_well_and_what_cannot_be_is_refused() {
    let rig = Rig::one("mode = \"muted\"");
    let mut client = rig.client();
    assert_eq!(client.refuse("unmute", json!({"first_epoch": u64::MAX})), "first-epoch");
    assert_eq!(client.refuse("unmute", json!({"term_ms": 0})), "bad-arguments");
    assert_eq!(
        client.refuse("unmute", json!({"term_ms": 50, "since_ns": monotonic_ns() - 60_000_000})),
        "late"
    );
    assert_eq!(pulse(&mut client)["mode"], "muted");
    let promoted = client.grant("unmute", json!({"first_epoch": 77}));
    assert_eq!((&promoted["mode"], &promoted["epoch"]), (&json!("open"), &json!(77)));
    assert_eq!(client.grant("protect", json!({}))["epoch"], 78);
    assert_eq!(client.refuse("unmute", json!({})), "wrong-mode");
}

#[test]
fn a_standby_that_was_fenced_speaks_only_with_a_lease_and_one_whose_lease_ran_out_before_needs_none() {
    let rig = Rig::one("mode = \"protected\"\nleased = true\npolicy = \"bypass-all\"");
    let mut client = rig.client();
    client.grant("protect", json!({"term_ms": 1}));
    assert!(within(Duration::from_secs(2), || pulse(&mut client)["fenced"] == true));
    client.grant("mute", json!({}));
    assert_eq!(pulse(&mut client)["fenced"], false, "a standby has no lease to keep");
    client.grant("unmute", json!({}));
    rig.send(0, 1);
    assert_eq!(rig.wire_sees(0, 1), [1]);
    client.grant("mute", json!({}));
    client.grant("fence", json!({}));
    assert_eq!(client.refuse("unmute", json!({})), "fenced");
    rig.send(0, 2);
    client.grant("unmute", json!({"protected": true, "term_ms": 60_000}));
    rig.send(0, 3);
    assert_eq!(rig.wire_sees(0, 2), [1, 3]);
}

/// I5: after each change of a guest's role, the commit that was on its way comes too late.
#[test]
fn a_commit_that_arrives_after_a_change_of_role_is_refused() {
    let late = |client: &mut Client, (generation, epoch): (u64, u64)| {
        client.refuse("commit", json!({"generation": generation, "epoch": epoch}))
    };
    let held = || {
        let rig = Rig::one("mode = \"protected\"");
        let mut client = rig.client();
        rig.send(0, 1);
        let closed = client.close();
        (rig, client, closed)
    };
    let silent = |rig: &Rig| {
        std::thread::sleep(Duration::from_millis(20));
        assert!(rig.on_wire(0).is_empty());
    };
    // Protected anew: the frame waits for a commit of the new generation.
    let (rig, mut client, closed) = held();
    let anew = client.grant("protect", json!({}))["generation"].as_u64().expect("a number");
    assert_eq!(late(&mut client, closed), "generation");
    assert_eq!(late(&mut client, (anew, closed.1)), "void", "nor is the epoch one of the new generation");
    silent(&rig);
    let (generation, epoch) = client.close();
    client.grant("commit", json!({"generation": generation, "epoch": epoch}));
    assert_eq!(rig.wire_sees(0, 1), [1]);
    // Muted: it is gone.
    let (rig, mut client, closed) = held();
    client.grant("mute", json!({}));
    assert_eq!(late(&mut client, closed), "wrong-mode");
    // Promoted again, open and protected.
    let open = client.grant("unmute", json!({}))["generation"].as_u64().expect("a number");
    assert_eq!(late(&mut client, closed), "generation");
    assert_eq!(late(&mut client, (open, closed.1)), "wrong-mode");
    client.grant("mute", json!({}));
    let promoted =
        client.grant("unmute", json!({"protected": true}))["generation"].as_u64().expect("a number");
    assert_eq!(late(&mut client, closed), "generation");
    assert_eq!(late(&mut client, (promoted, closed.1)), "void");
    assert_eq!(late(&mut client, (promoted, closed.1 + 1000)), "unclosed");
    silent(&rig);
    // Unprotected, what was held dropped.
    let (rig, mut client, closed) = held();
    client.grant("unprotect", json!({"mode": "drop"}));
    assert_eq!(late(&mut client, closed), "wrong-mode");
    silent(&rig);
}
