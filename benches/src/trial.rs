//! Trials: all devices stand ready, one at a time runs and is measured by the generator.
//!
//! Devices are frozen rather than restarted between their turns, so that turns can be short and many: on a virtual
//! machine the host moves the CPUs about every few seconds, and what two cores then need to exchange a cache line
//! changes tenfold. Turns of half a second see the same machine.

use crate::dut::{Dut, Forwarder, Setup};
use crate::failure::{Context, Failure, Result};
use crate::frames::Mix;
use crate::generator::{Answer, Measure, Request, Window};
use crate::machine::Scratch;
use crate::process::Running;
use crate::stream::{Arrivals, Plan};
use std::time::Duration;

/// Below this share of its CPU a polling thread was disturbed.
const UNDISTURBED: f64 = 0.97;
/// Windows tried before a disturbed one is taken as it is.
const TRIES: u32 = 3;
/// From waking to the window: three epochs of the timer, so that tidegate releases as fast as it holds.
const WARMUP_MS: u64 = 200;
const WARM_UP: Duration = Duration::from_millis(100);

/// What a trial gave.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// The measurement.
    pub window: Window,
    /// Windows thrown away before it, because other work of this machine took the CPU.
    pub thrown_away: u32,
    /// So was this one, but there was no better.
    pub disturbed: bool,
}

/// The devices and their generator.
#[derive(Debug)]
pub struct Arena {
    // The generator goes first: a device must not see its guest's memory vanish while it is frozen.
    generator: Running,
    devices: Vec<Forwarder>,
    mix: Mix,
}

impl Arena {
    /// Starts them all.
    pub fn set_up(duts: &[Dut], setup: &Setup, mix: Mix, scratch: &Scratch) -> Result<Arena> {
        let mut devices: Vec<Forwarder> = Vec::new();
        for &dut in duts {
            // The device that stands ready must not take the CPU from the one that starts.
            devices.iter().try_for_each(Forwarder::freeze)?;
            devices.push(Forwarder::start(dut, setup, scratch)?);
        }
        devices.iter().try_for_each(Forwarder::wake)?;
        let mut args: Vec<String> = vec!["generate".into()];
        let mut option = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        for device in &devices {
            option("guest", device.guest.display().to_string());
        }
        for wire in devices.iter().filter_map(|device| device.wire.as_ref()) {
            option("wire", wire.display().to_string());
        }
        option("mix", word(&mix)?);
        option("checksums", word(&setup.checksums)?);
        option("cpu", setup.cpus.generator.to_string());
        option("pages", word(&setup.pages)?);
        let this = std::env::current_exe().context(|| "cannot find this program".into())?;
        let generator = Running::start_to_ask(&this, &args, scratch.dir(), "generator")?;
        let mut arena = Arena { generator, devices, mix };
        // The first answer comes when every device is connected; then each one is warmed by itself.
        arena.once(0, WARM_UP)?;
        arena.devices.iter().try_for_each(Forwarder::freeze)?;
        for n in 0..arena.devices.len() {
            arena.trial(n, WARM_UP)?;
        }
        Ok(arena)
    }

    /// The devices, in the order that [`Arena::trial`] counts them.
    pub fn duts(&self) -> impl Iterator<Item = Dut> {
        self.devices.iter().map(Forwarder::dut)
    }

    /// Measures device `n` for `window`.
    pub fn trial(&mut self, n: usize, window: Duration) -> Result<Trial> {
        let mut best: Option<Trial> = None;
        for thrown_away in 0..TRIES {
            self.devices[n].wake()?;
            let seen = self.once(n, window);
            self.devices[n].freeze()?;
            let window = seen?;
            let disturbed = cpu(&window) < UNDISTURBED;
            let better = best.is_none_or(|best| cpu(&best.window) < cpu(&window));
            if better {
                best = Some(Trial { window, thrown_away, disturbed });
            }
            if !disturbed {
                break;
            }
        }
        let Some(trial) = best else { unreachable!("at least one window was tried") };
        Ok(trial)
    }

    fn once(&mut self, device: usize, window: Duration) -> Result<Window> {
        let (pid, window_ms) = (self.devices[device].pid(), window.as_millis() as u64);
        match self.ask(device, Measure::Rate { pid, warmup_ms: WARMUP_MS, window_ms })? {
            Answer::Rate(window) => Ok(window),
            _ => Err(Failure::new("the generator answered something else")),
        }
    }

    /// How long single frames took through device `n`, ns each; see [`Measure::Delay`].
    pub fn delays(&mut self, n: usize, frames: u32, silence_us: u64) -> Result<Vec<u64>> {
        self.devices[n].wake()?;
        let answer = self.ask(n, Measure::Delay { frames, silence_us });
        self.devices[n].freeze()?;
        match answer? {
            Answer::Delay(delays) => Ok(delays),
            _ => Err(Failure::new("the generator answered something else")),
        }
    }

    /// How calls fared through device `n`; see [`Measure::Stream`].
    pub fn stream(&mut self, n: usize, plan: Plan) -> Result<Arrivals> {
        self.devices[n].wake()?;
        let answer = self.ask(n, Measure::Stream(plan));
        self.devices[n].freeze()?;
        match answer? {
            Answer::Stream(arrivals) => Ok(arrivals),
            _ => Err(Failure::new("the generator answered something else")),
        }
    }

    fn ask(&mut self, device: usize, measure: Measure) -> Result<Answer> {
        let question = serde_json::to_string(&Request { device, measure }).context(|| "a request".into())?;
        let answer = self.generator.ask(&question)?;
        serde_json::from_str(&answer).context(|| format!("the generator said {answer:?}"))
    }

    /// Makes sure that every device did what it was measured for, and ends them.
    pub fn close(self) -> Result<()> {
        for device in &self.devices {
            device.wake()?;
            device.did_its_work(self.mix)?;
            device.freeze()?;
        }
        Ok(())
    }
}

/// The share of its CPU that the worse off of the two lcores got.
fn cpu(window: &Window) -> f64 {
    window.dut_cpu.unwrap_or(1.0).min(window.generator_cpu.unwrap_or(1.0))
}

/// The word that the command line takes.
fn word(value: &impl serde::Serialize) -> Result<String> {
    let json = serde_json::to_string(value).context(|| "an option".into())?;
    Ok(json.trim_matches('"').to_owned())
}
