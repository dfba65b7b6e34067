//! A witness: a third host that lends the lease of a guest to one node at a time (`decide = witness`).
//!
//! Primary and standby both dial it. The primary's beats ask for its lease here, so that the primary goes on when the
//! standby dies; the standby asks to take over, and may once the holder's lease has run out by the witness's clock (and
//! drift, and the drain of a tx ring) or was given up. Who may take over says the holder, in each beat
//! ([`Beat::standby`]): the node that has every committed checkpoint. So the grant that answers a beat naming nobody is
//! the evidence that no standby can take over; what the witness tells of the other node is news, not evidence.
//!
//! A lease that has run out is lent to its last holder again, to the standby that this one named, or, once it was given
//! up, to whoever asks. To nobody else: a holder that is merely silent may be the one that has taken over.
//!
//! All of it lives in memory. After a restart the witness does not know who holds a lease: for a whole term it lends
//! none but to a node that renews, and it lets nobody take over until the holder has named its standby again.

mod server;
#[cfg(test)]
mod tests;

pub use server::{Running, run, start};

use crate::lease::{Answer, Terms};
use crate::link::message::{Beat, Standing, Verdict};
use std::collections::{BTreeMap, HashMap};

/// Guests that one witness serves.
pub const GUESTS_MAX: usize = 256;
/// Nodes of one guest.
pub const NODES_MAX: usize = 8;

/// Who speaks to the witness: a start of the process on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The node.
    pub node: String,
    /// Random per process start.
    pub incarnation: u64,
}

#[derive(Debug)]
struct Lent {
    to: Caller,
    seq: u64,
    /// When the request came, which is after it was sent.
    at_ns: u64,
    surrendered_ns: Option<u64>,
}

#[derive(Debug)]
struct Known {
    heard_ns: u64,
    /// The newest request that was dealt with.
    newest: (u64, u64),
    withdrawn: Option<String>,
}

#[derive(Debug, Default)]
struct Guest {
    lent: Option<Lent>,
    /// Leases of former incarnations of the holder's node.
    others_until_ns: u64,
    standby: Option<String>,
    nodes: BTreeMap<String, Known>,
}

/// The state machine; the clock is passed in.
#[derive(Debug)]
pub struct Witness {
    terms: Terms,
    unknown_until_ns: u64,
    guests: HashMap<String, Guest>,
}

impl Witness {
    /// At the start of the process: a former start may have lent a lease of at most `former_term_ms`.
    pub fn new(terms: Terms, now_ns: u64, former_term_ms: u64) -> Witness {
        let former = Terms { term_ms: former_term_ms.max(terms.term_ms), ..terms };
        let unknown_until_ns = now_ns.saturating_add(former.wait_ns());
        Witness { terms, unknown_until_ns, guests: HashMap::new() }
    }

    /// The terms it lends on.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// A node dials; the error says why it is not served.
    pub fn greet(&mut self, now_ns: u64, guest: &str, caller: &Caller) -> Result<(), String> {
        if !self.guests.contains_key(guest) && self.guests.len() >= GUESTS_MAX {
            return Err(format!("this witness serves {GUESTS_MAX} guests already"));
        }
        let guest = self.guests.entry(guest.to_owned()).or_default();
        if !guest.nodes.contains_key(&caller.node) && guest.nodes.len() >= NODES_MAX {
            return Err(format!("the guest has {NODES_MAX} nodes already"));
        }
        let known = Known { heard_ns: now_ns, newest: (caller.incarnation, 0), withdrawn: None };
        let known = guest.nodes.entry(caller.node.clone()).or_insert(known);
        known.heard_ns = now_ns;
        known.withdrawn = None;
        Ok(())
    }

    /// Whether it may not lend to a node that holds nothing, since it started so shortly ago.
    pub fn is_unsure(&self, now_ns: u64) -> bool {
        now_ns < self.unknown_until_ns
    }

    /// A beat of a node that is, or would be, the primary. A grant that answers a `renewal` must be used for nothing
    /// else: if the plane has fenced meanwhile, for nothing.
    pub fn beat(&mut self, now_ns: u64, guest: &str, caller: &Caller, beat: &Beat) -> Answer {
        let (terms, unsure) = (self.terms, self.is_unsure(now_ns));
        let seq = beat.seq;
        let Some(guest) = self.guests.get_mut(guest) else { return Answer::Ignored };
        if !guest.is_new(now_ns, caller, seq) {
            return Answer::Ignored;
        }
        let holds = guest.lent.as_ref().is_some_and(|lent| lent.to.node == caller.node);
        let denied = |reason: String| Answer::Denied { seq, reason };
        match &guest.lent {
            _ if unsure && !beat.renewal => {
                return denied(
                    "this witness has just started: a lease that it lent before may still run".to_owned(),
                );
            }
            Some(lent) if !holds && now_ns < guest.free_at(lent, terms) => {
                return denied(format!("node {} holds the lease", lent.to.node));
            }
            Some(lent)
                if !holds
                    && lent.surrendered_ns.is_none()
                    && guest.standby.as_ref() != Some(&caller.node) =>
            {
                return denied(format!(
                    "node {} held the lease last, has not given it up and does not name you: it may run the guest. If it is \
                     off for certain, start the witness again: it lends to the first that asks",
                    lent.to.node
                ));
            }
            _ => {}
        }
        guest.lend(now_ns, caller, seq, terms);
        guest.standby = beat.standby.clone().filter(|node| *node != caller.node);
        Answer::Grant { seq, term_ms: terms.term_ms }
    }

    /// A sign of life of a node that asks for nothing; false if it is an old one.
    pub fn alive(&mut self, now_ns: u64, guest: &str, caller: &Caller, seq: u64) -> bool {
        self.guests.get_mut(guest).is_some_and(|guest| guest.is_new(now_ns, caller, seq))
    }

    /// Whether it holds the guest's lease, or held it last. Another process on the same node does not.
    pub fn holds(&self, guest: &str, caller: &Caller) -> bool {
        let lent = self.guests.get(guest).and_then(|guest| guest.lent.as_ref());
        lent.is_some_and(|lent| lent.to == *caller)
    }

    /// Whether another process on the same node has, or had last, the guest's lease, and has not given it up.
    pub fn is_succeeded(&self, guest: &str, caller: &Caller) -> bool {
        let lent = self.guests.get(guest).and_then(|guest| guest.lent.as_ref());
        let theirs = |lent: &Lent| lent.to.node == caller.node && lent.to.incarnation != caller.incarnation;
        lent.is_some_and(|lent| theirs(lent) && lent.surrendered_ns.is_none())
    }

    /// A standby asks to take over. None: an old question.
    pub fn claim(&mut self, now_ns: u64, guest: &str, caller: &Caller, seq: u64) -> Option<Verdict> {
        let (terms, unknown_until) = (self.terms, self.unknown_until_ns);
        let guest = self.guests.get_mut(guest)?;
        if !guest.is_new(now_ns, caller, seq) {
            return None;
        }
        let no = |reason: String| Some(Verdict::No { reason });
        let Some(lent) = &guest.lent else {
            return no("this witness has not heard a holder of the lease since it started, so it does not know who has \
                       every committed checkpoint; decide yourself (tidegate failover --force)"
                .to_owned());
        };
        let free_at = if lent.to == *caller {
            unknown_until
        } else if guest.standby.as_ref() != Some(&caller.node) {
            let named = guest.standby.as_deref().unwrap_or("nobody");
            return no(format!("node {} holds the lease and names {named} as its standby", lent.to.node));
        } else if let Some(why) = guest.nodes.get(&caller.node).and_then(|known| known.withdrawn.clone()) {
            return no(format!("you have withdrawn: {why}"));
        } else {
            guest.free_at(lent, terms).max(unknown_until)
        };
        if now_ns < free_at {
            return Some(Verdict::Wait { ms: (free_at - now_ns).div_ceil(1_000_000) });
        }
        guest.lend(now_ns, caller, seq, terms);
        guest.standby = None;
        Some(Verdict::Yes { term_ms: terms.term_ms })
    }

    /// A holder gives up; false if that does not cover the last lease, and changes nothing then.
    pub fn surrender(&mut self, now_ns: u64, guest: &str, caller: &Caller, upto: u64) -> bool {
        let Some(guest) = self.guests.get_mut(guest) else { return false };
        match &mut guest.lent {
            Some(lent) if lent.to == *caller && upto >= lent.seq => {
                lent.surrendered_ns.get_or_insert(now_ns);
                // Requests up to there that are still on the way get no grant.
                guest.is_new(now_ns, caller, upto);
                true
            }
            _ => false,
        }
    }

    /// A standby says that it cannot take over.
    pub fn withdraw(&mut self, now_ns: u64, guest: &str, caller: &Caller, reason: String) {
        let known = self.guests.get_mut(guest).and_then(|guest| guest.nodes.get_mut(&caller.node));
        if let Some(known) = known {
            known.heard_ns = now_ns;
            known.withdrawn = Some(reason);
        }
    }

    /// How the other nodes of the guest stand; silent after `silent_ns`.
    pub fn others(&self, now_ns: u64, guest: &str, node: &str, silent_ns: u64) -> Vec<(String, Standing)> {
        let Some(guest) = self.guests.get(guest) else { return Vec::new() };
        let others = guest.nodes.iter().filter(|(name, _)| *name != node);
        let standing = |name: &String, known: &Known| {
            let gave_up = guest
                .lent
                .as_ref()
                .is_some_and(|lent| lent.to.node == *name && lent.surrendered_ns.is_some());
            let silent = now_ns.saturating_sub(known.heard_ns);
            match &known.withdrawn {
                Some(reason) => Standing::Withdrawn { reason: reason.clone() },
                None if gave_up => Standing::Withdrawn { reason: "it has given up its lease".to_owned() },
                None if silent > silent_ns => Standing::Silent { ms: silent / 1_000_000 },
                None => Standing::Alive,
            }
        };
        others.map(|(name, known)| (name.clone(), standing(name, known))).collect()
    }
}

impl Guest {
    /// Notes that a node was heard; whether the request is newer than all that came from this start of it.
    fn is_new(&mut self, now_ns: u64, caller: &Caller, seq: u64) -> bool {
        let Some(known) = self.nodes.get_mut(&caller.node) else { return false };
        known.heard_ns = now_ns;
        let new = known.newest.0 != caller.incarnation || known.newest.1 < seq;
        if new {
            known.newest = (caller.incarnation, seq);
        }
        new
    }

    fn lend(&mut self, now_ns: u64, to: &Caller, seq: u64, terms: Terms) {
        self.others_until_ns = match &self.lent {
            // A surrender of the new incarnation says nothing of a lease that the old one may still use.
            Some(lent) if lent.to.node == to.node && lent.to.incarnation != to.incarnation => {
                self.free_at(lent, terms)
            }
            Some(lent) if lent.to.node == to.node => self.others_until_ns,
            _ => 0,
        };
        self.lent = Some(Lent { to: to.clone(), seq, at_ns: now_ns, surrendered_ns: None });
    }

    /// When nothing under the lease leaves its holder any more.
    fn free_at(&self, lent: &Lent, terms: Terms) -> u64 {
        let runs_out = lent.at_ns.saturating_add(terms.wait_ns());
        let surrendered = lent.surrendered_ns.map(|at| at.saturating_add(terms.drain_ns()));
        surrendered.map_or(runs_out, |at| at.min(runs_out)).max(self.others_until_ns)
    }
}
