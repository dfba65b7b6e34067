//! `tidegate run`: checks, then becomes `tidegate-plane`.
//!
//! Two programs, because the dynamic loader refuses one that needs libdpdk before it can say a word. So the
//! one people type links nothing but the C library; it finds the plane's program, sees whether that can be
//! loaded, says what to install where it cannot, and replaces itself by it: the process id stays the same.

use super::{DONE, FAILED, WRONG_USE, print_failure, say_error};
use crate::config::{Config, Host, RunArgs};
use crate::protocol::Failure;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The plane's program.
const PLANE: &str = "tidegate-plane";

/// Where the plane's program is: beside this one, or in a `libexec/tidegate` next to that directory.
pub fn plane_program() -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?;
    let dir = here.parent()?;
    let places = [dir.join(PLANE), dir.parent()?.join("libexec/tidegate").join(PLANE)];
    places.into_iter().find(|path| path.is_file())
}

/// The version of DPDK that the plane's program runs with; the error says what to do.
pub fn dpdk_version(program: &Path) -> Result<String, String> {
    let output = Command::new(program)
        .arg("--dpdk-version")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot start {}: {e}; install tidegate again", program.display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().next().unwrap_or("it gave no reason");
    // 127: the dynamic loader's own exit code.
    if output.status.code() == Some(127) {
        return Err(format!(
            "libdpdk cannot be loaded ({line}); install it: apt-get install dpdk libdpdk-dev"
        ));
    }
    Err(format!("{} does not start: {line}", program.display()))
}

/// `tidegate run --check`: whether the configuration is good for this host, and how much memory it takes.
pub fn check(args: &RunArgs, host: &Host) -> ExitCode {
    match args.checked(host) {
        Ok(config) => {
            let _ = writeln!(std::io::stdout(), "{}", verdict(&config, host, args.json));
            ExitCode::from(DONE)
        }
        Err(problem) => {
            if args.json {
                print_failure(&Failure::new("bad-configuration", problem.as_str()));
            }
            say_error(&problem);
            ExitCode::from(WRONG_USE)
        }
    }
}

fn verdict(config: &Config, host: &Host, json: bool) -> String {
    let pages = config.pages(&host.root);
    let (needed, has) = (config.needed_mb(pages), config.eal.memory_mb);
    let guests = config.guests.len();
    let lanes: usize = config.guests.iter().map(|guest| guest.lanes.len()).sum();
    if json {
        return serde_json::json!({ "guests": guests, "lanes": lanes, "needed_mb": needed, "memory_mb": has,
            "pages": pages.name() })
        .to_string();
    }
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    format!(
        "ok: {}, {}; frames and rings take {needed} MiB of eal.memory_mb = {has} ({} pages)",
        count(guests, "guest"),
        count(lanes, "lane"),
        pages.name()
    )
}

pub(super) fn run(args: &RunArgs) -> ExitCode {
    if args.check {
        return check(args, &Host::this());
    }
    if let Err(problem) = args.config() {
        say_error(&problem);
        return ExitCode::from(WRONG_USE);
    }
    let Some(program) = plane_program() else {
        say_error("cannot find tidegate-plane beside this program; install tidegate again");
        return ExitCode::from(FAILED);
    };
    if let Err(problem) = dpdk_version(&program) {
        say_error(&problem);
        return ExitCode::from(FAILED);
    }
    let error = Command::new(&program).args(std::env::args_os().skip(2)).exec();
    say_error(&format!("cannot start {}: {error}", program.display()));
    ExitCode::from(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn program(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("plane");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
        path
    }

    #[test]
    fn a_missing_libdpdk_is_said_with_the_command_that_installs_it() {
        let dir = tempfile::tempdir().expect("a directory");
        // What the dynamic loader says and does.
        let loader = "echo 'librte_eal.so.23: cannot open shared object file' >&2; exit 127";
        let refused = dpdk_version(&program(dir.path(), loader)).unwrap_err();
        assert!(
            refused.contains("librte_eal.so.23") && refused.contains("apt-get install dpdk"),
            "{refused}"
        );
    }

    #[test]
    fn the_version_is_what_the_plane_says_and_other_failures_are_told_as_they_are() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(dpdk_version(&program(dir.path(), "echo DPDK 22.11.7")), Ok("DPDK 22.11.7".into()));
        let refused = dpdk_version(&program(dir.path(), "echo boom >&2; exit 3")).unwrap_err();
        assert!(refused.contains("boom") && !refused.contains("apt-get"), "{refused}");
        assert!(dpdk_version(&dir.path().join("absent")).unwrap_err().contains("install tidegate again"));
    }
}
