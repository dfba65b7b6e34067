//! A domain as xl sees it from outside: whether it is suspended, and how one is let run again that its saver left so.
//!
//! A suspended domain runs again only when somebody resumes it. `xl remus` does, unless it is killed. Xen 4.17's xl has no
//! command for that alone; but an `xl remus` whose receiver takes the beginning of the stream and hangs up ends by resuming
//! the domain, whatever state it found it in. So that is the command.

use crate::xen::READY;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Xen's SHUTDOWN_suspend, as `xl list -v` writes it.
const SUSPEND: &str = "2";
/// How long one command of xl may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// The stream's headers and more; xl writes it before it touches the domain.
const TAKEN: u32 = 4096;
/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What a domain is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It runs, waits, or is paused by a person.
    Runs,
    /// Nobody but its saver lets it run again.
    Suspended,
    /// There is none of this name.
    Gone,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its name or number.
    pub name: String,
    /// Xen's tool.
    pub xl: PathBuf,
}

impl Domain {
    /// What it is doing now.
    pub fn doing(&self) -> Result<Doing, String> {
        let output =
            Command::new(&self.xl).args(["list", "-v", &self.name]).stdin(Stdio::null()).output().map_err(
                |e| {
                    format!(
                        "cannot start {}: {e}; is this a Dom0 (apt-get install xen-utils-4.17)?",
                        self.xl.display()
                    )
                },
            )?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            // An answer about the domain, unlike one about the rights of whoever asks.
            return match why.contains("invalid domain identifier") || why.contains("does not exist") {
                true => Ok(Doing::Gone),
                false => Err(format!("{} list says: {}", self.xl.display(), why.trim())),
            };
        }
        reason(&said).ok_or_else(|| format!("{} list -v answers {said:?}", self.xl.display()))
    }

    /// Why this domain cannot be replicated, if it cannot.
    pub fn unfit(&self) -> Option<String> {
        let output =
            Command::new(&self.xl).args(["list", "-l", &self.name]).stdin(Stdio::null()).output().ok()?;
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let config = &told.get(0).unwrap_or(&told)["config"];
        let kind = config["b_info"]["type"].as_str().or(config["c_info"]["type"].as_str())?;
        (kind == "pv").then(|| {
            format!(
                "domain {} is PV: Xen replicates no PV guest (its memory cannot be watched without shadow paging, which \
                 Debian's Xen does not have); make it type=\"pvh\"",
                self.name
            )
        })
    }

    /// Lets a suspended domain run again.
    pub fn rescue(&self) -> Result<(), String> {
        let banner = String::from_utf8_lossy(READY).trim_end().to_owned();
        let receiver = format!("printf '{banner}\\n'; exec head -c {TAKEN} >/dev/null");
        let mut child = Command::new(&self.xl)
            .args(["remus", "-F", "-n", "-d", "-s", "", &self.name, &receiver])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}", self.xl.display()))?;
        let deadline = Instant::now() + ANSWERS_WITHIN;
        while Instant::now() < deadline {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(LOOK),
                // How it ends says nothing: its receiver hung up.
                Ok(Some(_)) => break,
                Err(e) => return Err(format!("{}: {e}", self.xl.display())),
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        match self.doing()? {
            Doing::Runs => Ok(()),
            Doing::Gone => Err(format!("domain {} is gone", self.name)),
            Doing::Suspended => Err(format!("domain {} is still suspended", self.name)),
        }
    }
}

/// From a table with one domain: behind its UUID stands why it is shut down, or a dash.
fn reason(table: &str) -> Option<Doing> {
    let line = table.lines().nth(1)?;
    let mut words = line.split_whitespace().skip_while(|word| !is_uuid(word));
    words.next()?;
    Some(if words.next()? == SUSPEND { Doing::Suspended } else { Doing::Runs })
}

fn is_uuid(word: &str) -> bool {
    word.len() == 36 && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// The children of a process that run this program.
pub fn children(parent: u32, program: &str) -> Vec<i32> {
    let list =
        Path::new("/proc").join(parent.to_string()).join("task").join(parent.to_string()).join("children");
    let all = std::fs::read_to_string(list).unwrap_or_default();
    let named = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| program.starts_with(name.trim()))
    };
    all.split_whitespace().filter_map(|word| word.parse().ok()).filter(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Name  ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label\n";

    #[test]
    fn a_suspended_domain_is_told_from_one_that_runs_or_was_shut_down() {
        let table = |state: &str, reason: &str| {
            format!(
                "{HEAD}pbx   1   112     1     {state}  32.1 b0a1f2c3-1111-2222-3333-444455556666 {reason}        -\n"
            )
        };
        assert_eq!(reason(&table("r-----", "-")), Some(Doing::Runs));
        assert_eq!(reason(&table("---s--", "2")), Some(Doing::Suspended));
        assert_eq!(reason(&table("---s--", "1")), Some(Doing::Runs), "a reboot is xl's own business");
        assert_eq!(reason(HEAD), None);
        assert_eq!(reason("what xl says when something is wrong\n\n"), None);
    }
}
