//! A replicated pair that a test leads step by step: what each side is told, what becomes of it, what both wires saw.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::blow::signal_all;
use super::client::{Client, Habit};
use super::host::{HOLD_FRAMES, Host, Setting, Snapshot};
use super::network::{Network, Side, port};
use super::relay::{Cut, Relay};
use super::replication::side;
use super::seen;
use super::telling::Telling;
use crate::capture::{Capture, Frame};
use crate::ensure;
use crate::failure::{Failure, Result};
use crate::guest_image::{GuestImage, Service};
use crate::laboratory::{alone, from_guest, tidegate};
use crate::plane::Kind;
use crate::process::{Program, Running, tail};

/// A first copy, a promotion, a session that begins anew: on a machine with other things to do.
const WITHIN: Duration = Duration::from_secs(30);
/// Acknowledgements that show that a client goes on.
const A_FEW: u64 = 3;

/// The wires, the guest and the programs: what all pairs of a test share.
pub struct World {
    /// Both hosts' wires.
    pub network: Network,
    snapshot: Snapshot,
    image: GuestImage,
    tidegate: PathBuf,
    _alone: File,
}

impl World {
    /// Boots the guest that every pair begins with; the programs are the laboratory's.
    pub fn open(teller: &Path) -> Result<World> {
        let Kind::Tidegate(tidegate) = tidegate()? else {
            return Err(Failure::new("the laboratory has no tidegate"));
        };
        let alone = alone()?;
        let image = GuestImage::build(teller, Service::Accounts)?;
        let network = Network::new()?;
        let setting = Setting {
            tidegate: &tidegate,
            image: &image,
            policy: "bypass-all",
            guest: "",
            hold_frames: HOLD_FRAMES,
        };
        let snapshot = Snapshot::take(&setting, &network)?;
        Ok(World { network, snapshot, image, tidegate, _alone: alone })
    }

    /// A `tidegate` command on the hosts.
    pub fn tidegate(&self, words: &str) -> Program {
        Program::new(&self.tidegate).args(words).inside(&self.network.hosts[0])
    }

    /// `tidegate VERB` beside a host's plane and QEMU, in the first host's network.
    pub fn beside(&self, host: &Host, verb: &str) -> Program {
        side(&self.tidegate, verb, &self.network.hosts[0], host)
    }

    /// Both hosts, the guest running on the first, and nothing that replicates it.
    pub fn hosts(&self) -> Result<[Host; 2]> {
        self.network.forget()?;
        let hosts = Host::pair(&self.setting(&Wish::default()), &self.network)?;
        self.snapshot.run(&hosts[0])?;
        Ok(hosts)
    }

    /// `tidegate observe` beside a host, at this monitor of its QEMU.
    pub fn observe(&self, host: &Host, monitor: &Path, words: &str) -> Result<(Running, Telling)> {
        let (running, told) = self
            .tidegate(&format!("observe --json {words} --socket"))
            .arg(host.plane.control_socket().display().to_string())
            .arg("--qmp")
            .arg(monitor.display().to_string())
            .start_telling(host.scratch(), "observe")?;
        let telling = Telling::read(told, &host.scratch().file("observed.jsonl"));
        match telling.wait("following", WITHIN) {
            Some(_) => Ok((running, telling)),
            None => Err(running.failure("follows nothing")),
        }
    }

    /// An address of the hosts that is free.
    pub fn address(&self) -> Result<SocketAddr> {
        self.network.free_address()
    }

    fn setting<'a>(&'a self, wish: &Wish<'a>) -> Setting<'a> {
        Setting {
            tidegate: &self.tidegate,
            image: &self.image,
            policy: "realtime",
            guest: wish.guest,
            hold_frames: wish.hold_frames.unwrap_or(HOLD_FRAMES),
        }
    }
}

/// What a pair is started with besides what it always is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Options of both sides.
    pub both: &'a str,
    /// Options of the primary.
    pub primary: &'a str,
    /// Options of the standby.
    pub standby: &'a str,
    /// Lines of the guest's table in the planes' configuration.
    pub guest: &'a str,
    /// What is between the two.
    pub link: Link,
    /// The planes' quotas, where they are to be small.
    pub hold_frames: Option<u32>,
}

/// What is between primary and standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// One host's loopback.
    #[default]
    Loopback,
    /// The same, and it can be cut.
    Cuttable,
    /// The same, and it is slow until somebody heals it.
    Slow,
    /// A wire from host to host.
    Wire,
}

impl Link {
    /// Where its standby is.
    fn host(self) -> Side {
        usize::from(self == Link::Wire)
    }
}

/// See the module's head. The fields go in this order.
pub struct Pair<'w> {
    /// Two clients with accounts in the guest.
    pub clients: [Client; 2],
    /// `tidegate replicate`.
    pub replicate: Running,
    /// `tidegate standby`.
    pub standby: Running,
    /// What the primary tells.
    pub primary: Telling,
    /// What the standby tells.
    pub backup: Telling,
    captures: [Capture; 2],
    relay: Option<Relay>,
    /// Both hosts.
    pub hosts: [Host; 2],
    world: &'w World,
    wish: Wish<'w>,
    listen: SocketAddr,
    standbys: usize,
}

impl<'w> Pair<'w> {
    /// Starts it, and waits until the guest is protected and its clients are served.
    pub fn start(world: &'w World, wish: Wish<'w>) -> Result<Pair<'w>> {
        Pair::start_after(world, wish, |_, _| Ok(()))
    }

    /// The same; before its primary dials, the standby already waits at this address for visits beside the first host.
    pub fn start_after(
        world: &'w World,
        wish: Wish<'w>,
        visits: impl FnOnce(&Host, SocketAddr) -> Result<()>,
    ) -> Result<Pair<'w>> {
        let network = &world.network;
        network.forget()?;
        let hosts = Host::pair(&world.setting(&wish), network)?;
        let capture = |side: Side| {
            Capture::start_on(&port(side), "-Q in", &network.outside, hosts[side].scratch(), "wire")
        };
        let captures = [capture(0)?, capture(1)?];
        world.snapshot.run(&hosts[0])?;
        let listen = match wish.link {
            Link::Wire => network.free_link_address()?,
            _ => network.free_address()?,
        };
        let (standby, backup) = stand_by(world, &wish, &hosts[1], listen, 0)?;
        visits(&hosts[0], listen)?;
        let (relay, to) = match wish.link {
            Link::Cuttable | Link::Slow => {
                let (relay, to) = Relay::open(&network.hosts[0], listen)?;
                (Some(relay), to)
            }
            Link::Loopback | Link::Wire => (None, listen),
        };
        if let (Some(relay), Link::Slow) = (&relay, wish.link) {
            relay.cut().slow_down();
        }
        let (replicate, told) = side(&world.tidegate, "replicate", &network.hosts[0], &hosts[0])
            .args(&format!("--to {to} {} {}", wish.both, wish.primary))
            .start_telling(hosts[0].scratch(), "replicate")?;
        let primary = Telling::read(told, &hosts[0].scratch().file("told.jsonl"));
        let clients = [
            Client::start(&network.outside, 1, Habit::Keeps)?,
            Client::start(&network.outside, 2, Habit::Renews)?,
        ];
        let mut pair = Pair {
            clients,
            replicate,
            standby,
            primary,
            backup,
            captures,
            relay,
            hosts,
            world,
            wish,
            listen,
            standbys: 1,
        };
        pair.told(0, "protected", 0)?;
        pair.goes_on()?;
        Ok(pair)
    }

    /// Waits for what a side tells of that name after its first `from` events.
    pub fn told(&mut self, side: Side, event: &str, from: usize) -> Result<Value> {
        let told = [&self.primary, &self.backup][side].wait_from(from, event, WITHIN);
        told.ok_or_else(|| {
            self.failure(&format!("{} did not tell {event:?}", ["the primary", "the standby"][side]))
        })
    }

    /// How much both have told so far.
    pub fn mark(&self) -> [usize; 2] {
        [self.primary.events().len(), self.backup.events().len()]
    }

    fn acknowledged(&self) -> [u64; 2] {
        [self.clients[0].record().acknowledged, self.clients[1].record().acknowledged]
    }

    /// Waits until both clients have come further.
    pub fn goes_on(&mut self) -> Result<()> {
        let (before, deadline) = (self.acknowledged(), Instant::now() + WITHIN);
        loop {
            let now = self.acknowledged();
            if now.iter().zip(&before).all(|(now, before)| *now >= before + A_FEW) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.failure(&format!("the clients stand still: {before:?}, then {now:?}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Fails when a client is served in this time; what was on its way at the beginning does not count.
    pub fn stands(&mut self, span: Duration) -> Result<()> {
        std::thread::sleep(Duration::from_millis(200));
        let before = self.acknowledged();
        std::thread::sleep(span);
        let now = self.acknowledged();
        if now == before {
            Ok(())
        } else {
            Err(self.failure(&format!("clients were served: {before:?}, then {now:?}")))
        }
    }

    /// The processes of host A: replication, QEMU, plane.
    pub fn first_host(&mut self) -> [Option<u32>; 3] {
        let (plane, qemu) = self.hosts[0].pids();
        [Some(self.replicate.pid()), Some(qemu), Some(plane)]
    }

    /// Kills all of host A.
    pub fn kill_first_host(&mut self) {
        signal_all(&self.first_host(), Signal::SIGKILL);
    }

    /// The link, which must be one that can be cut.
    pub fn cut(&self) -> Result<Cut> {
        self.relay.as_ref().map(Relay::cut).ok_or_else(|| Failure::new("this link cannot be cut"))
    }

    /// The standby has ended: a new QEMU waits at its host, and a new standby at its address.
    pub fn take_in(&mut self) -> Result<()> {
        self.take_in_one_with("")
    }

    /// The same with a QEMU whose NIC has these properties, beginning with a comma.
    pub fn take_in_one_with(&mut self, properties: &str) -> Result<()> {
        self.hosts[1].renew_guest(&self.world.setting(&self.wish), properties)?;
        let (standby, backup) = stand_by(self.world, &self.wish, &self.hosts[1], self.listen, self.standbys)?;
        (self.standby, self.backup) = (standby, backup);
        self.standbys += 1;
        Ok(())
    }

    /// A command to a side's desk: true and its output, or false and what it said.
    pub fn desk(&self, side: Side, words: &str) -> Result<(bool, String)> {
        let scratch = self.hosts[side].scratch();
        let mut running = self
            .world
            .tidegate(words)
            .arg("--desk")
            .arg(scratch.file("desk.sock").display().to_string())
            .start(scratch, "asked")?;
        let status = running.wait(WITHIN)?;
        Ok((status.success(), running.output()))
    }

    /// The plane of a side, by its `pulse`.
    pub fn pulse(&self, side: Side) -> Result<Value> {
        self.hosts[side].plane.control()?.execute("pulse", serde_json::json!({}))
    }

    /// A side's process ends by itself; its exit code.
    pub fn ends(&mut self, side: Side) -> Result<Option<i32>> {
        let status = [&mut self.replicate, &mut self.standby][side].wait(WITHIN)?;
        let desk = self.hosts[side].scratch().file("desk.sock");
        ensure!(!desk.exists(), "{} was left behind", desk.display());
        Ok(status.code())
    }

    /// Ends it: nothing that was acknowledged is lost, no connection broken, nothing left too early, and never did
    /// both hosts speak. The frames of both wires.
    pub fn finish(self) -> Result<[Vec<Frame>; 2]> {
        let mut faults = Vec::new();
        for client in self.clients {
            let habit = client.habit;
            let record = client.finish();
            faults.extend(
                (record.lost > 0).then(|| format!("{habit:?}: {} acknowledgements were lost", record.lost)),
            );
            faults.extend(record.broken.iter().map(|why| format!("{habit:?}: {why}")));
        }
        let [a, b] = self.captures;
        let (a, b) = (a.finish()?, b.finish()?);
        let early = seen::early_releases(&a, &b);
        faults.extend((!early.is_empty()).then(|| format!("left before the standby knew it: {early:?}")));
        let both = seen::both_spoke(&a, &b);
        faults.extend(
            (both > 0).then(|| format!("{both} frames of the first host after the second had spoken")),
        );
        ensure!(seen::numbered(&a) > 0, "nothing was seen on the first host's wire");
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        let mut hosts = self.hosts;
        hosts.iter_mut().for_each(Host::passed);
        Ok([a, b])
    }

    /// A failure that shows what both told at last.
    pub fn failure(&self, what: &str) -> Failure {
        Failure::new(format!(
            "{what}\nthe primary told\n{}the standby told\n{}{}\n{}",
            self.primary.last_words(),
            self.backup.last_words(),
            tail(self.replicate.log()),
            tail(self.standby.log())
        ))
    }
}

fn stand_by(
    world: &World,
    wish: &Wish<'_>,
    host: &Host,
    listen: SocketAddr,
    number: usize,
) -> Result<(Running, Telling)> {
    let label = format!("standby{number}");
    let (mut running, told) = side(&world.tidegate, "standby", &world.network.hosts[wish.link.host()], host)
        .args(&format!("--listen {listen} {} {}", wish.both, wish.standby))
        .start_telling(host.scratch(), &label)?;
    let telling = Telling::read(told, &host.scratch().file(&format!("told{number}.jsonl")));
    if telling.wait("waiting", WITHIN).is_none() {
        let ended = running.ended();
        return Err(running.failure(&format!("does not listen ({ended:?})")));
    }
    Ok((running, telling))
}

/// Frames that the guest sent.
pub fn guests(frames: &[Frame]) -> usize {
    frames.iter().filter(|frame| from_guest(frame)).count()
}
