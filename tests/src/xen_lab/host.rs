//! An emulated host: Xen under QEMU, its Dom0, and the plane and the domain that run there.

use std::time::Duration;

use super::image::{Image, PLACE};
use super::packages::Packages;
use super::wires::{Wires, link_address};
use crate::failure::{Context, Failure, Result};
use crate::process::{Program, Running, tail};
use crate::scratch::Scratch;
use crate::serial_line::SerialLine;
use crate::wall_clock::wait_until;

/// Xen crashes under emulation with what is turned off here.
const PROCESSOR: &str = "max,-smap,-smep,-rdtscp,-avx,-avx2,-xsave";
/// Dom0's memory, MiB: its user space, a plane, and a checkpoint on its way.
const DOM0_MIB: u32 = 704;
/// The same of the whole host.
const HOST_MIB: u32 = 1152;
/// Neither checksums nor segments are left to anybody.
const NIC: &str = "csum=off,guest_csum=off,gso=off,guest_tso4=off,guest_tso6=off,guest_ufo=off,guest_ecn=off,host_tso4=off,\
                   host_tso6=off,host_ufo=off,host_ecn=off,mrg_rxbuf=off,romfile=";
const BOOTS_WITHIN: Duration = Duration::from_secs(120);
const CREATES_WITHIN: Duration = Duration::from_secs(60);
/// A little more than Dom0's own patience, on a machine that does other things too.
const WAITS_WITHIN: Duration = Duration::from_secs(150);
/// What a short command may take on an emulated CPU.
pub const SOON: Duration = Duration::from_secs(60);

/// See the module's head.
pub struct Host {
    /// QEMU.
    pub qemu: Running,
    line: SerialLine,
    console: std::path::PathBuf,
    number: usize,
}

impl Host {
    /// Starts it; it boots meanwhile, see [`Host::wait_until_up`].
    pub fn start(
        number: usize,
        packages: &Packages,
        image: &Image,
        wires: &Wires,
        scratch: &Scratch,
    ) -> Result<Host> {
        let label = format!("host{number}");
        let console = scratch.file(&format!("{label}-xen.log"));
        let nic = |index: usize, kind: &str| {
            [
                "-netdev".to_owned(),
                format!("tap,id=n{index},ifname={kind}{number},script=no,downscript=no"),
                "-device".to_owned(),
                format!("virtio-net-pci,netdev=n{index},mac=52:54:00:07:0{index}:0{},{NIC}", number + 1),
            ]
        };
        let mut program = Program::new("qemu-system-x86_64")
            .args("-accel tcg,thread=multi,tb-size=512 -M q35 -smp 2 -nodefaults -display none -no-reboot")
            .args(&format!("-cpu {PROCESSOR} -m {HOST_MIB}"))
            .arg("-kernel")
            .arg(packages.hypervisor.display().to_string())
            .arg("-append")
            // The domain has the other CPU for itself.
            .arg(format!(
                "dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M dom0_max_vcpus=1 dom0_vcpus_pin com1=115200,8n1 console=com1 \
                 guest_loglvl=warning noreboot"
            ))
            .arg("-initrd")
            .arg(format!(
                "{} console=hvc0 quiet net.ifnames=0 lab.link={},{}",
                packages.kernel.display(),
                link_address(number),
                image.initramfs.display()
            ))
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-chardev")
            .arg(SerialLine::option("tty", scratch, &label))
            .args("-serial chardev:tty");
        for option in nic(0, "link").into_iter().chain(nic(1, "wire")) {
            program = program.arg(option);
        }
        let mut qemu = program.inside(&wires.outside).start(scratch, &label)?;
        let line = SerialLine::connect(scratch, &label, &mut qemu)?;
        Ok(Host { qemu, line, console, number })
    }

    /// Waits until Dom0 takes commands.
    pub fn wait_until_up(&mut self) -> Result<()> {
        let up = wait_until(BOOTS_WITHIN, Duration::from_millis(50), || {
            self.line.text().contains("DOM0-READY") || self.qemu.ended().is_some()
        });
        let console = std::fs::read_to_string(&self.console).unwrap_or_default();
        if let Some(fault) = console.lines().find(|line| line.starts_with("DOM0-FAULT")) {
            return Err(self.complaint(&format!("says {fault:?}")));
        }
        if up && self.qemu.ended().is_none() { Ok(()) } else { Err(self.complaint("did not boot")) }
    }

    /// Runs a shell command in Dom0.
    pub fn command(&mut self, line: &str, timeout: Duration) -> Result<String> {
        let number = self.number;
        self.line.command(line, timeout).context(|| format!("host {number}"))
    }

    /// The same of one that is not waited for; its output goes to `/tmp/LABEL.log`, its exit status to `/tmp/LABEL.rc`.
    pub fn background(&mut self, label: &str, line: &str) -> Result<()> {
        let line =
            format!("rm -f /tmp/{label}.rc; ( ({line}) >/tmp/{label}.log 2>&1; echo $? >/tmp/{label}.rc ) &");
        self.command(&line, SOON).map(drop)
    }

    /// What a background command has written.
    pub fn log(&mut self, label: &str) -> Result<String> {
        self.command(&format!("cat /tmp/{label}.log"), SOON)
    }

    /// A file of Dom0, over the link.
    pub fn fetch(&mut self, wires: &Wires, file: &str) -> Result<Vec<u8>> {
        wires.fetch(|command| self.command(&command(file), SOON).map(drop))
    }

    /// Starts the plane; `guest` are lines of the guest's table, `more` are tables behind it.
    pub fn start_plane(&mut self, guest: &str, more: &str) -> Result<()> {
        self.command(
            &format!("printf '{}' >/run/tidegate.toml", (configuration(guest) + more).replace('\n', "\\n")),
            SOON,
        )?;
        self.command("/etc/xen/scripts/vif-tidegate places /run/tidegate.toml", SOON)?;
        self.background("plane", "exec tidegate run --config /run/tidegate.toml")?;
        self.wait_for("tidegate status --json >/dev/null 2>&1", "/tmp/plane.log")
    }

    /// Waits until a condition is true in Dom0; a failure that shows these files when it does not come true.
    pub fn wait_for(&mut self, condition: &str, files: &str) -> Result<()> {
        self.command(&format!("wait_for '{}' {files}", condition.replace('\'', "'\\''")), WAITS_WITHIN)
            .map(drop)
    }

    /// Creates the domain, and waits until it serves.
    pub fn create_domain(&mut self) -> Result<()> {
        self.command("xl create /etc/xen/pbx.cfg", CREATES_WITHIN)?;
        let console = "/var/log/xen/console/guest-pbx.log";
        self.wait_for(&format!("grep -q GUEST-READY {console}"), console)
    }

    /// The number Xen knows the domain by.
    pub fn domain(&mut self) -> Result<u32> {
        let said = self.command("xl domid pbx", SOON)?;
        said.trim().parse().map_err(|_| self.complaint(&format!("calls the domain {said:?}")))
    }

    /// A failure that shows the end of the host's console.
    pub fn complaint(&self, what: &str) -> Failure {
        Failure::new(format!("host {} {what}\n{}", self.number, tail(&self.console)))
    }
}

/// Of a Dom0 with one CPU: the lcore sleeps when it has nothing to do.
fn configuration(guest: &str) -> String {
    format!(
        r#"[eal]
idle = "backoff"
max_sleep_us = 2000
hugepages = "no"
memory_mb = 96
[[guest]]
name = "pbx"
close_timeout_ms = 1000
{guest}
[[guest.lane]]
guest_port = "net_af_packet0,iface={PLACE}"
wire_port = "net_af_packet1,iface=eth1"
lcore = 0
hold_frames = 8192
hold_bytes = "8MiB"
rx_desc = 256
tx_desc = 256
"#
    )
}
