//! A VM with an emulated e1000e, and the far end of its cable as a socket.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tidegate_tests::laboratory;
use tidegate_tests::plane::Kind as Program;

use crate::frames;

/// From power-on to power-off. An idle machine needs a tenth of it, a crowded one most.
const LIFE: Duration = Duration::from_secs(300);

/// Lines on the console; a good run has a few hundred.
const MOST_LINES: usize = 10_000;

/// A running VM; dropped, it is switched off and its files go.
pub struct Vm {
    qemu: Child,
    console: Receiver<String>,
    deadline: Instant,
    scratch: PathBuf,
    /// One datagram is one frame.
    pub cable: UnixDatagram,
    /// Everything that the console said, for the report of a failure.
    pub log: Vec<String>,
    /// One VM at a time: others measure.
    _alone: File,
}

/// What boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A machine without an IOMMU, and `nic-steps`.
    NoIommu,
    /// One with, and all of `nic-steps`.
    Iommu,
    /// The same under systemd, and `unit-steps`.
    Systemd,
}

/// What the VM says next.
#[derive(Debug, PartialEq)]
pub enum Word {
    /// A step of `nic-steps` came out so.
    Step { name: String, outcome: String },
    /// It waits until `Vm::go_on`.
    Wait(String),
    /// It went through all steps.
    End,
}

impl Vm {
    /// Builds the image and boots it. Under systemd tidegate drives the card; otherwise the program that
    /// `TIDEGATE_BIN` names, or else dpdk-testpmd, so that a fault of the scripts is told from one of the plane.
    pub fn boot(name: &str, kind: Kind) -> Self {
        let program = match kind {
            Kind::Systemd => match laboratory::tidegate().expect("a build of tidegate") {
                Program::Tidegate(binary) => Some(binary.into_os_string()),
                Program::Forwarder => None,
            },
            Kind::Iommu | Kind::NoIommu => std::env::var_os("TIDEGATE_BIN"),
        };
        let alone = laboratory::alone().expect("a turn");
        // In /tmp: the path of a Unix socket has at most 107 bytes, that of a build directory has no such limit.
        let scratch = std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).expect("a scratch directory");
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/nic-image");
        let built = Command::new("timeout")
            .args(["300", image.to_str().unwrap()])
            .args((kind == Kind::Systemd).then_some("--systemd"))
            .arg(&scratch)
            .args(program)
            .status();
        assert!(built.is_ok_and(|status| status.success()), "{image:?} failed, see above");

        let cable = UnixDatagram::bind(scratch.join("far.sock")).expect("a socket in the scratch directory");
        cable.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        // A card that is not listening lets its queue fill up.
        cable.set_write_timeout(Some(Duration::from_secs(5))).unwrap();

        let mut append = String::from("console=ttyS0 quiet panic=-1 no_timer_check");
        // setpriv: the VM dies with the test, however the test dies.
        let mut command = Command::new("setpriv");
        command.current_dir(&scratch).args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "3", "-m", "2560"]);
        command.args(["-M", "q35,kernel-irqchip=split", "-nographic", "-nodefaults", "-no-reboot"]);
        command.args([
            "-object",
            "memory-backend-ram,id=m0,size=1G",
            "-numa",
            "node,nodeid=0,memdev=m0,cpus=0",
        ]);
        command.args([
            "-object",
            "memory-backend-ram,id=m1,size=1536M",
            "-numa",
            "node,nodeid=1,memdev=m1,cpus=1-2",
        ]);
        if kind != Kind::NoIommu {
            command.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
        }
        append.push_str(match kind {
            Kind::NoIommu => "",
            Kind::Iommu => " intel_iommu=on steps=all hugepagesz=1G hugepages=1",
            Kind::Systemd => " intel_iommu=on rdinit=/lib/systemd/systemd systemd.unit=steps.service",
        });
        // Two cards behind one bridge: they share an IOMMU group, as in many real machines.
        command.args(["-device", "pcie-pci-bridge,id=bridge"]);
        let near = "dgram,id=n,local.type=unix,local.path=near.sock,remote.type=unix,remote.path=far.sock";
        command.args(["-netdev", near]);
        command.args(["-device", "e1000e,bus=bridge,addr=1,netdev=n,mac=52:54:00:12:34:56,romfile="]);
        command.args(["-nic", "none", "-device", "e1000e,bus=bridge,addr=2,romfile="]);
        command.args(["-kernel", "kernel", "-initrd", "initrd", "-append", &append]);
        command.args(["-serial", "stdio", "-monitor", "none"]);
        let mut qemu = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setpriv and qemu-system-x86_64");

        let (say, console) = channel();
        let output = BufReader::new(qemu.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if say.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    break;
                }
            }
        });
        Self {
            qemu,
            console,
            deadline: Instant::now() + LIFE,
            scratch,
            cable,
            log: Vec::new(),
            _alone: alone,
        }
    }

    /// The next verdict, halt or end; `None` when the VM is gone.
    ///
    /// # Panics
    /// When the VM takes longer than `LIFE`.
    pub fn next(&mut self) -> Option<Word> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.log.len() > MOST_LINES {
                self.fail("took too long, or talks without end");
            }
            let line = match self.console.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.fail("took too long"),
            };
            let word = Self::parse(&line);
            self.log.push(line);
            if word.is_some() {
                return word;
            }
        }
    }

    fn parse(line: &str) -> Option<Word> {
        // The firmware's escape sequences may stand before the first line.
        if let Some((_, step)) = line.split_once("STEP ") {
            let (name, outcome) = step.split_once(' ')?;
            return Some(Word::Step { name: name.into(), outcome: outcome.into() });
        }
        line.strip_prefix("WAIT ")
            .map(|name| Word::Wait(name.into()))
            .or((line == "END").then_some(Word::End))
    }

    /// Lets the steps go on.
    pub fn go_on(&mut self) {
        writeln!(self.qemu.stdin.as_mut().unwrap(), "go").expect("the console of the VM");
    }

    /// Panics with all that the console said.
    pub fn fail(&self, what: &str) -> ! {
        panic!("the VM: {what}. Its console:\n{}", self.log.join("\n"));
    }

    /// Sends `frame` until `answer` says of something that came back: this it is.
    pub fn ask(&self, frame: &[u8], what: &str, mut answer: impl FnMut(&[u8]) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            // Until QEMU has its end of the cable, and while its queue is full, sending fails: ask again.
            let _ = self.cable.send_to(frame, self.scratch.join("near.sock"));
            if self.receive().is_some_and(|got| answer(&got)) {
                return;
            }
        }
        self.fail(what);
    }

    /// Sends one frame to the card.
    pub fn send(&self, frame: &[u8]) {
        self.cable.send_to(frame, self.scratch.join("near.sock")).expect("the card's end of the cable");
    }

    /// One frame from the card, if one comes within 50 ms.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let length = self.cable.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// The kernel of the VM answers ARP and ping through the card.
    pub fn kernel_answers(&self) {
        self.ask(&frames::arp_request(), "no answer to ARP", frames::is_arp_reply);
        for sequence in 1..=5 {
            let answer = |frame: &[u8]| frames::pong(frame) == Some(sequence);
            self.ask(&frames::ping(sequence), "no answer to ping", answer);
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}
