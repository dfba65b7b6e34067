//! What each command of replication does, and how it ends: 0 done, 1 failed, 2 wrong use.

use crate::disks::check_hook;
use crate::orders::Orders;
use crate::pacing::Pacing;
use crate::{primary, standby};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tidegate_control::cli::{DONE, DeskArgs, FAILED, FailoverArgs, ReplicationCommand, WRONG_USE, say_error};
use tidegate_control::client::{Client, ClientError};
use tidegate_control::protocol::Failure;

/// Where a process of either kind is asked when nothing else is said.
const DESKS: [&str; 2] = ["/run/tidegate/replicate.sock", "/run/tidegate/standby.sock"];

/// Does it.
pub fn execute(command: ReplicationCommand) -> ExitCode {
    let json = json(&command);
    if let Err(what) = check(&command) {
        return refused(&Failure::new("wrong-use", what), json, WRONG_USE);
    }
    let result = match command {
        ReplicationCommand::Replicate(args) => {
            Orders::listen().and_then(|orders| match primary::run(*args, &orders)? {
                primary::End::Stopped => Ok(()),
                primary::End::Failed(reason) => Err(reason),
            })
        }
        ReplicationCommand::Standby(args) => {
            Orders::listen().and_then(|orders| match standby::run(*args, &orders)? {
                standby::End::Stopped(_) => Ok(()),
                standby::End::Failed(reason) => Err(reason),
            })
        }
        ReplicationCommand::XenSend(args) => {
            Orders::listen().and_then(|orders| match primary::xen::run(*args, &orders)? {
                primary::End::Stopped => Ok(()),
                primary::End::Failed(reason) => Err(reason),
            })
        }
        ReplicationCommand::XenRemus(args) => {
            Orders::listen().and_then(|orders| crate::xen::remus::run(&args, &orders))
        }
        ReplicationCommand::XenReceive(args) => {
            Orders::listen().and_then(|orders| match standby::xen::run(*args, &orders)? {
                standby::End::Stopped(_) => Ok(()),
                standby::End::Failed(reason) => Err(reason),
            })
        }
        ReplicationCommand::Failover(args) => return ended(failover(&args), args.json),
        ReplicationCommand::Replication(args) => return ended(replication(&args), args.json),
        ReplicationCommand::Certs(args) => return crate::certs::run(&args),
        ReplicationCommand::Witness(args) => return crate::witness::run(&args),
        ReplicationCommand::Observe(args) => crate::observe::run(args),
    };
    ended(result.map_err(|what| ClientError::Refused(Failure::new("failed", what))), json)
}

/// Refuses words that contradict each other, before anything of this host is asked.
fn check(command: &ReplicationCommand) -> Result<(), String> {
    match command {
        ReplicationCommand::Replicate(args) => {
            args.link.check_dial(args.to)?;
            Pacing::new(args.interval, args.floor, args.ceiling)?;
            args.disk_hook.as_deref().map_or(Ok(()), check_hook)
        }
        ReplicationCommand::Standby(args) => {
            args.link.check_grants(&args.grants)?;
            args.link.check_listen(args.listen)?;
            args.disk_hook.as_deref().map_or(Ok(()), check_hook)
        }
        ReplicationCommand::XenSend(args) => args.send.link.check_dial(args.to),
        ReplicationCommand::XenRemus(args) => args.check(),
        ReplicationCommand::XenReceive(args) => {
            args.link.check_grants(&args.grants)?;
            args.link.check_listen(args.listen)
        }
        _ => Ok(()),
    }
}

fn json(command: &ReplicationCommand) -> bool {
    match command {
        ReplicationCommand::Replicate(args) => args.vm.json,
        ReplicationCommand::Standby(args) => args.vm.json,
        // Its standard output is xl's: not a word of ours.
        ReplicationCommand::XenSend(_) | ReplicationCommand::XenRemus(_) => false,
        ReplicationCommand::XenReceive(args) => args.json,
        ReplicationCommand::Failover(args) => args.json,
        ReplicationCommand::Replication(args) => args.json,
        ReplicationCommand::Certs(args) => args.json,
        ReplicationCommand::Witness(args) => args.json,
        ReplicationCommand::Observe(args) => args.vm.json,
    }
}

fn ended(result: Result<(), ClientError>, as_json: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => refused(&error.failure(), as_json, FAILED),
    }
}

fn refused(failure: &Failure, as_json: bool, code: u8) -> ExitCode {
    if as_json {
        let _ = writeln!(std::io::stdout(), "{}", json!({ "error": failure }));
    }
    say_error(&failure.desc);
    ExitCode::from(code)
}

/// The plane's client speaks of the plane; who is missing here is the standby or the replication.
fn no_desk(who: &str, desk: &Path, error: ClientError) -> ClientError {
    if UnixStream::connect(desk).is_ok() {
        return error;
    }
    let desc = format!(
        "no {who} answers at {}: start it, or see its own log for why it has ended, or name its socket with --desk",
        desk.display()
    );
    ClientError::Refused(Failure::new("unreachable", desc))
}

fn failover(args: &FailoverArgs) -> Result<(), ClientError> {
    let mut client = Client::connect(&args.desk).map_err(|error| no_desk("standby", &args.desk, error))?;
    let told = client.execute("failover", json!({ "primary_is_off": args.primary_is_off }))?;
    if args.json {
        let _ = writeln!(std::io::stdout(), "{told}");
    } else {
        let _ = writeln!(
            std::io::stdout(),
            "guest {} runs here now, from the checkpoint of epoch {}",
            text(&told["guest"]),
            told["newest"]["epoch"]
        );
    }
    Ok(())
}

fn replication(args: &DeskArgs) -> Result<(), ClientError> {
    let desks: Vec<PathBuf> = match &args.desk {
        Some(desk) => vec![desk.clone()],
        None => DESKS.map(PathBuf::from).into(),
    };
    let mut told = Vec::new();
    let mut problem = None;
    for desk in &desks {
        match Client::connect(desk).and_then(|mut client| client.execute("status", json!({}))) {
            Ok(status) => told.push(status),
            Err(error) => problem = problem.or(Some(no_desk("replicate or standby", desk, error))),
        }
    }
    if let (true, Some(problem)) = (told.is_empty(), problem) {
        return Err(problem);
    }
    for status in &told {
        let line = if args.json { status.to_string() } else { lines(status) };
        let _ = writeln!(std::io::stdout(), "{line}");
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// A status for people: a key a line, what is nested behind dots, what is unknown left out.
fn lines(status: &Value) -> String {
    let mut lines = Vec::new();
    flatten("", status, &mut lines);
    lines.join("\n")
}

fn flatten(prefix: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&name, value, lines);
            }
        }
        Value::Null => {}
        Value::String(text) => lines.push(format!("{prefix:<39} {text}")),
        other => lines.push(format!("{prefix:<39} {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: ReplicationCommand,
    }

    /// There is no such plane: what comes as far as that has failed.
    fn code(words: &str) -> String {
        let words = format!("x {words} --socket /nonexistent/plane");
        let line = Line::try_parse_from(words.split_ascii_whitespace()).expect("clap takes it");
        format!("{:?}", execute(line.command))
    }

    #[test]
    fn a_name_of_any_length_stands_apart_from_its_value() {
        let long = "a_key_that_is_longer_than_the_column_for_names_is_wide";
        for line in
            lines(&json!({ "checkpoints": { "acknowledged_after_ms": { "median": 0.5 } }, long: 7 })).lines()
        {
            assert_eq!(line.split_ascii_whitespace().count(), 2, "{line}");
        }
    }

    #[test]
    fn words_that_contradict_each_other_are_wrong_use_and_what_is_missing_here_is_a_failure() {
        let [failed, wrong] = [FAILED, WRONG_USE].map(|code| format!("{:?}", ExitCode::from(code)));
        let (replicate, standby) =
            ("replicate --qmp /q --to 127.0.0.1:1", "standby --qmp /q --listen 127.0.0.1:0");
        for right in [replicate, standby] {
            assert_eq!(code(right), failed, "{right}");
        }
        for (command, contradiction) in [
            (replicate, "--beat 200ms"),
            (replicate, "--interval 0ms"),
            (replicate, "--interval auto --floor 2s"),
            (replicate, "--certs /c"),
            (replicate, "--witness 127.0.0.1:2"),
            (replicate, "--disks external --disk-hook /nonexistent/hook"),
            ("replicate --qmp /q --to 10.7.0.2:1", ""),
            (standby, "--term 10ms"),
            (standby, "--media-term 2s"),
            (standby, "--disk-hook /nonexistent/hook"),
            ("standby --qmp /q --listen 10.7.0.2:1", ""),
            ("xen-send --to 10.7.0.2:1", ""),
            ("xen-receive --listen 127.0.0.1:0", "--term 10ms"),
            ("xen-remus pbx 127.0.0.1:1", "--interval 0ms"),
        ] {
            assert_eq!(code(&format!("{command} {contradiction}")), wrong, "{command} {contradiction}");
        }
    }
}
