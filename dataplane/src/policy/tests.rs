use super::*;
use crate::wire::express::Plain;
use crate::wire::{Headers, sample};
use proptest::prelude::*;

fn matched(rules: Vec<Rule>, frame: &[u8]) -> Option<(usize, RuleVerdict)> {
    let policy = Policy { rules, ..Policy::default() };
    policy.compile().unwrap().rule_for(&Headers::parse(frame, frame.len() as u32), frame)
}

fn rule(change: impl FnOnce(&mut Rule)) -> Rule {
    let mut rule = Rule::new(RuleVerdict::Refuse);
    change(&mut rule);
    rule
}

fn prefix(text: &str) -> Option<Prefix> {
    Some(text.parse().unwrap())
}

#[test]
fn names_are_read_and_written_alike() {
    for policy in PolicyName::ALL {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    for verdict in [RuleVerdict::Bypass, RuleVerdict::Hold, RuleVerdict::Refuse] {
        assert_eq!(verdict.to_string().parse(), Ok(verdict));
    }
    assert!("Realtime".parse::<PolicyName>().unwrap_err().to_string().contains("hold-all"));
    for text in ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "::/0", "10.1.2.3/32"] {
        assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
    }
    assert_eq!("10.1.2.3".parse::<Prefix>().unwrap().length, 32);
    for text in ["10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "", "example.org"] {
        assert_eq!(text.parse::<Prefix>(), Err(PolicyError::BadPrefix(text.to_owned())));
    }
}

#[test]
fn each_field_matches_what_it_says_and_nothing_else() {
    let v4 = sample::udp(40000, 5004, b"x");
    let v6 = sample::udp6(40000, 5004, b"x");
    let tcp = sample::tcp(40000, 5004, b"x");
    let arp = sample::arp(1);
    let tagged = sample::tagged(&v4, &[0x88a8, 0x8100]);
    type Case = (&'static str, Rule, [bool; 5]);
    let cases: [Case; 14] = [
        ("all", rule(|_| {}), [true, true, true, true, true]),
        ("udp", rule(|r| r.protocol = Some(17)), [true, true, false, false, true]),
        ("src", rule(|r| r.src = prefix("10.0.0.2")), [true, false, true, false, true]),
        ("src net", rule(|r| r.src = prefix("10.0.0.0/8")), [true, false, true, false, true]),
        ("other net", rule(|r| r.src = prefix("11.0.0.0/8")), [false; 5]),
        ("dst", rule(|r| r.dst = prefix("10.0.0.9")), [true, false, true, false, true]),
        ("dst of src", rule(|r| r.dst = prefix("10.0.0.2")), [false; 5]),
        ("any v4", rule(|r| r.dst = prefix("0.0.0.0/0")), [true, false, true, false, true]),
        ("any v6", rule(|r| r.dst = prefix("::/0")), [false, true, false, false, false]),
        ("sport", rule(|r| r.sport = Some(40000..=40000)), [true, true, true, false, true]),
        ("dport", rule(|r| r.dport = Some(5005..=6000)), [false; 5]),
        ("vlan", rule(|r| r.vlan = Some(1)), [false, false, false, false, true]),
        ("no vlan", rule(|r| r.vlan = Some(0)), [true, true, true, true, false]),
        ("dscp", rule(|r| r.dscp = Some(46)), [true, true, true, false, true]),
    ];
    for (name, rule, expected) in cases {
        for (frame, expected) in [&v4, &v6, &tcp, &arp, &tagged].into_iter().zip(expected) {
            assert_eq!(matched(vec![rule.clone()], frame).is_some(), expected, "{name}");
        }
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = vec![
        rule(|r| r.dport = Some(1..=10)),
        rule(|r| (r.protocol, r.verdict) = (Some(17), RuleVerdict::Hold)),
        rule(|r| r.verdict = RuleVerdict::Bypass),
    ];
    assert_eq!(matched(rules.clone(), &sample::udp(1, 5, b"")), Some((0, RuleVerdict::Refuse)));
    assert_eq!(matched(rules.clone(), &sample::udp(1, 11, b"")), Some((1, RuleVerdict::Hold)));
    assert_eq!(matched(rules.clone(), &sample::arp(1)), Some((2, RuleVerdict::Bypass)));
    assert_eq!(matched(vec![], &sample::arp(1)), None);
}

#[test]
fn a_later_fragment_that_a_port_rule_might_mean_is_held() {
    let udp = sample::datagram(40000, 5004, &[7; 200]);
    let later = sample::ipv4(17, &[], 0x0008, &udp[64..]);
    let ports = rule(|r| r.sport = Some(1..=2));
    let all = rule(|r| r.verdict = RuleVerdict::Bypass);
    assert_eq!(matched(vec![ports.clone(), all.clone()], &later), Some((0, RuleVerdict::Hold)));
    assert_eq!(matched(vec![all.clone(), ports], &later), Some((0, RuleVerdict::Bypass)));
    // Over IPv6 the fragment header may name an extension header, behind which TCP may stand.
    let veiled = sample::ipv6(44, 64, &[60, 0, 0, 8, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8]);
    let tcp = rule(|r| r.protocol = Some(6));
    assert_eq!(matched(vec![tcp, all], &veiled), Some((0, RuleVerdict::Hold)));
}

#[test]
fn a_rule_by_ssrc_matches_what_passes_the_header_check_and_its_rtcp_only() {
    let by = |range| rule(|r| r.ssrc = Some(range));
    let media = |ssrc| sample::rtp(1, ssrc);
    let mut extended = media(7);
    extended[0] = 0x9f;
    extended.truncate(60);
    let cases: [(&str, Vec<u8>, bool); 10] = [
        ("first", sample::udp(40000, 5004, &media(7)), true),
        ("last", sample::udp(40000, 5004, &media(9)), true),
        ("below", sample::udp(40000, 5004, &media(6)), false),
        ("above", sample::udp(40000, 5004, &media(10)), false),
        ("v6", sample::udp6(40000, 5004, &media(8)), true),
        ("tagged", sample::tagged(&sample::udp(40000, 5004, &media(8)), &[0x8100]), true),
        ("report", sample::udp(40001, 5005, &[0x80, 200, 0, 1, 0, 0, 0, 8]), true),
        ("another's report", sample::udp(40001, 5005, &[0x80, 200, 0, 1, 0, 0, 0, 6]), false),
        ("no version 2", sample::udp(40000, 5004, &[&[0x40][..], &media(8)[1..]].concat()), false),
        ("more sources than bytes", sample::udp(40000, 5004, &extended), false),
    ];
    for (name, frame, expected) in cases {
        assert_eq!(matched(vec![by(7..=9)], &frame).is_some(), expected, "{name}");
    }
    assert_eq!(matched(vec![by(0..=u32::MAX)], &sample::tcp(1, 2, &media(7))), None);
    assert_eq!(matched(vec![by(0..=u32::MAX)], &sample::udp(1, 2, b"neither")), None);
    assert_eq!(matched(vec![by(0..=u32::MAX)], &sample::arp(1)), None);
    let later = sample::ipv4(17, &[], 0x0008, &sample::datagram(40000, 5004, &media(7))[64..]);
    assert_eq!(matched(vec![by(1..=2)], &later), Some((0, RuleVerdict::Hold)), "it may be of that SSRC");
}

#[test]
fn a_guest_that_splits_its_frames_evades_no_rule_by_ssrc() {
    let rules = vec![rule(|r| r.ssrc = Some(7..=7)), rule(|r| r.verdict = RuleVerdict::Bypass)];
    let policy = Policy { rules, ..Policy::default() }.compile().unwrap();
    let frame = sample::udp(40000, 5004, &sample::rtp(1, 7));
    for cut in 42..=frame.len() {
        let h = Headers::parse(&frame[..cut], frame.len() as u32);
        let verdict = policy.rule_for(&h, &frame[..cut]).map(|(_, verdict)| verdict);
        let expected = if cut < 54 { RuleVerdict::Hold } else { RuleVerdict::Refuse };
        assert_eq!(verdict, Some(expected), "cut at {cut}");
    }
}

#[test]
fn an_unreadable_frame_is_let_go_by_no_rule() {
    let mut frame = sample::tagged(&sample::udp(1, 2, b"x"), &[0x8100]);
    frame.pop();
    let vlan = |verdict| rule(|r| (r.vlan, r.verdict) = (Some(1), verdict));
    assert_eq!(matched(vec![vlan(RuleVerdict::Bypass)], &frame), Some((0, RuleVerdict::Hold)));
    assert_eq!(matched(vec![vlan(RuleVerdict::Refuse)], &frame), Some((0, RuleVerdict::Refuse)));
    assert_eq!(matched(vec![rule(|r| r.protocol = Some(17))], &frame), None);
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    let bad = |change: fn(&mut Rule)| {
        let policy = Policy { rules: vec![rule(|_| {}), rule(change)], ..Policy::default() };
        match policy.compile().unwrap_err() {
            PolicyError::Rule(2, why) => why,
            other => panic!("{other}"),
        }
    };
    bad(|r| r.vlan = Some(4095));
    bad(|r| r.dscp = Some(64));
    bad(|r| r.sport = Some(RangeInclusive::new(9, 8)));
    bad(|r| (r.sport, r.protocol) = (Some(1..=2), Some(1)));
    bad(|r| r.ssrc = Some(RangeInclusive::new(9, 8)));
    bad(|r| (r.ssrc, r.protocol) = (Some(1..=2), Some(6)));
    bad(|r| (r.src, r.dst) = (prefix("::/0"), prefix("0.0.0.0/0")));
    bad(|r| r.src = Some(Prefix { address: "10.0.0.1".parse().unwrap(), length: 8 }));
    let hold_all = |verdict| Policy { rules: vec![Rule::new(verdict)], ..Policy::from(PolicyName::HoldAll) };
    assert!(hold_all(RuleVerdict::Bypass).compile().is_err());
    assert!(hold_all(RuleVerdict::Refuse).compile().is_ok());
    let many = Policy { rules: vec![rule(|_| {}); MAX + 1], ..Policy::default() };
    assert_eq!(many.compile().unwrap_err(), PolicyError::TooManyRules(65));
    let ranges = Policy { media_ports: vec![2000..=2001; MAX + 1], ..Policy::default() };
    assert_eq!(ranges.compile().unwrap_err(), PolicyError::TooManyRanges(65));
    let low = Policy { media_ports: vec![2000..=2001, 1023..=2000], ..Policy::default() };
    assert!(low.compile().unwrap_err().to_string().starts_with("range 2 of the media ports, 1023-2000"));
}

#[test]
fn media_ports_are_those_given() {
    let policy = Policy { media_ports: vec![5000..=5063, 65535..=65535], ..Policy::default() };
    let compiled = policy.compile().unwrap();
    for port in 0..=65535u16 {
        assert_eq!(compiled.is_media_port(port), (5000..=5063).contains(&port) || port == 65535, "{port}");
    }
    assert!(!Policy::default().compile().unwrap().is_media_port(5000));
}

/// The rules read one by one, as the documentation says it.
fn plainly(rules: &[Rule], h: &Headers, ssrc: Option<u32>) -> Option<(usize, RuleVerdict)> {
    let within = |prefix: Option<Prefix>, address: [u8; 16]| {
        prefix.is_none_or(|prefix| match (prefix.address, crate::wire::display_address(address)) {
            (IpAddr::V4(p), IpAddr::V4(a)) => {
                let shift = 32 - prefix.length as u32;
                shift == 32 || u32::from(p) >> shift == u32::from(a) >> shift
            }
            (IpAddr::V6(p), IpAddr::V6(a)) => {
                let shift = 128 - prefix.length as u32;
                shift == 128 || u128::from(p) >> shift == u128::from(a) >> shift
            }
            _ => false,
        })
    };
    rules.iter().enumerate().find_map(|(n, rule)| {
        let hit = rule.protocol.is_none_or(|p| p == h.protocol)
            && within(rule.src, h.src)
            && within(rule.dst, h.dst)
            && rule.sport.as_ref().is_none_or(|r| r.contains(&h.sport))
            && rule.dport.as_ref().is_none_or(|r| r.contains(&h.dport))
            && rule.vlan.is_none_or(|v| v == h.vlan_id())
            && rule.dscp.is_none_or(|d| d == h.dscp)
            && rule.ssrc.as_ref().is_none_or(|r| ssrc.is_some_and(|ssrc| r.contains(&ssrc)));
        hit.then_some((n, rule.verdict))
    })
}

/// Ports whose low bytes meet, go round, and are far apart.
fn any_port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 0..8u16, 1 => 252..262u16, 1 => Just(u16::MAX)]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let net = || {
        proptest::option::of(prop_oneof![
            Just("10.0.0.0/29"),
            Just("10.0.0.8/29"),
            Just("0.0.0.0/0"),
            Just("2001:db8::/32"),
            Just("2001:db8::8/125"),
            Just("::/0")
        ])
    };
    let ports = || proptest::option::of((any_port(), any_port()).prop_map(|(a, b)| a.min(b)..=a.max(b)));
    let fields = (proptest::option::of(prop_oneof![Just(6u8), Just(17)]), net(), net(), ports(), ports());
    let ssrc = proptest::option::of((0..4u32, 0..4u32).prop_map(|(a, b)| a.min(b)..=a.max(b)));
    let tags = (proptest::option::of(0..3u16), proptest::option::of(prop_oneof![Just(46u8), Just(0)]), ssrc);
    let verdict = prop_oneof![Just(RuleVerdict::Bypass), Just(RuleVerdict::Hold), Just(RuleVerdict::Refuse)];
    (fields, tags, verdict).prop_map(|((protocol, src, dst, sport, dport), (vlan, dscp, ssrc), verdict)| {
        Rule {
            protocol,
            src: src.and_then(prefix),
            dst: dst.and_then(prefix),
            sport,
            dport,
            vlan,
            dscp,
            ssrc,
            verdict,
        }
    })
}

proptest! {
    #[test]
    fn compiled_rules_decide_as_rules_read_one_by_one(
        rules in proptest::collection::vec(any_rule(), 0..12), sport in any_port(), dport in any_port(), what in 0..5,
        ssrc in 0..4u32,
    ) {
        let rules: Vec<Rule> = rules.into_iter().filter(|r| r.validate(PolicyName::Realtime).is_ok()).collect();
        let frame = match what {
            4 => sample::udp(sport, dport, &sample::rtp(1, ssrc)),
            0 => sample::udp(sport, dport, b"x"),
            1 => sample::udp6(sport, dport, b"x"),
            2 => sample::tcp(sport, dport, b"x"),
            _ => sample::tagged(&sample::udp(sport, dport, b"x"), &[0x8100]),
        };
        let headers = Headers::parse(&frame, frame.len() as u32);
        prop_assert_eq!(matched(rules.clone(), &frame), plainly(&rules, &headers, (what == 4).then_some(ssrc)));
        // The short way says the same of the frames that it can read.
        let policy = Policy { rules: rules.clone(), ..Policy::default() }.compile().unwrap();
        let short = match Plain::read(&frame, frame.len() as u32) {
            Some(Plain::Rtp(packet)) => policy.plain_rule(&packet, 17, packet.rtp().ssrc),
            Some(Plain::Tcp(segment)) => policy.plain_rule(&segment, 6, 0),
            None => return Ok(()),
        };
        prop_assert_eq!(short, matched(rules, &frame).map(|(_, verdict)| verdict));
    }
}
