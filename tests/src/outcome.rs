//! What a test expects of a policy, and whether a capture shows it. The policies are written down here
//! once more, from their description and not from the plane's code.

use std::collections::{BTreeMap, BTreeSet};

use crate::beacon_record::{Carrier, Record};
use crate::capture::{Frame, Kind};
use crate::failure::Result;
use crate::laboratory::{MEDIA, VLAN, from_guest};
use crate::media::{EchoedStream, echoed_streams, is_media};

/// All ways in which the beacon sends.
pub const CARRIERS: [Carrier; 4] = [Carrier::Udp4, Carrier::Udp6, Carrier::Vlan, Carrier::Tcp];

/// The policies under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Everything waits.
    HoldAll,
    /// TCP waits.
    NonTcp,
    /// Everything but media and link housekeeping waits.
    Realtime,
}

impl Policy {
    /// Its name in configuration and on the socket.
    pub fn name(self) -> &'static str {
        match self {
            Policy::HoldAll => "hold-all",
            Policy::NonTcp => "non-tcp",
            Policy::Realtime => "realtime",
        }
    }

    /// The beacon's ways that this policy holds.
    pub fn held_carriers(self) -> &'static [Carrier] {
        if self == Policy::NonTcp { &[Carrier::Tcp] } else { &CARRIERS }
    }

    /// True when a frame of the guest has to wait for a commit. The plane's own announcements never do.
    pub fn holds(self, frame: &Frame) -> bool {
        match (self, frame.kind) {
            (_, Kind::Rarp) => false,
            (Policy::HoldAll, _) => true,
            (Policy::NonTcp, kind) => matches!(kind, Kind::Tcp(_)),
            (Policy::Realtime, Kind::Arp | Kind::NeighbourDiscovery) => false,
            (Policy::Realtime, _) => !is_media(frame, MEDIA),
        }
    }
}

/// Fails when a frame that the policy holds was seen between the two times, ns since 1970; the number of
/// those of the guest that it lets pass.
pub fn quiet(frames: &[Frame], policy: Policy, from_ns: u64, to_ns: u64) -> Result<usize> {
    let mut passed = 0;
    for frame in frames.iter().filter(|frame| from_guest(frame) && (from_ns..to_ns).contains(&frame.at_ns)) {
        crate::ensure!(
            !policy.holds(frame),
            "{} let {:?} out {} ms after the last commit had been carried out",
            policy.name(),
            frame.kind,
            (frame.at_ns - from_ns) / 1_000_000
        );
        passed += 1;
    }
    Ok(passed)
}

/// How many datagrams of the beacon are missing between the first and the last that was seen, by the way
/// they were to come; and fails when one came twice. TCP is left out: its own stream would have broken.
pub fn missing(frames: &[Frame]) -> Result<BTreeMap<Carrier, u64>> {
    let mut seen: BTreeMap<(Carrier, u64), BTreeSet<u64>> = BTreeMap::new();
    for record in frames.iter().flat_map(|frame| Record::all_in(&frame.payload)) {
        if record.carrier != Carrier::Tcp {
            let new = seen.entry((record.carrier, record.boot)).or_default().insert(record.sequence);
            crate::ensure!(new, "{record:?} came twice");
        }
    }
    let mut missing: BTreeMap<Carrier, u64> = BTreeMap::new();
    for ((carrier, _), sequences) in &seen {
        if let (Some(first), Some(last)) = (sequences.first(), sequences.last()) {
            *missing.entry(*carrier).or_default() += last - first + 1 - sequences.len() as u64;
        }
    }
    Ok(missing)
}

/// Fails when a numbered frame is not what the guest sent (its tag gone, or another IP), or when any frame
/// of the guest has a wrong checksum.
pub fn as_sent(frames: &[Frame]) -> Result<()> {
    let told = frames.iter().filter(|frame| from_guest(frame) && frame.checksums.is_some()).count();
    crate::ensure!(told > 100, "only {told} frames had checksums to look at");
    for frame in frames {
        let wrong = from_guest(frame) && frame.checksums == Some(false);
        crate::ensure!(!wrong, "{:?} of {} bytes has a wrong checksum", frame.kind, frame.payload.len());
        for record in Record::all_in(&frame.payload) {
            let vlan = (record.carrier == Carrier::Vlan).then_some(VLAN);
            crate::ensure!(frame.vlan == vlan, "{record:?} came on VLAN {:?}", frame.vlan);
            let ipv6 = record.carrier == Carrier::Udp6;
            crate::ensure!(frame.is_ipv6() == ipv6, "{record:?} came as {:?}", frame.kind);
        }
    }
    Ok(())
}

/// Fails when the beacon's datagrams of one kind did not come in the order in which they were sent, or
/// one of them never came.
pub fn whole_and_in_order(frames: &[Frame]) -> Result<()> {
    let missing = missing(frames)?;
    crate::ensure!(missing.values().all(|&count| count == 0), "datagrams were lost: {missing:?}");
    let mut last: BTreeMap<(Carrier, u64), u64> = BTreeMap::new();
    for record in frames.iter().flat_map(|frame| Record::all_in(&frame.payload)) {
        if record.carrier == Carrier::Tcp {
            continue;
        }
        if let Some(before) = last.insert((record.carrier, record.boot), record.sequence) {
            crate::ensure!(before < record.sequence, "{record:?} came after number {before} of its kind");
        }
    }
    Ok(())
}

/// The voice streams of the calls in a capture (the telephone events, which are short, are left out). Fails
/// unless there are `calls` of them and every packet came back once and in order.
pub fn whole_calls(frames: &[Frame], calls: usize) -> Result<Vec<EchoedStream>> {
    let streams = echoed_streams(frames, MEDIA);
    for ((caller, ssrc), stream) in &streams {
        crate::ensure!(
            (stream.lost(), stream.reordered()) == (0, 0) && stream.echoed.len() == stream.sent.len(),
            "of {} packets of stream {ssrc:08x} from {caller} {} came back, {} out of order",
            stream.sent.len(),
            stream.echoed.len(),
            stream.reordered()
        );
    }
    let voices: Vec<EchoedStream> = streams.into_values().filter(|stream| stream.sent.len() > 50).collect();
    crate::ensure!(voices.len() == calls, "{} voice streams for {calls} calls", voices.len());
    Ok(voices)
}
