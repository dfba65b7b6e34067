//! One frame before the lcore's own code, step by step: what was read, what was asked, what decided.

use super::source::{self, Source};
use crate::classify::capture::{self, Captured};
use crate::classify::{Overheard, RATE, STREAMS, Whole};
use crate::config::PolicySpec;
use serde::Serialize;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::checksum::{self, Bad};
use tidegate_dataplane::class::{Class, Verdict};
use tidegate_dataplane::classify::{Classifier, Explanation, Found, Reason};
use tidegate_dataplane::policy::PolicyName;
use tidegate_dataplane::wire::rtp::Rtp;
use tidegate_dataplane::wire::{Headers, Kind, display_address};

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `announcement`, `rules`, `fragment`, `found` or `policy`.
    pub step: &'static str,
    /// The answer.
    pub says: String,
    /// This one decided.
    pub decides: bool,
}

/// What is told of a frame.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FrameReport {
    /// Bytes of the frame.
    pub bytes: u32,
    /// Frames of the capture that were judged before it.
    pub judged_before: u64,
    /// What its headers say, a line each.
    pub headers: Vec<String>,
    /// The questions in the order in which they are asked, as far as they were.
    pub steps: Vec<Step>,
    /// `bypass`, `hold`, `probation`, `promote` or `refuse`.
    pub verdict: &'static str,
    /// `announcement`, `rule`, `first-fragment`, `media_ports`, `sip`, `probation`, `rtcp` or `policy`.
    pub decided_by: &'static str,
    /// The rule's number, from 1, if one decided.
    pub rule: Option<usize>,
    /// In words.
    pub why: String,
    /// Why the lane drops it before any of this, whatever the verdict.
    pub dropped_before: Option<&'static str>,
}

/// Explains the frame that `source` names, under `policy`.
/// In a capture, SIP from and to `sip_ports` is heard.
pub fn explain(source: &Source, policy: &PolicySpec, sip_ports: &[u16]) -> Result<FrameReport, String> {
    let compiled = policy.compile().map_err(|e| e.to_string())?;
    let mut classifier = Classifier::new(compiled, STREAMS, RATE, &mut Heap);
    let alone = |classifier: &mut Classifier, bytes: Vec<u8>| {
        let len = bytes.len() as u32;
        report(classifier, &Captured { at_ns: 1, bytes: &bytes, len }, 0, policy)
    };
    match source {
        Source::Bytes(bytes) => Ok(alone(&mut classifier, source::check(bytes.clone())?)),
        Source::File(path) => Ok(alone(&mut classifier, source::read(path)?)),
        Source::Capture { path, number } => {
            of_capture(&mut classifier, path, *number, policy, Overheard::new(sip_ports, &[]))
        }
    }
}

fn of_capture(
    classifier: &mut Classifier,
    path: &Path,
    number: u64,
    policy: &PolicySpec,
    mut overheard: Overheard,
) -> Result<FrameReport, String> {
    let (mut told, mut waiting) = (None, 0);
    let read = capture::read_numbered(path, |at, packet| {
        if at <= number {
            let headers = Headers::parse(packet.bytes, packet.len);
            for lesson in overheard.hear(&headers, &packet) {
                classifier.learn(&lesson, packet.at_ns);
                while let Some(stream) = classifier.vouched(&lesson) {
                    classifier.take_waiting(stream);
                }
            }
        }
        if at == number {
            told = Some(report(classifier, &packet, at - 1, policy));
        } else if at < number
            && let Verdict::Probation(stream) = classifier.classify(&Whole(&packet), packet.at_ns).verdict
        {
            waiting += 1;
            classifier.waiting(stream, waiting);
        }
    });
    let read = read.map_err(|what| format!("{}: {what}", path.display()))?;
    told.ok_or_else(|| match number <= read.packets {
        true => format!("{}: frame {number} is of a link that is not known here", path.display()),
        false => format!("{}: it has {} frames, not {number}", path.display(), read.packets),
    })
}

fn report(
    classifier: &mut Classifier,
    packet: &Captured<'_>,
    before: u64,
    policy: &PolicySpec,
) -> FrameReport {
    let frame = Whole(packet);
    let explained = classifier.explain(&frame, packet.at_ns);
    let whole = packet.bytes.len() as u32 >= packet.len;
    let dropped_before = match checksum::verify(&frame, &explained.headers) {
        Err(Bad::Unreadable) => Some("unreadable: its headers contradict themselves or nest too deep"),
        // What the capture cut off cannot be checked.
        Err(_) if !whole => None,
        Err(Bad::Ipv4Header) => Some("checksum: that of its IPv4 header is wrong"),
        Err(Bad::Transport) => Some("checksum: that of UDP, TCP or ICMP is wrong, or was left to the card"),
        Err(Bad::Missing) => Some("checksum: UDP over IPv6 has none"),
        Ok(()) => None,
    };
    let steps = steps(&explained, policy);
    let why = steps.iter().find(|step| step.decides).map(|step| step.says.clone()).unwrap_or_default();
    FrameReport {
        bytes: packet.len.max(packet.bytes.len() as u32),
        judged_before: before,
        headers: headers(&explained),
        verdict: verdict(explained.decision.verdict),
        decided_by: decided_by(&explained),
        rule: match explained.reason {
            Reason::Rule(n) => Some(n + 1),
            _ => None,
        },
        why,
        steps,
        dropped_before,
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Bypass => "bypass",
        Verdict::Hold => "hold",
        Verdict::Probation(_) => "probation",
        Verdict::Promote(_) => "promote",
        Verdict::Refuse => "refuse",
    }
}

fn decided_by(e: &Explanation) -> &'static str {
    match (e.reason, e.found) {
        (Reason::Announcement, _) => "announcement",
        (Reason::Rule(_), _) => "rule",
        (Reason::FirstFragment, _) => "first-fragment",
        (Reason::Policy, _) if e.policy != PolicyName::Realtime => "policy",
        (Reason::Policy, _) if e.decision.class == Class::Udptl => "sip",
        (Reason::Policy, Found::Rtp(_, standing)) if standing.eligible => {
            let proven = standing.stream.is_some_and(|stream| stream.proven);
            match proven {
                false if standing.media_port => "media_ports",
                false if standing.learned => "sip",
                _ => "probation",
            }
        }
        (Reason::Policy, Found::Rtcp { .. }) => "rtcp",
        (Reason::Policy, Found::Announcement) => "announcement",
        (Reason::Policy, _) => "policy",
    }
}

fn steps(e: &Explanation, policy: &PolicySpec) -> Vec<Step> {
    let mut steps = Vec::new();
    let announcement = match (e.reason, e.headers.kind) {
        (Reason::Announcement, _) => "the plane's own announcement (RARP): it passes under every policy",
        (_, Kind::Rarp) => "RARP, but not in the form in which a hypervisor announces its guest",
        _ => "no RARP",
    };
    let decides = e.reason == Reason::Announcement;
    steps.push(Step { step: "announcement", says: announcement.into(), decides });
    if decides {
        return steps;
    }
    let says = match e.rule {
        Some((n, says)) => {
            let rule = &policy.rules[n];
            let fits = rule.verdict.name() == says.name();
            let doubt = if fits { "" } else { ", and holds it: nobody can tell whether it means this frame" };
            format!("rule {} is the first that matches ({rule}){doubt}", n + 1)
        }
        None if policy.rules.is_empty() => "there are none".into(),
        None => format!("none of {} matches", policy.rules.len()),
    };
    steps.push(Step { step: "rules", says, decides: matches!(e.reason, Reason::Rule(_)) });
    if e.headers.is_fragment() {
        let says = match (e.headers.kind, e.reason) {
            (_, Reason::FirstFragment) => "a later fragment: it goes the way of its datagram's first one",
            (Kind::Fragment, _) => "a later fragment whose first one was not seen to pass",
            _ => "the first fragment of a datagram: its verdict is remembered for the later ones",
        };
        let decides = e.reason == Reason::FirstFragment;
        steps.push(Step { step: "fragment", says: says.into(), decides });
    }
    let found = found(e);
    if e.reason == Reason::Policy {
        let why = format!("{} {}: {found}", e.policy.name(), answer(e));
        steps.push(Step { step: "found", says: found, decides: false });
        steps.push(Step { step: "policy", says: why, decides: true });
    } else {
        steps.push(Step { step: "found", says: found, decides: false });
    }
    steps
}

fn answer(e: &Explanation) -> &'static str {
    match e.decision.verdict {
        Verdict::Bypass => "lets it out at once",
        Verdict::Hold => "holds it",
        Verdict::Probation(_) => "holds it, and lets it out as soon as its stream has proven itself",
        Verdict::Promote(_) => "lets it out at once, behind what waits of its run",
        Verdict::Refuse => "refuses it",
    }
}

fn found(e: &Explanation) -> String {
    if e.decision.class == Class::Udptl {
        return "fax (T.38, UDPTL) from a port that SIP named for it".into();
    }
    let (rtp, standing) = match e.found {
        Found::Rtp(rtp, standing) => (rtp, standing),
        Found::Kind(kind) => return of_kind(kind).into(),
        Found::Announcement => return "ARP, RARP or neighbour discovery in good form".into(),
        Found::Rtcp { with_stream: true, .. } => {
            return "RTCP, and a promoted stream comes from its port or a neighbour".into();
        }
        Found::Rtcp { .. } => {
            return "RTCP, but no promoted stream comes from its port or a neighbour".into();
        }
        Found::SetUp => {
            return "STUN or DTLS: from now on two RTP packets in order prove a stream of this port".into();
        }
        Found::Udp if e.headers.surplus => return "UDP with bytes behind its datagram: never media".into(),
        Found::Udp if e.headers.final_dst_at != 0 => return "UDP on a route of its own: never media".into(),
        Found::Udp => return "UDP whose first bytes are neither RTP, RTCP, STUN nor DTLS".into(),
    };
    let stream = standing.stream.filter(|stream| !stream.idle);
    let said = match stream {
        _ if !standing.eligible => {
            return "it looks like RTP, but from a port below 1024 or an address that no single host has"
                .into();
        }
        Some(stream) if stream.within && (stream.proven || standing.media_port || standing.learned) => {
            let by = if stream.proven { "proven" } else { "vouched for by its port" };
            let at = stream.promoted_at.unwrap_or(0);
            format!(
                "packet {} of a stream that is {by} since packet {at}, within its window",
                stream.packets + 1
            )
        }
        _ if e.headers.is_fragment() => "a fragment proves no stream".into(),
        _ if standing.media_port => "its port is one of media_ports".into(),
        _ if standing.learned => "SIP named its port for RTP".into(),
        Some(stream) if stream.in_row > 0 && rtp.sequence == stream.expected => {
            format!("packet {} in order, of {} that prove a stream", stream.in_row + 1, standing.needed)
        }
        Some(stream) if stream.in_row > 0 && !matches!(e.decision.verdict, Verdict::Probation(_)) => {
            format!("a number that its run has had, which goes on with {}", stream.expected)
        }
        _ => format!("the first of a run; {} in order prove a stream", standing.needed),
    };
    format!("RTP by its header: {said}")
}

fn of_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Malformed => "headers that end too early or contradict themselves",
        Kind::Unknown => "headers beyond the first segment, or that nest deeper than is looked at",
        Kind::Other => "neither IP nor ARP",
        Kind::Arp | Kind::Rarp => "ARP or RARP that is not in good form",
        Kind::Udp => "UDP",
        Kind::Tcp => "TCP: its order and its acknowledgements are state that the backup must have",
        Kind::Icmp => "ICMP",
        Kind::Icmpv6 => "ICMPv6 that is not neighbour discovery in good form",
        Kind::Ip => "a protocol over IP that is not looked into",
        Kind::Fragment => "a later fragment, without ports",
    }
}

fn headers(e: &Explanation) -> Vec<String> {
    let h: &Headers = &e.headers;
    let mut lines = Vec::new();
    let tags: Vec<String> = h.vlan[..h.tags as usize].iter().map(|tag| (tag & 0xfff).to_string()).collect();
    let tags = if tags.is_empty() { String::new() } else { format!(", VLAN {}", tags.join(" in ")) };
    lines.push(format!("Ethernet: type {:#06x}{tags}", h.ethertype));
    if matches!(h.kind, Kind::Malformed | Kind::Unknown) {
        lines.push(format!("behind it: {}", of_kind(h.kind)));
        return lines;
    }
    if h.version != 0 {
        let (src, dst) = (display_address(h.src), display_address(h.dst));
        let fragment = match h.is_fragment() {
            true => format!(", fragment at {} of datagram {}", h.fragment_offset, h.fragment_id),
            false => String::new(),
        };
        let more = if h.extended { ", with options or extension headers" } else { "" };
        let (version, protocol, dscp) = (h.version, h.protocol, h.dscp);
        lines.push(format!("IPv{version}: {src} -> {dst}, protocol {protocol}, DSCP {dscp}{fragment}{more}"));
    }
    if h.has_ports() {
        let name = if h.kind == Kind::Udp { "UDP" } else { "TCP" };
        let end = |address, port| SocketAddr::new(display_address(address), port);
        let (src, dst) = (end(h.src, h.sport), end(h.dst, h.dport));
        lines.push(format!("{name}: {src} -> {dst}, {} bytes of payload", h.payload_len));
    }
    match e.found {
        Found::Rtp(Rtp { payload_type, sequence, timestamp, ssrc }, _) => lines.push(format!(
            "RTP: SSRC {ssrc:#010x}, number {sequence}, timestamp {timestamp}, payload type {payload_type}"
        )),
        Found::Rtcp { packet_type, .. } => lines.push(format!("RTCP: packet type {packet_type}")),
        _ => {}
    }
    lines
}

impl FrameReport {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{} bytes", self.bytes);
        if self.judged_before > 0 {
            let _ = write!(text, ", judged after the {} before it", self.judged_before);
        }
        text.push('\n');
        for line in &self.headers {
            let _ = writeln!(text, "  {line}");
        }
        for (n, step) in self.steps.iter().enumerate() {
            let decides = if step.decides { "  <== decides" } else { "" };
            let _ = writeln!(text, "{}. {:<12} {}{decides}", n + 1, step.step, step.says);
        }
        let rule = self.rule.map(|n| format!(" {n}")).unwrap_or_default();
        let _ = writeln!(text, "verdict: {}, decided by {}{rule}", self.verdict, self.decided_by);
        if let Some(why) = self.dropped_before {
            let _ =
                writeln!(text, "but the lane would drop it before ({why}), unless verify_checksums = false");
        }
        text
    }
}

#[cfg(test)]
mod tests;
