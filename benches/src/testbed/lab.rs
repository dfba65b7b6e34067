//! What all scenarios share: two hosts' wires at one bridge, the programs, and guests that have booted once.

use super::scenario::CallWay;
use crate::failure::{Failure, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate_tests::guest_image::{GuestImage, Service};
use tidegate_tests::laboratory::alone;
use tidegate_tests::process::{Program, Running};
use tidegate_tests::router::{Router, Takes};
use tidegate_tests::scratch::Scratch;
use tidegate_tests::survival::host::{HOLD_FRAMES, Setting, Snapshot, TELLER_WORDS};
use tidegate_tests::survival::network::{Network, port, wire};
use tidegate_tests::wall_clock::wait_until;

/// The server's address, in a VM or not; it is the guest's of `tidegate_tests`.
pub const SERVER: std::net::Ipv4Addr = tidegate_tests::laboratory::GUEST_IP;

const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// The programs that are measured, and those that measure.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `tidegate`; the plane and the replication lie beside it.
    pub tidegate: PathBuf,
    /// The server of the calls to it.
    pub teller: PathBuf,
    /// What the guest of the calls through it has beside kamailio and rtpengine.
    pub beacon: PathBuf,
    /// What drives the router's sch_plug.
    pub plugger: PathBuf,
}

impl Programs {
    /// Those beside `tidegate`.
    pub fn beside(tidegate: &Path) -> Result<Programs> {
        let dir = tidegate.parent().unwrap_or(Path::new("."));
        for name in ["tidegate", "tidegate-plane", "tidegate-replica", "teller", "beacon", "plugger"] {
            let program = dir.join(name);
            if !program.is_file() {
                return Err(Failure::new(format!(
                    "{} is missing: scripts/bench figures builds it, or \
                     `cargo build --release --workspace --bins`",
                    program.display()
                )));
            }
        }
        let [teller, beacon, plugger] = ["teller", "beacon", "plugger"].map(|name| dir.join(name));
        Ok(Programs { tidegate: tidegate.to_owned(), teller, beacon, plugger })
    }
}

/// See the module's head.
pub struct Lab {
    /// The wires and the peer.
    pub network: Network,
    /// See [`Programs`].
    pub programs: Programs,
    guests: Vec<(GuestImage, Snapshot)>,
    _alone: File,
}

impl Lab {
    /// Makes the wires; waits until no other laboratory of this machine is at work.
    pub fn open(programs: Programs) -> Result<Lab> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Failure::new("figures are measured in network namespaces: run it as root"));
        }
        let alone = alone()?;
        Ok(Lab { network: Network::new()?, programs, guests: Vec::new(), _alone: alone })
    }

    /// Boots the guest of such calls and keeps it, unless that was done before.
    pub fn boot(&mut self, call: CallWay) -> Result<()> {
        let service = service(call);
        if self.guests.iter().all(|(image, _)| image.service != service) {
            let program = match call {
                CallWay::To => &self.programs.teller,
                CallWay::Through => &self.programs.beacon,
            };
            let image = GuestImage::build(program, service)?;
            let tidegate = &self.programs.tidegate;
            let setting = Setting {
                tidegate,
                image: &image,
                policy: "bypass-all",
                guest: "",
                hold_frames: HOLD_FRAMES,
            };
            let snapshot = Snapshot::take(&setting, &self.network)?;
            self.guests.push((image, snapshot));
        }
        Ok(())
    }

    /// The booted guest, and what a host under this policy is started with.
    pub fn guest<'a>(&'a self, call: CallWay, policy: &'a str) -> Result<(&'a Snapshot, Setting<'a>)> {
        let found = self.guests.iter().find(|(image, _)| image.service == service(call));
        let (image, snapshot) = found.ok_or_else(|| Failure::new("no guest was booted"))?;
        Ok((
            snapshot,
            Setting { tidegate: &self.programs.tidegate, image, policy, guest: "", hold_frames: HOLD_FRAMES },
        ))
    }

    /// A router VM on the way from the first host to the peer.
    pub fn router(&self, takes: Takes) -> Result<Router> {
        let image = GuestImage::build(&self.programs.plugger, Service::Router)?;
        Ok(Router::between(&image, takes, &self.network.outside, &port(0), "br0")?)
    }

    /// The next server at that address is another one.
    pub fn forget(&self) -> Result<()> {
        self.network.forget()?;
        self.network.outside.run("ip neighbour flush dev br0")?;
        Ok(())
    }
}

fn service(call: CallWay) -> Service {
    match call {
        CallWay::To => Service::Accounts,
        CallWay::Through => Service::Relay,
    }
}

/// The server without a VM, in the first host's namespace.
pub struct Process {
    host: String,
    programs: Vec<Running>,
}

impl Process {
    /// Starts it at the address that the VM would have.
    pub fn start(lab: &Lab, scratch: &Scratch) -> Result<Process> {
        let host = &lab.network.hosts[0];
        host.run(&format!("ip address add {SERVER}/24 dev {}", wire(0)))?;
        // From here on the address goes with the value.
        let mut process = Process { host: host.name().to_owned(), programs: Vec::new() };
        let mut start = |program: Program, label: &str| -> Result<()> {
            process.programs.push(program.inside(host).start(scratch, label)?);
            Ok(())
        };
        start(Program::new(&lab.programs.teller).args(TELLER_WORDS), "teller")?;
        for port in [5201, 5202] {
            let line = format!("-s -B {SERVER} -p {port}");
            start(Program::new("iperf3").args(&line), &format!("iperf3-server-{port}"))?;
        }
        let listening = wait_until(LISTENS_WITHIN, Duration::from_millis(20), || {
            let sockets = host.run("ss -ltnH").unwrap_or_default();
            [":5201 ", ":5202 "].iter().all(|port| sockets.contains(port))
        });
        if !listening {
            return Err(Failure::new(format!("iperf3 did not listen within {LISTENS_WITHIN:?}")));
        }
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let line = format!("ip netns exec {} ip address flush dev {}", self.host, wire(0));
        let _ = tidegate_tests::process::run(&line);
    }
}
