//! tidegate itself, its epochs by its own timer.

use super::device::{Device, Programs, Rhythm};
use super::testpmd::prefix;
use super::wires::{IN, OUT, Wires};
use crate::failure::{Context, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate_tests::control_client::ControlClient;
use tidegate_tests::plane::GUEST;
use tidegate_tests::process::{Program, Running};

const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// See the module's head.
pub struct Plane {
    tidegate: PathBuf,
    policy: &'static str,
    rhythm: Rhythm,
    running: Option<(Running, ControlClient)>,
    runtime: PathBuf,
}

impl Plane {
    /// Under this policy.
    pub fn new(programs: &Programs, policy: &'static str, rhythm: Rhythm) -> Plane {
        Plane { tidegate: programs.tidegate.clone(), policy, rhythm, running: None, runtime: PathBuf::new() }
    }

    fn configuration(&self, prefix: &str, socket: &Path) -> String {
        let Rhythm { interval, commit_delay } = self.rhythm;
        format!(
            "[eal]\nlcores = [1]\ncontrol_cpus = [0]\nmemory_mb = 256\nhugepages = \"no\"\n\
             file_prefix = \"{prefix}\"\n\n[control]\nsocket = \"{}\"\n\n\
             [[guest]]\nname = \"{GUEST}\"\npolicy = \"{}\"\nmode = \"protected\"\nsource = \"timer\"\n\
             timer = {{ interval_ms = {}, commit_delay_ms = {} }}\n\n\
             [[guest.lane]]\nguest_port = \"net_af_packet0,iface={IN}\"\n\
             wire_port = \"net_af_packet1,iface={OUT}\"\nlcore = 1\nhold_frames = 32768\nhold_bytes = \"48MiB\"\n",
            socket.display(),
            self.policy,
            interval.as_millis(),
            commit_delay.as_millis(),
        )
    }
}

impl Device for Plane {
    fn start(&mut self, wires: &Wires) -> Result<()> {
        let prefix = prefix(wires);
        self.runtime = Path::new("/var/run/dpdk").join(&prefix);
        let (file, socket) = (wires.scratch.file("tidegate.toml"), wires.scratch.file("control.sock"));
        std::fs::write(&file, self.configuration(&prefix, &socket))
            .context(|| format!("cannot write {}", file.display()))?;
        let running = Program::new(&self.tidegate)
            .args("run --config")
            .arg(file.display().to_string())
            .inside(&wires.middle)
            .start(&wires.scratch, "plane")?;
        let control = ControlClient::connect(&socket, STARTS_WITHIN)
            .map_err(|failure| running.failure(&failure.to_string()))?;
        self.running = Some((running, control));
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        match self.running.as_mut().map(|(running, _)| (running.ended(), running)) {
            Some((Some(status), running)) => {
                Err(running.failure(&format!("ended with {status} by itself")).into())
            }
            _ => Ok(()),
        }
    }

    fn told(&mut self) -> Value {
        let stats = self.running.as_mut().map(|(_, control)| control.execute("stats", json!({})));
        stats.and_then(std::result::Result::ok).unwrap_or_default()
    }

    fn stop(&mut self, _: &Wires) {
        if let Some((mut running, control)) = self.running.take() {
            drop(control);
            let _ = running.stop(nix::sys::signal::Signal::SIGTERM, Duration::from_secs(10));
        }
        let _ = std::fs::remove_dir_all(&self.runtime);
    }
}
