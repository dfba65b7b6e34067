//! All peers in turns, A B C A B C ..., so that whatever else the machine does meets all of them alike. One that cannot
//! run here, or fails in a turn, stays in the report with the reason.

use super::device::{Device, Holds};
use super::load::Turn;
use super::wires::Wires;
use crate::failure::Result;
use serde_json::Value;

/// A peer as it is named in the report.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// For `--only` and in JSON.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What waits in it.
    pub holds: Holds,
    /// Who says when what waits may leave.
    pub clock: &'static str,
    /// What bounds what waits, or why nothing does.
    pub limit: &'static str,
}

/// A peer and what came of it.
pub struct Entry {
    /// Which.
    pub peer: Peer,
    /// Its turns that were whole.
    pub turns: Vec<Turn>,
    /// Why there is none, or one less.
    pub failures: Vec<String>,
    /// What it told of itself after its last turn.
    pub told: Value,
    ready: Option<(Wires, Box<dyn Device>)>,
}

impl Entry {
    /// A peer between its wires, or the reason why it cannot run here.
    pub fn new(peer: Peer, ready: Result<(Wires, Box<dyn Device>)>) -> Entry {
        let (ready, failures) = match ready {
            Ok(ready) => (Some(ready), Vec::new()),
            Err(failure) => (None, vec![failure.to_string()]),
        };
        Entry { peer, turns: Vec::new(), failures, told: Value::Null, ready }
    }

    /// It has no turn to show.
    pub fn missing(&self) -> bool {
        self.turns.is_empty()
    }

    fn turn(&mut self, load: impl FnOnce(&Wires, &Peer) -> Result<Turn>) {
        let Some((wires, device)) = &mut self.ready else { return };
        // That it has ended by itself says more than what came of that.
        let turn = match device.start(wires).and_then(|()| load(wires, &self.peer)) {
            Ok(turn) => device.check().map(|()| turn),
            Err(failure) => Err(device.check().err().unwrap_or(failure)),
        };
        self.told = device.told();
        device.stop(wires);
        match turn {
            Ok(turn) => self.turns.push(turn),
            Err(failure) => self.failures.push(failure.to_string()),
        }
    }
}

/// Holds it.
pub fn hold(
    entries: &mut [Entry],
    rounds: u32,
    load: &mut dyn FnMut(&Wires, &Peer) -> Result<Turn>,
    tell: &dyn Fn(&str),
) {
    for round in 1..=rounds {
        for entry in entries.iter_mut() {
            let (turns, failures) = (entry.turns.len(), entry.failures.len());
            entry.turn(&mut *load);
            let name = entry.peer.name;
            if let Some(failure) = entry.failures.get(failures) {
                tell(&format!("round {round} of {rounds}, {name}: FAILED: {}", first_line(failure)));
            } else if let Some(turn) = entry.turns.get(turns) {
                let quality = &turn.alone.part.quality;
                tell(&format!(
                    "round {round} of {rounds}, {name}: longest gap {:.1} ms, TCP {:.0} Mbit/s",
                    quality.delta_ms_max, turn.tcp_mbit
                ));
            }
        }
    }
    for Entry { ready, failures, .. } in entries {
        if let Some((wires, _)) = ready
            && failures.is_empty()
        {
            wires.scratch.forget();
        }
        // Devices end before their wires go.
        if let Some((wires, device)) = ready.take() {
            drop(device);
            drop(wires);
        }
    }
}

/// Of a failure that shows a log as well.
pub fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
