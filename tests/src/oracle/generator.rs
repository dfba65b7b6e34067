//! A tool stack and its guest in one: it makes frames in runs, pauses, closes an epoch, commits it later, and
//! watches the wire all the while. Its log and its capture are what the oracle judges.
//!
//! One thread does all of it. So the moments of log and capture are of one clock, and between the last look
//! at the wire and the commit that follows there is nothing but the commit.

use super::capture::Capture;
use super::commits::{Commit, Schedule};
use super::control::{Answer, Control};
use super::frames::{FrameMaker, Random};
use super::incident::What;
use super::journal::{Journal, Line};
use super::lane::LabLane;
use super::plan::{GenerateError, Plan, Summary};
use super::watch::Watch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tidegate_dataplane::dpdk::{Eal, Mempool};

/// How long a plane that was told to end may take.
const DYING: Duration = Duration::from_secs(20);
/// A plane that takes no frame for so long does not poll its guest.
const STUCK: Duration = Duration::from_secs(10);
/// Time for the plane's counters to come to rest.
const REST: Duration = Duration::from_secs(10);
/// Frames that may be on their way, all lanes together; then the generator waits a moment. Otherwise a plane that
/// gets less CPU than the generator would fill its hold queue, and drop.
const ON_THE_WAY: u64 = 16_000;
const MOMENT: Duration = Duration::from_millis(20);
/// Epochs that are left without a commit, so that something is held at the end.
const KEEP: u32 = 2;

/// See the module's head.
pub struct Generator<'a> {
    plan: Plan,
    eal: &'a Eal,
    watch: Watch,
    journal: Journal,
    control: Option<Control>,
    schedule: Schedule,
    random: Random,
    /// No commits before this run.
    withheld_until: u32,
    plane_gone: bool,
    left: u64,
    /// Frames of the runs that are committed sooner or later.
    committed: u64,
    closes: u32,
    closing: Duration,
}

impl<'a> Generator<'a> {
    /// Opens the ports and connects to the plane.
    pub fn open(
        plan: Plan,
        eal: &'a Eal,
        pool: &Mempool,
        journal: Journal,
        capture: Capture,
    ) -> Result<Self, GenerateError> {
        // It greets when its ports are there.
        let control = Control::connect(&plan.control)?;
        let mut lanes = Vec::new();
        for (number, ports) in plan.lanes.iter().enumerate() {
            let number = number as u8;
            let maker = FrameMaker::new(0, number, plan.seed);
            lanes.push(LabLane::open(eal, pool, ports, plan.rings, maker, number)?);
        }
        Ok(Self {
            watch: Watch::new(lanes, capture),
            schedule: Schedule::new(plan.seed, plan.lag, plan.runs.saturating_sub(KEEP)),
            random: Random::new(plan.seed ^ 0x5eed),
            plan,
            eal,
            journal,
            control: Some(control),
            withheld_until: 0,
            plane_gone: false,
            left: 0,
            committed: 0,
            closes: 0,
            closing: Duration::ZERO,
        })
    }

    /// Generates, to the end of the log.
    pub fn run(mut self) -> Result<Summary, GenerateError> {
        let lanes = self.plan.lanes.len() as u8;
        let rings = self.plan.rings.name().to_owned();
        self.journal.write(&Line::Start { guest: 0, lanes, policy: self.plan.policy, rings })?;
        self.up()?;
        if self.plan.protect {
            let answer = self.execute("protect", json!({ "vouched": true }))?;
            answer.map_err(|refused| GenerateError::Refused("protect", refused.to_string()))?;
        }
        let start = Instant::now();
        let mut runs = 0;
        while runs < self.plan.runs && !self.plane_gone {
            runs += 1;
            self.one_run(runs)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        self.end()?;
        let frames = self.watch.made();
        Ok(Summary {
            runs,
            plane_gone: self.plane_gone,
            frames,
            captured: self.watch.captured(),
            seconds,
            frames_per_second: frames as f64 / seconds,
            close_us: self.closing.as_secs_f64() * 1e6 / f64::from(self.closes.max(1)),
        })
    }

    /// Waits until both sides say that the rings run: a frame sent before is in no epoch that its run knows of.
    fn up(&mut self) -> Result<(), GenerateError> {
        if let Some(lane) = self.watch.lanes.iter().position(|lane| !lane.wait_up()) {
            return Err(GenerateError::Down(lane as u8));
        }
        let deadline = Instant::now() + REST;
        loop {
            let answer = self.execute("guests", json!({}))?;
            let told = answer.map_err(|refused| GenerateError::Refused("guests", refused.to_string()))?;
            let guests = told["guests"].as_array().into_iter().flatten();
            let ours = guests.filter(|guest| guest["guest"] == self.plan.guest.as_str());
            let lanes = ours.flat_map(|guest| guest["lanes"].as_array().into_iter().flatten());
            match lanes.enumerate().find(|(_, lane)| lane["rings"] == "stopped") {
                None => return Ok(()),
                Some((lane, _)) if Instant::now() > deadline => return Err(GenerateError::Down(lane as u8)),
                Some(_) => self.watch.watch_for(Duration::from_millis(1)),
            }
        }
    }

    fn one_run(&mut self, run: u32) -> Result<(), GenerateError> {
        let moment = Instant::now() + MOMENT;
        while self.watch.made() > self.watch.captured() + self.left + ON_THE_WAY && Instant::now() < moment {
            self.watch.watch_for(Duration::from_micros(200));
        }
        let frames = self.plan.frames / 2 + self.random.below(u64::from(self.plan.frames) + 1) as u32;
        let incidents: Vec<What> =
            self.plan.incidents.iter().filter(|incident| incident.run == run).map(|i| i.what).collect();
        let first = if incidents.is_empty() { frames } else { frames / 2 };
        let mut must_hold = self.send(run, first)?;
        for what in incidents {
            self.incident(run, what)?;
        }
        must_hold += self.send(run, frames - first)?;
        let ends = self.watch.lanes.iter().map(LabLane::made).collect();
        self.journal.write(&Line::Sent { run, ends, must_hold: u64::from(must_hold) })?;
        if run + KEEP == self.plan.runs {
            self.committed = self.watch.made();
        }
        if self.plane_gone {
            return Ok(());
        }
        self.close(run)?;
        if run >= self.withheld_until {
            for commit in self.schedule.at(run) {
                self.commit(commit)?;
            }
        }
        Ok(())
    }

    /// Sends so many frames, the lanes in turn; returns how many of them must be held.
    fn send(&mut self, run: u32, frames: u32) -> Result<u32, GenerateError> {
        let (mut left, mut must_hold) = (frames, 0);
        while left > 0 && !self.plane_gone {
            for lane in 0..self.watch.lanes.len() {
                let (made, held) =
                    self.watch.lanes[lane].make(run, left, self.plan.policy).ok_or(GenerateError::Pool)?;
                left -= made;
                must_hold += held;
                let deadline = Instant::now() + STUCK;
                while self.watch.lanes[lane].send() > 0 {
                    if Instant::now() > deadline {
                        return Err(GenerateError::Stuck(lane as u8));
                    }
                    if self.watch.look() == 0 {
                        // The plane has a CPU of its own, or waits for this one.
                        std::thread::sleep(Duration::from_micros(5));
                    }
                }
            }
            self.watch.look();
        }
        Ok(must_hold)
    }

    /// The guest pauses; the run's epoch ends.
    fn close(&mut self, run: u32) -> Result<(), GenerateError> {
        let in_band = self.plan.in_band;
        if in_band && run.is_multiple_of(2) {
            // Every other time nothing is lost in the rings.
            self.rested(false)?;
        }
        if in_band {
            for lane in &mut self.watch.lanes {
                lane.disconnect()?;
            }
        }
        let asked = Instant::now();
        let answer = self.execute("close", json!({ "vouched": !in_band }))?;
        self.closing += asked.elapsed();
        self.closes += 1;
        match answer {
            Err(refused) if self.closes == 1 => {
                return Err(GenerateError::Refused("close", refused.to_string()));
            }
            Err(refused) => self.journal.write(&Line::Merged { run, reason: refused.to_string() })?,
            Ok(closed) => self.closed(run, &closed)?,
        }
        if in_band {
            let taken = self.stats()?["received"].as_u64().unwrap_or(0);
            let made = self.watch.made();
            let left = made.saturating_sub(taken + self.left);
            if left > 0 {
                self.left += left;
                self.journal.write(&Line::Left { frames: left })?;
            }
            for lane in &mut self.watch.lanes {
                lane.connect(self.eal)?;
            }
            self.up()?;
        }
        Ok(())
    }

    fn closed(&mut self, run: u32, closed: &Value) -> Result<(), GenerateError> {
        let number = |key: &str| closed[key].as_u64();
        let (Some(epoch), Some(generation)) = (number("epoch"), number("generation")) else {
            return Err(GenerateError::Refused("close", format!("no epoch in {closed}")));
        };
        if let Err(refused) = self.execute("seal", json!({ "epoch": epoch }))? {
            return Ok(self.journal.write(&Line::Merged { run, reason: refused.to_string() })?);
        }
        let (at, frames) = (self.watch.clock.now_ns(), number("frames").unwrap_or(0));
        self.journal.write(&Line::Closed { at, run, epoch, generation, frames })?;
        self.schedule.closed(run, generation, epoch);
        Ok(())
    }

    fn commit(&mut self, commit: Commit) -> Result<(), GenerateError> {
        let Commit { generation, epoch } = commit;
        // Whatever is on the wire by now is there without this commit.
        self.watch.drain();
        let at = self.watch.clock.now_ns();
        self.journal.write(&Line::Commit { at, generation, epoch })?;
        let answer = self.execute("commit", json!({ "generation": generation, "epoch": epoch }))?;
        let reason = answer.as_ref().err().map(ToString::to_string).unwrap_or_default();
        Ok(self.journal.write(&Line::Answer { granted: answer.is_ok(), reason })?)
    }

    fn incident(&mut self, run: u32, what: What) -> Result<(), GenerateError> {
        let at = self.watch.clock.now_ns();
        self.journal.write(&Line::Incident { at, what: what.to_string() })?;
        match what {
            What::Kill => self.end_plane(Signal::SIGKILL)?,
            What::Term => self.end_plane(Signal::SIGTERM)?,
            What::Silence(ms) => self.watch.watch_for(Duration::from_millis(ms.into())),
            What::Withhold(runs) => self.withheld_until = run.saturating_add(runs),
            What::LoseControl(ms) => {
                self.control = None;
                self.watch.watch_for(Duration::from_millis(ms.into()));
                self.control = Some(Control::connect(&self.plan.control)?);
                let taken = self.execute("takeover", json!({}))?;
                taken.map_err(|refused| GenerateError::Refused("takeover", refused.to_string()))?;
            }
        }
        Ok(())
    }

    fn end_plane(&mut self, signal: Signal) -> Result<(), GenerateError> {
        let plane = self.plan.plane.ok_or_else(|| GenerateError::Plane("no process is named".into()))?;
        kill(Pid::from_raw(plane), signal).map_err(|errno| GenerateError::Plane(errno.to_string()))?;
        self.plane_gone = true;
        Ok(())
    }

    fn end(&mut self) -> Result<(), GenerateError> {
        if self.plane_gone {
            // A process that nobody has waited for yet stays, as a zombie.
            let deadline = Instant::now() + DYING;
            while self.plan.plane.is_some_and(lives) && Instant::now() < deadline {
                self.watch.watch_for(Duration::from_millis(10));
            }
            self.watch.watch_until_quiet();
        } else {
            for commit in self.schedule.rest() {
                self.commit(commit)?;
            }
            self.watch.watch_until_quiet();
            let stats = self.rested(true)?;
            let number = |key: &str| stats[key].as_u64().unwrap_or(0);
            let (received, held, dropped) = (number("received"), number("held"), number("dropped"));
            self.journal.write(&Line::Accounts { received, held, dropped })?;
        }
        let (at, plane_gone) = (self.watch.clock.now_ns(), self.plane_gone);
        self.journal.write(&Line::End { at, plane_gone })?;
        self.journal.flush()?;
        self.watch.flush()?;
        for lane in &mut self.watch.lanes {
            lane.abandon();
        }
        Ok(())
    }

    /// The plane's counters when it has received everything and, `in_the_end`, everything that was committed has
    /// come. Or as they are when that takes too long: what is missing then is for the oracle to say.
    fn rested(&mut self, in_the_end: bool) -> Result<Value, GenerateError> {
        let sent = self.watch.made() - self.left;
        let deadline = Instant::now() + REST;
        loop {
            let stats = self.stats()?;
            let number = |key: &str| stats[key].as_u64().unwrap_or(0);
            let somewhere = self.watch.captured() + number("held") + number("dropped");
            let come = self.watch.captured() + number("dropped") + self.left;
            let at_rest = !in_the_end || somewhere == sent && come >= self.committed;
            if number("received") == sent && at_rest || Instant::now() > deadline {
                return Ok(stats);
            }
            self.watch.watch_for(Duration::from_millis(10));
        }
    }

    /// The guest's frame counters.
    fn stats(&mut self) -> Result<Value, GenerateError> {
        let answer = self.execute("stats", json!({}))?;
        let mut stats = answer.map_err(|refused| GenerateError::Refused("stats", refused.to_string()))?;
        Ok(stats["guests"][0]["frames"].take())
    }

    /// Asks the plane, watching the wire until it answers.
    fn execute(&mut self, verb: &'static str, mut arguments: Value) -> Result<Answer, GenerateError> {
        let Some(control) = &mut self.control else {
            return Err(GenerateError::Refused(verb, "not connected".into()));
        };
        if verb != "guests" {
            arguments["guest"] = json!(self.plan.guest);
        }
        let watch = &mut self.watch;
        Ok(control.execute(verb, arguments, || watch.drain())?)
    }
}

/// False for a process that has ended, whether anybody has waited for it or not.
fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}
