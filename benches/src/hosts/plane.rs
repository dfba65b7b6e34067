//! The plane's part of a run: `tidegate run` between two ports, its epochs from a timer.

use super::scenario::{PlanePorts, Run};
use crate::failure::{Context, Result};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tidegate_control::quantity::span;
use tidegate_tests::control_client::ControlClient;
use tidegate_tests::process::{Program, Running};
use tidegate_tests::scratch::Scratch;
use tidegate_tests::wall_clock::wait_until;

const STARTS_WITHIN: Duration = Duration::from_secs(20);
const GUEST: &str = "generator";

/// A plane at work. It dies with its value.
pub struct Plane {
    running: Running,
    runtime: std::path::PathBuf,
    socket: std::path::PathBuf,
}

impl Plane {
    /// Starts it, and waits until it forwards.
    pub fn start(tidegate: &Path, ports: &PlanePorts, run: &Run, scratch: &Scratch) -> Result<Plane> {
        let prefix =
            scratch.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (file, socket) = (scratch.file("tidegate.toml"), scratch.file("control.sock"));
        std::fs::write(&file, configuration(ports, run, &prefix, &socket))
            .context(|| format!("cannot write {}", file.display()))?;
        let running = Program::new(tidegate)
            .args("run --config")
            .arg(file.display().to_string())
            .start(scratch, "plane")?;
        let runtime = Path::new("/var/run/dpdk").join(prefix);
        let mut plane = Plane { running, runtime, socket };
        let up = wait_until(STARTS_WITHIN, Duration::from_millis(10), || {
            plane.forwards() || plane.running.ended().is_some()
        });
        match (up, plane.running.ended()) {
            (true, None) => Ok(plane),
            _ => Err(plane.running.failure("does not forward").into()),
        }
    }

    fn control(&self) -> Result<ControlClient> {
        Ok(ControlClient::connect(&self.socket, STARTS_WITHIN)?)
    }

    /// Its lcore polls.
    fn forwards(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
            && self
                .control()
                .and_then(|mut control| Ok(control.execute("pulse", json!({ "guest": GUEST }))?))
                .is_ok_and(|pulse| pulse["polls"].as_u64().is_some_and(|polls| polls > 0))
    }

    /// Its counters.
    pub fn stats(&self) -> Result<Value> {
        Ok(self.control()?.execute("stats", json!({}))?)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.running.kill();
        let _ = std::fs::remove_dir_all(&self.runtime);
    }
}

/// The run has been checked: its words are a TOML file's.
fn configuration(ports: &PlanePorts, run: &Run, prefix: &str, socket: &Path) -> String {
    let ms = |text: &str| span(text).unwrap_or_default().as_millis();
    let PlanePorts { guest_port, wire_port, lcore, control_cpu } = ports;
    format!(
        "[eal]\nlcores = [{lcore}]\ncontrol_cpus = [{control_cpu}]\nmemory_mb = 256\nhugepages = \"auto\"\n\
         file_prefix = \"{prefix}\"\nidle = \"backoff\"\n\n[control]\nsocket = \"{}\"\n\n\
         [[guest]]\nname = \"{GUEST}\"\npolicy = \"{}\"\nmode = \"protected\"\nsip_ports = [5060]\nsource = \"timer\"\n\
         timer = {{ interval_ms = {}, commit_delay_ms = {} }}\n\n\
         [[guest.lane]]\nguest_port = \"{guest_port}\"\nwire_port = \"{wire_port}\"\nlcore = {lcore}\n\
         hold_frames = 65536\nhold_bytes = \"64MiB\"\n",
        socket.display(),
        run.policy,
        ms(&run.interval).max(1),
        ms(&run.commit_delay),
    )
}
