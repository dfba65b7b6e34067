//! A real guest: Debian's kernel under QEMU with software emulation, its NICs vhost-user ports of the
//! plane. Its memory is a file that the plane maps, and that the laboratory reads counters from.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::beacon_record::{PAGE, page_magic};
use crate::failure::{Context, Failure, Result};
use crate::guest_image::GuestImage;
use crate::namespace::Namespace;
use crate::process::{Program, Running};
use crate::qmp::Qmp;
use crate::scratch::Scratch;
use crate::serial_line::SerialLine;
use crate::wall_clock::wait_until;

const READY: &str = "GUEST-READY";
const BOOT: &str = "BEACON boot=";
/// The file that the beacon waits for.
pub const GO: &str = "/tmp/go";

/// One NIC of the guest.
#[derive(Debug, Clone)]
pub struct Nic {
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// QEMU listens there and the plane connects; the other way round otherwise.
    pub server: bool,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// More properties of the device, e.g. `csum=off`; empty or beginning with a comma.
    pub properties: String,
}

impl Nic {
    /// The MAC address of the guest's NIC number `index`.
    pub fn mac(index: u8) -> [u8; 6] {
        [0x52, 0x54, 0x00, 0x09, 0x00, 0x02 + index]
    }

    fn options(&self, index: usize) -> [String; 6] {
        let path = self.socket.display();
        let way = if self.server { "server=on,wait=on" } else { "reconnect=1" };
        let mac: Vec<String> = self.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        [
            "-chardev".to_owned(),
            format!("socket,id=vhost{index},path={path},{way}"),
            "-netdev".to_owned(),
            format!("vhost-user,id=net{index},chardev=vhost{index}"),
            "-device".to_owned(),
            // vectors=0: this QEMU crashes with vhost-user and MSI-X under software emulation.
            format!(
                "virtio-net-pci,netdev=net{index},mac={},romfile=,vectors=0{}",
                mac.join(":"),
                self.properties
            ),
        ]
    }
}

/// How a guest is to be started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Kernel and user space.
    pub image: GuestImage,
    /// Guest memory, MiB.
    pub memory_mib: u32,
    /// Its NICs: `eth0`, `eth1`, ...
    pub nics: Vec<Nic>,
    /// What it is to do: words for its kernel command line (see `guest/init.sh`).
    pub words: String,
    /// It does not boot but waits for a state to be loaded.
    pub waits: bool,
}

/// A running guest.
pub struct Guest {
    running: Running,
    line: SerialLine,
    memory_file: PathBuf,
    monitor: PathBuf,
    second_monitor: PathBuf,
    // Holds the guest's memory; goes when the guest does.
    _memory: Scratch,
}

impl Guest {
    /// Starts QEMU. The guest boots meanwhile: see [`Guest::ready`].
    pub fn start(plan: &Plan, scratch: &Scratch, label: &str) -> Result<Guest> {
        Guest::start_among(plan, scratch, label, None, &[])
    }

    /// The same with QEMU in that namespace, and with more words on its command line.
    pub fn start_among(
        plan: &Plan,
        scratch: &Scratch,
        label: &str,
        namespace: Option<&Namespace>,
        more: &[String],
    ) -> Result<Guest> {
        let memory = Scratch::under(Path::new("/dev/shm"))?;
        let memory_file = memory.file("ram");
        let monitor = scratch.file(&format!("{label}.qmp"));
        let second_monitor = scratch.file(&format!("{label}-2.qmp"));
        let size = plan.memory_mib;
        let mut program = Program::new("qemu-system-x86_64")
            .args("-accel tcg -cpu max -smp 1 -nodefaults -display none -no-user-config")
            .args(&format!("-m {size}"))
            .arg("-object")
            .arg(format!(
                "memory-backend-file,id=mem,size={size}M,share=on,mem-path={}",
                memory_file.display()
            ))
            .args("-machine pc,memory-backend=mem")
            .arg("-chardev")
            .arg(SerialLine::option("tty", scratch, label))
            .args("-serial chardev:tty -qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", second_monitor.display()))
            .arg("-kernel")
            .arg(plan.image.kernel.display().to_string())
            .arg("-initrd")
            .arg(plan.image.initramfs.display().to_string())
            .arg("-append")
            .arg(format!("console=ttyS0 quiet mitigations=off no_timer_check {}", plan.words));
        if plan.waits {
            program = program.args("-incoming defer");
        }
        for (index, nic) in plan.nics.iter().enumerate() {
            for option in nic.options(index) {
                program = program.arg(option);
            }
        }
        for word in more {
            program = program.arg(word);
        }
        if let Some(namespace) = namespace {
            program = program.inside(namespace);
        }
        let mut running = program.start(scratch, label)?;
        let line = SerialLine::connect(scratch, label, &mut running)?;
        Ok(Guest { running, line, memory_file, monitor, second_monitor, _memory: memory })
    }

    /// True when boot number `boot`, counted from 1, has ended: a reset starts the next one. A failure
    /// when it never will.
    pub fn ready(&mut self, boot: usize) -> Result<bool> {
        if let Some(status) = self.running.ended() {
            return Err(self.running.failure(&format!("ended with {status} while the guest booted")));
        }
        let log = self.serial();
        match log.lines().find(|line| line.starts_with("GUEST-FAULT")) {
            Some(fault) => Err(self.complaint(&format!("says {fault:?}"))),
            None => Ok(log.lines().filter(|line| line.starts_with(READY)).count() >= boot),
        }
    }

    /// Runs a shell command in the guest; its output, or a failure unless it exits with 0.
    pub fn command(&mut self, line: &str, timeout: Duration) -> Result<String> {
        self.line.command(line, timeout)
    }

    /// The file that is the guest's memory.
    pub fn memory(&self) -> &Path {
        &self.memory_file
    }

    /// The monitor's socket.
    pub fn monitor_socket(&self) -> &Path {
        &self.monitor
    }

    /// A connection to QEMU's monitor. It takes one at a time: this is the tool stack's.
    pub fn monitor(&self) -> Result<Qmp> {
        self.connect(&self.monitor)
    }

    /// A second monitor, for who wants to press a button while the tool stack works.
    pub fn second_monitor(&self) -> Result<Qmp> {
        self.connect(&self.second_monitor)
    }

    fn connect(&self, monitor: &Path) -> Result<Qmp> {
        Qmp::connect(monitor, Duration::from_secs(20))
            .map_err(|failure| self.running.failure(&failure.to_string()))
    }

    /// The page in which the beacon of boot number `boot`, counted from 1, counts. The beacon sends nothing
    /// before [`Guest::start_beacon`].
    pub fn counter_page(&self, boot: usize) -> Result<CounterPage> {
        let mut drawn = None;
        wait_until(Duration::from_secs(20), Duration::from_millis(10), || {
            let log = self.serial();
            // Only whole lines: half a number is a number too.
            let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let mut beacons = lines.filter_map(|line| line.trim().strip_prefix(BOOT)?.parse().ok());
            drawn = beacons.nth(boot - 1);
            drawn.is_some()
        });
        let drawn = drawn.ok_or_else(|| self.complaint("started no beacon"))?;
        let memory = File::open(&self.memory_file).context(|| "cannot open the guest's memory".to_owned())?;
        CounterPage::find(memory, drawn)
    }

    /// Lets the beacon send, once somebody counts on its page.
    pub fn start_beacon(&mut self) -> Result<()> {
        self.command(&format!("touch {GO}"), Duration::from_secs(20)).map(drop)
    }

    /// QEMU's process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.running
    }

    /// All that came over the serial line.
    pub fn serial(&self) -> String {
        self.line.text()
    }

    /// A failure that shows the end of the serial log.
    pub fn complaint(&self, what: &str) -> Failure {
        self.line.complaint(what)
    }
}

/// Where in guest memory the beacon counts.
pub struct CounterPage {
    memory: File,
    boot: u64,
    offset: u64,
    last: u64,
    stalled: bool,
}

impl CounterPage {
    fn find(memory: File, boot: u64) -> Result<CounterPage> {
        let mut page = CounterPage { memory, boot, offset: 0, last: 0, stalled: false };
        let found = page.scan()?;
        let (offset, counter) =
            found.ok_or_else(|| Failure::new(format!("no page of beacon {boot} in the guest's memory")))?;
        (page.offset, page.last) = (offset, counter);
        Ok(page)
    }

    /// The beacon's boot number, as its frames carry it.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// The counter of a paused guest.
    pub fn read(&mut self) -> Result<u64> {
        let now = self.look(self.offset)?.unwrap_or(0);
        let stalled = std::mem::replace(&mut self.stalled, now == self.last);
        if self.stalled && !stalled {
            // The beacon sleeps, or its guest is gone; or the guest's kernel has moved the page and this
            // is the copy it left behind: then the value read before may have been too small.
            if let Some((offset, counter)) = self.scan()?
                && offset != self.offset
                && counter > now
            {
                return Err(Failure::new("the guest moved the beacon's page: this run proves nothing"));
            }
        }
        self.last = now;
        Ok(now)
    }

    /// The counter of a guest that runs: some value that it had during this call.
    pub fn read_running(&self) -> Result<u64> {
        self.look(self.offset)?
            .ok_or_else(|| Failure::new("the beacon's page is gone from the guest's memory"))
    }

    /// The counter of the page at `offset`, if it is one of this boot's.
    fn look(&self, offset: u64) -> Result<Option<u64>> {
        let mut head = [0; 32];
        self.memory
            .read_exact_at(&mut head, offset)
            .context(|| "cannot read the guest's memory".to_owned())?;
        Ok(counter_of(&head).filter(|&(boot, _)| boot == self.boot).map(|(_, counter)| counter))
    }

    /// Of this boot's pages the one with the largest counter: offset and counter.
    fn scan(&self) -> Result<Option<(u64, u64)>> {
        const CHUNK: usize = 1 << 20;
        let failed = || "cannot read the guest's memory".to_owned();
        let size = self.memory.metadata().context(failed)?.len();
        let mut chunk = vec![0; CHUNK];
        let mut best = None;
        for start in (0..size).step_by(CHUNK) {
            self.memory.read_exact_at(&mut chunk, start).context(failed)?;
            for (index, page) in chunk.chunks_exact(PAGE).enumerate() {
                if let Some((boot, counter)) = counter_of(page)
                    && boot == self.boot
                    && best.is_none_or(|(_, known)| counter > known)
                {
                    best = Some((start + (index * PAGE) as u64, counter));
                }
            }
        }
        Ok(best)
    }
}

/// Boot number and counter of a page that begins with the magic words.
fn counter_of(page: &[u8]) -> Option<(u64, u64)> {
    let word = |index: usize| page.get(index * 8..index * 8 + 8)?.try_into().ok().map(u64::from_le_bytes);
    let magic = page_magic();
    let marked = word(0)? == magic[0] && word(1)? == magic[1];
    if marked { Some((word(2)?, word(3)?)) } else { None }
}
