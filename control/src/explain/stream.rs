//! Why a live stream goes the way it goes, from its record and from the policy in force. The rules are asked by the
//! code that the lcore asks them by.

use crate::config::{PolicyName, PolicySpec};
use crate::protocol::{StreamExplanation, StreamReport};
use std::net::SocketAddr;
use tidegate_dataplane::policy::RuleVerdict;
use tidegate_dataplane::wire::{Headers, Kind, address_bytes};

/// UDP.
const UDP: u8 = 17;

/// A packet of the stream, as far as its record has it: no VLAN, no DSCP.
fn packet(stream: &StreamReport) -> Option<(Headers, u32)> {
    let (src, dst): (SocketAddr, SocketAddr) =
        (stream.source.parse().ok()?, stream.destination.parse().ok()?);
    let headers = Headers {
        src: address_bytes(src.ip()),
        dst: address_bytes(dst.ip()),
        sport: src.port(),
        dport: dst.port(),
        version: if src.is_ipv4() { 4 } else { 6 },
        protocol: UDP,
        kind: Kind::Udp,
        ..Headers::default()
    };
    let ssrc = crate::config::ssrc(&stream.ssrc)?;
    Some((headers, ssrc))
}

/// The rules that match or may match, in order: number from 0, what it says, whether it is certain. Ends with the first
/// that is certain.
fn rules(policy: &PolicySpec, headers: &Headers, ssrc: u32) -> Vec<(usize, RuleVerdict, bool)> {
    let mut found = Vec::new();
    let mut from = 0;
    loop {
        // What a record cannot tell is taken out of the rules, one question after the other.
        let mut rest = policy.plane();
        rest.rules.drain(..from.min(rest.rules.len()));
        rest.rules.iter_mut().for_each(|rule| (rule.vlan, rule.dscp) = (None, None));
        let matched = rest.compile().ok().and_then(|rest| rest.rule_for_ssrc(headers, ssrc));
        let Some((n, verdict)) = matched else { return found };
        let rule = &policy.rules[from + n];
        let certain = rule.vlan.is_none() && rule.dscp.is_none();
        found.push((from + n, verdict, certain));
        if certain {
            return found;
        }
        from += n + 1;
    }
}

/// See the module's head.
pub fn explain(policy: &PolicySpec, stream: StreamReport) -> StreamExplanation {
    let Some((headers, ssrc)) = packet(&stream) else {
        let why = "its record cannot be read".into();
        return StreamExplanation {
            stream,
            verdict: "hold".into(),
            decided_by: "policy".into(),
            why,
            ..Default::default()
        };
    };
    let rules = rules(policy, &headers, ssrc);
    let told = |n: usize| format!("rule {}, {}", n + 1, policy.rules[n]);
    let unless = rules.iter().filter(|(_, _, certain)| !certain).map(|(n, ..)| told(*n)).collect();
    let certain = rules.into_iter().find(|(_, _, certain)| *certain);
    let mut explained = match certain {
        Some((n, verdict, _)) => by_rule(policy, n, verdict),
        None => by_policy(policy, &stream, headers.sport),
    };
    explained.unless = unless;
    explained.stream = stream;
    explained
}

fn by_rule(policy: &PolicySpec, n: usize, verdict: RuleVerdict) -> StreamExplanation {
    let text = policy.rules[n].to_string();
    StreamExplanation {
        verdict: verdict.name().into(),
        decided_by: "rule".into(),
        rule: Some(n + 1),
        since_packet: Some(1),
        why: format!(
            "the operator's rule {} is the first that matches it ({text}); rules come before the policy",
            n + 1
        ),
        changes: vec![
            format!("without rule {}, the policy {} decides", n + 1, policy.name.name()),
            format!("a rule in front of rule {} that names this stream", n + 1),
        ],
        rule_text: Some(text),
        ..Default::default()
    }
}

fn by_policy(policy: &PolicySpec, stream: &StreamReport, sport: u16) -> StreamExplanation {
    let name = policy.name.name();
    let of_port = policy.media_ports.iter().find(|range| (range.first..=range.last).contains(&sport));
    let in_front = |verdict: &str| {
        let rule = format!("{{\"ssrc\":\"{}\",\"verdict\":\"{verdict}\"}}", stream.ssrc);
        format!("a rule in front, such as {rule} (`tidegate policy --rule`, which replaces all rules)")
    };
    let promoted = stream.promoted_at.filter(|_| stream.state == "promoted");
    let (verdict, decided_by, since_packet, why, changes) = match (policy.name, promoted, of_port) {
        (PolicyName::HoldAll, ..) => (
            "hold",
            "policy",
            Some(1),
            format!("the policy {name} holds everything but the plane's own announcements, media too"),
            vec!["another policy, such as `tidegate policy --name realtime`".into()],
        ),
        (PolicyName::BypassAll | PolicyName::NonTcp, ..) => (
            "bypass",
            "policy",
            Some(1),
            format!("the policy {name} lets everything out that is not TCP or everything, and this is UDP"),
            vec![in_front("hold"), "another policy, such as `tidegate policy --name hold-all`".into()],
        ),
        (PolicyName::Realtime, Some(1), Some(range)) => (
            "bypass",
            "media_ports",
            Some(1),
            format!(
                "port {sport} lies in media_ports {range}: RTP from there is media from its first packet on"
            ),
            vec![
                format!("media_ports without port {sport}: until three packets in order have proven it"),
                in_front("hold"),
            ],
        ),
        (PolicyName::Realtime, Some(at), _) if stream.named_by_sip => (
            "bypass",
            "sip",
            Some(at),
            format!(
                "SIP of the guest named port {sport} for RTP: media from its first packet on{}",
                if at > 1 { "; what came before the plane had read it left with the lesson" } else { "" }
            ),
            vec![format!("without sip_ports: until three packets in order have proven it"), in_front("hold")],
        ),
        (PolicyName::Realtime, Some(at), _) => (
            "bypass",
            "probation",
            Some(at),
            format!(
                "its packets up to number {at} came in order and proved it to be RTP (three in order, two after STUN, \
                 DTLS or RTCP on the port); what waited of that run left with it"
            ),
            vec![
                in_front("hold"),
                "30 s of silence, or numbers far outside its window: then it must prove itself again".into(),
            ],
        ),
        (PolicyName::Realtime, None, _) => (
            "hold",
            "probation",
            Some(1),
            format!(
                "its header looks like RTP, but of {} packets no three came in order of one SSRC to one peer \
                 (two after STUN, DTLS or RTCP on the port)",
                stream.packets
            ),
            vec![
                "three packets in order: the two before the third leave with it".into(),
                format!("media_ports with port {sport}, if media comes from there for certain"),
                in_front("bypass"),
            ],
        ),
    };
    StreamExplanation {
        verdict: verdict.into(),
        decided_by: decided_by.into(),
        since_packet,
        why,
        changes,
        ..Default::default()
    }
}

/// What the guest's mode makes of a verdict, in words; nothing for `protected`.
pub fn mode(mode: &str, fenced: bool) -> Option<&'static str> {
    match (mode, fenced) {
        (_, true) => {
            Some("but the guest is fenced: nothing of it leaves until a new lease in a new generation")
        }
        ("open", _) => {
            Some("but the guest's mode is open: all of it leaves at once, refused frames excepted")
        }
        ("muted", _) => Some("but the guest is muted, a standby: nothing of it leaves until `unmute`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PortRange, Rule};

    fn rule(text: &str) -> Rule {
        toml::from_str(text).expect("a rule")
    }

    fn stream(promoted_at: Option<u64>) -> StreamReport {
        StreamReport {
            ssrc: "0xcafe0001".into(),
            source: "10.0.0.5:40000".into(),
            destination: "10.0.0.9:5004".into(),
            state: if promoted_at.is_some() { "promoted" } else { "probation" }.into(),
            promoted_at,
            packets: 50,
            ..Default::default()
        }
    }

    fn said(policy: &PolicySpec, promoted_at: Option<u64>) -> (String, String, Option<usize>, Option<u64>) {
        let e = explain(policy, stream(promoted_at));
        (e.verdict, e.decided_by, e.rule, e.since_packet)
    }

    fn is(
        verdict: &str,
        by: &str,
        rule: Option<usize>,
        since: Option<u64>,
    ) -> (String, String, Option<usize>, Option<u64>) {
        (verdict.into(), by.into(), rule, since)
    }

    #[test]
    fn a_stream_is_explained_by_what_decides() {
        let mut policy = PolicySpec::default();
        assert_eq!(said(&policy, Some(3)), is("bypass", "probation", None, Some(3)));
        assert_eq!(said(&policy, None), is("hold", "probation", None, Some(1)));
        let named = explain(&policy, StreamReport { named_by_sip: true, ..stream(Some(1)) });
        assert_eq!((named.verdict.as_str(), named.decided_by.as_str()), ("bypass", "sip"));
        policy.media_ports = vec![PortRange { first: 40000, last: 40010 }];
        assert_eq!(said(&policy, Some(1)), is("bypass", "media_ports", None, Some(1)));
        assert_eq!(
            said(&policy, Some(3)),
            is("bypass", "probation", None, Some(3)),
            "it had proven itself before"
        );
        policy.name = PolicyName::HoldAll;
        assert_eq!(said(&policy, Some(3)), is("hold", "policy", None, Some(1)));
        policy.name = PolicyName::NonTcp;
        assert_eq!(said(&policy, None), is("bypass", "policy", None, Some(1)));
    }

    #[test]
    fn rules_come_first_and_those_that_a_record_cannot_judge_are_named() {
        let rules = vec![
            rule("protocol = \"tcp\"\nverdict = \"refuse\""),
            rule("ssrc = \"0xcafe0002\"\nverdict = \"refuse\""),
            rule("dscp = 46\nverdict = \"bypass\""),
            rule("src = \"10.0.0.0/8\"\nssrc = \"0xcafe0000-0xcafeffff\"\nverdict = \"hold\""),
            rule("vlan = 7\nverdict = \"bypass\""),
        ];
        let policy = PolicySpec { rules, ..PolicySpec::default() };
        let explained = explain(&policy, stream(Some(3)));
        assert_eq!((explained.verdict.as_str(), explained.rule), ("hold", Some(4)));
        assert_eq!(explained.unless, ["rule 3, dscp 46: bypass"]);
        assert!(explained.why.contains("rule 4") && explained.why.contains("0xcafe0000-0xcafeffff"));
        let policy = PolicySpec { rules: policy.rules[4..].to_vec(), ..policy };
        let explained = explain(&policy, stream(Some(3)));
        assert_eq!((explained.decided_by.as_str(), explained.unless.len()), ("probation", 1));
    }

    #[test]
    fn a_mode_that_overrules_the_verdict_is_told() {
        assert!(mode("open", false).is_some_and(|said| said.contains("leaves at once")));
        assert!(mode("muted", false).is_some_and(|said| said.contains("nothing")));
        assert!(mode("protected", true).is_some_and(|said| said.contains("fenced")));
        assert_eq!(mode("protected", false), None);
    }
}
