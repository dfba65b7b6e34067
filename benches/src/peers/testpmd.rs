//! DPDK's own forwarder: what the ports cost when nothing is done with a frame.

use super::device::Device;
use super::wires::{GUEST_MAC, IN, OUT, WORLD_MAC, Wires};
use crate::failure::Result;
use std::path::{Path, PathBuf};
use tidegate_tests::process::{Program, Running};

/// See the module's head.
pub struct Testpmd {
    mode: &'static str,
    running: Option<Running>,
    runtime: PathBuf,
}

impl Testpmd {
    /// `io` touches no frame, `mac` writes both addresses.
    pub fn new(mode: &'static str) -> Testpmd {
        Testpmd { mode, running: None, runtime: PathBuf::new() }
    }
}

/// EAL's names for the files of a process in this directory.
pub fn prefix(wires: &Wires) -> String {
    wires.scratch.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Device for Testpmd {
    fn start(&mut self, wires: &Wires) -> Result<()> {
        let prefix = prefix(wires);
        let mode = self.mode;
        self.runtime = Path::new("/var/run/dpdk").join(&prefix);
        let running = Program::new("dpdk-testpmd")
            .args("-l 0,1 --no-huge -m 256 --no-pci --no-telemetry")
            .arg(format!("--file-prefix={prefix}"))
            .arg(format!("--vdev=net_af_packet0,iface={IN}"))
            .arg(format!("--vdev=net_af_packet1,iface={OUT}"))
            .args(&format!("-- --forward-mode={mode} --auto-start --total-num-mbufs=16384"))
            .args(&format!("--eth-peer=0,{GUEST_MAC} --eth-peer=1,{WORLD_MAC}"))
            .inside(&wires.middle)
            .start(&wires.scratch, "testpmd")?;
        // What it says comes late, as its output is a file: that it forwards is seen by the first answer.
        self.running = Some(running);
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        match self.running.as_mut().map(|running| (running.ended(), running)) {
            Some((Some(status), running)) => {
                Err(running.failure(&format!("ended with {status} by itself")).into())
            }
            _ => Ok(()),
        }
    }

    fn stop(&mut self, _: &Wires) {
        self.running = None;
        let _ = std::fs::remove_dir_all(&self.runtime);
    }
}
