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
use tidegate_dataplane::wire::turn::ChannelData;
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

/// A flow, the TURN channel in it (0 for none), an SSRC.
type Name = (Flow, u16, u32);

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

/// What a datagram carries: the TURN channel that it comes through (0 for none), the bytes at hand, how many there are.
/// Only what is media is asked: channel data is that where the classifier has looked into it.
fn carried<'a>(headers: &Headers, packet: &Captured<'a>) -> (u16, &'a [u8], usize) {
    match ChannelData::of(headers, packet.bytes) {
        Some(data) => (data.number, data.data, data.len),
        None => (0, headers.payload(packet.bytes), headers.payload_len as usize),
    }
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
    /// TURN channels are learned.
    pub learn_turn: bool,
}

struct Judge<'t> {
    task: &'t Task,
    classifier: Classifier,
    flows: HashMap<Flow, FlowAccount>,
    streams: HashMap<Name, Stream>,
    /// Streams whose frames wait under probation, by the position that the classifier was told.
    waiting: HashMap<u64, Name>,
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
        overheard: Overheard::new(&task.sip_ports, task.learn_turn, &task.guests),
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
        let rule = self.classifier.rule_for(&headers, frame.head(), packet.at_ns).map(|(n, _)| n + 1);
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
        let (channel, payload, len) = carried(headers, packet);
        let Packet::Rtp(rtp) = Packet::read(payload, len) else { return "unknown".into() };
        let name = (flow, channel, rtp.ssrc);
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
                if channel == 0 && self.classifier.is_learned(headers, packet.at_ns) {
                    "sip"
                } else if waited == 1 {
                    "two-in-order-after-set-up"
                } else {
                    "three-in-order"
                }
            }
            Verdict::Bypass
                if channel == 0
                    && self.task.policy.media_ports.iter().any(|ports| ports.contains(&flow.sport)) =>
            {
                "media-port"
            }
            Verdict::Bypass
                if channel == 0
                    && decision.class == Class::Rtp
                    && self.classifier.is_learned(headers, packet.at_ns) =>
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
                let (channel, payload, _) = carried(headers, packet);
                let ssrc = payload.get(4..8).and_then(|b| <[u8; 4]>::try_from(b).ok());
                let ssrc = ssrc.map(u32::from_be_bytes);
                // Its own stream, else one that was let go on its port or beside it, else any of the guest's (SIP may
                // name a port far away). An SSRC may have several peers and ports: the nearest.
                let rank = |(of, through, name): &Name| {
                    (
                        *through != channel,
                        of.sport.abs_diff(flow.sport) > 1,
                        Some(*name) != ssrc,
                        of.sport > flow.sport,
                        *of != flow,
                    )
                };
                let promoted =
                    self.streams.iter().filter(|((of, ..), s)| of.src == flow.src && s.bypassed > 0);
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
        let clocks: HashMap<_, _> = tracked
            .iter()
            .map(|t| ((t.src, t.sport, t.channel.unwrap_or(0), t.ssrc), t.clock_rate))
            .collect();
        let mut streams: Vec<StreamReport> = Vec::new();
        for ((flow, channel, ssrc), stream) in &self.streams {
            let packets = stream.arrivals.len() as u64;
            if stream.bypassed == 0 && packets < FEWEST {
                self.report.looked_like_rtp += packets;
                continue;
            }
            let told = clocks.get(&(flow.src, flow.sport, *channel, *ssrc)).copied().flatten();
            let clock_rate = told.or_else(|| media_clock(&stream.arrivals)).unwrap_or(8000);
            let channel = Some(*channel).filter(|channel| *channel != 0);
            streams.push(StreamReport {
                src: flow.src,
                sport: flow.sport,
                dst: flow.dst,
                dport: flow.dport,
                channel: channel.map(crate::protocol::channel),
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
            let name = |s: &StreamReport| (s.src, s.sport, s.dst, s.dport, s.channel.clone(), s.ssrc.clone());
            name(a).cmp(&name(b))
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
mod tests;
