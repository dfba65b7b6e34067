use super::*;
use crate::classify::sample::{between, capture, rtp, udp};
use crate::config::{PolicyName, Rule};
use crate::signalling::stun_sample as stun;

fn spec(rules: &[&str]) -> PolicySpec {
    let rules: Vec<Rule> = rules.iter().map(|text| toml::from_str(text).expect("a rule")).collect();
    PolicySpec { rules, ..PolicySpec::default() }
}

fn alone(frame: Vec<u8>, policy: &PolicySpec) -> FrameReport {
    explain(&Source::Bytes(frame), policy, &[], true).expect("a frame")
}

fn said(report: &FrameReport) -> (&'static str, &'static str, Option<usize>) {
    (report.verdict, report.decided_by, report.rule)
}

#[test]
fn a_frame_of_a_capture_is_judged_after_those_before_it() {
    let mut frames: Vec<Vec<u8>> = (0..5).map(|n| udp(5, 40_000, &rtp(n))).collect();
    frames.push(udp(5, 40_001, &[0x80, 200, 0, 1, 0xca, 0xfe, 0xba, 0xbe]));
    frames.push(udp(5, 40_000, &rtp(9000)));
    let (_dir, path) = capture(&frames);
    let nth = |number| explain(&Source::Capture { path: path.clone(), number }, &spec(&[]), &[5060], true);
    let told: Vec<_> = (1..=7).map(|n| said(&nth(n).expect("a frame"))).collect();
    let wanted = ["probation", "probation", "promote", "bypass", "bypass"].map(|v| (v, "probation", None));
    assert_eq!(told[..5], wanted);
    assert_eq!(told[5..], [("bypass", "rtcp", None), ("probation", "probation", None)]);
    let third = nth(3).expect("a frame");
    assert!(third.why.contains("packet 3 in order, of 3"), "{third:?}");
    assert_eq!(third.judged_before, 2);
    let text = nth(4).expect("a frame").text();
    assert!(
        text.contains("since packet 3") && text.contains("SSRC 0xcafebabe") && text.contains("<== decides")
    );
    assert!(nth(8).unwrap_err().contains("it has 7 frames, not 8"));
}

#[test]
fn the_rule_that_decides_is_named_with_its_text() {
    let policy =
        spec(&["protocol = \"tcp\"\nverdict = \"refuse\"", "ssrc = \"0xcafebabe\"\nverdict = \"bypass\""]);
    let report = alone(udp(5, 40_000, &rtp(1)), &policy);
    assert_eq!(said(&report), ("bypass", "rule", Some(2)));
    assert!(report.why.contains("ssrc 0xcafebabe: bypass"), "{}", report.why);
    let report = alone(udp(5, 40_000, &[1; 40]), &policy);
    assert_eq!(said(&report), ("hold", "policy", None));
    assert!(report.steps.iter().any(|step| step.says == "none of 2 matches"));
}

#[test]
fn every_step_is_told_and_exactly_one_decides() {
    let mut ports = spec(&[]);
    ports.media_ports = vec!["40000-40010".parse().expect("a range")];
    let all = PolicySpec { name: PolicyName::BypassAll, ..PolicySpec::default() };
    let cases = [
        (udp(5, 40_000, &rtp(1)), &ports, ("bypass", "media_ports", None)),
        (udp(5, 53, &rtp(1)), &spec(&[]), ("hold", "policy", None)),
        (udp(5, 40_000, &rtp(1)), &all, ("bypass", "policy", None)),
        (vec![0; 13], &spec(&[]), ("hold", "policy", None)),
        (vec![0xff; 64], &spec(&[]), ("hold", "policy", None)),
    ];
    for (frame, policy, wanted) in cases {
        let report = alone(frame, policy);
        assert_eq!(said(&report), wanted, "{report:?}");
        assert_eq!(report.steps.iter().filter(|step| step.decides).count(), 1, "{report:?}");
        assert!(!report.why.is_empty() && report.text().contains(&report.why));
    }
}

#[test]
fn what_the_lane_would_drop_before_is_told() {
    let report = alone(vec![0; 13], &spec(&[]));
    assert!(report.dropped_before.is_some_and(|why| why.starts_with("unreadable")));
    let mut frame = udp(5, 40_000, &rtp(1));
    frame[24] ^= 1;
    let report = alone(frame, &spec(&[]));
    assert!(report.text().contains("would drop it before (checksum"), "{report:?}");
}

#[test]
fn what_a_turn_channel_carries_is_told_and_whether_it_was_bound() {
    let (guest, server) = ((5, 40_000), (9, 3478));
    let data = |channel: u8, n| {
        let inner = rtp(n);
        between(guest, server, &[&[0x40, channel, 0, inner.len() as u8][..], &inner].concat())
    };
    let mut frames =
        vec![between(guest, server, &stun::bind(1, 0x4001)), between(server, guest, &stun::bound(1))];
    frames.extend((0..4).map(|n| data(1, n)));
    frames.push(data(2, 4));
    let (_dir, path) = capture(&frames);
    let nth = |number, learn| {
        let source = Source::Capture { path: path.clone(), number };
        explain(&source, &spec(&[]), &[], learn).expect("a frame")
    };
    let third = nth(5, true);
    assert_eq!(said(&third), ("promote", "probation", None));
    assert!(
        third.why.contains("TURN channel 0x4001") && third.why.contains("packet 3 in order"),
        "{third:?}"
    );
    assert!(third.headers.iter().any(|line| line.contains("SSRC 0xcafebabe")));
    assert_eq!(said(&nth(6, true)), ("bypass", "probation", None));
    for held in [nth(7, true), nth(6, false)] {
        assert_eq!(said(&held), ("hold", "policy", None));
        assert!(held.why.contains("nobody was heard to bind"), "{}", held.why);
    }
}
