//! Open vSwitch with DPDK between the wires, as it learns and forwards by itself (`NORMAL`). It has no hold queue.

use super::device::{Device, Programs};
use super::testpmd::prefix;
use super::wires::{IN, OUT, Wires};
use crate::failure::{Failure, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate_tests::process::{Program, Running, run};
use tidegate_tests::wall_clock::wait_until;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// See the module's head.
pub struct Vswitch {
    vswitchd: PathBuf,
    // The switch ends before its database does.
    running: Vec<Running>,
    runtime: PathBuf,
}

impl Vswitch {
    /// A failure where its packages are not there.
    pub fn new(programs: &Programs) -> Result<Vswitch> {
        for file in [programs.vswitchd.as_path(), Path::new(SCHEMA)] {
            if !file.exists() {
                return Err(Failure::new(format!(
                    "{} is missing: install openvswitch-switch-dpdk (scripts/setup test)",
                    file.display()
                )));
            }
        }
        Ok(Vswitch { vswitchd: programs.vswitchd.clone(), running: Vec::new(), runtime: PathBuf::new() })
    }
}

impl Device for Vswitch {
    fn start(&mut self, wires: &Wires) -> Result<()> {
        let dir = wires.scratch.path().display().to_string();
        let prefix = prefix(wires);
        self.runtime = Path::new("/var/run/dpdk").join(&prefix);
        for old in ["ovs.db", ".ovs.db.~lock~"] {
            let _ = std::fs::remove_file(wires.scratch.file(old));
        }
        run(&format!("ovsdb-tool create {dir}/ovs.db {SCHEMA}"))?;
        let socket = wires.scratch.file("ovs.sock");
        let mut database = Program::new("ovsdb-server")
            .args(&format!("{dir}/ovs.db --remote=punix:{dir}/ovs.sock --unixctl={dir}/ovsdb.ctl --no-chdir"))
            .variable("OVS_RUNDIR", &dir)
            .start(&wires.scratch, "ovsdb")?;
        let up = wait_until(STARTS_WITHIN, Duration::from_millis(10), || {
            socket.exists() || database.ended().is_some()
        });
        if !up {
            return Err(database.failure("did not listen").into());
        }
        let ask = |words: &str| run(&format!("ovs-vsctl --db=unix:{dir}/ovs.sock {words}"));
        ask("--no-wait init")?;
        ask("--no-wait set Open_vSwitch . other_config:dpdk-init=true other_config:pmd-cpu-mask=0x2 \
             other_config:dpdk-lcore-mask=0x1")?;
        // --legacy-mem keeps it from --in-memory, which wants huge pages.
        let eal = format!("--no-huge --legacy-mem -m 512 --no-pci --no-telemetry --file-prefix={prefix}");
        let set = Program::new("ovs-vsctl")
            .args(&format!("--db=unix:{dir}/ovs.sock --no-wait set Open_vSwitch ."))
            .arg(format!("other_config:dpdk-extra=\"{eal}\""));
        set.run(&wires.scratch, "ovs-vsctl", STARTS_WITHIN)?;
        let mut switch = Program::new(&self.vswitchd)
            .args(&format!("unix:{dir}/ovs.sock --unixctl={dir}/ovs.ctl --pidfile={dir}/ovs.pid --no-chdir"))
            .variable("OVS_RUNDIR", &dir)
            .variable("OVS_LOGDIR", &dir)
            .inside(&wires.middle)
            .start(&wires.scratch, "vswitchd")?;
        switch.wait_for_line("DPDK Enabled - initialized", STARTS_WITHIN)?;
        self.running = vec![switch, database];
        ask("--timeout=10 add-br br0 -- set bridge br0 datapath_type=netdev")?;
        for (number, wire) in [IN, OUT].iter().enumerate() {
            ask(&format!(
                "--timeout=10 add-port br0 {wire} -- set Interface {wire} type=dpdk \
                 options:dpdk-devargs=net_af_packet{number},iface={wire}"
            ))?;
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        for running in &mut self.running {
            if let Some(status) = running.ended() {
                return Err(running.failure(&format!("ended with {status} by itself")).into());
            }
        }
        Ok(())
    }

    fn stop(&mut self, wires: &Wires) {
        self.running.clear();
        wires.remove(&["br0", "ovs-netdev"]);
        let _ = std::fs::remove_dir_all(&self.runtime);
    }
}
