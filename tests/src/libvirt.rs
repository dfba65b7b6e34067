//! libvirt on a host of its own: a daemon whose configuration, state and sockets lie in a scratch directory, mounted
//! where libvirt looks for them, in a namespace of mounts and processes. The machine's own libvirt does not notice, and
//! every QEMU of it dies with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::{Context, Failure, Result};
use crate::namespace::Namespace;
use crate::process::{Program, Running, run};
use crate::scratch::Scratch;
use crate::wall_clock::wait_until;

/// The daemon asks each QEMU of the machine what it can do, unless its cache knows.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Where QEMU makes its sockets, as the domains name it.
const SOCKETS: &str = "run/tidegate-qemu";

/// Mounts the scratch directory's parts where libvirt looks, and lets the daemon run. The shell stays and is the first
/// process of its namespace: it reaps what the daemon leaves.
const INSIDE: &str = "\
mount --make-rprivate /
mount --bind \"$0/etc\" /etc/libvirt
mount --bind \"$0/state\" /var/lib/libvirt
mount --bind \"$0/log\" /var/log/libvirt
mount --bind \"$1\" /var/cache/libvirt
mount --bind \"$0/run\" /run
libvirtd || exit 1
exit 0";

/// A host's libvirt.
pub struct Libvirt {
    daemon: Running,
    ram: Scratch,
    scratch: Scratch,
}

/// What this machine lacks, if it lacks something.
pub fn missing() -> Option<String> {
    for program in ["libvirtd", "virsh"] {
        if run(&format!("which {program}")).is_err() {
            return Some(format!("there is no {program} (scripts/setup test)"));
        }
    }
    run("id libvirt-qemu").err().map(|_| "there is no user libvirt-qemu (scripts/setup test)".to_owned())
}

impl Libvirt {
    /// Starts the daemon in a network of its own; see [`Libvirt::ready`].
    pub fn start(network: &Namespace) -> Result<Libvirt> {
        let (scratch, ram) = (Scratch::new()?, Scratch::under(Path::new("/dev/shm"))?);
        let made = |path: &str| {
            fs::create_dir_all(scratch.file(path)).context(|| format!("cannot make {path} of libvirt"))
        };
        ["etc", "state/boot", "log/qemu", "run"].into_iter().try_for_each(made)?;
        // As README.md of scripts/libvirt has it: QEMU's user makes sockets there, root's group may connect.
        let sockets = scratch.file(SOCKETS);
        run(&format!("install -d -o libvirt-qemu -g root -m 2770 {}", sockets.display()))?;
        // QEMU's user passes through to its own directory.
        run(&format!("chmod 711 {}", ram.path().display()))?;
        let write = |name: &str, text: String| {
            fs::write(scratch.file(name), text).context(|| format!("cannot write {name}"))
        };
        write("etc/libvirtd.conf", "auth_unix_rw = \"none\"\nlog_outputs = \"3:stderr\"\n".to_owned())?;
        write(
            "etc/qemu.conf",
            format!(
                "memory_backing_dir = \"{}\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\n\
                 stdio_handler = \"file\"\n",
                ram.path().display()
            ),
        )?;
        let cache = crate::guest_image::cache_directory()?.join("libvirt");
        fs::create_dir_all(&cache).context(|| format!("cannot make {}", cache.display()))?;
        let daemon = Program::new("unshare")
            .args("--mount --pid --fork --kill-child --mount-proc sh -ec")
            .arg(INSIDE)
            .arg(scratch.path().display().to_string())
            .arg(cache.display().to_string())
            .inside(network)
            .start(&scratch, "libvirtd")?;
        Ok(Libvirt { daemon, ram, scratch })
    }

    /// Waits until it answers.
    pub fn ready(&mut self) -> Result<()> {
        let up = wait_until(STARTS_WITHIN, Duration::from_millis(50), || {
            self.virsh("version").is_ok() || self.daemon.ended().is_some()
        });
        match (up, self.daemon.ended()) {
            (true, None) => Ok(()),
            (_, Some(status)) => Err(self.daemon.failure(&format!("ended with {status}"))),
            (false, None) => Err(self.daemon.failure(&format!("did not answer within {STARTS_WITHIN:?}"))),
        }
    }

    /// Where clients reach it.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.scratch.file("run/libvirt/libvirt-sock").display())
    }

    /// Runs a command of virsh; its output.
    pub fn virsh(&self, line: &str) -> Result<String> {
        self.command(Command::new("timeout").args(["30", "virsh", "-q", "-c", &self.uri()]).args(words(line)))
    }

    /// Runs a script of this tree that takes `-c URI`; its output.
    pub fn script(&self, path: &Path, line: &str) -> Result<String> {
        self.command(Command::new("timeout").arg("30").arg(path).args(["-c", &self.uri()]).args(words(line)))
    }

    fn command(&self, command: &mut Command) -> Result<String> {
        let output = command.output().context(|| format!("cannot run {command:?}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(self.daemon.failure(&format!("- {command:?} ended with {}: {said}", output.status)))
    }

    /// A socket that QEMU makes, as it is seen from outside.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.scratch.file(SOCKETS).join(name)
    }

    /// A file below `/var/lib/libvirt`, as it is seen from outside.
    pub fn state(&self, name: &str) -> PathBuf {
        self.scratch.file("state").join(name)
    }

    /// What a domain wrote to its serial line.
    pub fn serial(&self, domain: &str) -> String {
        let log = self.scratch.file(&format!("log/qemu/{domain}-serial.log"));
        fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The files that are its guests' RAM.
    pub fn ram(&self) -> Result<String> {
        run(&format!("find {} -type f", self.ram.path().display()))
    }

    /// The process of its one QEMU, as it is numbered outside.
    pub fn qemu(&self) -> Result<u32> {
        let mark = self.ram.path().display().to_string();
        for entry in fs::read_dir("/proc").context(|| "cannot read /proc".to_owned())?.flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let name = entry.file_name().to_string_lossy().parse();
            if let Ok(pid) = name
                && line.contains("qemu-system-x86_64")
                && line.contains(&mark)
            {
                return Ok(pid);
            }
        }
        Err(Failure::new("no QEMU has its RAM where libvirt was told to put it"))
    }

    /// Its directory: logs.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The test has passed.
    pub fn passed(mut self) {
        self.daemon.kill();
        self.scratch.forget();
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
}
