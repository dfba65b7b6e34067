//! A small real VM without a network: Debian's kernel, busybox, and a program that counts on the serial line.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tidegate_replica::qmp::Qmp;

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /dev /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
stty -F /dev/ttyS0 raw -echo opost onlcr
if [ -e /bin/inner ]; then
    /bin/inner --exact "$(cat /etc/inner)" --nocapture 2>&1
    echo "INNER-DONE $?"
    while true; do sleep 1000; done
fi
echo GUEST-READY
n=0
while true; do
    n=$((n + 1))
    echo "COUNT $n"
    usleep 10000
done
"#;
/// An emulated guest boots in seconds, on a machine that has other work in a minute.
const BOOTS_WITHIN: Duration = Duration::from_secs(120);

/// Where the VM's RAM lies.
#[derive(Clone, Copy)]
pub enum Memory {
    File,
    Memfd,
    Private,
}

/// A directory in RAM, which goes with the test.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Scratch {
        Scratch(tempfile::Builder::new().prefix("tg-vm-").tempdir_in("/dev/shm").expect("/dev/shm"))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

pub struct Machine<'a> {
    pub scratch: &'a Scratch,
    pub mib: usize,
    pub memory: Memory,
    pub initramfs: &'a Path,
}

/// A QEMU that dies with the test.
pub struct Vm {
    child: Child,
    pub ram: PathBuf,
    serial: PathBuf,
    log: PathBuf,
    monitor: PathBuf,
}

impl Machine<'_> {
    /// Starts QEMU with more arguments.
    pub fn start(&self, name: &str, more: &[&str]) -> Vm {
        let file = |kind: &str| self.scratch.file(&format!("{name}.{kind}"));
        let (ram, serial, log, monitor) = (file("ram"), file("serial"), file("log"), file("qmp"));
        let mib = self.mib;
        let backend = match self.memory {
            Memory::File => {
                Some(format!("memory-backend-file,id=mem,size={mib}M,share=on,mem-path={}", ram.display()))
            }
            Memory::Memfd => Some(format!("memory-backend-memfd,id=mem,size={mib}M,share=on")),
            Memory::Private => None,
        };
        let output = File::create(&log).expect("a log");
        // The kernel ends it even when the test is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        command.args("-accel tcg -cpu max -smp 1 -nodefaults -display none -no-user-config".split(' '));
        // The one device that follows the host's clock while the VM is paused.
        command.args(["-rtc", "base=2026-01-01,clock=vm"]);
        command.args(["-m", &format!("{mib}M")]);
        if let Some(backend) = backend {
            command.args(["-object", &backend, "-machine", "pc,memory-backend=mem"]);
        }
        command.args(["-serial", &format!("file:{}", serial.display())]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())]);
        command.args(["-kernel", &kernel().display().to_string()]);
        command.args(["-initrd", &self.initramfs.display().to_string()]);
        command.args(["-append", "console=ttyS0 quiet mitigations=off no_timer_check panic=-1"]);
        command.args(more);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a log"))
            .stderr(output)
            .spawn()
            .expect("setpriv (util-linux) and qemu-system-x86_64");
        Vm { child, ram, serial, log, monitor }
    }
}

impl Vm {
    pub fn qmp(&self) -> Qmp {
        Qmp::connect(&self.monitor, Duration::from_secs(20))
            .unwrap_or_else(|error| panic!("{error}\n{}", self.output()))
    }

    /// Its monitor's socket.
    pub fn monitor(&self) -> &Path {
        &self.monitor
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What came over the serial line.
    pub fn serial(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// What QEMU itself said.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a text on the serial line.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + BOOTS_WITHIN;
        while !self.serial().contains(text) {
            let ended = self.child.try_wait().expect("a child");
            let state = format!("no {text:?}; QEMU {ended:?}\n{}{}", self.output(), self.serial());
            assert!(ended.is_none() && Instant::now() < deadline, "{state}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Open files of QEMU.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a process").count()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its own end.
    pub fn wait_end(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if self.child.try_wait().expect("a child").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kernel() -> PathBuf {
    let mut kernels: Vec<PathBuf> = fs::read_dir("/boot")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("vmlinuz-") && name.ends_with("-cloud-amd64")
        })
        .collect();
    kernels.sort();
    kernels.pop().expect("Debian's cloud kernel: apt-get install linux-image-cloud-amd64")
}

/// The user space that counts; with `inner` one that runs this test of this very program instead.
pub fn initramfs(scratch: &Scratch, inner: Option<&str>) -> PathBuf {
    let path = scratch.file("initramfs");
    let mut archive = Archive { file: File::create(&path).expect("an initramfs"), inodes: 0 };
    for directory in ["bin", "etc", "lib", "lib64", "lib/x86_64-linux-gnu"] {
        archive.add(directory, 0o40755, &[]);
    }
    archive.add("init", 0o100755, INIT.as_bytes());
    archive.add("bin/busybox", 0o100755, &fs::read("/bin/busybox").expect("busybox-static"));
    if let Some(test) = inner {
        let program = std::env::current_exe().expect("a program");
        let stripped = scratch.file("inner");
        let status = Command::new("strip").arg("-o").arg(&stripped).arg(&program).status();
        let source = if status.is_ok_and(|status| status.success()) { stripped } else { program };
        archive.add("bin/inner", 0o100755, &fs::read(&source).expect("this program"));
        archive.add("etc/inner", 0o100644, test.as_bytes());
        for library in [
            "lib64/ld-linux-x86-64.so.2",
            "lib/x86_64-linux-gnu/libc.so.6",
            "lib/x86_64-linux-gnu/libgcc_s.so.1",
            "lib/x86_64-linux-gnu/libm.so.6",
        ] {
            let content = fs::read(Path::new("/").join(library)).expect("a library");
            archive.add(library, 0o100755, &content);
        }
    }
    archive.add("TRAILER!!!", 0, &[]);
    path
}

/// A cpio archive of the kind `newc`.
struct Archive {
    file: File,
    inodes: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inodes += 1;
        let (inode, size, length) = (self.inodes, content.len(), name.len() + 1);
        let mut entry = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}\
             {length:08x}{0:08x}{name}\0",
            0, 1
        )
        .into_bytes();
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry.extend_from_slice(content);
        entry.resize(entry.len().next_multiple_of(4), 0);
        self.file.write_all(&entry).expect("an initramfs");
    }
}
