//! Instructions, counted by valgrind's callgrind: steady from run to run, whatever else the machine does.

use crate::failure::{Context, Failure, Result};
use crate::machine::Scratch;
use std::path::Path;
use std::process::Command;

/// Counting begins and ends with the functions of this name, wherever they are.
const MEASURED: &str = "*tidegate_measured*";

/// Instructions that `args` of this program execute within the functions named `tidegate_measured`. With `keep` the
/// profile goes to that file, for callgrind_annotate.
pub fn instructions(args: &[String], scratch: &Scratch, keep: Option<&Path>) -> Result<u64> {
    let this = std::env::current_exe().context(|| "cannot find this program".into())?;
    let own = scratch.path("callgrind.out");
    let file = keep.unwrap_or(&own);
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--error-exitcode=1", "--dump-instr=yes"])
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(this)
        .args(args)
        .output()
        .context(|| "cannot run valgrind (Debian package valgrind)".into())?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("valgrind failed ({}): {}", output.status, words.trim())));
    }
    let profile = std::fs::read_to_string(file).context(|| format!("cannot read {}", file.display()))?;
    summary(&profile).filter(|&count| count > 0).ok_or_else(|| {
        Failure::new(format!(
            "callgrind counted nothing: no function matches {MEASURED} (is the binary stripped?)"
        ))
    })
}

/// The total in a callgrind profile.
fn summary(profile: &str) -> Option<u64> {
    let line = |key: &str| profile.lines().find_map(|line| line.strip_prefix(key));
    line("summary:").or_else(|| line("totals:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found() {
        assert_eq!(summary("version: 1\nevents: Ir\nfn=(1) x\n3 4\nsummary: 1234\n"), Some(1234));
        assert_eq!(summary("totals: 99 7\n"), Some(99));
        assert_eq!(summary("events: Ir\n"), None);
    }
}
