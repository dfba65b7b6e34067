//! One trial: a fresh pair of hosts with the same guest, all its traffic, one death, and what became of everything.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::blow::{ANY_MOMENT, Blow, Hammer, Struck, VM_STOPPED, signal_all};
use super::call::Call;
use super::client::{Client, GOES_ON_WITHIN, Habit};
use super::dialog::{self, Dialog};
use super::host::{Host, Setting, Snapshot};
use super::network::{Network, port};
use super::outcome::Outcome;
use super::replication::{Means, Replication};
use super::seen;
use super::transfer::{Transfer, Way};
use crate::capture::Capture;
use crate::failure::{Failure, Result};

/// Traffic must flow before something dies.
const FLOWS_WITHIN: Duration = Duration::from_secs(40);
/// From the kill to the standby's report.
const PROMOTES_WITHIN: Duration = Duration::from_secs(15);
/// How long a frozen host sleeps, or a link is cut.
const AWAY: Duration = Duration::from_secs(2);
/// How long it is watched after that.
const WATCHED: Duration = Duration::from_millis(700);
/// A checkpoint comes every 100 ms at most; a step that is not told in this time is not waited for: the call would be
/// over. The blow falls all the same, and the outcome says that it missed ([`Outcome::missed`]).
const STEP_WITHIN: Duration = Duration::from_millis(800);
/// From the call's setup to its end: a failover lies within.
const CALL: Duration = Duration::from_millis(4500);
const LOOK: Duration = Duration::from_millis(10);
/// The file that a trial with a fault leaves beside its logs.
pub const VERDICT: &str = "told.json";

/// What all trials share.
pub struct World<'a> {
    /// The wires.
    pub network: &'a Network,
    /// The guest.
    pub snapshot: &'a Snapshot,
    /// Programs and policy.
    pub setting: Setting<'a>,
    /// What replicates.
    pub means: Means,
}

/// The traffic of a trial.
struct Traffic {
    clients: Vec<Client>,
    transfers: [Transfer; 2],
    dialog: Dialog,
    call: Call,
}

/// How far it had come at some moment.
#[derive(Debug, Clone, Default)]
struct Mark {
    acknowledged: Vec<u64>,
    moved: Vec<usize>,
    heard: u32,
    reached: u32,
    dialog: dialog::Record,
}

impl Traffic {
    fn start(world: &World<'_>, host: &Host, dialog: Dialog, call: Duration) -> Result<Traffic> {
        let outside = &world.network.outside;
        let scratch = host.scratch();
        let clients = [(1, Habit::Keeps), (2, Habit::Keeps), (3, Habit::Renews), (4, Habit::Renews)]
            .map(|(number, habit)| Client::start(outside, number, habit));
        Ok(Traffic {
            clients: clients.into_iter().collect::<Result<_>>()?,
            transfers: [
                Transfer::start(outside, scratch, Way::Inward)?,
                Transfer::start(outside, scratch, Way::Outward)?,
            ],
            dialog,
            call: Call::start(outside, scratch, call)?,
        })
    }

    fn mark(&mut self) -> Mark {
        Mark {
            acknowledged: self.clients.iter().map(|client| client.record().acknowledged).collect(),
            moved: self.transfers.iter_mut().map(Transfer::moved).collect(),
            heard: self.call.heard(),
            reached: self.call.reached(),
            dialog: self.dialog.record(),
        }
    }

    /// What has not come further than `since` by a little; nothing when all has.
    fn stands(&mut self, since: &Mark) -> Option<String> {
        let now = self.mark();
        for (at, (now, then)) in now.acknowledged.iter().zip(&since.acknowledged).enumerate() {
            if *now < then + 2 {
                return Some(format!("client {at}"));
            }
        }
        for (at, (now, then)) in now.moved.iter().zip(&since.moved).enumerate() {
            if *now < then + 3 {
                return Some(format!("transfer {at}"));
            }
        }
        if now.heard < since.heard + 10 {
            return Some("the guest's voice".to_owned());
        }
        if now.reached < since.reached + 10 {
            return Some("the peer's voice".to_owned());
        }
        if now.dialog.answered < since.dialog.answered + 2 {
            return Some("the dialog by TLS".to_owned());
        }
        let decoded = now.dialog.decoded_ms >= since.dialog.decoded_ms + 200;
        (!decoded).then(|| "the voice by DTLS-SRTP".to_owned())
    }

    /// Waits until everything has come further; what has not, when the time is over.
    fn goes_on(&mut self, since: &Mark, within: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + within;
        loop {
            let stands = self.stands(since);
            if stands.is_none() || Instant::now() >= deadline {
                return Ok(stands);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Runs a trial; without a blow it lasts for `length` and nothing dies.
pub fn run(world: &World<'_>, blow: Option<Blow>, length: Duration) -> Result<Outcome> {
    let begin = Instant::now();
    world.network.forget()?;
    let mut hosts = Host::pair(&world.setting, world.network)?;
    let captures = [0, 1].map(|side| {
        Capture::start_on(&port(side), "-Q in", &world.network.outside, hosts[side].scratch(), "wire")
    });
    let [first, second] = captures;
    let captures = [first?, second?];
    world.snapshot.run(&hosts[0])?;
    // Keys are agreed upon sooner while nothing is held.
    let dialog = Dialog::start(&world.network.outside, hosts[0].scratch())?;
    let victim = blow.map(|blow| blow.victim);
    let mut replication = Replication::start(&world.means, world.network, &hosts, victim)?;
    let call = if blow.is_some() { CALL } else { length };
    let mut traffic = Traffic::start(world, &hosts[0], dialog, call)?;
    replication.protects()?;
    let protected = Instant::now();
    let since = traffic.mark();
    if let Some(stands) = traffic.goes_on(&since, FLOWS_WITHIN)? {
        return Err(Failure::new(format!("{stands} did not get going within {FLOWS_WITHIN:?}")));
    }
    let guarded = matches!(world.means, Means::Programs(_));
    let mut outcome = Outcome { blow, guarded, set_up_ms: ms(begin), ..Outcome::default() };

    match blow {
        Some(blow) => death(&mut outcome, blow, &mut hosts, &mut replication, &mut traffic)?,
        None => quiet(&mut outcome, protected + length, &mut hosts, &mut replication, &mut traffic)?,
    }
    outcome.protected_ms = outcome.protected_ms.max(ms(protected));

    let lives = outcome.promotion.is_some() || blow.is_none();
    outcome.dialog = traffic.dialog.finish(lives && outcome.stands.is_none());
    if lives {
        outcome.call = traffic.call.finish().err().map(|failure| failure.to_string());
    } else {
        outcome.call = Some("there is no guest any more".to_owned());
    }
    let Traffic { clients, mut transfers, .. } = traffic;
    for client in clients {
        let habit = client.habit;
        let record = client.finish();
        outcome.acknowledged += record.acknowledged;
        outcome.lost_acks += record.lost;
        outcome.broken.extend(record.broken.into_iter().map(|why| format!("{habit:?}: {why}")));
    }
    outcome.broken.extend(transfers.iter_mut().filter_map(Transfer::broken));
    drop(transfers);
    outcome.replayed = replayed(&hosts[1])?;
    let [primary, backup] = replication.events();
    outcome.take_events(&primary, &backup);
    let [a, b] = captures;
    let (a, b) = (a.finish()?, b.finish()?);
    outcome.early = seen::early_releases(&a, &b);
    outcome.both_spoke = seen::both_spoke(&a, &b);
    outcome.numbered = [seen::numbered(&a), seen::numbered(&b)];
    let struck_ns = outcome.struck.map_or(u64::MAX, |struck| struck.at_ns);
    outcome.heard = seen::heard(&a, &b, outcome.struck.map_or(0, |struck| struck.at_ns));
    outcome.secured = seen::secured(&a, &b, struck_ns);
    outcome.all_ms = ms(begin);
    if outcome.faults().is_empty() || world.setting.policy == "bypass-all" {
        hosts.iter_mut().for_each(Host::passed);
    } else {
        outcome.logs = hosts.iter().map(|host| host.scratch().path().display().to_string()).collect();
        let told = serde_json::json!({ "primary": primary, "backup": backup, "outcome": outcome.to_json() });
        for host in &hosts {
            let _ = std::fs::write(host.scratch().file(VERDICT), told.to_string());
        }
    }
    Ok(outcome)
}

/// Packets that a host's plane refused because the dead one may have sent them.
fn replayed(host: &Host) -> Result<u64> {
    let stats = host.plane.control()?.execute("stats", serde_json::json!({}))?;
    Ok(stats["guests"][0]["frames"]["dropped_by"]["replayed"].as_u64().unwrap_or(0))
}

fn ms(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

/// Lets the blow fall, and waits until everything goes on, or does not.
fn death(
    outcome: &mut Outcome,
    blow: Blow,
    hosts: &mut [Host; 2],
    replication: &mut Replication,
    traffic: &mut Traffic,
) -> Result<()> {
    let begin = Instant::now();
    let (plane, qemu) = hosts[0].pids();
    let pids = [replication.pid(), Some(qemu), Some(plane)];
    let struck: Arc<Mutex<Option<Struck>>> = Arc::default();
    let hammer = Hammer {
        victim: blow.victim,
        pids,
        control: hosts[0].plane.control()?,
        cut: replication.cut(),
        struck: Arc::clone(&struck),
    };
    outcome.moment = strike(replication, &hosts[0], blow, hammer, &struck)?;
    outcome.struck = *struck.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.protected_ms = ms(begin);
    let since = traffic.mark();
    match replication.promoted(PROMOTES_WITHIN) {
        Ok(report) => outcome.promotion = Some(report),
        Err(failure) => outcome.not_promoted = Some(failure.to_string()),
    }
    if outcome.promotion.is_some() {
        outcome.stands = traffic.goes_on(&since, GOES_ON_WITHIN + Duration::from_secs(1))?;
    }
    if blow.victim.comes_back() {
        std::thread::sleep(AWAY.saturating_sub(begin.elapsed()));
        signal_all(&pids, Signal::SIGCONT);
        if let Some(cut) = replication.cut() {
            cut.heal();
        }
        std::thread::sleep(WATCHED);
    }
    Ok(())
}

/// At the step that was asked for, or now; the moment at which it really fell.
fn strike(
    replication: &Replication,
    host: &Host,
    blow: Blow,
    hammer: Hammer,
    struck: &Mutex<Option<Struck>>,
) -> Result<&'static str> {
    let fallen = || struck.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    let Some(telling) = replication.steps().filter(|_| blow.moment != ANY_MOMENT) else {
        std::thread::sleep(Duration::from_micros(random(250_000)?));
        hammer.strike();
        return Ok(ANY_MOMENT);
    };
    // Not always at the first checkpoint after the same events.
    std::thread::sleep(Duration::from_micros(random(150_000)?));
    if blow.moment == VM_STOPPED {
        // QEMU tells it itself, to every monitor.
        let told = host.guest.second_monitor()?.wait_for_event("STOP", STEP_WITHIN);
        hammer.strike();
        return Ok(if told.is_ok() { VM_STOPPED } else { ANY_MOMENT });
    }
    telling.at_step(blow.moment, Box::new(move || hammer.strike()));
    let deadline = Instant::now() + STEP_WITHIN;
    while !fallen() {
        if Instant::now() >= deadline
            && let Some(action) = telling.disarm()
        {
            action();
            return Ok(ANY_MOMENT);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(blow.moment)
}

fn random(below: u64) -> Result<u64> {
    use std::io::Read;
    let mut drawn = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut drawn))
        .map_err(|error| Failure::new(format!("cannot draw a moment: {error}")))?;
    Ok(u64::from_ne_bytes(drawn) % below)
}

/// Nothing dies: and nothing may happen.
fn quiet(
    outcome: &mut Outcome,
    until: Instant,
    hosts: &mut [Host; 2],
    replication: &mut Replication,
    traffic: &mut Traffic,
) -> Result<()> {
    let mut since = traffic.mark();
    while Instant::now() < until {
        replication.alive()?;
        std::thread::sleep(Duration::from_secs(1).min(until.saturating_duration_since(Instant::now())));
        // The call ends in time; everything else must always go on.
        if until.saturating_duration_since(Instant::now()) > Duration::from_secs(2) {
            outcome.stands = outcome.stands.take().or(traffic.goes_on(&since, GOES_ON_WITHIN)?);
            since = traffic.mark();
        }
    }
    let pulse = hosts[0].plane.control()?.execute("pulse", serde_json::json!({}))?;
    // Superseded, it is muted: it has discarded what it held.
    outcome.fenced_at_end = pulse["fenced"] == Value::Bool(true) || pulse["mode"] == "muted";
    Ok(())
}
