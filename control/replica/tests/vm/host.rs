//! A host: a real QEMU, and a plane with ports in memory. Its guest speaks to nobody.

use crate::guest::{Machine, Memory, Scratch, Vm, initramfs};
use crate::process::{Process, replica};
use crate::rig::{Rig, guest};
use std::path::PathBuf;
use std::process::Stdio;
use tidegate_dataplane::guest::Rings;

/// A QEMU and its plane.
pub struct Host {
    pub vm: Vm,
    pub rig: Rig,
    /// For whoever is not replication.
    pub second_monitor: PathBuf,
    desk: PathBuf,
}

impl Host {
    pub fn start(scratch: &Scratch, name: &str, mode: &str, more: &[&str]) -> Host {
        let initramfs = initramfs(scratch, None);
        let machine = Machine { scratch, mib: 64, memory: Memory::File, initramfs: &initramfs };
        let second_monitor = scratch.file(&format!("{name}-2.qmp"));
        let second = format!("unix:{},server=on,wait=off", second_monitor.display());
        let vm = machine.start(name, &[&["-qmp", &second], more].concat());
        let rig = plane(mode);
        Host { vm, rig, second_monitor, desk: scratch.file(&format!("{name}.sock")) }
    }

    /// One of the programs, beside them.
    pub fn run(&self, verb: &str, more: &str) -> Process {
        let mut command = replica();
        command.args([verb, "--json", "--qmp"]).arg(self.vm.monitor()).arg("--socket").arg(&self.rig.path);
        command.arg("--desk").arg(&self.desk).args(more.split_ascii_whitespace());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Process::hear(child.stdout.take().unwrap());
        Process { child, lines }
    }

    /// A standby, and where it listens.
    pub fn stand_by(&self, more: &str) -> (Process, String) {
        let standby = self.run("standby", &format!("--listen 127.0.0.1:0 {more}"));
        let listen = standby.event("waiting", |_| true)["listen"].as_str().unwrap().to_owned();
        (standby, listen)
    }
}

/// A plane that has just started.
pub fn plane(mode: &str) -> Rig {
    Rig::behind(Rings::Untold, &guest("pbx", 0, &format!("mode = \"{mode}\"")), &[])
}
