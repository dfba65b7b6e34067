use super::*;
use crate::arena::Heap;
use crate::policy::{Policy, Prefix, Rule};
use crate::rtp::IDLE_NS;
use crate::streams::{StreamReport, StreamState};
use crate::wire::sample::{self, Chain};
use Verdict::{Bypass, Hold, Promote, Refuse};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// A classifier with a clock of one tick a nanosecond that goes on 20 ms with each frame.
struct Bench {
    classifier: Classifier,
    now: u64,
    position: u64,
}

impl Bench {
    fn new(policy: impl Into<Policy>) -> Bench {
        Bench::sized(policy, 1024)
    }

    fn sized(policy: impl Into<Policy>, streams: usize) -> Bench {
        let policy = policy.into().compile().unwrap();
        let classifier = Classifier::new(policy, streams, TscRate::new(SECOND), &mut Heap);
        Bench { classifier, now: SECOND, position: 0 }
    }

    fn decide(&mut self, frame: &[u8]) -> Decision {
        self.now += 20 * MS;
        self.classifier.classify(&Chain::whole(frame), self.now)
    }

    /// As the lane does: a frame under probation waits at the next position.
    fn pass(&mut self, frame: &[u8]) -> Verdict {
        let decision = self.decide(frame);
        if let Verdict::Probation(stream) = decision.verdict {
            self.position += 1;
            self.classifier.waiting(stream, self.position);
        }
        decision.verdict
    }

    fn rtp(&mut self, port: u16, sequence: u16, ssrc: u32) -> char {
        letter(self.pass(&sample::udp(port, 5004, &sample::rtp(sequence, ssrc))))
    }

    fn run(&mut self, numbers: impl IntoIterator<Item = u16>) -> String {
        numbers.into_iter().map(|n| self.rtp(40000, n, 7)).collect()
    }

    fn policy(&mut self, policy: impl Into<Policy>) {
        self.classifier.set_policy(policy.into().compile().unwrap());
    }

    fn streams(&self) -> Vec<StreamReport> {
        self.classifier.table().snapshot(TscRate::new(SECOND))
    }
}

fn letter(verdict: Verdict) -> char {
    match verdict {
        Bypass => 'b',
        Hold => 'h',
        Verdict::Probation(_) => 'p',
        Promote(_) => 'P',
        Refuse => 'r',
    }
}

fn realtime() -> Policy {
    Policy::default()
}

fn media_ports() -> Policy {
    Policy { media_ports: vec![40000..=40010], ..Policy::default() }
}

fn ruled(verdict: RuleVerdict, change: impl FnOnce(&mut Rule)) -> Policy {
    let mut rule = Rule::new(verdict);
    change(&mut rule);
    Policy { rules: vec![rule], ..Policy::default() }
}

#[test]
fn the_policies_hold_and_pass_what_the_design_says() {
    let cases: [(&str, Vec<u8>, &str); 14] = [
        ("tcp", sample::tcp(1, 2, b"x"), "hhhb"),
        ("dns", sample::udp(40000, 53, &[1; 30]), "hbhb"),
        ("sip", sample::udp(5060, 5060, b"INVITE sip:a@b SIP/2.0\r\n\r\n"), "hbhb"),
        ("udp6", sample::udp6(40000, 53, &[1; 30]), "hbhb"),
        ("ping", sample::ipv4(1, &[], 0, &[8; 16]), "hbhb"),
        ("esp", sample::ipv4(50, &[], 0, &[8; 16]), "hbhb"),
        ("tagged tcp", sample::tagged(&sample::tcp(1, 2, b"x"), &[0x88a8, 0x8100]), "hhhb"),
        ("four tags", sample::tagged(&sample::tcp(1, 2, b"x"), &[0x8100; 4]), "hhhb"),
        ("lldp", sample::tagged(&sample::arp(1), &[0x88cc]), "hbhb"),
        ("arp", sample::arp(1), "bbhb"),
        ("nd", sample::neighbour(136, 255, &[]), "bbhb"),
        ("router", sample::neighbour(134, 255, &[]), "hbhb"),
        ("rarp", sample::rarp(), "bbbb"),
        ("runt", vec![0; 12], "hhhb"),
    ];
    for (name, frame, expected) in cases {
        for (policy, expected) in PolicyName::ALL.into_iter().zip(expected.chars()) {
            assert_eq!(letter(Bench::new(policy).pass(&frame)), expected, "{name} under {policy}");
        }
    }
}

#[test]
fn classes_are_what_frames_are() {
    let mut bench = Bench::new(PolicyName::HoldAll);
    for (frame, class) in [
        (sample::tcp(1, 2, b"x"), Class::Tcp),
        (sample::udp(1, 2, b"x"), Class::Udp),
        (sample::ipv4(50, &[], 0, &[8; 16]), Class::Ip),
        (sample::ipv4(17, &[], 8, &[8; 16]), Class::Ip),
        (sample::arp(1), Class::Announce),
        (sample::arp(9), Class::Other),
        (vec![0; 12], Class::Malformed),
    ] {
        assert_eq!(bench.decide(&frame).class, class);
    }
}

#[test]
fn three_in_a_row_are_promoted_and_the_two_before_are_let_go_in_order() {
    let mut bench = Bench::new(realtime());
    assert_eq!(bench.run(1..3), "pp");
    let third = bench.decide(&sample::udp(40000, 5004, &sample::rtp(3, 7)));
    let Promote(stream) = third.verdict else { panic!("{third:?}") };
    assert_eq!(third.class, Class::Rtp);
    assert_eq!(bench.classifier.take_waiting(stream).positions(), [1, 2]);
    assert_eq!(bench.classifier.take_waiting(stream).positions(), [], "once");
    assert_eq!(bench.run(4..20), "b".repeat(16));
    let [report] = &bench.streams()[..] else { panic!() };
    assert_eq!((report.packets, report.bypassed, report.held, report.promoted_at), (19, 19, 0, Some(3)));
    assert_eq!((report.state, report.ssrc, report.payload_type), (StreamState::Promoted, 7, 8));
    assert_eq!((report.src.to_string(), report.sport), ("10.0.0.2".into(), 40000));
    assert_eq!((report.dst.to_string(), report.dport), ("10.0.0.9".into(), 5004));
}

#[test]
fn only_the_run_that_proves_the_stream_is_let_go() {
    let mut bench = Bench::new(realtime());
    assert_eq!(bench.run([10, 11, 50, 50, 51]), "pppph".replace("pppph", "ppphp"));
    let Promote(stream) = bench.pass(&sample::udp(40000, 5004, &sample::rtp(52, 7))) else { panic!() };
    assert_eq!(bench.classifier.take_waiting(stream).positions(), [3, 4], "not 10 and 11");
}

#[test]
fn look_alikes_are_never_let_go() {
    let mut bench = Bench::new(realtime());
    let mut payload = sample::rtp(1, 7);
    for n in 1..2000u16 {
        // A counter that counts by two, backwards, or not at all.
        assert_eq!(bench.rtp(40000, n * 2, 1), 'p');
        assert_eq!(bench.rtp(40000, 0u16.wrapping_sub(n), 2), 'p');
        assert_eq!(bench.rtp(40000, 9, 3), if n == 1 { 'p' } else { 'h' });
        // A counter where the payload type would be that of RTCP.
        payload[1] = 64 + (n % 32) as u8;
        payload[2..4].copy_from_slice(&n.to_be_bytes());
        assert_eq!(letter(bench.pass(&sample::udp(40000, 5004, &payload))), 'h');
        // A constant where the SSRC is, but another peer each time.
        let mut frame = sample::udp(40000, 5004, &sample::rtp(n, 4));
        frame[33] = n as u8;
        frame[32] = (n >> 8) as u8;
        assert_eq!(letter(bench.pass(&frame)), 'p');
        // Sources that no guest has, and ports of services.
        assert_eq!(bench.rtp(53, n, 5), 'h');
        let mut frame = sample::udp(40000, 5004, &sample::rtp(n, 6));
        frame[26] = 224;
        assert_eq!(letter(bench.pass(&frame)), 'h');
    }
}

#[test]
fn a_surplus_area_or_a_source_route_is_not_media() {
    let mut bench = Bench::new(realtime());
    assert_eq!(bench.run(1..4), "ppP");
    let mut udp = sample::datagram(40000, 5004, &sample::rtp(4, 7));
    udp.extend(b"secret");
    assert_eq!(letter(bench.pass(&sample::ipv4(17, &[], 0, &udp))), 'h');
    assert_eq!(bench.run([5]), "b");
    for n in 1..5 {
        let route = [&[17, 2, 4, 1, 0, 0, 0, 0], &[9; 16][..]].concat();
        let routed = [&route[..], &sample::datagram(40000, 5004, &sample::rtp(n, 8))].concat();
        assert_eq!(letter(bench.pass(&sample::ipv6(43, 64, &routed))), 'h');
    }
}

#[test]
fn duplicates_neither_count_nor_break_a_run() {
    let mut bench = Bench::new(realtime());
    assert_eq!(bench.run([1, 1, 2, 2, 1, 3, 3]), "phphhPb");
}

#[test]
fn two_are_enough_where_a_session_was_set_up() {
    let mut stun = [0u8; 20];
    stun[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    let dtls = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    let rtcp = [0x80, 200, 0, 1, 0, 0, 0, 7];
    for set_up in [&stun[..], &dtls, &rtcp] {
        let mut bench = Bench::new(realtime());
        assert_eq!(letter(bench.pass(&sample::udp(40000, 5004, set_up))), 'h');
        assert_eq!(bench.run(1..4), "pPb");
        assert_eq!(bench.rtp(40002, 1, 7), 'p');
        assert_eq!(bench.rtp(40002, 2, 7), 'p', "another port");
        bench.now += 2 * IDLE_NS;
        assert_eq!(bench.run(4..8), "ppPb", "long ago");
    }
    for unused in [192, 199, 208, 223] {
        let mut bench = Bench::new(realtime());
        bench.pass(&sample::udp(40000, 5004, &[0x80, unused, 0, 1, 0, 0, 0, 7]));
        assert_eq!(bench.run(1..4), "ppP", "RTCP of type {unused}, that nobody sends");
    }
}

#[test]
fn rtcp_passes_with_its_stream_only() {
    let report = |port| sample::udp(port, 5005, &[0x80, 200, 0, 1, 0, 0, 0, 7]);
    let mut bench = Bench::new(realtime());
    assert_eq!(bench.run(1..3), "pp");
    assert_eq!(letter(bench.pass(&report(40001))), 'h', "before promotion");
    assert_eq!(bench.run(3..4), "P");
    for port in [39999, 40000, 40001] {
        let decision = bench.decide(&report(port));
        assert_eq!((decision.verdict, decision.class), (Bypass, Class::Rtcp), "{port}");
    }
    assert_eq!(letter(bench.pass(&report(40002))), 'h', "two ports away");
    assert_eq!(
        letter(bench.pass(&sample::udp(40000, 5005, &[0x80, 200, 0, 2, 0, 0, 0, 7]))),
        'h',
        "lying length"
    );
    bench.now += 2 * IDLE_NS;
    assert_eq!(letter(bench.pass(&report(40001))), 'h', "the stream is gone");
}

#[test]
fn a_number_outside_the_window_must_prove_itself_again() {
    let mut bench = Bench::new(realtime());
    assert_eq!(bench.run(1000..1010), "ppPbbbbbbb");
    assert_eq!(bench.run([1008, 1012, 913, 1013 + 2998, 4012]), "bbbbb", "within the window");
    assert_eq!(bench.run([9000, 4013, 9001, 9002]), "pbpp", "a stray one stops nothing");
    assert_eq!(bench.run([9003, 9004]), "Pb");
    assert_eq!(bench.run([9004u16.wrapping_sub(100)]), "p");
    assert_eq!(bench.run([9004 - 99]), "b");
}

#[test]
fn a_silent_stream_must_prove_itself_again() {
    let mut bench = Bench::new(realtime());
    assert_eq!(bench.run(1..5), "ppPb");
    bench.now += IDLE_NS - 20 * MS;
    assert_eq!(bench.run([5]), "b");
    bench.now += IDLE_NS;
    assert_eq!(bench.run([6, 7, 8]), "ppP");
    assert_eq!(bench.streams()[0].packets, 3, "a new stream");
}

#[test]
fn one_port_carries_many_streams_and_one_stream_changes_its_peer() {
    let mut bench = Bench::new(realtime());
    for ssrc in [0, 1, 2] {
        let verdicts: String = (1..5).map(|n| bench.rtp(40000, n, ssrc)).collect();
        assert_eq!(verdicts, "ppPb", "SSRC {ssrc}");
    }
    let moved = sample::udp(40000, 6000, &sample::rtp(5, 1));
    assert_eq!(letter(bench.pass(&moved)), 'b');
    assert!(bench.streams().iter().any(|stream| (stream.ssrc, stream.dport) == (1, 6000)));
    let mut other = sample::udp(40000, 6000, &sample::rtp(6, 1));
    other[33] = 77;
    assert_eq!(letter(bench.pass(&other)), 'b');
    assert!(
        bench.streams().iter().any(|stream| (stream.ssrc, stream.dst.to_string()) == (1, "10.0.0.77".into()))
    );
    let elsewhere = sample::udp6(40000, 5004, &sample::rtp(5, 1));
    assert_eq!(letter(bench.pass(&elsewhere)), 'p', "another address of the guest");
}

#[test]
fn configured_ports_pass_from_the_first_packet_within_the_checks() {
    let mut bench = Bench::new(media_ports());
    assert_eq!(bench.run(1..5), "bbbb");
    assert_eq!(bench.rtp(40011, 1, 7), 'p', "not in the range");
    assert_eq!(letter(bench.pass(&sample::udp(40001, 5004, &[0x40; 60]))), 'h', "no RTP");
    assert_eq!(bench.run([20000]), "p", "outside the window");
    assert_eq!(bench.run([20001, 20002]), "pP");
    let report = sample::udp(40001, 5005, &[0x80, 200, 0, 1, 0, 0, 0, 7]);
    assert_eq!(letter(bench.pass(&report)), 'b');
    assert_eq!(bench.streams().iter().find(|s| s.sport == 40000).unwrap().promoted_at, Some(1));
    assert_eq!(bench.rtp(40003, 1, 7), 'b');
    bench.policy(realtime());
    assert_eq!(
        (bench.rtp(40003, 2, 7), bench.run([20003])),
        ('p', "b".into()),
        "only what proved itself stays"
    );
}

#[test]
fn hold_all_lets_nothing_go_and_still_knows_its_streams() {
    let mut bench = Bench::new(Policy { name: PolicyName::HoldAll, ..media_ports() });
    assert_eq!(bench.run(1..10), "hhhhhhhhh");
    let decision = bench.decide(&sample::udp(40000, 5004, &sample::rtp(10, 7)));
    assert_eq!((decision.class, decision.media.unwrap().sequence), (Class::Rtp, 10));
    assert_eq!((bench.streams()[0].held, bench.streams()[0].bypassed), (10, 0));
    bench.policy(PolicyName::Realtime);
    assert_eq!(bench.run([11]), "b", "known to be media");
}

#[test]
fn a_change_of_policy_moves_no_frame_that_waits() {
    let mut bench = Bench::new(realtime());
    assert_eq!(bench.run(1..3), "pp");
    bench.policy(PolicyName::HoldAll);
    bench.policy(PolicyName::Realtime);
    assert_eq!(bench.run(3..5), "pp", "the run begins anew");
    let Promote(stream) = bench.pass(&sample::udp(40000, 5004, &sample::rtp(5, 7))) else { panic!() };
    assert_eq!(bench.classifier.take_waiting(stream).positions(), [3, 4]);
}

#[test]
fn rules_come_before_the_policy() {
    let tcp = sample::tcp(40000, 443, b"x");
    let pass = ruled(RuleVerdict::Bypass, |rule| rule.dport = Some(443..=443));
    assert_eq!(letter(Bench::new(pass.clone()).pass(&tcp)), 'b');
    assert_eq!(letter(Bench::new(pass).pass(&sample::tcp(1, 2, b"x"))), 'h');
    let held = ruled(RuleVerdict::Hold, |rule| rule.src = Some("10.0.0.2".parse::<Prefix>().unwrap()));
    let mut bench = Bench::new(held.clone());
    assert_eq!(bench.run(1..5), "hhhh", "media too");
    assert_eq!(bench.streams()[0].held, 4);
    let everything = Policy { name: PolicyName::BypassAll, ..held };
    assert_eq!(letter(Bench::new(everything).pass(&tcp)), 'h');
    let mut bench = Bench::new(ruled(RuleVerdict::Refuse, |_| {}));
    assert_eq!((bench.run(1..3), letter(bench.pass(&sample::arp(1)))), ("rr".into(), 'r'));
    assert!(bench.streams().is_empty(), "what is refused proves nothing");
    assert_eq!(letter(bench.pass(&sample::rarp())), 'b', "the plane's own announcement passes");
}

/// Nobody pays for rules that say nothing of a frame, or what is decided anyway.
#[test]
fn the_short_way_stays_open_unless_a_rule_wants_something_else() {
    let [rtp, tcp] = [sample::udp(40000, 5004, &sample::rtp(9, 7)), sample::tcp(40000, 443, b"x")];
    let elsewhere = |rule: &mut Rule| rule.sport = Some(1..=39999);
    let everywhere = |_: &mut Rule| {};
    type Change = fn(&mut Rule);
    let cases: [(RuleVerdict, Change, [bool; 2], &str); 6] = [
        (RuleVerdict::Bypass, everywhere, [true, false], "bb"),
        (RuleVerdict::Hold, everywhere, [false, true], "hh"),
        (RuleVerdict::Refuse, everywhere, [false, false], "rr"),
        (RuleVerdict::Bypass, elsewhere, [true, true], "bh"),
        (RuleVerdict::Hold, elsewhere, [true, true], "bh"),
        (RuleVerdict::Refuse, elsewhere, [true, true], "bh"),
    ];
    for (verdict, change, short, verdicts) in cases {
        let mut bench = Bench::new(realtime());
        bench.run(1..9);
        bench.policy(ruled(verdict, change));
        let ahead =
            |frame: &[u8]| bench.classifier.lookout().unwrap().look::<true>(frame, frame.len() as u32);
        let ways = [matches!(ahead(&rtp), Ahead::Rtp(_)), matches!(ahead(&tcp), Ahead::Tcp)];
        assert_eq!(ways, short, "{verdict} {verdicts}");
        let said: String = [&rtp, &tcp].iter().map(|frame| letter(bench.pass(frame))).collect();
        assert_eq!(said, verdicts, "{verdict}");
    }
}

#[test]
fn later_fragments_go_the_way_of_their_first() {
    let parts = |sequence: u16, id: u8| {
        let udp = sample::datagram(40000, 5004, &sample::rtp(sequence, 7));
        [(0x2000, 0..96), (0x200c, 96..136), (0x0011, 136..180)].map(|(field, bytes)| {
            let mut frame = sample::ipv4(17, &[], field, &udp[bytes]);
            frame[19] = id;
            frame
        })
    };
    let pass = |bench: &mut Bench, sequence, id| -> String {
        parts(sequence, id).iter().map(|frame| letter(bench.pass(frame))).collect()
    };
    let mut bench = Bench::new(realtime());
    assert_eq!(
        (pass(&mut bench, 1, 1), pass(&mut bench, 2, 2), pass(&mut bench, 3, 3)),
        ("hhh".into(), "hhh".into(), "hhh".into())
    );
    assert_eq!(bench.run(1..3), "pp", "fragments proved nothing");
    assert_eq!(
        (pass(&mut bench, 3, 3), bench.run([3])),
        ("hhh".into(), "P".into()),
        "nor do they go on with a run"
    );
    assert_eq!(pass(&mut bench, 4, 4), "bbb");
    let [first, second, third] = parts(5, 5);
    assert_eq!(letter(bench.pass(&third)), 'h', "before its first");
    assert_eq!(letter(bench.pass(&first)), 'b');
    bench.classifier.epoch_closed();
    assert_eq!(letter(bench.pass(&second)), 'h', "in the next epoch");
    let [first, second, _] = parts(6, 6);
    assert_eq!(letter(bench.pass(&first)), 'b');
    bench.policy(PolicyName::HoldAll);
    assert_eq!(letter(bench.pass(&second)), 'h', "under another policy");
    bench.policy(PolicyName::NonTcp);
    assert_eq!(pass(&mut bench, 9, 9), "bbb");
    let veiled = sample::ipv6(44, 64, &[60, 0, 0, 8, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(letter(bench.pass(&veiled)), 'h', "may be TCP behind an extension header");
    let tcp = sample::ipv4(6, &[], 0x0008, &[1; 64]);
    assert_eq!(letter(bench.pass(&tcp)), 'h');
    bench.policy(ruled(RuleVerdict::Refuse, |rule| rule.sport = Some(40000..=40000)));
    assert_eq!(pass(&mut bench, 10, 10), "rrr");
}

#[test]
fn headers_in_another_segment_are_held() {
    let frame = sample::udp(40000, 5004, &sample::rtp(1, 7));
    for cut in 0..frame.len() {
        let mut bench = Bench::new(realtime());
        let chain = Chain(vec![frame[..cut].to_vec(), frame[cut..].to_vec()]);
        let decision = bench.classifier.classify(&chain, 1);
        assert_eq!(letter(decision.verdict), if cut < 42 + 12 { 'h' } else { 'p' }, "cut at {cut}");
    }
}

/// RTP with three tags, IPv6 extension headers, IPv4 options: recognised all the same.
#[test]
fn media_is_recognised_behind_tags_options_and_extensions() {
    let mut bench = Bench::new(realtime());
    let mut judge =
        |make: &dyn Fn(u16) -> Vec<u8>| -> String { (1..5).map(|n| letter(bench.pass(&make(n)))).collect() };
    assert_eq!(
        judge(&|n| sample::tagged(&sample::udp(40000, 5004, &sample::rtp(n, 1)), &[0x88a8, 0x8100, 0x8100])),
        "ppPb"
    );
    assert_eq!(judge(&|n| sample::udp6(40000, 5004, &sample::rtp(n, 2))), "ppPb");
    assert_eq!(
        judge(&|n| sample::ipv4(17, &[0x94, 4, 0, 0], 0, &sample::datagram(40000, 5004, &sample::rtp(n, 3)))),
        "ppPb"
    );
    assert_eq!(
        judge(&|n| {
            let udp = sample::datagram(40000, 5004, &sample::rtp(n, 4));
            sample::ipv6(60, 64, &[&[17, 0, 1, 4, 0, 0, 0, 0], &udp[..]].concat())
        }),
        "ppPb"
    );
}

mod table;
