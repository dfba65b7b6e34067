//! The quality that `tidegate classify` tells, against an independent judge: `tshark -q -z rtp,streams` (4.0).
//!
//! Over captures that this test writes, and over the public ones where they are (see `captures.rs`). Packets, loss,
//! largest gap and jitter must agree for each stream within the milliseconds' third digit that tshark prints.
//!
//! Where the two differ, RFC 3550 decides, and what tshark does otherwise is left out by name:
//!
//! - tshark knows no clock for dynamic payload types unless an SDP told it, and then prints no jitter; we estimate
//!   the clock.
//! - tshark takes a packet with the marker as the begin of a talk spurt whose gap and jitter do not count (its mean
//!   divides by all packets nevertheless). RFC 3550 A.8 takes every packet, and a listener hears when packets come: so
//!   do we. Of such streams the largest gap is compared among packets without the marker, and the mean jitter not.
//! - tshark leaves comfort noise and telephone events (RFC 3389, RFC 4733) out of gaps and jitter, whose timestamps do
//!   stand still or run back. Of streams that change their payload type only packets and loss are compared.
//! - Packets that came twice count as received (RFC 3550, A.3), so tshark's loss may be negative; we tell both.
//! - tshark takes a datagram for RTP by heuristics of its own, and may begin a stream later or split it: streams with
//!   another number of packets are listed, not compared.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tidegate_control::classify::capture;
use tidegate_control::classify::{StreamReport, Task, judge};
use tidegate_dataplane::policy::Policy;
use tidegate_dataplane::wire::rtp::Packet;
use tidegate_dataplane::wire::{Headers, display_address};

/// What tshark says of a stream.
#[derive(Debug)]
struct Said {
    packets: u64,
    lost: i64,
    delta_max: f64,
    /// Mean and largest; none where it knows no clock.
    jitter: Option<(f64, f64)>,
}

type Name = (SocketAddr, SocketAddr, String);

fn is_there() -> bool {
    let version = Command::new("tshark").arg("--version").output();
    let there = version.is_ok_and(|version| version.stdout.starts_with(b"TShark"));
    if !there {
        eprintln!("SKIPPED: no tshark; apt-get install tshark");
    }
    there
}

fn tshark(path: &Path) -> HashMap<Name, Vec<Said>> {
    let output = Command::new("tshark")
        .args(["-o", "rtp.heuristic_rtp:TRUE", "-q", "-z", "rtp,streams", "-r"])
        .arg(path)
        .output()
        .expect("tshark starts");
    assert!(output.status.success(), "{}: {output:?}", path.display());
    let mut said: HashMap<Name, Vec<Said>> = HashMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((name, one)) = line_of(line) {
            said.entry(name).or_default().push(one);
        }
    }
    said
}

/// One line of its table. The payload's name in the middle may have spaces.
fn line_of(line: &str) -> Option<(Name, Said)> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if words.last() == Some(&"X") {
        words.pop();
    }
    let end = |at: usize| {
        Some(SocketAddr::new(words.get(at)?.parse::<IpAddr>().ok()?, words.get(at + 1)?.parse().ok()?))
    };
    let (from, to, ssrc) = (end(2)?, end(4)?, words.get(6)?.to_lowercase());
    let mut last = words.iter().rev();
    let mut number = || last.next()?.parse::<f64>().ok();
    let (max, mean, min, delta_max) = (number()?, number()?, number()?, number()?);
    let tail = &words[..words.len() - 6];
    let [.., packets, lost, _percent] = tail else { return None };
    let jitter = (min >= 0.0).then_some((mean, max));
    Some((
        (from, to, ssrc),
        Said { packets: packets.parse().ok()?, lost: lost.parse().ok()?, delta_max, jitter },
    ))
}

/// What of a stream bears on the differences.
#[derive(Default)]
struct Marks {
    last_ns: Option<u64>,
    payload_type: Option<u8>,
    /// A packet behind the first has the marker.
    marked: bool,
    /// Its payload type changes.
    changes: bool,
    /// Largest gap before a packet without the marker, milliseconds.
    delta_max: f64,
}

fn marks(path: &Path) -> HashMap<Name, Marks> {
    let mut marks: HashMap<Name, Marks> = HashMap::new();
    let read = capture::read(path, |packet| {
        let headers = Headers::parse(packet.bytes, packet.len.max(packet.bytes.len() as u32));
        let payload = headers.payload(packet.bytes);
        let Packet::Rtp(rtp) = Packet::read(payload, headers.payload_len as usize) else { return };
        let end = |address, port| SocketAddr::new(display_address(address), port);
        let (from, to) = (end(headers.src, headers.sport), end(headers.dst, headers.dport));
        let seen = marks.entry((from, to, format!("{:#010x}", rtp.ssrc))).or_default();
        let marked = payload[1] & 0x80 != 0;
        if let Some(last) = seen.last_ns {
            seen.marked |= marked;
            if !marked {
                seen.delta_max = seen.delta_max.max(packet.at_ns.saturating_sub(last) as f64 / 1e6);
            }
        }
        seen.changes |= seen.payload_type.is_some_and(|before| before != rtp.payload_type);
        (seen.last_ns, seen.payload_type) = (Some(packet.at_ns), Some(rtp.payload_type));
    });
    read.expect("a capture");
    marks
}

/// Compares one capture: streams compared wholly, and what differs.
fn compare(path: &Path, notes: &mut String) -> (usize, Vec<String>) {
    let report = judge(
        path,
        &Task { policy: Policy::default(), guests: Vec::new(), sip_ports: Vec::new(), learn_turn: true },
    )
    .expect("a capture");
    let (said, marks) = (tshark(path), marks(path));
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut whole, mut faults) = (0, Vec::new());
    for stream in &report.streams {
        let (from, to) =
            (SocketAddr::new(stream.src, stream.sport), SocketAddr::new(stream.dst, stream.dport));
        let what = format!("{file}: {from} -> {to} {}", stream.ssrc);
        let name = (from, to, stream.ssrc.clone());
        let (Some([theirs]), Some(marks)) = (said.get(&name).map(Vec::as_slice), marks.get(&name)) else {
            let _ = writeln!(notes, "{what}: not one stream to tshark");
            continue;
        };
        if theirs.packets != stream.packets {
            let _ = writeln!(notes, "{what}: {} packets to us, {} to tshark", stream.packets, theirs.packets);
            continue;
        }
        let (agreed, differs) = agree(stream, theirs, marks);
        whole += usize::from(agreed);
        faults.extend(differs.into_iter().map(|fault| format!("{what}: {fault}")));
    }
    (whole, faults)
}

fn agree(stream: &StreamReport, theirs: &Said, marks: &Marks) -> (bool, Vec<String>) {
    let (q, mut faults) = (&stream.quality, Vec::new());
    let mut near = |name: &str, ours: f64, theirs: f64| {
        if (ours - theirs).abs() > 0.0011 {
            faults.push(format!("{name} {ours:.3}, tshark {theirs:.3}"));
        }
    };
    near("lost less duplicates", q.lost as f64 - q.duplicates as f64, theirs.lost as f64);
    let steady = !marks.changes;
    if steady {
        near("largest gap", if marks.marked { marks.delta_max } else { q.delta_ms_max }, theirs.delta_max);
    }
    let jitter = theirs.jitter.filter(|_| steady);
    if let Some((mean, max)) = jitter {
        near("largest jitter", q.jitter_ms_max, max);
        if !marks.marked {
            near("mean jitter", q.jitter_ms, mean);
        }
    }
    (jitter.is_some() && !marks.marked && faults.is_empty(), faults)
}

/// A G.711 stream as pcap: (number, milliseconds, marker), in the order in which they come.
fn write(path: &Path, packets: &[(u16, f64, bool)]) {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    let first = packets[0].0;
    for (sequence, ms, marker) in packets {
        let mut frame =
            vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 200, 0, 0, 0x40, 0, 64, 17, 0, 0];
        frame.extend([10, 0, 0, 5, 10, 0, 0, 9, 0x9c, 0x40, 0x13, 0x8c, 0, 180, 0, 0]);
        frame.extend([0x80, 8 | u8::from(*marker) << 7]);
        frame.extend(sequence.to_be_bytes());
        let sent = sequence.wrapping_sub(first) as i16;
        frame.extend((4_294_960_000u32.wrapping_add_signed(i32::from(sent) * 160)).to_be_bytes());
        frame.extend([0xca, 0xfe, 0, 1]);
        frame.extend([0xd5; 160]);
        let us = (1e9 + ms * 1000.0).round() as u64;
        for word in [us / 1_000_000, us % 1_000_000, frame.len() as u64, frame.len() as u64] {
            file.extend((word as u32).to_le_bytes());
        }
        file.extend(frame);
    }
    std::fs::write(path, file).expect("written");
}

/// Milliseconds of spread that look like a network's, from a number.
fn spread(n: u16) -> f64 {
    f64::from(u32::from(n).wrapping_mul(2_654_435_761) >> 20) / 400.0
}

#[test]
fn captures_of_our_own_are_judged_as_tshark_judges_them() {
    if !is_there() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let number = |n: u16| 65_500u16.wrapping_add(n);
    let even = (0..300).map(|n| (number(n), f64::from(n) * 20.0, false)).collect::<Vec<_>>();
    let spread = even.iter().map(|(n, ms, m)| (*n, ms + spread(*n), *m)).collect::<Vec<_>>();
    let held =
        even.iter().map(|(n, ms, m)| (*n, ((ms / 400.0).floor() + 1.0) * 400.0, *m)).collect::<Vec<_>>();
    let mut lossy = spread.clone();
    lossy.retain(|(n, ..)| n % 17 != 3);
    // Late ones, and one that comes twice.
    let mut mixed = spread.clone();
    for at in [20, 60, 150] {
        (mixed[at].0, mixed[at + 1].0) = (mixed[at + 1].0, mixed[at].0);
    }
    mixed.insert(200, (mixed[199].0, mixed[199].1 + 3.0, false));
    let mut notes = String::new();
    for (name, packets) in
        [("even", even), ("spread", spread), ("held", held), ("lossy", lossy), ("mixed", mixed)]
    {
        let path = dir.path().join(format!("{name}.pcap"));
        write(&path, &packets);
        let (whole, faults) = compare(&path, &mut notes);
        assert_eq!((whole, faults), (1, vec![]), "{name}: {notes}");
    }
}

#[test]
fn public_captures_are_judged_as_tshark_judges_them() {
    let folder = match std::env::var_os("TIDEGATE_PCAP_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcap"),
    };
    let Ok(files) = std::fs::read_dir(&folder) else {
        eprintln!("SKIPPED: no captures in {}; name their folder in TIDEGATE_PCAP_DIR", folder.display());
        return;
    };
    if !is_there() {
        return;
    }
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "pcap" || kind == "pcapng"));
    files.sort();
    let (mut whole, mut faults, mut notes) = (0, Vec::new(), String::new());
    for path in files {
        let (agreed, differs) = compare(&path, &mut notes);
        whole += agreed;
        faults.extend(differs);
    }
    println!("{whole} streams agree in everything\n{notes}");
    assert!(faults.is_empty(), "{} faults:\n{}\n{notes}", faults.len(), faults.join("\n"));
    assert!(whole > 0, "no stream was compared");
}
