//! `tidegate doctor`: what this host lacks, what that means, and the command that mends it. Changes nothing.

mod devices;
mod dom0;
mod host;
mod kernel;
mod memory;
mod processor;

pub use host::Host;

use crate::cli::{DONE, FAILED};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing to do.
    Ok,
    /// The plane runs; something is slower, less safe or not possible.
    Warn,
    /// The plane does not run.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What was found, and what that means.
    pub found: String,
    /// The command that mends it; empty when there is nothing to mend.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Check {
        Check { check, state: State::Ok, found: found.into(), mend: String::new() }
    }

    fn warn(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { check, state: State::Warn, found: found.into(), mend: mend.into() }
    }

    fn fail(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { check, state: State::Fail, found: found.into(), mend: mend.into() }
    }
}

/// All findings about `host`.
pub fn examine(host: &Host) -> Vec<Check> {
    let mut checks = kernel::dpdk(host);
    checks.extend(memory::checks(host));
    checks.extend(processor::checks(host));
    checks.extend(devices::checks(host));
    checks.extend(kernel::features(host));
    checks.extend(dom0::checks(host));
    checks
}

/// Examines this host and tells. Exit code 1 when something fails.
pub fn main(json: bool) -> ExitCode {
    let checks = examine(&Host::this());
    let text = if json { as_json(&checks) } else { as_text(&checks) };
    let _ = std::io::stdout().write_all(text.as_bytes());
    let fails = checks.iter().any(|check| check.state == State::Fail);
    ExitCode::from(if fails { FAILED } else { DONE })
}

fn as_json(checks: &[Check]) -> String {
    let worst = checks.iter().map(|check| check.state).max().unwrap_or(State::Ok);
    format!("{}\n", serde_json::json!({ "state": worst, "checks": checks }))
}

fn as_text(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let state = match check.state {
            State::Ok => "ok  ",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        let _ = writeln!(text, "{state}  {:<14} {}", check.check, check.found);
        if !check.mend.is_empty() {
            let _ = writeln!(text, "      {:<14} mend it with: {}", "", check.mend);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_wrong_comes_with_the_command_that_mends_it() {
        let bare = tempfile::tempdir().expect("a directory");
        let checks = examine(&Host::bare(bare.path()));
        assert!(checks.iter().any(|check| check.state == State::Fail), "no libdpdk there");
        for check in &checks {
            assert_eq!(check.state == State::Ok, check.mend.is_empty(), "{check:?}");
            assert!(!check.found.is_empty(), "{check:?}");
        }
        let text = as_text(&checks);
        assert!(text.contains("FAIL") && text.contains("mend it with: "), "{text}");
        let value: serde_json::Value = serde_json::from_str(&as_json(&checks)).expect("JSON");
        assert_eq!(value["state"], "fail");
    }

    #[test]
    fn every_promised_subject_is_looked_at() {
        let bare = tempfile::tempdir().expect("a directory");
        let names: Vec<&str> = examine(&Host::bare(bare.path())).iter().map(|check| check.check).collect();
        for subject in
            ["libdpdk", "hugepages", "iommu", "cpu isolation", "nic drivers", "privileges", "tsc", "af_xdp"]
        {
            assert!(names.contains(&subject), "{subject}: {names:?}");
        }
    }
}
