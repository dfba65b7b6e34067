//! What replicates from host A to host B in a trial: the programs under test, or the harness's own hands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::blow::Victim;
use super::hand::{self, Hand};
use super::host::Host;
use super::network::Network;
use super::relay::{Cut, Relay};
use super::telling::Telling;
use crate::failure::{Failure, Result};
use crate::namespace::Namespace;
use crate::plane::GUEST;
use crate::process::{Program, Running, tail};

/// The first full copy of a small guest, on a busy machine.
const PROTECTS_WITHIN: Duration = Duration::from_secs(30);

/// What does the work.
#[derive(Debug, Clone)]
pub enum Means {
    /// `tidegate replicate` and `tidegate standby`.
    Programs(PathBuf),
    /// Full copies, by the harness: it tests the harness itself, and a plane without its programs.
    Hand,
}

impl Means {
    /// From one checkpoint to the next.
    pub fn interval(&self) -> Duration {
        match self {
            Means::Programs(_) => Duration::from_millis(50),
            Means::Hand => hand::INTERVAL,
        }
    }
}

/// Replication under way.
pub enum Replication {
    /// See [`Means::Programs`].
    Programs(Box<Programs>),
    /// See [`Means::Hand`].
    Hand(Box<Hand>),
}

/// See [`Means::Programs`].
pub struct Programs {
    replicate: Running,
    standby: Running,
    /// What the primary tells.
    pub primary: Telling,
    /// What the standby tells.
    pub backup: Telling,
    relay: Option<Relay>,
}

impl Replication {
    /// Starts it, a checkpoint every [`Means::interval`]; the guest is not protected yet.
    pub fn start(
        means: &Means,
        network: &Network,
        hosts: &[Host; 2],
        victim: Option<Victim>,
    ) -> Result<Replication> {
        let pace = format!("--interval {}ms", means.interval().as_millis());
        Replication::start_paced(means, network, hosts, victim, &pace)
    }

    /// The same with the words for `tidegate replicate` that say when checkpoints come.
    pub fn start_paced(
        means: &Means,
        network: &Network,
        hosts: &[Host; 2],
        victim: Option<Victim>,
        pace: &str,
    ) -> Result<Replication> {
        Replication::start_with(means, network, hosts, victim, [pace, ""])
    }

    /// The same with words for `tidegate replicate` and for `tidegate standby`.
    pub fn start_with(
        means: &Means,
        network: &Network,
        hosts: &[Host; 2],
        victim: Option<Victim>,
        words: [&str; 2],
    ) -> Result<Replication> {
        match means {
            Means::Programs(tidegate) => {
                let programs = Programs::start(tidegate, network, hosts, victim, words)?;
                Ok(Replication::Programs(Box::new(programs)))
            }
            Means::Hand => Ok(Replication::Hand(Box::new(Hand::start(hosts)?))),
        }
    }

    /// Waits until the backup can take over.
    pub fn protects(&mut self) -> Result<()> {
        match self {
            Replication::Programs(programs) => {
                let told = programs.primary.wait("protected", PROTECTS_WITHIN);
                told.map(drop).ok_or_else(|| programs.failure("the guest was not protected"))
            }
            Replication::Hand(hand) => hand.protects(PROTECTS_WITHIN),
        }
    }

    /// The process of the primary's side.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Replication::Programs(programs) => Some(programs.replicate.pid()),
            Replication::Hand(_) => None,
        }
    }

    /// The link, where it can be cut.
    pub fn cut(&self) -> Option<Cut> {
        match self {
            Replication::Programs(programs) => programs.relay.as_ref().map(Relay::cut),
            Replication::Hand(_) => None,
        }
    }

    /// What the primary tells, if it tells its steps.
    pub fn steps(&self) -> Option<&Telling> {
        match self {
            Replication::Programs(programs) => Some(&programs.primary),
            Replication::Hand(_) => None,
        }
    }

    /// Waits for the promotion; what the standby reports of it.
    pub fn promoted(&mut self, timeout: Duration) -> Result<Value> {
        match self {
            Replication::Programs(programs) => {
                let told = programs.backup.wait("promoted", timeout);
                told.ok_or_else(|| programs.failure("the standby was not promoted"))
            }
            Replication::Hand(hand) => hand.promote(),
        }
    }

    /// Events of the primary, events of the standby.
    pub fn events(&self) -> [Vec<Value>; 2] {
        match self {
            Replication::Programs(programs) => [programs.primary.events(), programs.backup.events()],
            Replication::Hand(hand) => [hand.events(), Vec::new()],
        }
    }

    /// A failure when one of its processes has ended that nobody killed.
    pub fn alive(&mut self) -> Result<()> {
        let Replication::Programs(programs) = self else { return Ok(()) };
        for running in [&mut programs.replicate, &mut programs.standby] {
            if let Some(status) = running.ended() {
                return Err(running.failure(&format!("ended with {status}")));
            }
        }
        Ok(())
    }
}

/// `tidegate VERB` beside a host's plane and QEMU, with the network that it is `inside`.
pub fn side(tidegate: &Path, verb: &str, inside: &Namespace, host: &Host) -> Program {
    Program::new(tidegate)
        .args(verb)
        .args(&format!("--guest {GUEST} --json --socket"))
        .arg(host.plane.control_socket().display().to_string())
        .arg("--qmp")
        .arg(host.guest.monitor_socket().display().to_string())
        .arg("--desk")
        .arg(host.scratch().file("desk.sock").display().to_string())
        .variable("TIDEGATE_STEPS", "1")
        .inside(inside)
}

impl Programs {
    fn start(
        tidegate: &Path,
        network: &Network,
        hosts: &[Host; 2],
        victim: Option<Victim>,
        [pace, standbys]: [&str; 2],
    ) -> Result<Programs> {
        let listen = network.free_address()?;
        let [a, b] = hosts;
        let program = |verb: &str, host: &Host| side(tidegate, verb, &network.hosts[0], host);
        let (standby, told) = program("standby", b)
            .args(&format!("--listen {listen} {standbys}"))
            .start_telling(b.scratch(), "standby")?;
        let backup = Telling::read(told, &b.scratch().file("told.jsonl"));
        let (relay, to) = match victim.filter(|victim| victim.needs_relay()) {
            Some(_) => {
                let (relay, to) = Relay::open(&network.hosts[0], listen)?;
                (Some(relay), to)
            }
            None => (None, listen),
        };
        if backup.wait("waiting", PROTECTS_WITHIN).is_none() {
            return Err(standby.failure("does not listen"));
        }
        let (replicate, told) = program("replicate", a)
            .args(&format!("--to {to} {pace}"))
            .start_telling(a.scratch(), "replicate")?;
        let primary = Telling::read(told, &a.scratch().file("told.jsonl"));
        Ok(Programs { replicate, standby, primary, backup, relay })
    }

    fn failure(&self, what: &str) -> Failure {
        Failure::new(format!(
            "{what}\nthe primary told\n{}the standby told\n{}{}\n{}",
            self.primary.last_words(),
            self.backup.last_words(),
            tail(self.replicate.log()),
            tail(self.standby.log())
        ))
    }
}
