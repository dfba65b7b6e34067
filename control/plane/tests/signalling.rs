//! What a guest's SIP says is learned by its lanes: media leaves from its first packet on, until the call ends.

mod rig;

use rig::{Rig, within};
use serde_json::json;
use std::time::Duration;

const GUEST: [u8; 4] = [10, 0, 0, 2];
const PEER: [u8; 4] = [10, 0, 0, 9];

/// The sum of RFC 1071 over what may be odd in length.
fn sum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 =
        bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | two.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn ip(src: [u8; 4], dst: [u8; 4], fragment: u16, body: &[u8]) -> Vec<u8> {
    packet(17, src, dst, fragment, body)
}

fn packet(protocol: u8, src: [u8; 4], dst: [u8; 4], fragment: u16, body: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + body.len() as u16).to_be_bytes());
    header.extend([0, 7]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend([src, dst].concat());
    let check = sum(&header);
    header[10..12].copy_from_slice(&check);
    let ethernet = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0];
    [&ethernet[..], &header, body].concat()
}

/// A datagram's bytes behind the IP header.
fn udp(src: [u8; 4], dst: [u8; 4], ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    let mut udp = [ports[0].to_be_bytes(), ports[1].to_be_bytes(), length, [0; 2]].concat();
    udp.extend(payload);
    let check = sum(&[&src[..], &dst, &[0, 17], &length, &udp].concat());
    udp[6..8].copy_from_slice(&check);
    udp
}

/// A frame from the guest with a plain TCP segment.
fn tcp(ports: [u16; 2], sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut tcp = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(payload);
    let length = (tcp.len() as u16).to_be_bytes();
    let check = sum(&[&GUEST[..], &PEER, &[0, 6], &length, &tcp].concat());
    tcp[16..18].copy_from_slice(&check);
    packet(6, GUEST, PEER, 0, &tcp)
}

fn sip(start: &str, tags: [&str; 2], cseq: &str, body: &str) -> Vec<u8> {
    format!(
        "{start}\r\nVia: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK1\r\nFrom: <sip:a@x>;tag={}\r\nTo: <sip:b@x>{}\r\n\
         Call-ID: 1@x\r\nCSeq: {cseq}\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        tags[0],
        tags[1],
        body.len()
    )
    .into_bytes()
}

fn invite() -> Vec<u8> {
    invite_to("RTP/AVP")
}

fn invite_to(profile: &str) -> Vec<u8> {
    let sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 10.0.0.2\r\ns=-\r\nc=IN IP4 10.0.0.2\r\nt=0 0\r\nm=audio 4000 {profile} 8\r\n"
    );
    sip("INVITE sip:b@x SIP/2.0", ["g", ""], "1 INVITE", &sdp)
}

fn from_guest(rig: &Rig, lane: usize, frame: Vec<u8>) {
    rig.guest_ends[lane].to_lane.lock().expect("sound").push_back(frame);
}

fn to_guest(rig: &Rig, payload: &[u8]) {
    let frame = ip(PEER, GUEST, 0, &udp(PEER, GUEST, [5060, 5060], payload));
    rig.wires[0].to_lane.lock().expect("sound").push_back(frame);
    let given = || !rig.guest_ends[0].from_lane.lock().expect("sound").is_empty();
    assert!(within(Duration::from_secs(5), given), "the guest gets it");
}

/// Sends one RTP packet of a new source; true when it leaves at once.
fn leaves(rig: &Rig, lane: usize, ssrc: u8) -> bool {
    let mut rtp = vec![0x80, 8, 0, 1, 0, 0, 0, 160, 0, 0, 0, ssrc];
    rtp.resize(172, 0xd5);
    let seen = || rig.wires[lane].from_lane.lock().expect("sound").len();
    let before = seen();
    from_guest(rig, lane, ip(GUEST, PEER, 0, &udp(GUEST, PEER, [4000, 7000], &rtp)));
    within(Duration::from_millis(200), || seen() > before)
}

/// Puts a datagram from the server to the guest on the wire of this lane, and waits until the guest has it.
fn answers(rig: &Rig, lane: usize, payload: &[u8]) {
    let frame = ip(PEER, GUEST, 0, &udp(PEER, GUEST, [3478, 4000], payload));
    let given = || rig.guest_ends[lane].from_lane.lock().expect("sound").len();
    let before = given();
    rig.wires[lane].to_lane.lock().expect("sound").push_back(frame);
    assert!(within(Duration::from_secs(5), || given() > before), "the guest gets it");
}

/// A STUN message of this type and transaction.
fn stun(kind: u16, transaction: u8, attributes: &[u8]) -> Vec<u8> {
    let len = (attributes.len() as u16).to_be_bytes();
    [&kind.to_be_bytes()[..], &len, &[0x21, 0x12, 0xa4, 0x42], &[transaction; 12], attributes].concat()
}

/// Sends RTP number `n` through a channel; true when it leaves at once, and whatever waited before it.
fn relays(rig: &Rig, lane: usize, channel: u8, n: u8) -> bool {
    let mut rtp = vec![0x40, channel, 0, 172, 0x80, 8, 0, n, 0, 0, 0, 160, 0, 0, 0, 7];
    rtp.resize(4 + 172, 0xd5);
    let seen = || rig.wires[lane].from_lane.lock().expect("sound").len();
    let before = seen();
    from_guest(rig, lane, ip(GUEST, PEER, 0, &udp(GUEST, PEER, [4000, 3478], &rtp)));
    within(Duration::from_millis(200), || seen() > before)
}

/// Waits until the lane was taught so often.
fn taught(rig: &Rig, lane: usize, lessons: u64) -> bool {
    let mut client = rig.client();
    within(Duration::from_secs(5), || {
        let stats = client.grant("stats", json!({}));
        stats["guests"][0]["lanes"][lane]["signalling"]["lessons"].as_u64() == Some(lessons)
    })
}

#[test]
fn the_first_packet_of_a_call_leaves_at_once_until_the_other_side_hangs_up() {
    let rig = Rig::one("mode = \"protected\"");
    assert!(!leaves(&rig, 0, 1), "nothing is known of the port");
    from_guest(&rig, 0, ip(GUEST, PEER, 0, &udp(GUEST, PEER, [5060, 5060], &invite())));
    assert!(taught(&rig, 0, 1));
    assert!(leaves(&rig, 0, 2));
    to_guest(&rig, &sip("BYE sip:a@x SIP/2.0", ["p", ";tag=g"], "1 BYE", ""));
    assert!(taught(&rig, 0, 2));
    assert!(!leaves(&rig, 0, 3), "the call is over");
}

/// Segments are read the short way unless one of their ports is one of signalling, whichever it is.
#[test]
fn an_invite_by_tcp_is_heard_to_and_from_a_signalling_port_and_no_other() {
    for (ports, hears) in [([40000, 5060], true), ([5060, 40000], true), ([40000, 40001], false)] {
        let rig = Rig::one("mode = \"protected\"");
        let invite = invite();
        let (first, rest) = invite.split_at(100);
        from_guest(&rig, 0, tcp(ports, 1, first));
        from_guest(&rig, 0, tcp(ports, 101, rest));
        assert_eq!(hears && taught(&rig, 0, 1), hears);
        assert_eq!(leaves(&rig, 0, 1), hears, "{ports:?}");
    }
}

#[test]
fn a_standby_is_told_what_sip_says_of_a_streams_keys() {
    for (profile, secure) in [("RTP/AVP", false), ("RTP/SAVP", true)] {
        let rig = Rig::one("mode = \"protected\"");
        from_guest(&rig, 0, ip(GUEST, PEER, 0, &udp(GUEST, PEER, [5060, 5060], &invite_to(profile))));
        assert!(taught(&rig, 0, 1) && leaves(&rig, 0, 2));
        let told = rig.client().grant("guard", json!({}));
        assert_eq!(
            (&told["streams"][0][3], &told["streams"][0][6]),
            (&json!(2), &json!(secure)),
            "{profile}"
        );
        to_guest(&rig, &sip("BYE sip:a@x SIP/2.0", ["p", ";tag=g"], "1 BYE", ""));
        assert!(taught(&rig, 0, 2));
        let told = rig.client().grant("guard", json!({}));
        assert!(told["streams"][0][6].is_null(), "{profile}: the call is over");
    }
}

#[test]
fn a_fragmented_invite_teaches_every_lane_of_the_guest() {
    let second =
        "[[guest.lane]]\nguest_port = \"net_vhost1,iface=/r/1\"\nwire_port = \"net_null1\"\nlcore = 1\n";
    let rig = Rig::new(&format!("{}{second}", rig::guest("pbx", 0, "mode = \"protected\"")), &[]);
    let whole = udp(GUEST, PEER, [5060, 5060], &invite());
    let (first, last) = whole.split_at(208);
    from_guest(&rig, 0, ip(GUEST, PEER, 208 / 8, last));
    from_guest(&rig, 0, ip(GUEST, PEER, 0x2000, first));
    for lane in [0, 1] {
        assert!(taught(&rig, lane, 1));
        assert!(leaves(&rig, lane, 1), "lane {lane}");
    }
}

#[test]
fn other_ports_the_wire_and_an_empty_list_teach_nothing() {
    let rig = Rig::one("mode = \"protected\"\nsip_ports = [5080]");
    from_guest(&rig, 0, ip(GUEST, PEER, 0, &udp(GUEST, PEER, [5060, 5060], &invite())));
    assert!(!leaves(&rig, 0, 1));
    from_guest(&rig, 0, ip(GUEST, PEER, 0, &udp(GUEST, PEER, [40000, 5080], &invite())));
    assert!(taught(&rig, 0, 1) && leaves(&rig, 0, 2));
    let rig = Rig::one("mode = \"protected\"\nsip_ports = []");
    from_guest(&rig, 0, ip(GUEST, PEER, 0, &udp(GUEST, PEER, [5060, 5060], &invite())));
    assert!(!leaves(&rig, 0, 1));
    let rig = Rig::one("mode = \"protected\"");
    to_guest(&rig, &invite());
    assert!(!leaves(&rig, 0, 1), "only the guest names its ports");
}

#[test]
fn a_frame_of_signalling_that_waits_is_told_once_in_each_epoch() {
    let rig = Rig::one("mode = \"protected\"");
    let mut client = rig.client();
    client.grant("subscribe", json!({"events": ["signalling", "closed"]}));
    let speak = || from_guest(&rig, 0, ip(GUEST, PEER, 0, &udp(GUEST, PEER, [5060, 5060], &invite())));
    let waits = |count: u64| {
        let mut client = rig.client();
        let seen = within(Duration::from_secs(5), || client.grant("pulse", json!({}))["signalling"] == count);
        assert!(seen, "{}", client.grant("pulse", json!({})));
        std::thread::sleep(Duration::from_millis(20));
    };
    speak();
    waits(1);
    speak();
    waits(2);
    // Neither what comes to the guest nor other frames that wait are signalling of the guest.
    to_guest(&rig, &invite());
    rig.send(0, 7);
    waits(2);
    client.close();
    speak();
    waits(3);
    assert_eq!(client.grant("pulse", json!({}))["signalled_epoch"], 2);
    assert_eq!(client.event("signalling"), json!({"guest": "pbx", "epoch": 1}));
    let next = client.events.pop_front().expect("more");
    assert_eq!(next["event"], "closed", "once in an epoch");
    assert_eq!(client.event("signalling"), json!({"guest": "pbx", "epoch": 2}));
    assert!(client.events.is_empty());
}

#[test]
fn what_a_bound_turn_channel_carries_leaves_once_it_has_proven_itself_until_it_is_let_go() {
    let second =
        "[[guest.lane]]\nguest_port = \"net_vhost1,iface=/r/1\"\nwire_port = \"net_null1\"\nlcore = 1\n";
    let config = rig::guest("pbx", 0, "mode = \"protected\"\nsip_ports = []");
    let rig = Rig::new(&format!("{config}{second}"), &[]);
    let number = [0, 12, 0, 4, 0x40, 1, 0, 0, 0, 18, 0, 8, 0, 1, 1, 2, 3, 4, 5, 6];
    let asks =
        |payload: &[u8]| from_guest(&rig, 0, ip(GUEST, PEER, 0, &udp(GUEST, PEER, [4000, 3478], payload)));
    answers(&rig, 0, &stun(0x0109, 1, &[]));
    // Of what is heard in one look the questions come first, because lanes are read one after the other: an answer is
    // early only when it was read in a look of its own.
    std::thread::sleep(Duration::from_millis(500));
    asks(&stun(0x0009, 1, &number));
    // The first is refused, for want of a password.
    answers(&rig, 0, &stun(0x0119, 1, &[0, 9, 0, 4, 0, 0, 4, 1]));
    asks(&stun(0x0009, 2, &number));
    answers(&rig, 1, &stun(0x0109, 3, &[]));
    for n in 1..5 {
        assert!(!relays(&rig, 0, 1, n), "nothing is learned from these");
    }
    // The answer takes another lane than the question.
    answers(&rig, 1, &stun(0x0109, 2, &[]));
    for lane in [0, 1] {
        assert!(taught(&rig, lane, 1), "lane {lane}");
        assert!(!relays(&rig, lane, 1, 5) && !relays(&rig, lane, 1, 6));
        assert!(relays(&rig, lane, 1, 7) && relays(&rig, lane, 1, 8), "lane {lane}");
        assert!(!relays(&rig, lane, 2, 9), "another channel");
    }
    asks(&stun(0x0004, 9, &[0, 13, 0, 4, 0, 0, 0, 0]));
    assert!(taught(&rig, 0, 2));
    assert!(!relays(&rig, 0, 1, 9), "let go");
    let rig = Rig::one("mode = \"protected\"\nlearn_turn = false");
    from_guest(&rig, 0, ip(GUEST, PEER, 0, &udp(GUEST, PEER, [4000, 3478], &stun(0x0009, 1, &number))));
    answers(&rig, 0, &stun(0x0109, 1, &[]));
    assert!((1..6).all(|n| !relays(&rig, 0, 1, n)));
}
