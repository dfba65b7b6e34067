//! One trial: a plane, a generator against it, the oracle over what they leave. Each is a process of its own.

use super::control::Control;
use super::incident::Incident;
use super::kind::Policy;
use super::verdict::Verdict;
use crate::failure::{Context, Failure, Result};
use crate::laboratory;
use crate::plane::Kind;
use crate::process::{Program, Running};
use crate::scratch::Scratch;
use crate::virtio::{RingPath, cpus};
use crate::wall_clock::wait_until;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const STARTS_WITHIN: Duration = Duration::from_secs(30);
const STOPS_WITHIN: Duration = Duration::from_secs(30);
const JUDGES_WITHIN: Duration = Duration::from_secs(600);
/// The name the one guest has.
const GUEST: &str = "g0";

/// What is tried.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The policy in the plane's configuration.
    pub configured: &'static str,
    /// The policy by which it is judged.
    pub policy: Policy,
    /// How many lanes the guest has.
    pub lanes: u8,
    /// The ring path of the guest's ports and of the wires.
    pub rings: RingPath,
    /// How many runs, each of which becomes an epoch.
    pub runs: u32,
    /// Frames a run, in the mean.
    pub frames: u32,
    /// Runs by which a commit follows its close, at most.
    pub lag: u32,
    /// The lanes' quota, frames.
    pub hold_frames: u32,
    /// The plane starts `open` and is told to protect; else it starts `protected`.
    pub protect: bool,
    /// The guest's rings stop at each pause.
    pub in_band: bool,
    /// What is done to the plane.
    pub incidents: Vec<Incident>,
    /// How long the generator may take.
    pub within: Duration,
}

impl Trial {
    /// One lane on packed rings, commits up to six epochs behind, nothing special.
    pub fn new(policy: Policy, runs: u32, frames: u32) -> Trial {
        Trial {
            configured: policy.name(),
            policy,
            lanes: 1,
            rings: RingPath::Packed,
            runs,
            frames,
            lag: 6,
            hold_frames: 32_768,
            protect: false,
            in_band: false,
            incidents: Vec::new(),
            within: Duration::from_secs(60),
        }
    }

    /// With an incident, written as `kill@50`.
    pub fn with(mut self, incident: &str) -> Result<Trial> {
        self.incidents.push(incident.parse().map_err(|what: String| Failure::new(what))?);
        Ok(self)
    }
}

/// What a trial left.
#[derive(Debug)]
pub struct Judged {
    /// The oracle's verdict.
    pub verdict: Verdict,
    /// True when the oracle's program said that all is good.
    pub good: bool,
    /// The generator's summary.
    pub summary: Value,
}

/// A place for trials one after the other: where the sockets are, and the programs.
pub struct Bench {
    scratch: Scratch,
    programs: PathBuf,
    tidegate: PathBuf,
    plane: Option<Running>,
    trials: u32,
}

impl Bench {
    /// `lab`: the path of `tidegate-lab`, beside which `tidegate-oracle` lies.
    pub fn open(lab: &Path) -> Result<Bench> {
        let Kind::Tidegate(tidegate) = laboratory::tidegate()? else {
            return Err(Failure::new("there is no tidegate to be tried"));
        };
        let programs = lab.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(Bench { scratch: Scratch::new()?, programs, tidegate, plane: None, trials: 0 })
    }

    /// Starts a plane, has it judged, ends it.
    pub fn judge(&mut self, trial: &Trial) -> Result<Judged> {
        self.start(trial)?;
        let judged = self.judge_running(trial)?;
        if !judged.summary["plane_gone"].as_bool().unwrap_or(false) {
            self.stop()?;
        } else if let Some(mut plane) = self.plane.take() {
            plane.wait(STOPS_WITHIN)?;
        }
        Ok(judged)
    }

    /// Starts a plane for a trial and waits until its ports are there.
    pub fn start(&mut self, trial: &Trial) -> Result<()> {
        self.trials += 1;
        let config = self.scratch.file("tidegate.toml");
        std::fs::write(&config, self.configuration(trial))
            .context(|| format!("cannot write {}", config.display()))?;
        let mut plane = Program::new(&self.tidegate)
            .args("run --config")
            .arg(config.display().to_string())
            .start(&self.scratch, &format!("plane-{}", self.trials))?;
        let control = self.control();
        // A socket's file outlives a plane that was killed, and it greets only when its ports are there.
        let up = wait_until(STARTS_WITHIN, Duration::from_millis(10), || {
            Control::connect(&control).is_ok() || plane.ended().is_some()
        });
        if !up || plane.ended().is_some() {
            return Err(plane.failure("did not start"));
        }
        self.plane = Some(plane);
        Ok(())
    }

    /// Ends the plane as an operator does.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut plane) = self.plane.take() else { return Ok(()) };
        let status = plane.stop(Signal::SIGTERM, STOPS_WITHIN)?;
        if status.success() { Ok(()) } else { Err(plane.failure(&format!("ended with {status}"))) }
    }

    /// Generates against the plane that runs, and judges.
    pub fn judge_running(&mut self, trial: &Trial) -> Result<Judged> {
        let plane = self.plane.as_ref().ok_or_else(|| Failure::new("no plane runs"))?;
        let (log, capture) = (self.scratch.file("generated.log"), self.scratch.file("capture.bin"));
        let generate = self.generate(trial, plane.pid(), &log, &capture);
        let said = generate.run(&self.scratch, &format!("generate-{}", self.trials), trial.within);
        let said = said.map_err(|failure| plane.failure(&format!("was being tried, but {failure}")))?;
        let summary: Value =
            said.lines().rev().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let mut oracle = Program::new(self.programs.join("tidegate-oracle"))
            .args("--json")
            .arg(log.display().to_string())
            .arg(capture.display().to_string())
            .start(&self.scratch, &format!("oracle-{}", self.trials))?;
        let good = oracle.wait(JUDGES_WITHIN)?.success();
        let verdict = serde_json::from_str(&oracle.output())
            .map_err(|error| oracle.failure(&format!("gave no verdict: {error}")))?;
        println!("{summary}\n{verdict}");
        Ok(Judged { verdict, good, summary })
    }

    /// Removes everything.
    pub fn passed(self) {
        drop(self.plane);
        self.scratch.passed();
    }

    fn control(&self) -> PathBuf {
        // In a directory of its own: the plane sets that directory's mode.
        self.scratch.file("run").join("control.sock")
    }

    fn socket(&self, side: &str, lane: u8) -> PathBuf {
        self.scratch.file(&format!("{side}{lane}.sock"))
    }

    fn generate(&self, trial: &Trial, plane: u32, log: &Path, capture: &Path) -> Program {
        let mut program = Program::new(self.programs.join("tidegate-lab"))
            .args(&format!("generate --guest {GUEST} --policy {} --plane {plane}", trial.policy))
            .args(&format!("--rings {} --runs {} --frames {}", trial.rings.name(), trial.runs, trial.frames))
            .args(&format!("--lag {} --seed {}", trial.lag, self.trials))
            .args(&format!("--control {}", self.control().display()))
            .args(&format!("--log {} --capture {}", log.display(), capture.display()));
        for lane in 0..trial.lanes {
            program = program
                .args(&format!("--guest-socket {}", self.socket("guest", lane).display()))
                .args(&format!("--wire-socket {}", self.socket("wire", lane).display()));
        }
        if trial.protect {
            program = program.arg("--protect");
        }
        if trial.in_band {
            program = program.arg("--in-band");
        }
        for incident in &trial.incidents {
            program = program.args(&format!("--incident {}@{}", incident.what, incident.run));
        }
        program
    }

    /// The plane shares its CPUs with the generator, so its lcore sleeps when it is idle; and a close that is
    /// late because of that is late, not merged.
    fn configuration(&self, trial: &Trial) -> String {
        let lcore = cpus().last().copied().unwrap_or(0);
        let mode = if trial.protect { "open" } else { "protected" };
        let mut text = format!(
            "[eal]\nhugepages = \"no\"\nmemory_mb = 512\nidle = \"backoff\"\n\
             [control]\nsocket = \"{}\"\n\
             [[guest]]\nname = \"{GUEST}\"\npolicy = \"{}\"\nmode = \"{mode}\"\nclose_timeout_ms = 5000\n",
            self.control().display(),
            trial.configured,
        );
        for lane in 0..trial.lanes {
            let (guest, wire) = (self.socket("guest", lane), self.socket("wire", lane));
            let _ = write!(
                text,
                "[[guest.lane]]\nguest_port = \"net_vhost{lane},iface={}\"\n\
                 wire_port = \"net_vhost{},iface={}\"\nlcore = {lcore}\nhold_frames = {}\n",
                guest.display(),
                100 + u32::from(lane),
                wire.display(),
                trial.hold_frames
            );
        }
        text
    }
}
