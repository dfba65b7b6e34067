//! The primary of a replicated VM dies, at each step of a checkpoint and at any moment, and no peer ever sees something
//! that the backup does not know. `scripts/survival --long` is the long form.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tidegate_tests::ensure;
use tidegate_tests::failure::{Failure, Result};
use tidegate_tests::laboratory::tidegate;
use tidegate_tests::plane::Kind;
use tidegate_tests::process::Program;
use tidegate_tests::scratch::Scratch;
use tidegate_tests::survival::cli::{Args, By, survive};
use tidegate_tests::survival::trial::VERDICT;
use tidegate_tests::wall_clock::wait_until;

fn program() -> Result<PathBuf> {
    match tidegate()? {
        Kind::Tidegate(path) => Ok(path),
        Kind::Forwarder => Err(Failure::new("the laboratory has no tidegate")),
    }
}

fn args(kills: usize, by: By) -> Result<Args> {
    Ok(Args {
        kills,
        json: true,
        policy: "realtime".to_owned(),
        seed: 0,
        // One may meet a moment just after a checkpoint, with nothing said since.
        unsafe_kills: Some(2),
        control: None,
        by,
        tidegate: program()?,
        teller: PathBuf::from(env!("CARGO_BIN_EXE_teller")),
    })
}

/// One death a step of a checkpoint and one at any moment, every kind of death; a control run of the same length.
#[test]
fn no_peer_notices_that_a_primary_died() -> Result<()> {
    let report = survive(&args(8, By::Programs)?, &|line| println!("{line}"))?;
    println!("{}", report.to_json());
    let faults = report.faults();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The harness knows nothing of `tidegate replicate` here: a plane that holds loses nothing, one that does not is found
/// out.
#[test]
fn what_a_plane_lets_out_too_early_is_found() -> Result<()> {
    let report = survive(&Args { control: Some(0), ..args(1, By::Hand)? }, &|line| println!("{line}"))?;
    println!("{}", report.to_json());
    let (held, passed) = (&report.trials[0], &report.unsafe_trials);
    ensure!(
        held.promotion.is_some() && passed.iter().all(|trial| trial.promotion.is_some()),
        "nobody took over"
    );
    ensure!(
        held.lost_acks == 0 && held.broken.is_empty() && held.early.is_empty(),
        "with a plane that holds: {:?}",
        held.faults()
    );
    ensure!(
        passed.iter().any(|trial| trial.lost_acks > 0)
            && passed.iter().any(|trial| !trial.broken.is_empty())
            && passed.iter().any(|trial| !trial.early.is_empty()),
        "nothing was noticed where nothing was held: {}",
        report.to_json()["bypass_all"]
    );
    Ok(())
}

/// The phone in the guest, restored, says again what it has said, under keys and indices that it has used. Nobody hears
/// that, and its peer goes on decrypting what follows. It dies when most is out that no checkpoint has.
#[test]
fn a_call_by_dtls_srtp_goes_on_and_no_index_is_seen_twice() -> Result<()> {
    let at_send = Args { seed: 21, unsafe_kills: Some(0), control: Some(0), ..args(1, By::Programs)? };
    let report = survive(&at_send, &|line| println!("{line}"))?;
    let trial = &report.trials[0];
    ensure!(trial.faults().is_empty(), "{}", trial.faults().join("\n"));
    let secured = trial.secured;
    println!("{secured:?}");
    let before = secured.packets - secured.after;
    ensure!(before >= 10 && secured.after >= 10, "too little was said to prove anything: {secured:?}");
    // A capture that sees nothing repeated proves something where something was.
    let replayed = trial.replayed;
    ensure!(replayed > 0, "the restored guest repeated nothing");
    Ok(())
}

/// Names with this process id in them: what a run leaves, if it leaves something.
fn left_by(pid: u32) -> Vec<String> {
    let mark = format!("tg-{pid}-");
    let mut left = Vec::new();
    for place in ["/run/netns", "/dev/shm", "/var/run/dpdk", "/tmp"] {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            // The logs of a whole trial with a fault are meant to stay.
            let meant = entry.path().join(VERDICT).exists();
            let path = entry.path().display().to_string();
            left.extend((path.contains(&mark) && !meant).then_some(path));
        }
    }
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        left.extend(line.contains(&mark).then_some(line));
    }
    left
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() -> Result<()> {
    let scratch = Scratch::new()?;
    let bin = program()?;
    let bin = bin.parent().unwrap_or(Path::new("/"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/survival");
    let mut run = Program::new(script)
        .args("--kills 5 --by hand --json")
        .variable("TIDEGATE_BIN_DIR", &bin.display().to_string())
        .start(&scratch, "survival")?;
    // After the first trial it is in the middle of the second.
    run.wait_for_line("\"event\":\"trial\"", Duration::from_secs(400))?;
    std::thread::sleep(Duration::from_millis(2500));
    let children = format!("/proc/{0}/task/{0}/children", run.pid());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    let harness: u32 = children
        .split_whitespace()
        .next()
        .and_then(|pid| pid.parse().ok())
        .ok_or_else(|| run.failure("has no child that could be the harness"))?;
    let before = left_by(harness);
    ensure!(before.len() > 6, "it is not in the middle of a trial: {before:?}");
    run.stop(Signal::SIGTERM, Duration::from_secs(20))?;
    let mut left = Vec::new();
    wait_until(Duration::from_secs(5), Duration::from_millis(50), || {
        left = left_by(harness);
        left.is_empty()
    });
    ensure!(left.is_empty(), "it left behind\n{}", left.join("\n"));
    scratch.passed();
    Ok(())
}
