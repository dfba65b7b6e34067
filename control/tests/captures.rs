//! The classifier over public captures: every RTP stream that is listed is promoted in time, and nothing
//! else is let go.
//!
//! The captures are no part of the project. They are looked for in `TIDEGATE_PCAP_DIR`, else in
//! `../shared/pcap` beside the repository; without them this test says so and passes. Each direction is
//! judged as if it were the guest's, by the code that runs on the lcore.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tidegate_control::classify::{Task, capture, judge as judge_file};
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::class::{Class, Decision, Verdict};
use tidegate_dataplane::classify::Classifier;
use tidegate_dataplane::policy::{Policy, PolicyName};
use tidegate_dataplane::port::Frame;
use tidegate_dataplane::tsc::TscRate;
use tidegate_dataplane::wire::rtp::Packet;
use tidegate_dataplane::wire::{Headers, Kind, display_address};

/// Captures without real-time media that we know the format of.
const NEGATIVE: [&str; 10] = [
    "dns-tunnel-iodine.pcap",
    "quic_interop_V.pcapng",
    "bittorrent_utp.pcap",
    "openvpn.pcap",
    "wireguard.pcap",
    "roblox.pcapng",
    "snmp.pcap",
    "vxlan.pcap",
    "iax.pcap",
    "zoom.pcap",
];

fn folder() -> Option<PathBuf> {
    let folder = match std::env::var_os("TIDEGATE_PCAP_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcap"),
    };
    if folder.join("rtp-streams.tsv").is_file() {
        return Some(folder);
    }
    eprintln!("SKIPPED: no captures in {}; name their folder in TIDEGATE_PCAP_DIR", folder.display());
    None
}

/// Frames of a capture with their time in nanoseconds, and how many were of other links.
fn frames(path: &Path) -> (Vec<(u64, Vec<u8>)>, u64) {
    let mut frames = Vec::new();
    let read = capture::read(path, |packet| frames.push((packet.at_ns, packet.bytes.to_vec())));
    (frames, read.unwrap_or_else(|e| panic!("{}: {e}", path.display())).other_links)
}

/// A captured frame, as the lane would have it.
struct Captured<'a>(&'a [u8]);

impl Frame for Captured<'_> {
    fn head(&self) -> &[u8] {
        self.0
    }

    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn segments(&self) -> u16 {
        1
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        see(self.0);
    }
}

type Flow = (IpAddr, u16, IpAddr, u16);

/// What became of the packets of one SSRC in one flow.
#[derive(Default)]
struct Seen {
    packets: usize,
    let_go: usize,
    /// Number of the flow's packet at which the first RTP packet of this SSRC was let go.
    first_let_go: Option<usize>,
    /// The same among the packets of this SSRC.
    first_of_stream: Option<usize>,
}

struct Judged {
    streams: HashMap<(Flow, u32), Seen>,
    announcements: usize,
    rtcp: usize,
    /// Let go, and neither RTP nor RTCP nor an announcement.
    unexplained: usize,
}

/// Each source address is a guest of its own, so that each direction is judged alone.
fn judge(frames: &[(u64, Vec<u8>)], policy: &Policy) -> Judged {
    // Two for each guest: one that takes the short way for known media, and one that never does.
    let mut guests: HashMap<[u8; 16], [Classifier; 2]> = HashMap::new();
    let new = || Classifier::new(policy.compile().unwrap(), 1024, TscRate::new(1_000_000_000), &mut Heap);
    let mut flows: HashMap<Flow, usize> = HashMap::new();
    let mut judged = Judged { streams: HashMap::new(), announcements: 0, rtcp: 0, unexplained: 0 };
    for (now, frame) in frames {
        let headers = Headers::parse(frame, frame.len() as u32);
        let [classifier, slow] = guests.entry(headers.src).or_insert_with(|| [new(), new()]);
        let decision = classifier.classify(&Captured(frame), *now);
        let slowly = slow.judge(&headers, frame, frame.len() as u32, *now);
        assert_eq!(decision, slowly, "the short way decides as the long one");
        let let_go = matches!(decision.verdict, Verdict::Bypass | Verdict::Promote(_));
        let flow = (display_address(headers.src), headers.sport, display_address(headers.dst), headers.dport);
        let number = flows.entry(flow).or_default();
        *number += 1;
        match decision {
            Decision { media: Some(_), .. } => {
                let Packet::Rtp(rtp) = Packet::read(headers.payload(frame), headers.payload_len as usize)
                else {
                    panic!("media that is no RTP");
                };
                let seen = judged.streams.entry((flow, rtp.ssrc)).or_default();
                seen.packets += 1;
                if let_go {
                    seen.let_go += 1;
                    seen.first_let_go.get_or_insert(*number);
                    seen.first_of_stream.get_or_insert(seen.packets);
                }
            }
            Decision { class: Class::Announce, .. } if let_go => judged.announcements += 1,
            Decision { class: Class::Rtcp, .. } if let_go => judged.rtcp += 1,
            _ if let_go && headers.kind != Kind::Fragment => judged.unexplained += 1,
            _ => {}
        }
    }
    judged
}

/// One line of `rtp-streams.tsv`.
struct Listed {
    file: String,
    flow: Flow,
    ssrc: u32,
    packets: usize,
    /// Packet of the flow at which three in a row decide.
    third: Option<usize>,
}

fn listed(folder: &Path) -> Vec<Listed> {
    let text = std::fs::read_to_string(folder.join("rtp-streams.tsv")).unwrap();
    let lines = text.lines().skip(1).map(|line| {
        let field: Vec<&str> = line.split('\t').collect();
        Listed {
            file: field[0].to_owned(),
            flow: (
                field[1].parse().unwrap(),
                field[2].parse().unwrap(),
                field[3].parse().unwrap(),
                field[4].parse().unwrap(),
            ),
            ssrc: u32::from_str_radix(&field[5][2..], 16).unwrap(),
            packets: field[8].parse().unwrap(),
            third: field[10].parse().ok(),
        }
    });
    lines.collect()
}

#[test]
fn listed_streams_are_promoted_in_time_and_nothing_else_is_let_go() {
    let Some(folder) = folder() else { return };
    let listed = listed(&folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "pcap" || kind == "pcapng"));
    files.sort();
    let mut faults = Vec::new();
    let mut checked = 0;
    for path in files {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (frames, skipped) = frames(&path);
        let judged = judge(&frames, &Policy::from(PolicyName::Realtime));
        let let_go: usize = judged.streams.values().map(|seen| seen.let_go).sum();
        println!(
            "{file}: {} frames ({skipped} of other links), {} flows with a look of RTP, RTP let go {let_go}, \
             RTCP {}, announcements {}, unexplained {}",
            frames.len(),
            judged.streams.len(),
            judged.rtcp,
            judged.announcements,
            judged.unexplained
        );
        for stream in listed.iter().filter(|stream| stream.file == file) {
            let what = format!("{file}: {:?} SSRC {:#x}", stream.flow, stream.ssrc);
            let seen = judged.streams.get(&(stream.flow, stream.ssrc));
            let first = seen.and_then(|seen| seen.first_let_go);
            println!("  {what}: let go from packet {first:?}, three in a row at {:?}", stream.third);
            match (first, stream.third) {
                (Some(first), Some(third)) if first <= third => checked += 1,
                (_, Some(_)) => faults.push(format!("{what}: let go from {first:?}, not {:?}", stream.third)),
                (None, None) if stream.packets > 5 => faults.push(format!("{what}: never let go")),
                _ => {}
            }
        }
        for ((flow, ssrc), seen) in judged.streams.iter().filter(|(_, seen)| seen.let_go > 0) {
            if !listed.iter().any(|s| s.file == file && (s.flow, s.ssrc) == (*flow, *ssrc)) {
                faults
                    .push(format!("{file}: {flow:?} SSRC {ssrc:#x}: {} let go, but not listed", seen.let_go));
            }
        }
        if judged.unexplained > 0 || NEGATIVE.contains(&file.as_str()) && let_go + judged.rtcp > 0 {
            faults.push(format!("{file}: {let_go} and {} let go of what is no media", judged.unexplained));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(checked > 0, "no stream was checked");
}

#[test]
fn under_hold_all_only_the_planes_announcement_passes() {
    let Some(folder) = folder() else { return };
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "pcap" || kind == "pcapng") {
            let judged = judge(&frames(&path).0, &Policy::from(PolicyName::HoldAll));
            let let_go: usize = judged.streams.values().map(|seen| seen.let_go).sum();
            assert_eq!(
                let_go + judged.announcements + judged.rtcp + judged.unexplained,
                0,
                "{}",
                path.display()
            );
        }
    }
}

/// The gateway of the fax call sends its media from another address than its SIP.
#[test]
fn what_sip_names_is_let_go_from_the_first_packet() {
    let Some(folder) = folder() else { return };
    let guests: Vec<IpAddr> = ["10.35.60.72", "10.23.1.52"].map(|text| text.parse().unwrap()).into();
    let path = folder.join("FAX-Call-t38-CA-TDM-SIP-FB-1.pcap");
    if !path.is_file() {
        eprintln!("SKIPPED: no {}", path.display());
        return;
    }
    let task = Task { policy: Policy::default(), guests, sip_ports: vec![5060], learn_turn: true };
    let report = judge_file(&path, &task).unwrap();
    let stream = report.streams.iter().find(|stream| stream.sport == 16756).expect("the gateway's stream");
    assert_eq!((stream.promoted_at, stream.rule.as_ref(), stream.bypassed), (Some(1), "sip", stream.packets));
    assert_eq!(report.bypassed_outside_streams, 0);
    let deaf = judge_file(&path, &Task { sip_ports: vec![], ..task }).unwrap();
    let stream = deaf.streams.iter().find(|stream| stream.sport == 16756).expect("the same");
    assert_eq!((stream.promoted_at, stream.rule.as_ref()), (Some(3), "three-in-order"));
}

/// An Ethernet frame with UDP over IPv6 between 2001:db8::x and 2001:db8::y, each with its port.
fn udp6((src, sport): (u8, u16), (dst, dport): (u8, u16), payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len() as u16).to_be_bytes();
    let address = |last| [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[last]].concat();
    let ethernet = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    let ports = [sport.to_be_bytes(), dport.to_be_bytes(), len, [0, 0]].concat();
    let ip = [&[0x60, 0, 0, 0][..], &len, &[17, 64], &address(src), &address(dst)].concat();
    [&ethernet[..], &ip, &ports, payload].concat()
}

/// Frames 20 ms apart, as pcap.
fn pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    for (n, frame) in frames.iter().enumerate() {
        let (us, len) = (n as u32 * 20_000, frame.len() as u32);
        for word in [1000 + us / 1_000_000, us % 1_000_000, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    std::fs::write(path, file).unwrap();
}

fn stun(kind: u16, transaction: u8, attributes: &[u8]) -> Vec<u8> {
    let len = (attributes.len() as u16).to_be_bytes();
    [&kind.to_be_bytes()[..], &len, &[0x21, 0x12, 0xa4, 0x42], &[transaction; 12], attributes].concat()
}

/// Ten minutes after it was granted, or at another server, a channel's data is held again.
#[test]
fn a_turn_channel_that_was_bound_lets_media_out_until_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("turn.pcap");
    let (guest, server) = ((2, 40_000), (9, 3478));
    let number = [0, 12, 0, 4, 0x4f, 0xff, 0, 0];
    let peer = [&[0, 18, 0, 20, 0, 2, 1, 1][..], &[7; 16]].concat();
    let media = |to, n: u16| {
        let [high, low] = n.to_be_bytes();
        let mut data = vec![0x4f, 0xff, 0, 32, 0x80, 111, high, low, 0, 0, high, low, 0, 0, 0, 7];
        data.resize(36, 0xd5);
        udp6(guest, to, &data)
    };
    let mut frames = vec![
        udp6(guest, server, &stun(0x0009, 1, &[&number[..], &peer].concat())),
        udp6(server, guest, &stun(0x0109, 1, &[])),
    ];
    // Twelve minutes, a packet each 20 ms.
    frames.extend((0..36_000).map(|n| media(server, n)));
    frames.extend((0..9).map(|n| media((8, 3478), n)));
    pcap(&path, &frames);
    for guests in [vec![], vec!["2001:db8::2".parse().unwrap()]] {
        let task = Task { policy: Policy::default(), guests, sip_ports: vec![], learn_turn: true };
        let report = judge_file(&path, &task).unwrap();
        let [stream] = &report.streams[..] else { panic!("{:?}", report.streams) };
        assert_eq!((stream.channel.as_deref(), stream.promoted_at), (Some("0x4fff"), Some(3)));
        assert_eq!((stream.packets, stream.bypassed, report.bypassed), (30_000, 30_000, 30_000));
    }
}
