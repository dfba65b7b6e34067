use super::*;
use crate::classify::sample::{between, capture, rtp, udp};
use crate::signalling::stun_sample as stun;
use std::fs;
use tidegate_dataplane::policy::{Rule, RuleVerdict};

fn task() -> Task {
    Task { policy: Policy::default(), guests: Vec::new(), sip_ports: vec![5060], learn_turn: true }
}

#[test]
fn a_stream_is_counted_with_what_was_let_go_on_promotion_and_the_rest_is_held() {
    let mut frames: Vec<Vec<u8>> = (0..50).map(|n| udp(5, 40_000, &rtp(n))).collect();
    frames.insert(1, udp(5, 40_002, &[1; 40]));
    frames.push(udp(6, 40_000, &rtp(7)));
    frames.push(vec![0; 13]);
    let (_dir, path) = capture(&frames);
    let report = judge(&path, &task()).expect("it is a capture");
    assert_eq!((report.packets, report.udp_packets, report.bypassed, report.held), (53, 52, 50, 3));
    let [stream] = &report.streams[..] else { panic!("{report:?}") };
    assert_eq!(
        (stream.packets, stream.bypassed, stream.promoted_at, stream.rule.as_ref()),
        (50, 50, Some(3), "three-in-order")
    );
    assert_eq!((stream.ssrc.as_str(), stream.clock_rate, stream.quality.lost), ("0xcafebabe", 8000, 0));
    assert_eq!((report.looked_like_rtp, report.bypassed_outside_streams), (1, 0));
    assert!(report.text(true).contains("10.0.0.5:40000 -> 10.0.0.9:5004"));

    let other = Task { guests: vec![IpAddr::from([10, 0, 0, 6])], ..task() };
    let report = judge(&path, &other).expect("it is a capture");
    assert_eq!((report.not_judged, report.bypassed, report.held), (52, 0, 1));
    let everything = Task { policy: Policy::from(PolicyName::BypassAll), ..task() };
    let report = judge(&path, &everything).expect("it is a capture");
    assert_eq!((report.bypassed, report.held, report.bypassed_outside_streams), (53, 0, 0));
}

/// An INVITE from 10.0.0.5 that names its port 40000 for this.
fn invite(media: &str) -> Vec<u8> {
    let sip = format!(
        "INVITE sip:b@x SIP/2.0\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@x>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n\
         Content-Type: application/sdp\r\n\r\nv=0\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\nm={media}\r\n"
    );
    udp(5, 5060, sip.as_bytes())
}

#[test]
fn what_sip_named_bypasses_from_its_first_packet_and_a_fax_is_told() {
    let calls = [invite("audio 40000 RTP/AVP 8"), udp(5, 40_000, &rtp(1)), udp(6, 40_000, &rtp(1))];
    let (_dir, path) = capture(&calls);
    let fax = [invite("image 40000 udptl t38"), udp(5, 40_000, &[0, 1, 1, 6, 0, 0])];
    let (_other, fax) = capture(&fax);
    for guests in [vec![], vec![IpAddr::from([10, 0, 0, 5])]] {
        let task = Task { guests, ..task() };
        let report = judge(&path, &task).expect("it is a capture");
        let [stream] = &report.streams[..] else { panic!("{report:?}") };
        assert_eq!((stream.bypassed, stream.promoted_at, stream.rule.as_ref()), (1, Some(1), "sip"));
        let report = judge(&fax, &task).expect("it is a capture");
        assert_eq!((report.udptl, report.bypassed, report.bypassed_outside_streams), (1, 1, 0));
    }
    for other in [Task { sip_ports: vec![], ..task() }, Task { guests: vec![[10, 0, 0, 9].into()], ..task() }]
    {
        assert!(judge(&path, &other).expect("it is a capture").streams.is_empty());
        assert_eq!(judge(&fax, &other).expect("it is a capture").udptl, 0);
    }
}

#[test]
fn fragments_of_sip_may_come_in_any_order() {
    let whole = invite("audio 40000 RTP/AVP 8");
    let part = |from: usize, to: usize| {
        let mut frame = [&whole[..34], &whole[34 + from..34 + to]].concat();
        frame[16..18].copy_from_slice(&(20 + (to - from) as u16).to_be_bytes());
        frame[18..20].copy_from_slice(&[0, 7]);
        let more = if 34 + to < whole.len() { 0x2000 } else { 0 };
        frame[20..22].copy_from_slice(&(more | (from / 8) as u16).to_be_bytes());
        frame
    };
    let end = whole.len() - 34;
    let (_dir, path) = capture(&[part(96, end), part(0, 96), udp(5, 40_000, &rtp(1))]);
    for guests in [vec![], vec![IpAddr::from([10, 0, 0, 5])]] {
        let report = judge(&path, &Task { guests, ..task() }).expect("it is a capture");
        let promoted: Vec<_> = report.streams.iter().map(|s| (s.promoted_at, &*s.rule)).collect();
        assert_eq!(promoted, [(Some(1), "sip")]);
    }
}

#[test]
fn rtcp_counts_for_the_stream_it_goes_with() {
    let rtcp = |ssrc: u32| [&[0x81, 201, 0, 7][..], &ssrc.to_be_bytes(), &[0; 24]].concat();
    // The same SSRC from four ports, as one that changes its peer has it.
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for port in [40_000, 40_010, 40_020, 40_030] {
        frames.extend((0..4).map(|n| udp(5, port, &rtp(n))));
    }
    frames.push(udp(5, 40_020, &rtcp(0xcafe_babe)));
    frames.push(udp(5, 40_011, &rtcp(0xcafe_babe)));
    frames.push(udp(5, 40_029, &rtcp(1)));
    let (_dir, path) = capture(&frames);
    for _ in 0..8 {
        let report = judge(&path, &task()).expect("it is a capture");
        assert_eq!(report.streams.iter().map(|s| s.rtcp).collect::<Vec<_>>(), [0, 1, 1, 1]);
        assert_eq!((report.rtcp_outside_streams, report.bypassed_outside_streams), (0, 0));
    }
}

#[test]
fn what_rules_let_go_hold_and_refuse_is_counted_under_their_number() {
    let mut frames: Vec<Vec<u8>> = (0..10).map(|n| udp(5, 40_000, &rtp(n))).collect();
    frames.extend([udp(5, 53, &[1; 40]), udp(5, 54, &[1; 40]), udp(6, 40_000, &rtp(1))]);
    let (_dir, path) = capture(&frames);
    let rule = |verdict, dst_host: u8, sport: u16| Rule {
        src: format!("10.0.0.{dst_host}/32").parse().ok(),
        sport: Some(sport..=sport),
        ..Rule::new(verdict)
    };
    let rules = vec![rule(RuleVerdict::Bypass, 5, 53), rule(RuleVerdict::Refuse, 5, 54)];
    let media = Rule { ssrc: Some(0xcafe_babe..=0xcafe_babe), ..Rule::new(RuleVerdict::Bypass) };
    let policy = Policy { rules: [rules, vec![media]].concat(), ..Policy::default() };
    let report = judge(&path, &Task { policy, guests: Vec::new(), sip_ports: vec![5060], learn_turn: true })
        .expect("it is a capture");
    assert_eq!((report.bypassed, report.held, report.refused, report.by_rules), (12, 0, 1, 1));
    assert_eq!(report.bypassed_outside_streams, 0);
    let streams: Vec<_> = report.streams.iter().map(|s| (&*s.rule, s.bypassed, s.by_rules)).collect();
    assert_eq!(streams, [("rule 3", 10, 10), ("rule 3", 1, 1)]);
    let flows: Vec<_> = report.flows.iter().map(|f| (f.sport, &*f.rule, f.refused)).collect();
    assert_eq!(flows, [(53, "rule 1", 0), (54, "rule 2", 1), (40_000, "rule 3", 0), (40_000, "rule 3", 0)]);
    let text = report.text(false);
    assert!(
        text.contains("1 bypass by the operator's rules, beside RTP") && text.contains("1 refused"),
        "{text}"
    );
    assert!(text.contains("rule 3"), "{text}");
    let hold = Rule { ssrc: Some(0..=u32::MAX), ..Rule::new(RuleVerdict::Hold) };
    let policy = Policy { rules: vec![hold], ..Policy::default() };
    let report = judge(&path, &Task { policy, guests: Vec::new(), sip_ports: vec![5060], learn_turn: true })
        .expect("it is a capture");
    assert_eq!((report.bypassed, report.held, report.streams[0].rule.as_ref()), (0, 13, "rule 1"));
}

#[test]
fn a_file_that_is_cut_or_no_capture_is_told() {
    let (_dir, path) = capture(&[udp(5, 40_000, &rtp(1)), udp(5, 40_000, &rtp(2))]);
    let report = judge(&path, &task()).expect("it is a capture");
    assert_eq!((report.packets, report.cut), (2, false), "a whole one");
    let whole = fs::read(&path).expect("read");
    fs::write(&path, &whole[..24]).expect("written");
    let report = judge(&path, &task()).expect("a capture of nothing");
    assert_eq!((report.packets, report.cut), (0, false));
    fs::write(&path, &whole[..whole.len() - 20]).expect("written");
    let report = judge(&path, &task()).expect("as far as it goes");
    assert_eq!((report.packets, report.cut), (1, true));
    fs::write(&path, b"no capture at all, but long enough to hope for one").expect("written");
    assert!(judge(&path, &task()).unwrap_err().contains("no capture"));
    fs::write(&path, b"").expect("written");
    assert!(judge(&path, &task()).is_err());
    assert!(judge(Path::new("/nowhere"), &task()).is_err());
}

/// A channel bound with a password, RTP through it and through one that nobody bound, and RTCP.
fn turn_call() -> Vec<Vec<u8>> {
    let (guest, server) = ((5, 40_000), (9, 3478));
    let data = |number: u16, inner: &[u8]| {
        let len = (inner.len() as u16).to_be_bytes();
        between(guest, server, &[&number.to_be_bytes()[..], &len, inner].concat())
    };
    let mut frames = vec![
        between(guest, server, &stun::bind(1, 0x4001)),
        between(server, guest, &stun::not_bound(1)),
        between(guest, server, &stun::bind(2, 0x4001)),
        between(server, guest, &stun::bound(2)),
        between(server, guest, &stun::bound(7)),
    ];
    for n in 0..20 {
        frames.extend([data(0x4001, &rtp(n)), data(0x4002, &rtp(n))]);
    }
    frames.push(data(0x4001, &[0x80, 200, 0, 1, 0xca, 0xfe, 0xba, 0xbe]));
    frames
}

#[test]
fn what_a_bound_turn_channel_carries_bypasses_with_and_without_a_named_guest() {
    let (_dir, path) = capture(&turn_call());
    for guests in [vec![], vec![IpAddr::from([10, 0, 0, 5])]] {
        let report = judge(&path, &Task { guests, ..task() }).expect("it is a capture");
        let [stream] = &report.streams[..] else { panic!("{report:?}") };
        assert_eq!(stream.channel.as_deref(), Some("0x4001"));
        assert_eq!(
            (stream.packets, stream.bypassed, stream.promoted_at, stream.rule.as_ref(), stream.rtcp),
            (20, 20, Some(3), "three-in-order", 1)
        );
        assert_eq!((report.bypassed, report.bypassed_outside_streams), (21, 0));
        assert!(report.text(false).contains("through TURN channel 0x4001"), "{}", report.text(false));
    }
    let mut no_answer = turn_call();
    no_answer.remove(3);
    let (_dir, no_answer) = capture(&no_answer);
    for (path, task) in [
        (&path, Task { learn_turn: false, ..task() }),
        (&path, Task { guests: vec![[10, 0, 0, 9].into()], ..task() }),
        (&no_answer, task()),
    ] {
        let report = judge(path, &task).expect("it is a capture");
        assert_eq!((report.streams.len(), report.bypassed), (0, 0));
    }
    let deaf = Task { sip_ports: vec![], ..task() };
    assert_eq!(judge(&path, &deaf).expect("it is a capture").bypassed, 21, "SIP is no part of it");
}
