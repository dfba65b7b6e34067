//! The header views: any bytes are read, and nothing that is said of them points beyond the frame.
//!
//! Input: two bytes, how many more bytes the frame has than its first segment; then the first segment.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_dataplane::wire::express::Plain;
use tidegate_dataplane::wire::rtp::{Packet, Tag};
use tidegate_dataplane::wire::{Headers, Kind, arp, icmpv6};

fuzz_target!(|data: &[u8]| {
    let Some((more, head)) = data.split_first_chunk::<2>() else { return };
    let len = head.len() as u32 + u32::from(u16::from_be_bytes(*more));
    let h = Headers::parse(head, len);
    let payload = h.payload(head);
    assert!(payload.len() <= head.len());
    let packet = Packet::read(payload, h.payload_len as usize);
    let tag = Tag::of(&h, head);
    if h.kind == Kind::Udp
        && let Packet::Rtp(rtp) = packet
    {
        assert_eq!(tag, Tag::Ssrc(rtp.ssrc));
    }
    arp::is_arp(&h, head, len);
    arp::is_rarp_announcement(&h, head, len);
    icmpv6::is_discovery(&h, head);
    match Plain::read(head, len) {
        Some(Plain::Rtp(express)) => {
            assert_eq!((h.kind, packet), (Kind::Udp, Packet::Rtp(express.rtp())));
            assert_eq!(express.ports(), u32::from(h.sport) << 16 | u32::from(h.dport));
        }
        Some(Plain::Tcp(_)) => assert_eq!(h.kind, Kind::Tcp),
        None => {}
    }
    if matches!(h.kind, Kind::Malformed | Kind::Unknown) {
        return;
    }
    assert!(u32::from(h.network_at) <= len);
    assert_eq!(h.kind == Kind::Fragment, h.fragment_offset != 0);
    if h.version != 0 {
        assert!(h.network_end <= len);
        assert!(h.network_at < h.transport_at && h.transport_at <= h.payload_at);
        assert!(u32::from(h.payload_at) + h.payload_len <= h.network_end);
        assert!(h.fragment_offset == 0 || u32::from(h.fragment_offset) + h.payload_len <= 65_535);
    }
});
