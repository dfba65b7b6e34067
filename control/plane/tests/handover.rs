//! What a standby takes over from its primary: calls that go on at once, and no packet that was sent before; and how the
//! network hears of the guest.

mod rig;

use rig::call::{GUEST, MAC, PEER, heard, rtp, send, udp};
use rig::{Client, Rig, within};
use serde_json::{Value, json};
use std::time::Duration;

/// The guest asks for a neighbour, in these VLANs.
fn arp(vlans: &[u8]) -> Vec<u8> {
    let tags: Vec<u8> = vlans.iter().flat_map(|id| [0x81, 0, 0xa0, *id]).collect();
    let packet = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &MAC, &GUEST, &[0; 6], &PEER].concat();
    let mut frame = [&[0xff; 6][..], &MAC, &tags, &[8, 6], &packet].concat();
    frame.resize(60.max(frame.len()), 0);
    frame
}

fn dropped(client: &mut Client, reason: &str) -> u64 {
    client.grant("stats", json!({}))["guests"][0]["frames"]["dropped_by"][reason].as_u64().unwrap_or(0)
}

/// A call of twenty packets on a primary; what its plane tells.
fn primary() -> (Rig, Value) {
    let rig = Rig::one("mode = \"protected\"\nleased = true");
    let mut client = rig.client();
    client.grant("protect", json!({"term_ms": 60_000}));
    send(&rig, arp(&[]));
    (65520..65540u32).for_each(|n| send(&rig, rtp(n as u16, 7)));
    assert!(within(Duration::from_secs(5), || heard(&rig).len() == 20));
    let told = client.grant("guard", json!({}));
    (rig, told)
}

fn with_margin(told: &Value, margin: u16) -> Value {
    let mut streams = told["streams"].clone();
    streams.as_array_mut().expect("a list").iter_mut().for_each(|row| row[9] = json!(margin));
    json!({"streams": streams, "identities": told["identities"]})
}

#[test]
fn a_call_goes_on_without_a_probation_and_without_a_packet_that_was_sent_before() {
    let (_primary, told) = primary();
    let row = &told["streams"][0];
    assert_eq!(
        (&row[1], &row[2], &row[3], &row[4]),
        (&json!("10.0.0.2"), &json!(4000), &json!(7), &json!(65539))
    );
    assert_eq!(
        (&row[6], &row[7], &row[8], told["next"].clone()),
        (&Value::Null, &json!(8000), &json!(8), Value::Null)
    );
    let rig = Rig::one("mode = \"muted\"");
    let mut client = rig.client();
    let handed = client.grant("guard", with_margin(&told, 5));
    assert_eq!(
        (&handed["inherited"], &handed["not_inherited"], &handed["identities"]),
        (&json!(1), &json!(0), &json!(1))
    );
    send(&rig, rtp(8, 7));
    client.grant("unmute", json!({"protected": true, "first_epoch": 40}));
    // The checkpoint was of number 65530; 65539 had left, and up to 5 more may have.
    (65530..65550u32).for_each(|n| send(&rig, rtp(n as u16, 7)));
    assert!(within(Duration::from_secs(5), || heard(&rig).len() == 5), "{:?}", heard(&rig));
    assert_eq!(heard(&rig), [9, 10, 11, 12, 13], "numbers 65530 to 8 are refused, the next leaves at once");
    assert_eq!(dropped(&mut client, "replayed"), 15);
    let first = client.grant("pulse", json!({}));
    assert!(
        first["first_rtp_ns"].as_u64() >= first["first_frame_ns"].as_u64() && first["first_rtp_ns"].is_u64()
    );
    // Another source proves itself as ever.
    send(&rig, rtp(1, 8));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(heard(&rig).len(), 5);
}

#[test]
fn the_configuration_says_what_is_guarded() {
    let (_primary, told) = primary();
    for (guard, secure, refused) in [
        ("all", Some(false), true),
        ("srtp", Some(false), false),
        ("srtp", None, true),
        ("srtp", Some(true), true),
        ("off", Some(true), false),
    ] {
        let rig = Rig::one(&format!("mode = \"muted\"\nreplay_guard = \"{guard}\""));
        let mut client = rig.client();
        let mut handed = with_margin(&told, 0);
        handed["streams"][0][6] = json!(secure);
        client.grant("guard", handed);
        client.grant("unmute", json!({}));
        (65538..65542u32).for_each(|n| send(&rig, rtp(n as u16, 7)));
        let expected: &[u16] = if refused { &[4, 5] } else { &[2, 3, 4, 5] };
        assert!(
            within(Duration::from_secs(5), || heard(&rig) == expected),
            "{guard} {secure:?}: {:?}",
            heard(&rig)
        );
    }
}

#[test]
fn since_tells_what_went_on_and_only_a_muted_guest_takes_over() {
    let (rig, told) = primary();
    let mut client = rig.client();
    let since = json!({"since": told["token"]});
    let after = client.grant("guard", since.clone());
    assert_eq!((&after["streams"], after["token"].as_u64() > told["token"].as_u64()), (&json!([]), true));
    send(&rig, rtp(4, 7));
    let gone = || rig.client().grant("guard", since.clone())["streams"][0][4] == 65540;
    assert!(within(Duration::from_secs(2), gone));
    assert_eq!(client.refuse("guard", json!({"since": u64::MAX})), "bad-arguments");
    assert_eq!(client.grant("guard", json!({"from": 1u64 << 40}))["next"], Value::Null, "beyond the end");
    assert_eq!(rig.client().refuse("guard", with_margin(&told, 0)), "wrong-mode");
    assert_eq!(rig.client().refuse("guard", json!({"streams": []})), "wrong-mode");
    let standby = Rig::one("mode = \"muted\"");
    let mut client = standby.client();
    for (at, wrong) in
        [(0, json!(1)), (0, json!(u64::MAX)), (9, json!(20_001)), (1, json!("nowhere")), (2, json!(70_000))]
    {
        let mut handed = with_margin(&told, 0);
        handed["streams"][0][at] = wrong.clone();
        assert_eq!(client.refuse("guard", handed), "bad-arguments", "{wrong}");
    }
    for (key, wrong) in [
        ("mac", json!("02:00")),
        ("mac", json!("01:00:00:00:00:01")),
        ("lane", json!(7)),
        ("vlans", json!([[33024, 5000]])),
    ] {
        let mut handed = with_margin(&told, 0);
        handed["identities"][0][key] = wrong.clone();
        assert_eq!(client.refuse("guard", handed), "bad-arguments", "{wrong}");
    }
    // An answer as it is, with what its primary may have sent in a second.
    let mut whole = told.clone();
    whole["margin_ms"] = json!(1000);
    assert_eq!(client.grant("guard", whole)["inherited"], 1);
    let row = told["streams"][0].clone();
    let still = client.grant("guard", json!({}))["streams"][0][4].as_u64().expect("a number");
    let of_row = |n: usize| row[n].as_u64().expect("a number");
    let expected = (65539 + 1_000_000u64.div_ceil(of_row(5)) + 1 + of_row(9)) & 0xffff;
    assert_eq!(still, expected, "{row}");
    let mut strange = with_margin(&told, 0);
    strange["streams"][0][1] = json!("224.0.0.1");
    assert_eq!(client.grant("guard", strange)["not_inherited"], 1);
    standby.freeze(true);
    assert_eq!(client.refuse("guard", with_margin(&told, 0)), "timeout", "an lcore that hangs");
    standby.freeze(false);
}

#[test]
fn a_hundred_thousand_streams_are_handed_over_and_told_again_in_parts() {
    let rig = Rig::new(
        &rig::guest("pbx", 0, "mode = \"muted\"").replace("lcore = 1", "lcore = 1\nstreams = 65536"),
        &[],
    );
    let mut client = rig.client();
    let (mut inherited, mut not) = (0, 0);
    for part in 0..100u32 {
        let row = |n: u32| {
            json!([
                0,
                format!("10.1.{}.{}", n / 50_000, n % 200 + 1),
                2000 + n % 50_000,
                n,
                5,
                0,
                null,
                8000,
                8,
                1,
                null
            ])
        };
        let rows: Vec<Value> = (part * 1000..(part + 1) * 1000).map(row).collect();
        let handed = client.grant("guard", json!({"streams": rows}));
        inherited += handed["inherited"].as_u64().expect("a number");
        not += handed["not_inherited"].as_u64().expect("a number");
    }
    assert_eq!(inherited + not, 100_000);
    assert!(inherited > 60_000, "{inherited}: a full table takes what it has room for");
    let (mut told, mut from, mut parts) = (0, Value::Null, 0);
    loop {
        let part = client.grant("guard", json!({"from": from}));
        told += part["streams"].as_array().expect("a list").len() as u64;
        (from, parts) = (part["next"].clone(), parts + 1);
        if from.is_null() {
            break;
        }
    }
    assert_eq!(told, inherited);
    assert!(parts > 15, "{parts}");
}

/// The announcements on the wire: Ethertype behind the tags, and what they say.
fn announced(rig: &Rig, sent_before: usize) -> Vec<Vec<u8>> {
    rig.wires[0].from_lane.lock().expect("sound")[sent_before..].to_vec()
}

#[test]
fn a_promoted_guest_is_announced_in_its_vlan_at_once_and_again() {
    let (primary, _) = primary();
    send(&primary, arp(&[7]));
    let mut client = primary.client();
    let mut identities = Value::Null;
    let both = || {
        identities = client.grant("guard", json!({}))["identities"].clone();
        identities.as_array().expect("a list").len() == 2
    };
    assert!(within(Duration::from_secs(2), both));
    assert_eq!(
        identities[1],
        json!({"lane": 0, "mac": "02:00:00:00:00:01", "vlans": [[33024, 7]], "address": "10.0.0.2",
            "confirmed": true, "router": false})
    );
    let rig = Rig::one("mode = \"muted\"\nannounce_ms = [0, 30, 60]");
    let mut client = rig.client();
    client.grant("guard", json!({"identities": identities}));
    assert_eq!(client.refuse("announce", json!({})), "wrong-mode");
    assert!(announced(&rig, 0).is_empty());
    client.grant("unmute", json!({}));
    let once = |rig: &Rig| within(Duration::from_secs(2), || announced(rig, 0).len() >= 6);
    assert!(once(&rig));
    let kinds = |frames: &[Vec<u8>]| {
        let mut kinds: Vec<(bool, [u8; 2], u8)> = frames
            .iter()
            .map(|frame| {
                let tagged = frame[12..14] == [0x81, 0];
                let at = if tagged { 16 } else { 12 };
                assert!(!tagged || frame[14..16] == [0, 7], "the id, and no priority");
                assert_eq!((&frame[..6], &frame[6..12]), (&[0xff; 6][..], &MAC[..]));
                (tagged, [frame[at], frame[at + 1]], frame[at + 9])
            })
            .collect();
        kinds.sort_unstable();
        kinds
    };
    let each = |tagged| [(tagged, [8, 6], 1), (tagged, [8, 6], 2), (tagged, [0x80, 0x35], 3)];
    assert_eq!(kinds(&announced(&rig, 0)[..6]), [each(false), each(true)].concat());
    assert!(within(Duration::from_secs(2), || announced(&rig, 0).len() == 18), "three times");
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(announced(&rig, 0).len(), 18);
    let counts = |client: &mut Client| client.grant("stats", json!({}))["guests"][0].clone();
    let stats = counts(&mut client);
    assert_eq!(
        (&stats["lanes"][0]["handover"]["announced"], &stats["frames"]["received"]),
        (&json!(18), &json!(0))
    );
    assert_eq!(client.grant("announce", json!({})), json!({"guest": "pbx", "frames": 6, "times": 3}));
    assert!(within(Duration::from_secs(2), || announced(&rig, 0).len() == 36));
    // Nothing more once it is muted again, or behind a fence.
    client.grant("announce", json!({}));
    client.grant("mute", json!({}));
    let before = announced(&rig, 0).len();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(announced(&rig, 0).len(), before);
    client.grant("unmute", json!({}));
    client.grant("fence", json!({}));
    let before = announced(&rig, 0).len();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(announced(&rig, 0).len(), before);
    assert_eq!(client.refuse("announce", json!({})), "fenced");
}

#[test]
fn srtcp_waits_on_a_guest_that_is_replicated() {
    let report = [&[0x80, 200, 0, 6][..], &[1; 24]].concat();
    let secured = [&report[..], &[0x80; 14]].concat();
    let [all, off] = ["all", "off"].map(|guard| format!("replay_guard = \"{guard}\""));
    // Begun with or without a lease (a manager's guest has none), or protected from its start on.
    let cases = [
        ("", "open", Some(json!({})), true),
        ("", "open", Some(json!({"term_ms": 60_000})), true),
        ("", "protected", None, true),
        ("", "open", None, false),
        (&*all, "open", Some(json!({})), true),
        (&*off, "open", Some(json!({})), false),
        (&*off, "open", Some(json!({"term_ms": 60_000})), false),
    ];
    for (keys, mode, protect, waits) in cases {
        let rig = Rig::one(&format!("mode = \"{mode}\"\n{keys}"));
        if let Some(arguments) = &protect {
            rig.client().grant("protect", arguments.clone());
        }
        (1..4).for_each(|n| send(&rig, rtp(n, 7)));
        assert!(within(Duration::from_secs(5), || heard(&rig).len() == 3));
        send(&rig, udp([4001, 7001], &report));
        assert!(
            within(Duration::from_secs(5), || announced(&rig, 3).len() == 1),
            "plain RTCP goes with its media"
        );
        send(&rig, udp([4001, 7001], &secured));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(announced(&rig, 3).len(), if waits { 1 } else { 2 }, "{keys} {mode} {protect:?}");
    }
}
