//! `tidegate xen-remus`: starts `xl remus` with xen-send as its transport, and watches both and the domain. However they
//! end, the domain does not stay suspended.

use super::domain::{Doing, Domain, children};
use crate::chronicle::{Chronicle, ms};
use crate::orders::Orders;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tidegate_control::cli::XenRemusArgs;

/// The program that xl starts.
const TRANSPORT: &str = "tidegate-replica";
/// How often xl is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is asked how the domain is: each time costs a process, on a Dom0 with few CPUs.
const ASK: Duration = Duration::from_secs(2);
/// How long xen-send and xl may take to end when told.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// Runs until xl has ended or is told to. `Err`: it never began, or the domain could not be let run.
pub fn run(args: &XenRemusArgs, orders: &Orders) -> Result<(), String> {
    let domain = Domain { name: args.domain.clone(), xl: args.xl.clone() };
    let chronicle = Chronicle::aside("xen-remus", args.send.json);
    if args.rescue {
        return after(&domain, &chronicle);
    }
    match domain.doing()? {
        Doing::Gone => return Err(format!("there is no domain {}: see xl list", domain.name)),
        Doing::Suspended => after(&domain, &chronicle)?,
        Doing::Runs => {}
    }
    if let Some(why) = domain.unfit() {
        return Err(why);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    orders.on_stop(move || told.store(true, Relaxed));
    let began = Instant::now();
    let mut xl = start(args)?;
    chronicle.tell("xl-started", json!({ "pid": xl.id(), "domain": domain.name }));
    let why = watch(args, &domain, &mut xl, &stop)?;
    if matches!(why, Why::Stuck(_)) {
        // Whoever reads xl's pipe does not, and xl's helper would wait for it for ever.
        for pid in children(xl.id(), TRANSPORT) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    // xl goes first: what its saver leaves suspended is seen after it.
    let _ = xl.kill();
    let _ = xl.wait();
    chronicle.tell("xl-ended", json!({ "reason": why.text(), "after_ms": ms(began.elapsed()) }));
    after(&domain, &chronicle)?;
    match why {
        Why::Stopped => Ok(()),
        other => Err(format!("{}; domain {} runs on unprotected", other.text(), domain.name)),
    }
}

/// Why it is over.
enum Why {
    Stopped,
    Ended(ExitStatus),
    /// The domain stood still for too long.
    Stuck(Duration),
}

impl Why {
    fn text(&self) -> String {
        match self {
            Why::Stopped => "told to stop".into(),
            Why::Ended(status) => format!("xl remus ended with {status}"),
            Why::Stuck(since) => {
                format!("the domain was suspended for {} ms at a stretch", since.as_millis())
            }
        }
    }
}

fn start(args: &XenRemusArgs) -> Result<Child, String> {
    let own = std::env::current_exe().map_err(|e| format!("cannot tell where this program is: {e}"))?;
    let words: Vec<String> = args.send_words().iter().map(|word| quoted(word)).collect();
    let transport = format!("exec {} xen-send {}", quoted(&own.to_string_lossy()), words.join(" "));
    let interval = args.interval.as_millis().to_string();
    Command::new(&args.xl)
        .args(["remus", "-F", "-n", "-d", "-i", &interval, "-s", "", &args.domain, &transport])
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start {}: {e}", args.xl.display()))
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn watch(args: &XenRemusArgs, domain: &Domain, xl: &mut Child, stop: &AtomicBool) -> Result<Why, String> {
    let mut asked = Instant::now();
    let mut suspended: Option<Instant> = None;
    let mut told: Option<Instant> = None;
    loop {
        if let Some(status) = xl.try_wait().map_err(|e| format!("{}: {e}", args.xl.display()))? {
            return Ok(if told.is_some() { Why::Stopped } else { Why::Ended(status) });
        }
        match told {
            // xen-send tells the backup; when it has ended, xl lets the domain run and ends too.
            None if stop.load(Relaxed) => {
                told = Some(Instant::now());
                for pid in children(xl.id(), TRANSPORT) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
            }
            Some(since) if since.elapsed() > ENDS_WITHIN => return Ok(Why::Stopped),
            _ => {}
        }
        if asked.elapsed() > ASK {
            // One look is no stretch: a domain is suspended at each checkpoint.
            suspended = match domain.doing() {
                Ok(Doing::Suspended) => Some(suspended.unwrap_or(asked)),
                Ok(_) => None,
                Err(why) => {
                    log::warn!("{why}");
                    suspended
                }
            };
            asked = Instant::now();
            if let Some(since) = suspended.filter(|since| since.elapsed() > args.suspended_at_most) {
                return Ok(Why::Stuck(since.elapsed()));
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// xl is gone: whatever it left suspended runs again.
fn after(domain: &Domain, chronicle: &Chronicle) -> Result<(), String> {
    if domain.doing()? != Doing::Suspended {
        return Ok(());
    }
    let began = Instant::now();
    let done = domain.rescue();
    chronicle.tell(
        "resumed",
        json!({ "domain": domain.name, "took_ms": ms(began.elapsed()), "problem": done.as_ref().err() }),
    );
    done.map_err(|why| format!("{why}; nothing of it goes on until it is resumed or destroyed (xl destroy)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_reaches_the_transport_whole() {
        assert_eq!(quoted("it's"), "'it'\\''s'");
        let said = Command::new("sh").args(["-c", &format!("printf %s {}", quoted("a '$(x)' b"))]).output();
        assert_eq!(said.expect("a shell").stdout, b"a '$(x)' b");
    }
}
