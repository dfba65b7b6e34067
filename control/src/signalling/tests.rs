use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use tidegate_dataplane::wire::display_address;

const GUEST: &str = "10.0.0.2";
const PEER: &str = "10.0.0.9";
const HOUR: u64 = 3_600_000_000_000;
/// Ports stay so long after a refusal.
const LINGERING: u64 = 32_000_000_000;

/// A message with the usual headers. `from` and `to` are tags.
fn sip(start: &str, from: &str, to: &str, cseq: &str, body: &str) -> String {
    let start = match start.parse::<u16>() {
        Ok(code) => format!("SIP/2.0 {code} Text"),
        Err(_) => format!("{start} sip:bob@example.org SIP/2.0"),
    };
    let tag = |tag: &str| if tag.is_empty() { String::new() } else { format!(";tag={tag}") };
    let (from, to, length) = (tag(from), tag(to), body.len());
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    format!(
        "{start}\r\nVia: SIP/2.0/UDP 10.0.0.2:5060;branch=z9hG4bKx\r\nFrom: <sip:a@example.org>{from}\r\n\
         To: <sip:b@example.org>{to}\r\nCall-ID: call@example.org\r\nCSeq: {cseq}\r\n{kind}Content-Length: {length}\r\n\r\n{body}"
    )
}

fn sdp_at(address: &str, media: &str) -> String {
    let version = if address.contains(':') { 6 } else { 4 };
    format!(
        "v=0\r\no=- 1 1 IN IP{version} {address}\r\ns=-\r\nc=IN IP{version} {address}\r\nt=0 0\r\n{media}\r\n"
    )
}

fn sdp(port: u16) -> String {
    sdp_at(GUEST, &format!("m=audio {port} RTP/AVP 8"))
}

fn fax(port: u16) -> String {
    sdp_at(GUEST, &format!("m=image {port} udptl t38"))
}

struct Bench {
    learner: Learner,
    open: BTreeSet<Lesson>,
    now: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench { learner: Learner::new(&[5060], true), open: BTreeSet::new(), now: 0 }
    }

    /// Time passes; somebody says something of no call.
    fn later(&mut self, ns: u64) {
        self.now += ns;
        self.gets(&sip("OPTIONS", "x", "", "1 OPTIONS", "").replace("call@", "no-call@"));
    }

    fn take(&mut self, lessons: Vec<Lesson>) {
        for lesson in lessons {
            match lesson.open {
                true => self.open.insert(lesson),
                false => self.open.remove(&Lesson { open: true, ..lesson }),
            };
        }
    }

    fn hear(&mut self, src: &str, dst: &str, from_guest: bool, transport: Transport, bytes: &[u8]) {
        self.now += 1_000_000;
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address and a port");
        let piece = Piece { src: at(src), dst: at(dst), from_guest, transport, bytes };
        let mut lessons = Vec::new();
        self.learner.hear(&piece, self.now, &mut lessons);
        self.take(lessons);
    }

    fn sends(&mut self, text: &str) -> &mut Self {
        self.hear("10.0.0.2:5060", "10.0.0.9:5060", true, Transport::Udp, text.as_bytes());
        self
    }

    fn gets(&mut self, text: &str) -> &mut Self {
        self.hear("10.0.0.9:5060", "10.0.0.2:5060", false, Transport::Udp, text.as_bytes());
        self
    }

    /// What is open: ports, a fax with an `f` behind it.
    fn open(&self) -> String {
        let ports = self.open.iter().filter(|lesson| !matches!(lesson.what, Learned::Secured(_)));
        let words = ports.map(|lesson| match lesson.what {
            Learned::Rtp => lesson.port.to_string(),
            Learned::Rtcp { .. } => format!("{}c", lesson.port),
            Learned::Udptl => format!("{}f", lesson.port),
            Learned::Channel { .. } | Learned::Secured(_) => panic!("no port"),
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

/// The guest calls and is answered.
fn call() -> Bench {
    let mut bench = Bench::new();
    bench.sends(&sip("INVITE", "g", "", "1 INVITE", &sdp(4000)));
    bench.gets(&sip("200", "g", "p", "1 INVITE", &sdp_at(PEER, "m=audio 7000 RTP/AVP 8")));
    bench.sends(&sip("ACK", "g", "p", "1 ACK", ""));
    bench
}

#[test]
fn a_call_opens_with_the_offer_of_the_guest_and_ends_with_bye_from_either_side() {
    for from_guest in [true, false] {
        let mut bench = call();
        assert_eq!(bench.open(), "4000");
        match from_guest {
            true => bench.sends(&sip("BYE", "g", "p", "2 BYE", "")),
            false => bench.gets(&sip("BYE", "p", "g", "1 BYE", "")),
        };
        assert_eq!(bench.open(), "");
        assert_eq!(bench.learner.calls.counts(), (0, 0));
    }
    let lesson = *call().open.first().expect("open");
    assert_eq!(display_address(lesson.address).to_string(), GUEST);
}

#[test]
fn a_call_to_the_guest_opens_with_its_early_media_and_ends_when_it_is_cancelled() {
    let mut bench = Bench::new();
    bench.gets(&sip("INVITE", "p", "", "1 INVITE", &sdp_at(PEER, "m=audio 7000 RTP/AVP 8")));
    assert_eq!(bench.open(), "", "what comes to the guest opens nothing");
    bench.sends(&sip("183", "p", "g", "1 INVITE", &sdp(4000)));
    assert_eq!(bench.open(), "4000");
    bench.gets(&sip("CANCEL", "p", "", "1 CANCEL", ""));
    bench.sends(&sip("200", "p", "g", "1 CANCEL", ""));
    assert_eq!(bench.open(), "4000");
    bench.sends(&sip("487", "p", "g", "1 INVITE", ""));
    bench.later(LINGERING);
    assert_eq!(bench.open(), "");
}

#[test]
fn offers_in_prack_update_and_late_answers_in_ack_count() {
    let mut bench = Bench::new();
    bench.sends(&sip("INVITE", "g", "", "1 INVITE", &sdp(4000)));
    bench.sends(&sip("PRACK", "g", "p", "2 PRACK", &sdp(4002)));
    bench.gets(&sip("200", "g", "p", "2 PRACK", ""));
    bench.sends(&sip("UPDATE", "g", "p", "3 UPDATE", &sdp(4004)));
    assert_eq!(bench.open(), "4002 4004", "an offer stands beside what was agreed");
    bench.gets(&sip("200", "g", "p", "3 UPDATE", ""));
    assert_eq!(bench.open(), "4004");
    bench.gets(&sip("200", "g", "p", "1 INVITE", ""));
    assert_eq!(bench.open(), "4004", "the first offer is over");
    let mut late = Bench::new();
    late.sends(&sip("INVITE", "g", "", "1 INVITE", ""));
    late.gets(&sip("200", "g", "p", "1 INVITE", &sdp_at(PEER, "m=audio 7000 RTP/AVP 8")));
    assert_eq!(late.open(), "");
    late.sends(&sip("ACK", "g", "p", "1 ACK", &sdp(4006)));
    assert_eq!(late.open(), "4006");
}

#[test]
fn a_new_offer_replaces_when_it_is_accepted_and_goes_when_it_is_refused() {
    let mut bench = call();
    bench.sends(&sip("INVITE", "g", "p", "2 INVITE", &fax(4000)));
    assert_eq!(bench.open(), "4000 4000f", "both, until the answer");
    bench.gets(&sip("488", "g", "p", "2 INVITE", ""));
    assert_eq!(bench.open(), "4000 4000f", "for what is still played");
    bench.later(LINGERING);
    assert_eq!(bench.open(), "4000");
    bench.sends(&sip("INVITE", "g", "p", "3 INVITE", &fax(4010)));
    bench.gets(&sip("200", "g", "p", "3 INVITE", ""));
    assert_eq!(bench.open(), "4010f");
    bench.sends(&sip("INVITE", "g", "p", "3 INVITE", &fax(4010)));
    assert_eq!(bench.open(), "4010f", "an old one again");
    bench.gets(&sip("INVITE", "p", "g", "1 INVITE", ""));
    bench.sends(&sip("200", "p", "g", "1 INVITE", &sdp(4020)));
    assert_eq!(bench.open(), "4020", "the guest answers with another port");
    let mut hold = call();
    hold.sends(&sip("INVITE", "g", "p", "2 INVITE", &sdp_at(GUEST, "m=audio 4000 RTP/AVP 8\r\na=inactive")));
    hold.gets(&sip("200", "g", "p", "2 INVITE", ""));
    assert_eq!(hold.open(), "4000", "hold keeps it open");
    hold.sends(&sip("INVITE", "g", "p", "3 INVITE", &sdp(0)));
    hold.gets(&sip("200", "g", "p", "3 INVITE", ""));
    assert_eq!(hold.open(), "", "port 0 closes");
}

#[test]
fn with_forking_the_call_lives_as_long_as_one_of_its_dialogs() {
    let mut bench = call();
    bench.gets(&sip("200", "g", "q", "1 INVITE", &sdp_at(PEER, "m=audio 7002 RTP/AVP 8")));
    bench.sends(&sip("BYE", "g", "q", "2 BYE", ""));
    assert_eq!(bench.open(), "4000");
    bench.gets(&sip("BYE", "p", "g", "1 BYE", ""));
    assert_eq!(bench.open(), "");
    // The guest itself answers with several tags, each with its own description.
    let mut bench = Bench::new();
    bench.sends(&sip("183", "p", "g1", "1 INVITE", &sdp(4000)));
    bench.sends(&sip("183", "p", "g2", "1 INVITE", &sdp(4002)));
    assert_eq!(bench.open(), "4000 4002");
    bench.sends(&sip("200", "p", "g2", "1 INVITE", &sdp(4002)));
    bench.gets(&sip("BYE", "p", "g2", "2 BYE", ""));
    assert_eq!(bench.open(), "4000");
}

#[test]
fn a_refused_invite_closes_and_one_with_credentials_opens_again() {
    let mut bench = Bench::new();
    bench.sends(&sip("INVITE", "g", "", "1 INVITE", &sdp(4000)));
    bench.gets(&sip("407", "g", "x", "1 INVITE", ""));
    assert_eq!(bench.open(), "4000", "its announcement is still played");
    bench.later(LINGERING - 100_000_000);
    assert_eq!(bench.open(), "4000");
    bench.later(100_000_000);
    assert_eq!(bench.open(), "");
    bench.sends(&sip("INVITE", "g", "", "2 INVITE", &sdp(4000)));
    bench.gets(&sip("407", "g", "x", "1 INVITE", ""));
    bench.later(LINGERING);
    assert_eq!(bench.open(), "4000", "a late refusal of the first one");
    bench.gets(&sip("486", "g", "y", "2 INVITE", ""));
    bench.later(LINGERING);
    assert_eq!(bench.open(), "");
}

#[test]
fn retransmissions_change_nothing_and_what_two_calls_share_stays() {
    let mut bench = Bench::new();
    let invite = sip("INVITE", "g", "", "1 INVITE", &sdp(4000));
    let other = invite.replace("call@", "other@");
    for text in [&invite, &invite, &other, &invite] {
        bench.sends(text);
    }
    for _ in 0..3 {
        bench.gets(&sip("200", "g", "p", "1 INVITE", ""));
    }
    assert_eq!(bench.open(), "4000");
    bench.gets(&sip("BYE", "p", "g", "1 BYE", "")).gets(&sip("BYE", "p", "g", "1 BYE", ""));
    assert_eq!(bench.open(), "4000", "the other call has it");
    bench.gets(&other.replace("INVITE sip:bob@example.org SIP/2.0", "SIP/2.0 486 Busy"));
    bench.later(LINGERING);
    assert_eq!(bench.open(), "");
}

#[test]
fn ipv6_and_tcp_are_the_same() {
    let mut bench = Bench::new();
    let body = sdp_at("2001:db8::2", "m=audio 4000 UDP/TLS/RTP/SAVPF 8");
    let invite = sip("INVITE", "g", "", "1 INVITE", &body);
    let (a, b) = invite.split_at(200);
    let (src, dst) = ("[2001:db8::2]:45000", "[2001:db8::9]:5060");
    for (sequence, syn, text) in [(99, true, ""), (300, false, b), (100, false, a)] {
        bench.hear(src, dst, true, Transport::Tcp { sequence, syn, end: false }, text.as_bytes());
    }
    assert_eq!(bench.open(), "4000");
    let bye = sip("BYE", "p", "g", "1 BYE", "");
    bench.hear(dst, src, false, Transport::Tcp { sequence: 7, syn: false, end: false }, bye.as_bytes());
    assert_eq!(bench.open(), "");
}

#[test]
fn what_merely_looks_like_a_description_opens_nothing() {
    let invite = sip("INVITE", "g", "", "1 INVITE", &sdp(4000));
    for (what, text) in [
        ("HTTP", invite.replace("INVITE sip:bob@example.org SIP/2.0", "POST /x HTTP/1.1")),
        ("naked", sdp(4000)),
        ("plain text", invite.replace("application/sdp", "text/plain")),
        ("no call", invite.replace("Call-ID", "X-Call-ID")),
        ("a message", invite.replace("INVITE", "MESSAGE")),
        ("the peer's address", sip("INVITE", "g", "", "1 INVITE", &sdp_at(PEER, "m=audio 4000 RTP/AVP 8"))),
        ("a low port", sip("INVITE", "g", "", "1 INVITE", &sdp(1023))),
        ("cut", invite[..invite.len() - 4].to_owned()),
        ("within a text", format!("MESSAGE sip:x SIP/2.0\r\nContent-Type: text/plain\r\n\r\n{invite}")),
    ] {
        let mut bench = Bench::new();
        bench.sends(&text);
        assert_eq!(bench.open(), "", "{what}");
    }
    let mut bench = Bench::new();
    bench.gets(&invite);
    assert_eq!(bench.open(), "", "sent by somebody else");
    bench.hear("10.0.0.9:5060", GUEST_SIP, false, Transport::Udp, invite.as_bytes());
    bench.hear("10.0.0.2:5070", "10.0.0.9:5080", true, Transport::Udp, invite.as_bytes());
    assert_eq!(bench.open(), "", "another port");
    bench.hear("10.0.0.3:5060", "10.0.0.9:5060", true, Transport::Udp, invite.as_bytes());
    assert_eq!(bench.open(), "", "the description names an address that the guest has not used");
    bench.sends(&invite);
    assert_eq!(bench.open(), "4000");
}

const GUEST_SIP: &str = "10.0.0.2:5060";

#[test]
fn strangers_end_no_call() {
    let mut bench = call();
    bench.gets(&sip("BYE", "x", "y", "1 BYE", "")).gets(&sip("486", "x", "y", "9 INVITE", ""));
    bench.gets(&sip("500", "g", "x", "9 INVITE", "")).gets(&sip("BYE", "x", "", "1 BYE", ""));
    assert_eq!(bench.open(), "4000");
}

#[test]
fn everything_is_bounded_and_ends_after_an_hour() {
    let mut bench = Bench::new();
    for n in 0..20_000u32 {
        let invite = sip("INVITE", "g", "", "1 INVITE", &sdp(2000 + (n % 60_000) as u16));
        bench.sends(&invite.replace("call@", &format!("{n}@")));
    }
    let (calls, uses) = bench.learner.calls.counts();
    assert!((calls, bench.open.len()) == (16_384, uses), "{calls} {uses}");
    let mut bench = call();
    for n in 0..500 {
        bench.sends(&sip("183", "p", &format!("t{n}"), "1 INVITE", &sdp(10_000 + n)));
        bench.sends(&sip("UPDATE", "u", "p", &format!("{} UPDATE", n + 1), &sdp(20_000 + n)));
    }
    assert!(bench.open.len() < 8 * 5, "{}", bench.open.len());
    bench.now += HOUR - 100_000_000;
    bench.gets("");
    assert!(!bench.open.is_empty());
    bench.now += 100_000_000;
    bench.gets("");
    assert_eq!((bench.open().as_str(), bench.learner.calls.counts()), ("", (0, 0)));
}

/// Pieces of SIP and SDP that a parser may stumble over.
fn scrap() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "INVITE sip:",
        "SIP/2.0",
        " 200 OK",
        "\r\n",
        "\r\n\r\n",
        "From: <sip:a@b>;tag=",
        "To: ",
        "Call-ID: ",
        "CSeq: 1 INVITE",
        "Content-Type: application/sdp",
        "Content-Type: multipart/mixed;boundary=\"",
        "--",
        "Content-Length: ",
        "18446744073709551616",
        "v=0\r\n",
        "m=audio 4000/65535 RTP/AVP 8",
        "c=IN IP4 ",
        "10.0.0.2",
        "a=candidate:1 1 UDP ",
        "a=rtcp:",
        "[",
        "]",
        "<",
        ">",
        "\"",
        ";",
        "=",
        "@",
        ":",
        "é",
        "\u{10ffff}",
        "%",
        "%f",
        " ",
        "\t",
        "0",
        "-1",
        "\n ",
        "tel:",
        ",",
        "?",
    ]);
    prop_oneof![
        3 => prop::collection::vec(words, 0..40).prop_map(|words| words.concat().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever comes, nothing panics, and a message with something else in any of its places does not either.
    #[test]
    fn no_bytes_do_harm(scraps in prop::collection::vec((scrap(), any::<prop::sample::Index>(), 0usize..60), 1..6), tcp: bool) {
        let parts = sip("INVITE", "g", "", "1 INVITE", &sdp_at(GUEST,
            "m=audio 4000 RTP/AVP 8\r\na=rtcp:5000 IN IP4 10.0.0.2\r\na=candidate:1 1 UDP 1 10.0.0.2 6000 typ host"));
        let mut whole = parts.replace("Content-Length", "X-Length").into_bytes();
        for (scrap, at, gone) in &scraps {
            let at = at.index(whole.len());
            let end = (at + gone).min(whole.len());
            whole.splice(at..end, scrap.iter().copied());
        }
        let mut bench = Bench::new();
        let transport = if tcp { Transport::Tcp { sequence: 5, syn: false, end: false } } else { Transport::Udp };
        for bytes in [&whole, &scraps[0].0] {
            bench.hear(GUEST_SIP, "10.0.0.9:5060", true, transport, bytes);
        }
        let mut lessons = Vec::new();
        bench.learner.hear_frame(&scraps[0].0, true, 1, &mut lessons);
        for lesson in &bench.open {
            prop_assert!(lesson.port >= 1024);
            prop_assert_eq!(display_address(lesson.address).to_string(), GUEST);
        }
    }
}
