//! The primary of a replicated VM dies, at each step of a checkpoint and at any moment, and no peer ever sees something
//! that the backup does not know. `scripts/survival --long` is the long form.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tidegate_tests::ensure;
use tidegate_tests::failure::{Context, Failure, Result};
use tidegate_tests::laboratory::tidegate;
use tidegate_tests::plane::Kind;
use tidegate_tests::process::{Program, Running};
use tidegate_tests::scratch::{Scratch, sockets};
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

/// What a run with this process id has left, if it has left something. Of a run that failed the logs may stay.
fn left_by(pid: u32, failed: bool) -> Vec<String> {
    let mark = format!("tg-{pid}-");
    let mut left = Vec::new();
    for place in ["/run/netns", "/dev/shm", "/dev/hugepages", "/var/run/dpdk", "/tmp"] {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            // So are those of a whole trial with a fault.
            let meant = place == "/tmp" && (failed || entry.path().join(VERDICT).exists());
            let path = entry.path().display().to_string();
            if path.contains(&mark) && meant {
                left.extend(sockets(&entry.path()).iter().map(|socket| socket.display().to_string()));
            } else if path.contains(&mark) {
                left.push(path);
            }
        }
    }
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        left.extend(line.contains(&mark).then_some(line));
    }
    left
}

fn leaves_nothing(harness: u32, failed: bool) -> Result<()> {
    let mut left = Vec::new();
    wait_until(Duration::from_secs(5), Duration::from_millis(50), || {
        left = left_by(harness, failed);
        left.is_empty()
    });
    ensure!(left.is_empty(), "it left behind\n{}", left.join("\n"));
    Ok(())
}

/// `scripts/survival`, and the process id of the harness that it has started.
fn started(bin: &Path, words: &str, scratch: &Scratch) -> Result<(Running, u32)> {
    let run = Program::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/survival"))
        .args(words)
        .variable("TIDEGATE_BIN_DIR", &bin.display().to_string())
        .start(scratch, "survival")?;
    let children = format!("/proc/{0}/task/{0}/children", run.pid());
    let mut harness = None;
    wait_until(Duration::from_secs(20), Duration::from_millis(5), || {
        let children = std::fs::read_to_string(&children).unwrap_or_default();
        let named = |pid: &u32| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.starts_with("tidegate-surviv")
        };
        harness = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(named);
        harness.is_some()
    });
    harness.map(|harness| (run, harness)).ok_or_else(|| Failure::new("scripts/survival started no harness"))
}

#[test]
fn a_run_that_is_interrupted_leaves_nothing_behind() -> Result<()> {
    let scratch = Scratch::new()?;
    let bin = program()?;
    let bin = bin.parent().unwrap_or(Path::new("/"));
    let (mut run, harness) = started(bin, "--kills 5 --json", &scratch)?;
    // After the first trial it is in the middle of the second.
    run.wait_for_line("\"event\":\"trial\"", Duration::from_secs(400))?;
    let mut before = Vec::new();
    // Both sides of the replication are at work.
    wait_until(Duration::from_secs(60), Duration::from_millis(50), || {
        before = left_by(harness, false);
        before.iter().any(|line| line.contains("replicate"))
            && before.iter().any(|line| line.contains("standby"))
    });
    ensure!(before.len() > 8, "it is not in the middle of a trial: {before:?}");
    run.stop(Signal::SIGTERM, Duration::from_secs(20))?;
    leaves_nothing(harness, false)?;
    scratch.passed();
    Ok(())
}

/// A step fails in the middle of a trial: the primary's program ends as soon as it has started.
#[test]
fn a_run_that_fails_leaves_nothing_but_its_logs() -> Result<()> {
    let scratch = Scratch::new()?;
    let real = program()?;
    let real = real.parent().unwrap_or(Path::new("/"));
    let real = real.canonicalize().context(|| format!("cannot find {}", real.display()))?;
    let bin = scratch.file("bin");
    std::fs::create_dir(&bin).context(|| format!("cannot make {}", bin.display()))?;
    for name in ["tidegate-plane", "tidegate-survival", "teller"] {
        std::os::unix::fs::symlink(real.join(name), bin.join(name))
            .context(|| format!("cannot link {name}"))?;
    }
    // It looks for the others beside itself.
    std::fs::copy(real.join("tidegate"), bin.join("tidegate"))
        .context(|| "cannot copy tidegate".to_owned())?;
    let replica = format!(
        "#!/bin/sh\n[ \"$1\" != replicate ] || exit 1\nexec {} \"$@\"\n",
        real.join("tidegate-replica").display()
    );
    let file = bin.join("tidegate-replica");
    std::fs::write(&file, replica).context(|| format!("cannot write {}", file.display()))?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))
        .context(|| format!("cannot set the mode of {}", file.display()))?;
    let (mut run, harness) = started(&bin, "--kills 1 --json", &scratch)?;
    let status = run.wait(Duration::from_secs(400))?;
    let said = run.output();
    ensure!(status.code() == Some(1), "it ended with {status}:\n{said}");
    ensure!(said.contains("the guest was not protected"), "something else failed:\n{said}");
    leaves_nothing(harness, true)?;
    scratch.passed();
    Ok(())
}
