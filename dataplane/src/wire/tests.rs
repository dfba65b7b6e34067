use super::*;
use proptest::prelude::*;

fn parse(frame: &[u8]) -> Headers {
    Headers::parse(frame, frame.len() as u32)
}

/// One of each shape that the parser knows.
pub(crate) fn menagerie() -> Vec<Vec<u8>> {
    let udp = sample::datagram(40000, 5004, &sample::rtp(1, 2));
    let chain = |first: &[u8], next: u8| {
        let mut body = first.to_vec();
        body[0] = next;
        body.extend(&udp);
        body
    };
    let mut routed = vec![17, 2, 2, 1, 0, 0, 0, 0];
    routed.extend([9; 16]);
    routed.extend(&udp);
    vec![
        sample::udp(40000, 5004, &sample::rtp(1, 2)),
        sample::udp6(40000, 5004, &sample::rtp(1, 2)),
        sample::tcp(443, 50000, b"hello"),
        sample::arp(1),
        sample::rarp(),
        sample::neighbour(135, 255, &[1, 1, 2, 0, 0, 0, 0, 1]),
        sample::tagged(&sample::udp(40000, 5004, b"x"), &[0x88a8, 0x8100, 0x8100]),
        sample::ipv4(17, &[7, 4, 0, 0, 1, 1, 1, 1], 0, &udp),
        sample::ipv4(17, &[], 0x2000, &udp[..64]),
        sample::ipv4(17, &[], 0x0008, &udp[64..]),
        sample::ipv6(0, 64, &chain(&[0; 8], 17)),
        sample::ipv6(44, 64, &chain(&[0, 0, 0, 1, 0, 0, 0, 7], 17)),
        sample::ipv6(44, 64, &chain(&[0, 0, 0, 8, 0, 0, 0, 7], 17)),
        sample::ipv6(
            51,
            64,
            &chain(&[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 17),
        ),
        sample::ipv6(43, 64, &routed),
        sample::ipv4(50, &[7, 4, 0, 0], 0, &[1; 16]),
    ]
}

#[test]
fn udp_over_ipv4_is_read_field_by_field() {
    let frame = sample::udp(40000, 5004, &sample::rtp(1, 2));
    let h = parse(&frame);
    assert_eq!((h.kind, h.version, h.protocol, h.ethertype), (Kind::Udp, 4, 17, 0x0800));
    assert_eq!((h.sport, h.dport, h.dscp, h.hop_limit), (40000, 5004, 46, 64));
    assert_eq!((h.network_at, h.transport_at, h.payload_at), (14, 34, 42));
    assert_eq!((h.payload_len, h.network_end), (172, 214));
    assert_eq!(display_address(h.src).to_string(), "10.0.0.2");
    assert_eq!(display_address(h.dst).to_string(), "10.0.0.9");
    assert!(!h.is_fragment() && !h.extended && !h.surplus && h.has_ports());
    assert_eq!(h.payload(&frame), sample::rtp(1, 2));
}

#[test]
fn ethernet_padding_is_not_payload() {
    let mut frame = sample::udp(1, 2, b"ab");
    frame.resize(60, 0xee);
    let h = parse(&frame);
    assert_eq!((h.kind, h.payload(&frame), h.surplus), (Kind::Udp, &b"ab"[..], false));
}

#[test]
fn three_tags_are_looked_through_and_a_fourth_is_not() {
    let frame = sample::udp(1, 2, b"ab");
    for tags in [&[0x8100][..], &[0x88a8, 0x8100], &[0x88a8, 0x8100, 0x8100]] {
        let h = parse(&sample::tagged(&frame, tags));
        assert_eq!((h.kind, h.tags as usize, h.vlan_id()), (Kind::Udp, tags.len(), 1));
        assert_eq!(h.payload_at as usize, 42 + 4 * tags.len());
    }
    let h = parse(&sample::tagged(&frame, &[0x8100; 4]));
    assert_eq!((h.kind, h.vlan), (Kind::Unknown, [0x2001, 0x2002, 0x2003]));
}

#[test]
fn lengths_that_claim_more_than_there_is_are_malformed() {
    let good = sample::udp(1, 2, b"abcd");
    for (at, value, why) in [
        (14, 0x55u8, "version 5"),
        (14, 0x44, "IHL 4"),
        (14, 0x4f, "IHL beyond the total length"),
        (17, 33, "IP length beyond the frame"),
        (17, 27, "IP length that cuts the UDP header"),
        (39, 13, "UDP length beyond the IP length"),
        (39, 7, "UDP length below its header"),
        (38, 1, "UDP length of 268"),
    ] {
        let mut frame = good.clone();
        frame[at] = value;
        assert_eq!(parse(&frame).kind, Kind::Malformed, "{why}");
    }
    let mut shorter = good.clone();
    shorter[39] = 10;
    let h = parse(&shorter);
    assert_eq!((h.kind, h.payload_len, h.surplus), (Kind::Udp, 2, true), "a surplus area");
    let mut tcp = sample::tcp(1, 2, b"");
    tcp[46] = 0x60;
    assert_eq!(parse(&tcp).kind, Kind::Malformed, "TCP header beyond the packet");
    tcp[46] = 0x40;
    assert_eq!(parse(&tcp).kind, Kind::Malformed, "TCP header of 16 bytes");
}

#[test]
fn fragments_keep_their_place() {
    let udp = sample::datagram(40000, 5004, &sample::rtp(1, 2));
    let first = parse(&sample::ipv4(17, &[], 0x2000, &udp[..64]));
    assert_eq!((first.kind, first.sport, first.payload_len), (Kind::Udp, 40000, 56));
    assert!(first.is_fragment() && first.more_fragments && !first.surplus);
    let later = parse(&sample::ipv4(17, &[], 0x0008, &udp[64..]));
    assert_eq!((later.kind, later.fragment_offset, later.fragment_id), (Kind::Fragment, 64, 7));
    assert_eq!((later.sport, later.protocol, later.payload_len), (0, 17, 116));
    let lying = parse(&sample::ipv4(17, &[], 0x2000, &udp));
    assert_eq!(lying.kind, Kind::Malformed, "more fragments of a datagram that is complete");
    let overlong = parse(&sample::ipv4(17, &[], 0x1fff, &udp[..64]));
    assert_eq!(overlong.kind, Kind::Malformed, "beyond 65535 bytes");
}

#[test]
fn ipv6_chains_are_followed_so_far() {
    let udp = sample::datagram(40000, 5004, b"x");
    let chain = |n: usize| {
        let mut body = Vec::new();
        for left in (0..n).rev() {
            body.extend([if left == 0 { 17 } else { 60 }, 0, 0, 0, 0, 0, 0, 0]);
        }
        body.extend(&udp);
        sample::ipv6(if n == 0 { 17 } else { 60 }, 64, &body)
    };
    for n in 0..=ipv6::MAX_CHAIN {
        let h = parse(&chain(n));
        assert_eq!((h.kind, h.sport, h.extended), (Kind::Udp, 40000, n > 0), "{n} headers");
    }
    assert_eq!(parse(&chain(ipv6::MAX_CHAIN + 1)).kind, Kind::Unknown);
    let mut atomic = vec![17, 0, 0, 0, 0, 0, 0, 7];
    atomic.extend(&udp);
    let h = parse(&sample::ipv6(44, 64, &atomic));
    assert_eq!((h.kind, h.is_fragment()), (Kind::Udp, false), "an atomic fragment is whole");
    let later = parse(&menagerie()[12]);
    assert_eq!((later.kind, later.fragment_offset, later.protocol), (Kind::Fragment, 8, 17));
    let routed = parse(&menagerie()[14]);
    assert_eq!((routed.kind, routed.final_dst_at), (Kind::Udp, 14 + 40 + 8));
    let short = [&[17, 0, 2, 1, 0, 0, 0, 0], &udp[..]].concat();
    assert_eq!(parse(&sample::ipv6(43, 64, &short)).kind, Kind::Malformed, "a route without an address");
}

#[test]
fn headers_in_another_segment_are_unknown() {
    for frame in menagerie() {
        let whole = parse(&frame);
        for cut in 0..frame.len() {
            let h = Headers::parse(&frame[..cut], frame.len() as u32);
            assert!(cut >= whole.transport_at as usize || h.kind == Kind::Unknown || whole.version == 0);
            assert!(h == whole || h.kind == Kind::Unknown, "cut at {cut}: {:?} of {:?}", h.kind, whole.kind);
        }
    }
}

#[test]
fn a_frame_cut_at_any_byte_is_malformed_or_has_shorter_padding() {
    for frame in menagerie() {
        let whole = parse(&frame);
        for cut in 0..frame.len() {
            let h = parse(&frame[..cut]);
            let needed =
                if whole.version == 0 { whole.network_at as usize } else { whole.network_end as usize };
            assert_eq!(h.kind == Kind::Malformed, cut < needed, "cut at {cut}");
        }
    }
}

/// What must hold whatever the bytes say: all that the headers point at lies within the frame.
fn is_sound(h: &Headers, frame_len: usize) {
    if matches!(h.kind, Kind::Malformed | Kind::Unknown) {
        return;
    }
    assert!(h.network_at as usize <= frame_len);
    if h.version != 0 {
        assert!(h.network_end as usize <= frame_len);
        assert!(h.network_at < h.transport_at && h.transport_at <= h.payload_at);
        assert!(h.payload_at as u32 + h.payload_len <= h.network_end);
        assert!(h.fragment_offset as u32 + h.payload_len <= 65535 || h.fragment_offset == 0);
    }
    assert_eq!(h.kind == Kind::Fragment, h.fragment_offset != 0);
}

#[test]
fn every_byte_with_every_value_is_read_soundly() {
    for frame in menagerie() {
        for at in 0..frame.len().min(120) {
            let mut frame = frame.clone();
            for value in 0..=255 {
                frame[at] = value;
                is_sound(&parse(&frame), frame.len());
                assert_eq!(parse(&frame), Headers::any(&frame, frame.len() as u32));
                let head = &frame[..at];
                is_sound(&Headers::parse(head, frame.len() as u32), frame.len());
            }
        }
    }
}

proptest! {
    #[test]
    fn mutated_frames_are_read_soundly(
        which in 0..16usize,
        changes in proptest::collection::vec((0..200usize, any::<u8>()), 1..8),
        cut in 0..260usize,
        len in 0..300u32,
    ) {
        let mut frame = menagerie()[which].clone();
        for (at, value) in changes {
            let at = at % frame.len();
            frame[at] = value;
        }
        is_sound(&parse(&frame), frame.len());
        let head = &frame[..cut.min(frame.len())];
        is_sound(&Headers::parse(head, len), len as usize);
        let h = Headers::parse(head, len);
        h.payload(head);
        rtp::Packet::read(h.payload(head), h.payload_len as usize);
        arp::is_arp(&h, head, len);
        arp::is_rarp_announcement(&h, head, len);
        icmpv6::is_discovery(&h, head);
    }

    #[test]
    fn the_usual_frame_is_read_as_any_frame_is(
        which in 0..16usize,
        changes in proptest::collection::vec((12..60usize, any::<u8>()), 0..3),
        cut in 0..260usize,
        len in 0..300u32,
    ) {
        let mut frame = menagerie()[which].clone();
        for (at, value) in changes {
            let at = at % frame.len();
            frame[at] = value;
        }
        let whole = frame.len() as u32;
        prop_assert_eq!(Headers::parse(&frame, whole), Headers::any(&frame, whole));
        let head = &frame[..cut.min(frame.len())];
        prop_assert_eq!(Headers::parse(head, len), Headers::any(head, len));
    }

    #[test]
    fn random_bytes_are_read_soundly(frame in proptest::collection::vec(any::<u8>(), 0..200), len in 0..400u32) {
        is_sound(&Headers::parse(&frame, len), len as usize);
    }
}
