//! One demo: under each policy a plane, a sink and a guest, then the books.

use super::outcome::{Outcome, Rtp};
use super::process::{Child, Plane, mortal};
use super::reports::{GuestReport, Kind, SinkProgress, SinkReport, number, read_made, read_seen};
use super::verdict::{Evidence, judge};
use super::{MAX_CALLS, table};
use crate::control_client::ControlClient;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Both policies, side by side.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// The `tidegate` program
    #[arg(long, value_name = "PATH")]
    tidegate: PathBuf,
    /// Where sockets, logs and lists of frames go
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Seconds of traffic under each policy
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Calls at the same time
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_CALLS)))]
    calls: u16,
    /// Epoch, milliseconds
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=10000))]
    interval_ms: u64,
    /// From a checkpoint to its commit, milliseconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=10000))]
    commit_ms: u64,
    /// End with one line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// The wire is this interface, a veth; without it a second vhost-user socket
    #[arg(long, value_name = "NAME", requires = "sink_netns")]
    veth: Option<String>,
    /// The network namespace of the veth's other end
    #[arg(long, value_name = "PATH")]
    sink_netns: Option<PathBuf>,
}

/// The policies that are compared, with what each lets through.
const POLICIES: [(&str, &[Kind]); 2] = [("hold-all", &[]), ("realtime", &[Kind::Media, Kind::Announce])];
/// Longer than traffic and the end of its connections can take.
const GUEST_GRACE: Duration = Duration::from_secs(30);
/// How long the last released frames may take to leave on a machine that is too busy. What is held then is shown.
const SETTLE: Duration = Duration::from_secs(10);

/// Runs both and prints the table, or the JSON.
pub(super) fn run(args: &DemoArgs) -> Result<(), String> {
    let mut outcomes = Vec::new();
    for (policy, bypassing) in POLICIES {
        outcomes.push(run_policy(args, policy, bypassing).map_err(|e| format!("{policy}: {e}"))?);
    }
    let text = table::side_by_side(&outcomes, args.interval_ms, args.commit_ms);
    if args.json {
        eprint!("{text}");
        let policies: serde_json::Map<String, Value> =
            outcomes.iter().map(|outcome| (outcome.policy.clone(), outcome.json())).collect();
        super::cli::say(&json!({ "policies": policies }))?;
    } else {
        print!("{text}");
    }
    let faults: Vec<String> = outcomes.iter().flat_map(Outcome::faults).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n  ")) }
}

fn run_policy(args: &DemoArgs, policy: &str, bypassing: &[Kind]) -> Result<Outcome, String> {
    let dir = args.dir.join(policy);
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let (guest_port, wire_port) = (dir.join("guest.sock"), dir.join("wire.sock"));
    let wire = match &args.veth {
        Some(name) => format!("net_af_packet0,iface={name}"),
        None => format!("net_vhost1,iface={}", wire_port.display()),
    };
    let mut plane = Plane::start(&args.tidegate, &dir, policy, &guest_port, &wire)?;
    let mut control = plane.wait_ready()?;
    let (made, seen) = (dir.join("frames-made"), dir.join("frames-seen"));
    let mut sink = Child::start("sink", &dir, sink_command(args, &wire_port, &seen)?)?;
    sink.line::<SinkProgress>(Duration::from_secs(15))?;
    let mut guest = Child::start("guest", &dir, guest_command(args, &guest_port, &plane.socket, &made)?)?;
    let told = watch(args, policy, &mut guest, &mut sink, &mut control)?;
    settle(&mut control)?;
    let stats = ask(&mut control, "stats")?;
    let histograms = ask(&mut control, "histograms")?;
    guest.end()?;
    let heard = sink.last_line::<SinkReport>()?;
    plane.stop()?;

    let (made, seen) = (read_made(&made)?, read_seen(&seen)?);
    let (closes, commits) = (&told.closes, &told.commits);
    let verdict = judge(&Evidence { made: &made, seen: &seen, closes, commits, bypassing });
    let mut outcome = Outcome {
        policy: policy.to_owned(),
        epochs: Default::default(),
        frames: Default::default(),
        latencies: Default::default(),
        verdict,
        rtp: Rtp::of(&told.calls, &heard.streams),
        guest: told,
        sink: heard,
    };
    outcome.read_plane(&stats, &histograms)?;
    Ok(outcome)
}

/// Waits for the guest's report; says how things stand once a second.
fn watch(
    args: &DemoArgs,
    policy: &str,
    guest: &mut Child,
    sink: &mut Child,
    control: &mut ControlClient,
) -> Result<GuestReport, String> {
    let start = Instant::now();
    let deadline = start + Duration::from_secs(args.seconds) + GUEST_GRACE;
    for second in 1.. {
        let next = start + Duration::from_secs(second);
        if let Some(report) = guest.line_by::<GuestReport>(next)? {
            return Ok(report);
        }
        let mut gap_ms: f64 = 0.0;
        while let Some(progress) = sink.line_by::<SinkProgress>(Instant::now())? {
            gap_ms = gap_ms.max(progress.gap_ms);
        }
        let guests = ask(control, "guests")?;
        let stats = ask(control, "stats")?;
        let (guest, frames) = (&guests["guests"][0], &stats["guests"][0]["frames"]);
        let (open, committed) = (number(guest, "open_epoch")?, number(guest, "committed_epoch")?);
        let (received, held) = (number(frames, "received")?, number(frames, "held")?);
        eprintln!(
            "{policy:>9} {second:3} s   epoch {open:4}, {committed:4} committed   {received:6} frames, {held:4} held   \
             longest gap in a call {gap_ms:6.1} ms"
        );
        if Instant::now() > deadline {
            break;
        }
    }
    Err(format!("the guest has not ended in time; its words are in {}", args.dir.join(policy).display()))
}

/// After the last commit the plane owes every frame to the wire (I7); waits until it has paid.
fn settle(control: &mut ControlClient) -> Result<(), String> {
    let deadline = Instant::now() + SETTLE;
    let mut before = None;
    while Instant::now() < deadline {
        let stats = ask(control, "stats")?;
        let frames = &stats["guests"][0]["frames"];
        let now = (number(frames, "received")?, number(frames, "held")?);
        if now.1 == 0 && before == Some(now) {
            return Ok(());
        }
        before = Some(now);
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn ask(control: &mut ControlClient, verb: &str) -> Result<Value, String> {
    control.execute(verb, json!({})).map_err(|e| e.to_string())
}

fn this_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|e| format!("where this program is: {e}"))
}

fn sink_command(args: &DemoArgs, port: &Path, frames: &Path) -> Result<Command, String> {
    let mut command = mortal("KILL");
    if let Some(netns) = &args.sink_netns {
        command.arg("nsenter").arg(format!("--net={}", netns.display())).arg("--");
    }
    command.arg(this_program()?);
    command.arg("sink").arg("--calls").arg(args.calls.to_string()).arg("--frames").arg(frames);
    if args.veth.is_none() {
        command.arg("--port").arg(port);
    }
    Ok(command)
}

fn guest_command(args: &DemoArgs, port: &Path, control: &Path, frames: &Path) -> Result<Command, String> {
    let mut command = Command::new(this_program()?);
    command.arg("guest").arg("--port").arg(port).arg("--control").arg(control).arg("--frames").arg(frames);
    for (flag, value) in [
        ("--seconds", args.seconds),
        ("--calls", args.calls.into()),
        ("--interval-ms", args.interval_ms),
        ("--commit-ms", args.commit_ms),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    Ok(command)
}
