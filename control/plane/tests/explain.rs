//! `explain` of a live stream, and a rule by SSRC that is set while the stream runs.

mod rig;

use rig::{Rig, within};
use serde_json::{Value, json};
use std::time::Duration;

/// A packet of SSRC 0xcafe0001 from 10.0.0.5:40000, IPv4's checksum right, UDP's left out.
fn rtp(sequence: u16) -> Vec<u8> {
    let mut frame =
        vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 200, 0, 0, 0x40, 0, 64, 17, 0, 0];
    frame.extend([10, 0, 0, 5, 10, 0, 0, 9]);
    let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !((sum >> 16) + (sum & 0xffff)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend([0x9c, 0x40, 0x13, 0x8c, 0, 180, 0, 0, 0x80, 8]);
    frame.extend(sequence.to_be_bytes());
    frame.extend((u32::from(sequence) * 160).to_be_bytes());
    frame.extend([0xca, 0xfe, 0, 1]);
    frame.extend([0xd5; 160]);
    frame
}

fn send(rig: &Rig, frame: Vec<u8>) {
    let queue = || rig.guest_ends[0].to_lane.lock().expect("sound");
    queue().push_back(frame);
    assert!(within(Duration::from_secs(5), || queue().is_empty()), "the lane takes it");
    std::thread::sleep(Duration::from_millis(2));
}

#[test]
fn a_live_stream_is_explained_and_a_rule_by_ssrc_takes_hold_while_it_runs() {
    let rig = Rig::one("mode = \"protected\"");
    let mut client = rig.client();
    let asked = json!({"stream": "10.0.0.5:40000"});
    assert_eq!(client.refuse("explain", asked.clone()), "no-stream", "nothing was sent yet");
    let of = |answer: Value| answer["streams"][0].clone();
    let said = |e: &Value| {
        (e["verdict"].clone(), e["decided_by"].clone(), e["rule"].clone(), e["since_packet"].clone())
    };

    send(&rig, rtp(1));
    let e = of(client.grant("explain", asked.clone()));
    assert_eq!(said(&e), (json!("hold"), json!("probation"), Value::Null, json!(1)));
    (2..=5).for_each(|n| send(&rig, rtp(n)));
    let answer = client.grant("explain", asked.clone());
    assert_eq!((&answer["guest"], &answer["mode"]), (&json!("pbx"), &json!("protected")));
    let e = of(answer);
    assert_eq!(said(&e), (json!("bypass"), json!("probation"), Value::Null, json!(3)));
    assert_eq!((&e["packets"], &e["bypassed"], &e["lost"]), (&json!(5), &json!(5), &json!(0)));
    assert!(e["mos"].as_f64() > Some(1.0) && e["r"].as_f64() > Some(0.0), "{e}");
    assert_eq!(rig.wires[0].from_lane.lock().expect("sound").len(), 5);

    let rule = json!({"ssrc": "0xcafe0000-0xcafeffff", "verdict": "hold"});
    client.grant("policy", json!({"rules": [rule]}));
    let e = of(client.grant("explain", json!({"stream": "10.0.0.5:40000", "ssrc": 0xcafe_0001u32})));
    assert_eq!(said(&e), (json!("hold"), json!("rule"), json!(1), json!(1)));
    assert!(e["rule_text"].as_str().is_some_and(|text| text.contains("0xcafe0000-0xcafeffff")));
    send(&rig, rtp(6));
    let held = || rig.wires[0].from_lane.lock().expect("sound").len() == 5;
    assert!(held(), "the lcore does what explain said");
    let e = of(client.grant("explain", asked));
    assert_eq!((&e["packets"], &e["held"]), (&json!(6), &json!(1)));
}

#[test]
fn what_is_no_stream_is_refused() {
    let rig = Rig::one("mode = \"protected\"");
    let mut client = rig.client();
    send(&rig, rtp(1));
    for (asked, reason) in [
        (json!({"stream": "10.0.0.5"}), "bad-arguments"),
        (json!({}), "bad-arguments"),
        (json!({"stream": "10.0.0.5:40000", "ssrc": -1}), "bad-arguments"),
        (json!({"stream": "10.0.0.5:40002"}), "no-stream"),
        (json!({"stream": "10.0.0.5:40000", "ssrc": 7}), "no-stream"),
        (json!({"stream": "10.0.0.5:40000", "guest": "x"}), "no-guest"),
    ] {
        assert_eq!(client.refuse("explain", asked.clone()), reason, "{asked}");
    }
}
