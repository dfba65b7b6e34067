//! Judges a capture by the code that runs on the lcore, and keeps account by flow and by stream.

use super::capture::{self, Captured};
use super::overheard::Overheard;
use super::quality::{Arrival, quality};
use super::report::{FileReport, FlowReport, StreamReport};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::class::{Class, Decision, Verdict};
use tidegate_dataplane::classify::Classifier;
use tidegate_dataplane::policy::{Policy, PolicyName};
use tidegate_dataplane::port::Frame;
use tidegate_dataplane::tsc::TscRate;
use tidegate_dataplane::wire::rtp::Packet;
use tidegate_dataplane::wire::{Headers, Kind, display_address};

/// The capture's clock: one tick a nanosecond.
const RATE: TscRate = TscRate::new(1_000_000_000);
/// Streams that are told apart at once: as many as a large plane's.
const STREAMS: usize = 1 << 16;
/// What looked like RTP for fewer packets and was never let go is no stream to speak of.
const FEWEST: u64 = 3;

/// A captured frame, as the lane would have it.
struct Whole<'a>(&'a Captured<'a>);

impl Frame for Whole<'_> {
    fn head(&self) -> &[u8] {
        self.0.bytes
    }

    fn len(&self) -> u32 {
        // What the capture cut off was there when the frame was sent.
        self.0.len.max(self.0.bytes.len() as u32)
    }

    fn segments(&self) -> u16 {
        1
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        see(self.0.bytes);
    }
}

/// Source and destination, with the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Flow {
    src: IpAddr,
    sport: u16,
    dst: IpAddr,
    dport: u16,
    protocol: u8,
}

#[derive(Default)]
struct Stream {
    arrivals: Vec<Arrival>,
    bypassed: u64,
    rtcp: u64,
    promoted_at: Option<u64>,
    rule: Option<&'static str>,
}

#[derive(Default)]
struct FlowAccount {
    packets: u64,
    bypassed: u64,
    rule: &'static str,
}

/// A packet and what was decided of it.
struct Judged<'a> {
    flow: Flow,
    headers: Headers,
    packet: &'a Captured<'a>,
    decision: Decision,
    passes: bool,
}

/// What is judged, and how.
#[derive(Clone, Debug)]
pub struct Task {
    /// The policy.
    pub policy: Policy,
    /// Whose output is judged; empty for everybody's, each as if it were the guest.
    pub guests: Vec<IpAddr>,
    /// Ports of SIP, from which media ports are learned.
    pub sip_ports: Vec<u16>,
}

struct Judge<'t> {
    task: &'t Task,
    classifier: Classifier,
    flows: HashMap<Flow, FlowAccount>,
    streams: HashMap<(Flow, u32), Stream>,
    /// Streams whose frames wait under probation, by the position that the classifier was told.
    waiting: HashMap<u64, (Flow, u32)>,
    position: u64,
    overheard: Overheard,
    report: FileReport,
}

/// Judges one file.
pub fn judge(path: &Path, task: &Task) -> Result<FileReport, String> {
    let policy = task.policy.compile().map_err(|e| e.to_string())?;
    let mut judge = Judge {
        task,
        classifier: Classifier::new(policy, STREAMS, RATE, &mut Heap),
        flows: HashMap::new(),
        streams: HashMap::new(),
        waiting: HashMap::new(),
        position: 0,
        overheard: Overheard::new(&task.sip_ports, &task.guests),
        report: FileReport { file: path.display().to_string(), ..FileReport::default() },
    };
    let read = capture::read(path, |packet| judge.see(&packet))?;
    judge.report.packets = read.packets;
    judge.report.other_links = read.other_links;
    judge.report.cut = read.cut;
    Ok(judge.finish())
}

impl Judge<'_> {
    fn see(&mut self, packet: &Captured<'_>) {
        let frame = Whole(packet);
        let headers = Headers::parse(frame.head(), frame.len());
        let flow = Flow {
            src: display_address(headers.src),
            sport: headers.sport,
            dst: display_address(headers.dst),
            dport: headers.dport,
            protocol: headers.protocol,
        };
        self.report.udp_packets += u64::from(headers.kind == Kind::Udp);
        for lesson in self.overheard.hear(&headers, packet) {
            self.classifier.learn(&lesson, packet.at_ns);
        }
        if !self.task.guests.is_empty() && !self.task.guests.contains(&flow.src) {
            self.report.not_judged += 1;
            return;
        }
        let decision = self.classifier.classify(&frame, packet.at_ns);
        let passes = matches!(decision.verdict, Verdict::Bypass | Verdict::Promote(_));
        let judged = Judged { flow, headers, packet, decision, passes };
        let rule = match decision.media {
            Some(_) => self.see_rtp(&judged),
            None => self.see_other(&judged),
        };
        match passes {
            true => self.report.bypassed += 1,
            false => self.report.held += 1,
        }
        let account = self.flows.entry(flow).or_default();
        account.packets += 1;
        account.bypassed += u64::from(passes);
        account.rule = rule;
    }

    fn see_rtp(&mut self, judged: &Judged<'_>) -> &'static str {
        let Judged { flow, ref headers, packet, ref decision, passes } = *judged;
        let payload = headers.payload(packet.bytes);
        let Packet::Rtp(rtp) = Packet::read(payload, headers.payload_len as usize) else { return "unknown" };
        let name = (flow, rtp.ssrc);
        let stream = self.streams.entry(name).or_default();
        let arrival = Arrival { at_ns: packet.at_ns, sequence: rtp.sequence, timestamp: rtp.timestamp };
        stream.arrivals.push(arrival);
        stream.bypassed += u64::from(passes);
        let number = stream.arrivals.len() as u64;
        let mut freed = 0;
        let rule = match decision.verdict {
            Verdict::Probation(at) => {
                self.position += 1;
                self.classifier.waiting(at, self.position);
                self.waiting.insert(self.position, name);
                return "probation";
            }
            Verdict::Promote(at) => {
                let waiting = self.classifier.take_waiting(at);
                for position in waiting.positions() {
                    if let Some(stream) =
                        self.waiting.remove(position).and_then(|name| self.streams.get_mut(&name))
                    {
                        stream.bypassed += 1;
                        freed += 1;
                    }
                }
                if self.classifier.is_learned(headers, packet.at_ns) {
                    "sip"
                } else if waiting.positions().len() == 1 {
                    "two-in-order-after-set-up"
                } else {
                    "three-in-order"
                }
            }
            Verdict::Bypass
                if self.task.policy.media_ports.iter().any(|ports| ports.contains(&flow.sport)) =>
            {
                "media-port"
            }
            Verdict::Bypass
                if decision.class == Class::Rtp && self.classifier.is_learned(headers, packet.at_ns) =>
            {
                "sip"
            }
            // Its SSRC proved itself towards another peer.
            Verdict::Bypass if decision.class == Class::Rtp => "known-stream",
            Verdict::Bypass => "policy",
            _ => return "hold",
        };
        // Those let go were held until now.
        self.report.bypassed += freed;
        self.report.held -= freed;
        if let Some(account) = self.flows.get_mut(&flow) {
            account.bypassed += freed;
        }
        let Some(stream) = self.streams.get_mut(&name) else { return rule };
        stream.promoted_at.get_or_insert(number);
        stream.rule.get_or_insert(rule)
    }

    fn see_other(&mut self, judged: &Judged<'_>) -> &'static str {
        let Judged { flow, ref headers, packet, ref decision, passes } = *judged;
        if !passes {
            return "hold";
        }
        match decision.class {
            Class::Announce => {
                self.report.announcements += 1;
                "announcement"
            }
            Class::Udptl => {
                self.report.udptl += 1;
                "udptl"
            }
            Class::Rtcp => {
                let ssrc = headers.payload(packet.bytes).get(4..8).and_then(|b| <[u8; 4]>::try_from(b).ok());
                let ssrc = ssrc.map(u32::from_be_bytes);
                // Its own stream, else any that was let go on its port or the one below.
                let own = |(of, name): &(Flow, u32)| of.src == flow.src && Some(*name) == ssrc;
                let near = |(of, _): &(Flow, u32)| {
                    of.src == flow.src
                        && (of.sport == flow.sport || of.sport.checked_add(1) == Some(flow.sport))
                };
                let promoted = || self.streams.iter().filter(|(_, s)| s.bypassed > 0).map(|(name, _)| name);
                let name =
                    promoted().find(|name| own(name)).or_else(|| promoted().find(|name| near(name))).copied();
                match name.and_then(|name| self.streams.get_mut(&name)) {
                    Some(stream) => stream.rtcp += 1,
                    None => self.report.rtcp_outside_streams += 1,
                }
                "rtcp"
            }
            _ if headers.kind == Kind::Fragment => {
                self.report.fragments += 1;
                "fragment"
            }
            _ if self.task.policy.name != PolicyName::Realtime => {
                self.report.by_policy += 1;
                "policy"
            }
            _ => "unknown",
        }
    }

    fn finish(mut self) -> FileReport {
        let tracked = self.classifier.table().snapshot(RATE);
        let clock = |flow: &Flow, ssrc: u32| {
            let same = tracked.iter().find(|t| (t.src, t.sport, t.ssrc) == (flow.src, flow.sport, ssrc));
            same.and_then(|t| t.clock_rate).unwrap_or(8000)
        };
        let mut streams: Vec<StreamReport> = Vec::new();
        for ((flow, ssrc), stream) in &self.streams {
            let packets = stream.arrivals.len() as u64;
            if stream.bypassed == 0 && packets < FEWEST {
                self.report.looked_like_rtp += packets;
                continue;
            }
            let clock_rate = clock(flow, *ssrc);
            streams.push(StreamReport {
                src: flow.src,
                sport: flow.sport,
                dst: flow.dst,
                dport: flow.dport,
                ssrc: format!("{ssrc:#010x}"),
                packets,
                bypassed: stream.bypassed,
                promoted_at: stream.promoted_at,
                rule: stream.rule.unwrap_or("hold"),
                rtcp: stream.rtcp,
                clock_rate,
                quality: quality(&stream.arrivals, clock_rate),
            });
        }
        streams.sort_by(|a, b| {
            (a.src, a.sport, a.dst, a.dport, &a.ssrc).cmp(&(b.src, b.sport, b.dst, b.dport, &b.ssrc))
        });
        let mut flows: Vec<(Flow, FlowAccount)> = self.flows.into_iter().collect();
        flows.sort_by_key(|(flow, _)| *flow);
        let flow = |(flow, account): (Flow, FlowAccount)| FlowReport {
            src: flow.src,
            sport: flow.sport,
            dst: flow.dst,
            dport: flow.dport,
            protocol: flow.protocol,
            packets: account.packets,
            bypassed: account.bypassed,
            held: account.packets - account.bypassed,
            rule: account.rule,
        };
        let mut report = self.report;
        report.flows = flows.into_iter().map(flow).collect();
        let explained = streams.iter().map(|s| s.bypassed + s.rtcp).sum::<u64>()
            + report.announcements
            + report.udptl
            + report.fragments
            + report.by_policy
            + report.rtcp_outside_streams;
        report.bypassed_outside_streams = report.bypassed - explained;
        report.streams = streams;
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A frame from 10.0.0.`host`, UDP, with these bytes.
    fn udp(host: u8, sport: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
        frame.extend((28 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, host, 10, 0, 0, 9]);
        frame.extend(sport.to_be_bytes());
        frame.extend(5004u16.to_be_bytes());
        frame.extend((8 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    fn rtp(sequence: u16) -> Vec<u8> {
        let mut packet = vec![0x80, 8];
        packet.extend(sequence.to_be_bytes());
        packet.extend((u32::from(sequence) * 160).to_be_bytes());
        packet.extend([0xca, 0xfe, 0xba, 0xbe]);
        packet.extend([0xd5; 160]);
        packet
    }

    /// The frames 20 ms apart, as pcap.
    fn capture(frames: &[Vec<u8>]) -> (tempfile::TempDir, std::path::PathBuf) {
        let mut file =
            vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
        for (n, frame) in frames.iter().enumerate() {
            let (us, len) = (n as u32 * 20_000, frame.len() as u32);
            for word in [1000 + us / 1_000_000, us % 1_000_000, len, len] {
                file.extend(word.to_le_bytes());
            }
            file.extend(frame);
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("calls.pcap");
        fs::write(&path, file).expect("written");
        (dir, path)
    }

    fn task() -> Task {
        Task { policy: Policy::default(), guests: Vec::new(), sip_ports: vec![5060] }
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
            (stream.packets, stream.bypassed, stream.promoted_at, stream.rule),
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
            assert_eq!((stream.bypassed, stream.promoted_at, stream.rule), (1, Some(1), "sip"));
            let report = judge(&fax, &task).expect("it is a capture");
            assert_eq!((report.udptl, report.bypassed, report.bypassed_outside_streams), (1, 1, 0));
        }
        for other in
            [Task { sip_ports: vec![], ..task() }, Task { guests: vec![[10, 0, 0, 9].into()], ..task() }]
        {
            assert!(judge(&path, &other).expect("it is a capture").streams.is_empty());
            assert_eq!(judge(&fax, &other).expect("it is a capture").udptl, 0);
        }
    }

    #[test]
    fn a_file_that_is_cut_or_no_capture_is_told() {
        let (_dir, path) = capture(&[udp(5, 40_000, &rtp(1)), udp(5, 40_000, &rtp(2))]);
        let whole = fs::read(&path).expect("read");
        fs::write(&path, &whole[..whole.len() - 20]).expect("written");
        let report = judge(&path, &task()).expect("as far as it goes");
        assert_eq!((report.packets, report.cut), (1, true));
        fs::write(&path, b"no capture at all, but long enough to hope for one").expect("written");
        assert!(judge(&path, &task()).unwrap_err().contains("no capture"));
        fs::write(&path, b"").expect("written");
        assert!(judge(&path, &task()).is_err());
        assert!(judge(Path::new("/nowhere"), &task()).is_err());
    }
}
