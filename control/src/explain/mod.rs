//! `tidegate explain`: which rule decides about a live stream or a given frame, and why.

pub mod frame;
pub mod source;
pub mod stream;

use crate::cli::{Reach, WRONG_USE, ended, print, print_failure, say_error};
use crate::client::{Client, ClientError};
use crate::config::{PolicyName, PolicySpec, PortRange, ssrc};
use crate::protocol::{Explain, Explanations, Failure};
use source::Source;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Its arguments.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["stream", "frame"]))]
pub struct ExplainArgs {
    /// A live stream of the running plane: the guest's address and port, and an SSRC if it sends several
    #[arg(long, value_name = "ADDR:PORT[/SSRC]", value_parser = wanted)]
    stream: Option<Wanted>,
    /// A frame: its bytes in hex, @FILE with them, or frame N of a capture, judged after those before it
    #[arg(long, value_name = "HEX|@FILE|CAPTURE:N")]
    frame: Option<Source>,
    /// The guest: of the plane, or of the file that --config names; may be left out where there is one only
    #[arg(long, short, value_name = "NAME")]
    guest: Option<String>,
    /// With --frame: the policy [default: realtime, or what --config says]
    #[arg(long, conflicts_with = "stream")]
    policy: Option<PolicyName>,
    /// With --frame: policy, rules and media ports of a guest in this file
    #[arg(long, value_name = "FILE", conflicts_with = "stream")]
    config: Option<PathBuf>,
    /// With --frame: UDP ports that carry media for certain
    #[arg(long, value_name = "RANGE", value_delimiter = ',', conflicts_with = "stream")]
    media_ports: Option<Vec<PortRange>>,
    /// With --frame of a capture: ports of SIP, from which media ports are learned; 0 for none
    #[arg(
        long,
        value_name = "PORT",
        value_delimiter = ',',
        default_value = "5060",
        conflicts_with = "stream"
    )]
    sip_ports: Vec<u16>,
    /// With --frame of a capture: learn no TURN channels
    #[arg(long, conflicts_with = "stream")]
    no_learn_turn: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Which streams are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    from: SocketAddr,
    ssrc: Option<u32>,
}

fn wanted(text: &str) -> Result<Wanted, String> {
    let wrong =
        || "write the guest's address and port, 10.0.0.5:40000 or [2001:db8::5]:40000/0xcafe0001".to_owned();
    let (from, named) = text.split_once('/').map_or((text, None), |(from, named)| (from, Some(named)));
    let named = named.map(|named| ssrc(named).ok_or_else(wrong)).transpose()?;
    Ok(Wanted { from: from.parse().map_err(|_| wrong())?, ssrc: named })
}

/// Runs it.
pub fn main(args: &ExplainArgs) -> ExitCode {
    let json = args.reach.json;
    if let Some(wanted) = args.stream {
        return ended(live(args, wanted), json);
    }
    let Some(source) = &args.frame else { return ExitCode::from(WRONG_USE) };
    let explained =
        policy(args).and_then(|policy| frame::explain(source, &policy, &args.sip_ports, !args.no_learn_turn));
    match explained {
        Ok(report) if json => ended(print(&format!("{}\n", serde_json::json!(report))), json),
        Ok(report) => ended(print(&report.text()), json),
        Err(what) => {
            if json {
                print_failure(&Failure::new("wrong-use", what.as_str()));
            }
            say_error(&what);
            ExitCode::from(WRONG_USE)
        }
    }
}

fn policy(args: &ExplainArgs) -> Result<PolicySpec, String> {
    let mut policy = match &args.config {
        Some(file) => PolicySpec::read(file, args.guest.as_deref())?,
        None => PolicySpec::default(),
    };
    policy.name = args.policy.unwrap_or(policy.name);
    policy.media_ports = args.media_ports.clone().unwrap_or(policy.media_ports);
    Ok(policy)
}

fn live(args: &ExplainArgs, wanted: Wanted) -> Result<(), ClientError> {
    let asked = Explain { guest: args.guest.clone(), stream: wanted.from.to_string(), ssrc: wanted.ssrc };
    let answer = Client::connect(&args.reach.socket)?.execute("explain", asked)?;
    if args.reach.json {
        return print(&format!("{answer}\n"));
    }
    let known: Explanations = serde_json::from_value(answer)
        .map_err(|e| ClientError::Answer(format!("an answer of another version: {e}; try --json")))?;
    print(&text(&known))
}

fn text(answer: &Explanations) -> String {
    let mut text = format!("{}: {}, policy {}\n", answer.guest, answer.mode, answer.policy);
    for e in &answer.streams {
        let (s, rule) = (&e.stream, e.rule.map(|n| format!(" {n}")).unwrap_or_default());
        let since = match (e.since_packet, e.verdict.as_str()) {
            (Some(at), "bypass") if at > 1 => format!(" from packet {at} on"),
            _ => String::new(),
        };
        let _ = writeln!(text, "{} -> {} SSRC {}", s.source, s.destination, s.ssrc);
        let _ = writeln!(text, "  verdict   {}{since}, decided by {}{rule}", e.verdict, e.decided_by);
        let _ = writeln!(text, "  why       {}", e.why);
        for rule in &e.unless {
            let _ = writeln!(text, "  unless    {rule}: a stream's record has neither VLAN nor DSCP");
        }
        if let Some(said) = stream::mode(&answer.mode, answer.fenced) {
            let _ = writeln!(text, "  mode      {said}");
        }
        let (packets, bypassed, held) = (s.packets, s.bypassed, s.held);
        let _ = writeln!(
            text,
            "  so far    {packets} packets: {bypassed} did not wait, {held} waited for a commit"
        );
        for change in &e.changes {
            let _ = writeln!(text, "  change    {change}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{StreamExplanation, StreamReport};

    #[test]
    fn a_stream_is_named_by_address_port_and_perhaps_ssrc() {
        let v4 = wanted("10.0.0.5:40000").expect("a stream");
        assert_eq!((v4.from.to_string().as_str(), v4.ssrc), ("10.0.0.5:40000", None));
        let v6 = wanted("[2001:db8::5]:40000/0xcafe0001").expect("a stream");
        assert_eq!((v6.from.port(), v6.ssrc), (40000, Some(0xcafe_0001)));
        for text in ["10.0.0.5", "10.0.0.5:x", "10.0.0.5:40000/", "10.0.0.5:40000/cafe", "pbx:5004"] {
            assert!(wanted(text).is_err(), "{text}");
        }
    }

    #[test]
    fn people_read_verdict_rule_reason_mode_and_remedy() {
        let stream =
            StreamReport { source: "10.0.0.5:40000".into(), ssrc: "0xcafe0001".into(), ..Default::default() };
        let explained = StreamExplanation {
            stream,
            verdict: "bypass".into(),
            decided_by: "rule".into(),
            rule: Some(2),
            since_packet: Some(3),
            why: "because".into(),
            changes: vec!["this".into()],
            unless: vec!["rule 1, vlan 7: hold".into()],
            ..Default::default()
        };
        let answer = Explanations { mode: "open".into(), streams: vec![explained], ..Default::default() };
        let text = text(&answer);
        for said in [
            "from packet 3 on, decided by rule 2",
            "because",
            "unless    rule 1",
            "leaves at once",
            "change    this",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}
