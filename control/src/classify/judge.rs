//! Judges a capture by the code that runs on the lcore, and keeps account by flow and by stream.

use super::capture::{self, Captured};
use super::overheard::Overheard;
use super::quality::{Arrival, media_clock, quality};
use super::report::{FileReport, FlowReport, StreamReport};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::class::{Class, Decision, StreamRef, Verdict};
use tidegate_dataplane::classify::Classifier;
use tidegate_dataplane::policy::{Policy, PolicyName};
use tidegate_dataplane::port::Frame;
use tidegate_dataplane::tsc::TscRate;
use tidegate_dataplane::wire::rtp::Packet;
use tidegate_dataplane::wire::{Headers, Kind, display_address};

/// The capture's clock: one tick a nanosecond.
pub(crate) const RATE: TscRate = TscRate::new(1_000_000_000);
/// Streams that are told apart at once: as many as a large plane's.
pub(crate) const STREAMS: usize = 1 << 18;
/// What looked like RTP for fewer packets and was never let go is no stream to speak of.
const FEWEST: u64 = 3;

/// A captured frame, as the lane would have it.
pub(crate) struct Whole<'a>(pub &'a Captured<'a>);

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
    by_rules: u64,
    rule: Option<Cow<'static, str>>,
}

#[derive(Default)]
struct FlowAccount {
    packets: u64,
    bypassed: u64,
    refused: u64,
    rule: Cow<'static, str>,
}

/// A packet and what was decided of it.
struct Judged<'a> {
    flow: Flow,
    headers: Headers,
    packet: &'a Captured<'a>,
    decision: Decision,
    passes: bool,
    /// The operator's rule that matches it, from 1.
    rule: Option<usize>,
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
            while let Some(stream) = self.classifier.vouched(&lesson) {
                self.let_go(stream, Some("sip"));
            }
        }
        if !self.task.guests.is_empty() && !self.task.guests.contains(&flow.src) {
            self.report.not_judged += 1;
            return;
        }
        let decision = self.classifier.classify(&frame, packet.at_ns);
        let passes = matches!(decision.verdict, Verdict::Bypass | Verdict::Promote(_));
        let rule = self.classifier.policy().rule_for(&headers, frame.head()).map(|(n, _)| n + 1);
        // The plane's own announcement passes before any rule.
        let rule =
            rule.filter(|_| headers.kind != Kind::Rarp || !passes || decision.class != Class::Announce);
        let judged = Judged { flow, headers, packet, decision, passes, rule };
        let by: Cow<'static, str> = match decision.media {
            Some(_) => self.see_rtp(&judged),
            None => self.see_other(&judged).into(),
        };
        let by = match rule {
            Some(number) => format!("rule {number}").into(),
            None => by,
        };
        self.report.refused += u64::from(decision.verdict == Verdict::Refuse);
        match passes {
            true => self.report.bypassed += 1,
            false if decision.verdict == Verdict::Refuse => {}
            false => self.report.held += 1,
        }
        let account = self.flows.entry(flow).or_default();
        account.packets += 1;
        account.bypassed += u64::from(passes);
        account.refused += u64::from(decision.verdict == Verdict::Refuse);
        account.rule = by;
    }

    /// What waits of the stream's run is let go, by `rule` if that is the first to let any go. How many they are.
    fn let_go(&mut self, at: StreamRef, rule: Option<&'static str>) -> usize {
        let waiting = self.classifier.take_waiting(at);
        for position in waiting.positions() {
            let Some(name) = self.waiting.remove(position) else { continue };
            let Some(stream) = self.streams.get_mut(&name) else { continue };
            stream.bypassed += 1;
            if let Some(rule) = rule {
                stream.promoted_at.get_or_insert(stream.arrivals.len() as u64);
                stream.rule.get_or_insert(rule.into());
            }
            // It was held until now.
            self.report.bypassed += 1;
            self.report.held -= 1;
            if let Some(account) = self.flows.get_mut(&name.0) {
                account.bypassed += 1;
            }
        }
        waiting.positions().len()
    }

    fn see_rtp(&mut self, judged: &Judged<'_>) -> Cow<'static, str> {
        let Judged { flow, ref headers, packet, ref decision, passes, rule: ruled } = *judged;
        let payload = headers.payload(packet.bytes);
        let Packet::Rtp(rtp) = Packet::read(payload, headers.payload_len as usize) else {
            return "unknown".into();
        };
        let name = (flow, rtp.ssrc);
        let stream = self.streams.entry(name).or_default();
        let arrival = Arrival { at_ns: packet.at_ns, sequence: rtp.sequence, timestamp: rtp.timestamp };
        stream.arrivals.push(arrival);
        stream.bypassed += u64::from(passes);
        stream.by_rules += u64::from(passes && ruled.is_some());
        let number = stream.arrivals.len() as u64;
        if let Some(n) = ruled {
            let rule = Cow::from(format!("rule {n}"));
            if passes {
                stream.promoted_at.get_or_insert(number);
            }
            return stream.rule.get_or_insert(rule).clone();
        }
        let rule = match decision.verdict {
            Verdict::Probation(at) => {
                self.position += 1;
                self.classifier.waiting(at, self.position);
                self.waiting.insert(self.position, name);
                return "probation".into();
            }
            Verdict::Promote(at) => {
                let waited = self.let_go(at, None);
                if self.classifier.is_learned(headers, packet.at_ns) {
                    "sip"
                } else if waited == 1 {
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
            _ => return "hold".into(),
        };
        let Some(stream) = self.streams.get_mut(&name) else { return rule.into() };
        stream.promoted_at.get_or_insert(number);
        stream.rule.get_or_insert(rule.into()).clone()
    }

    fn see_other(&mut self, judged: &Judged<'_>) -> &'static str {
        let Judged { flow, ref headers, packet, ref decision, passes, rule } = *judged;
        if !passes {
            return if decision.verdict == Verdict::Refuse { "refuse" } else { "hold" };
        }
        if rule.is_some() {
            self.report.by_rules += 1;
            return "rule";
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
                // Its own stream, else one that was let go on its port or beside it, else any of the guest's (SIP may
                // name a port far away). An SSRC may have several peers and ports: the nearest.
                let rank = |(of, name): &(Flow, u32)| {
                    (
                        of.sport.abs_diff(flow.sport) > 1,
                        Some(*name) != ssrc,
                        of.sport > flow.sport,
                        *of != flow,
                    )
                };
                let promoted =
                    self.streams.iter().filter(|((of, _), s)| of.src == flow.src && s.bypassed > 0);
                let name = promoted.map(|(name, _)| *name).min_by_key(|name| (rank(name), *name));
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
        let clocks: HashMap<_, _> =
            tracked.iter().map(|t| ((t.src, t.sport, t.ssrc), t.clock_rate)).collect();
        let mut streams: Vec<StreamReport> = Vec::new();
        for ((flow, ssrc), stream) in &self.streams {
            let packets = stream.arrivals.len() as u64;
            if stream.bypassed == 0 && packets < FEWEST {
                self.report.looked_like_rtp += packets;
                continue;
            }
            let told = clocks.get(&(flow.src, flow.sport, *ssrc)).copied().flatten();
            let clock_rate = told.or_else(|| media_clock(&stream.arrivals)).unwrap_or(8000);
            streams.push(StreamReport {
                src: flow.src,
                sport: flow.sport,
                dst: flow.dst,
                dport: flow.dport,
                ssrc: format!("{ssrc:#010x}"),
                packets,
                bypassed: stream.bypassed,
                by_rules: stream.by_rules,
                promoted_at: stream.promoted_at,
                rule: stream.rule.clone().unwrap_or("hold".into()),
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
            held: account.packets - account.bypassed - account.refused,
            refused: account.refused,
            rule: account.rule,
        };
        let mut report = self.report;
        report.flows = flows.into_iter().map(flow).collect();
        let explained = streams.iter().map(|s| s.bypassed + s.rtcp).sum::<u64>()
            + report.announcements
            + report.udptl
            + report.fragments
            + report.by_policy
            + report.by_rules
            + report.rtcp_outside_streams;
        report.bypassed_outside_streams = report.bypassed - explained;
        report.streams = streams;
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::sample::{capture, rtp, udp};
    use std::fs;
    use tidegate_dataplane::policy::{Rule, RuleVerdict};

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
            (stream.packets, stream.bypassed, stream.promoted_at, stream.rule.as_ref()),
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
            assert_eq!((stream.bypassed, stream.promoted_at, stream.rule.as_ref()), (1, Some(1), "sip"));
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
    fn fragments_of_sip_may_come_in_any_order() {
        let whole = invite("audio 40000 RTP/AVP 8");
        let part = |from: usize, to: usize| {
            let mut frame = [&whole[..34], &whole[34 + from..34 + to]].concat();
            frame[16..18].copy_from_slice(&(20 + (to - from) as u16).to_be_bytes());
            frame[18..20].copy_from_slice(&[0, 7]);
            let more = if 34 + to < whole.len() { 0x2000 } else { 0 };
            frame[20..22].copy_from_slice(&(more | (from / 8) as u16).to_be_bytes());
            frame
        };
        let end = whole.len() - 34;
        let (_dir, path) = capture(&[part(96, end), part(0, 96), udp(5, 40_000, &rtp(1))]);
        for guests in [vec![], vec![IpAddr::from([10, 0, 0, 5])]] {
            let report = judge(&path, &Task { guests, ..task() }).expect("it is a capture");
            let promoted: Vec<_> = report.streams.iter().map(|s| (s.promoted_at, &*s.rule)).collect();
            assert_eq!(promoted, [(Some(1), "sip")]);
        }
    }

    #[test]
    fn rtcp_counts_for_the_stream_it_goes_with() {
        let rtcp = |ssrc: u32| [&[0x81, 201, 0, 7][..], &ssrc.to_be_bytes(), &[0; 24]].concat();
        // The same SSRC from four ports, as one that changes its peer has it.
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for port in [40_000, 40_010, 40_020, 40_030] {
            frames.extend((0..4).map(|n| udp(5, port, &rtp(n))));
        }
        frames.push(udp(5, 40_020, &rtcp(0xcafe_babe)));
        frames.push(udp(5, 40_011, &rtcp(0xcafe_babe)));
        frames.push(udp(5, 40_029, &rtcp(1)));
        let (_dir, path) = capture(&frames);
        for _ in 0..8 {
            let report = judge(&path, &task()).expect("it is a capture");
            assert_eq!(report.streams.iter().map(|s| s.rtcp).collect::<Vec<_>>(), [0, 1, 1, 1]);
            assert_eq!((report.rtcp_outside_streams, report.bypassed_outside_streams), (0, 0));
        }
    }

    #[test]
    fn what_rules_let_go_hold_and_refuse_is_counted_under_their_number() {
        let mut frames: Vec<Vec<u8>> = (0..10).map(|n| udp(5, 40_000, &rtp(n))).collect();
        frames.extend([udp(5, 53, &[1; 40]), udp(5, 54, &[1; 40]), udp(6, 40_000, &rtp(1))]);
        let (_dir, path) = capture(&frames);
        let rule = |verdict, dst_host: u8, sport: u16| Rule {
            src: format!("10.0.0.{dst_host}/32").parse().ok(),
            sport: Some(sport..=sport),
            ..Rule::new(verdict)
        };
        let rules = vec![rule(RuleVerdict::Bypass, 5, 53), rule(RuleVerdict::Refuse, 5, 54)];
        let media = Rule { ssrc: Some(0xcafe_babe..=0xcafe_babe), ..Rule::new(RuleVerdict::Bypass) };
        let policy = Policy { rules: [rules, vec![media]].concat(), ..Policy::default() };
        let report = judge(&path, &Task { policy, guests: Vec::new(), sip_ports: vec![5060] })
            .expect("it is a capture");
        assert_eq!((report.bypassed, report.held, report.refused, report.by_rules), (12, 0, 1, 1));
        assert_eq!(report.bypassed_outside_streams, 0);
        let streams: Vec<_> = report.streams.iter().map(|s| (&*s.rule, s.bypassed, s.by_rules)).collect();
        assert_eq!(streams, [("rule 3", 10, 10), ("rule 3", 1, 1)]);
        let flows: Vec<_> = report.flows.iter().map(|f| (f.sport, &*f.rule, f.refused)).collect();
        assert_eq!(
            flows,
            [(53, "rule 1", 0), (54, "rule 2", 1), (40_000, "rule 3", 0), (40_000, "rule 3", 0)]
        );
        let text = report.text(false);
        assert!(
            text.contains("1 bypass by the operator's rules, beside RTP") && text.contains("1 refused"),
            "{text}"
        );
        assert!(text.contains("rule 3"), "{text}");
        let hold = Rule { ssrc: Some(0..=u32::MAX), ..Rule::new(RuleVerdict::Hold) };
        let policy = Policy { rules: vec![hold], ..Policy::default() };
        let report = judge(&path, &Task { policy, guests: Vec::new(), sip_ports: vec![5060] })
            .expect("it is a capture");
        assert_eq!((report.bypassed, report.held, report.streams[0].rule.as_ref()), (0, 13, "rule 1"));
    }

    #[test]
    fn a_file_that_is_cut_or_no_capture_is_told() {
        let (_dir, path) = capture(&[udp(5, 40_000, &rtp(1)), udp(5, 40_000, &rtp(2))]);
        let report = judge(&path, &task()).expect("it is a capture");
        assert_eq!((report.packets, report.cut), (2, false), "a whole one");
        let whole = fs::read(&path).expect("read");
        fs::write(&path, &whole[..24]).expect("written");
        let report = judge(&path, &task()).expect("a capture of nothing");
        assert_eq!((report.packets, report.cut), (0, false));
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
