//! Leases: what keeps a cut-off primary from going on after the standby has taken over.
//!
//! Two state machines with the clock passed in. The [`Tenant`] asks with each beat and counts a grant from the moment
//! *before* it sent the request that the grant answers; the plane's lcore keeps the deadline (I9). The [`Landlord`]
//! (a standby, or a witness per guest) remembers when it last sent a grant, and promotes only when that lease, however
//! late it arrived and however slowly the tenant's clock runs, has run out and the tenant's tx ring is empty.
//!
//! What no lease guards against: a host whose monotonic clock stops while it is frozen and whose NIC goes on sending
//! afterwards. Its power must be cut before the promotion.

use std::collections::VecDeque;
use std::time::Duration;

/// Requests that may be without an answer; the answer to an older one is ignored.
const ASKED_MAX: usize = 1024;

/// What landlord and tenant agree on. The landlord's is the one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Length of a lease, milliseconds.
    pub term_ms: u64,
    /// The part of it, from its beginning, in which frames may bypass, milliseconds. A promoted guest repeats as much of
    /// its calls as may have bypassed since the last report, so the shorter, the shorter the silence; but a renewal that
    /// comes later than this delays every call.
    pub media_ms: u64,
    /// Largest difference between the rates of the two clocks, parts per million.
    pub drift_ppm: u32,
    /// Waited besides, for whatever rounding and calibration add.
    pub margin: Duration,
    /// Time until a full tx ring has left the tenant's NIC.
    pub drain: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            term_ms: 100,
            media_ms: 50,
            drift_ppm: 500,
            margin: Duration::from_millis(2),
            drain: Duration::from_millis(2),
        }
    }
}

impl Terms {
    /// Leases of `term` to a tenant that asks with each `beat`. Where `media` is not said it is half of the term, but
    /// two beats and a quarter at least: a beat that is lost or late by a whole beat delays no call.
    pub fn of(term: Duration, media: Option<Duration>, beat: Duration) -> Terms {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
        let media = media.unwrap_or_else(|| (term / 2).max(beat * 9 / 4));
        Terms { term_ms: ms(term), media_ms: ms(media).min(ms(term)), ..Terms::default() }
    }

    /// From a grant to when the landlord may promote, nanoseconds of its clock.
    pub fn wait_ns(&self) -> u64 {
        self.stretched(self.term_ms.saturating_mul(1_000_000)).saturating_add(self.drain_ns())
    }

    /// From the news of a surrender to when the landlord may promote.
    pub fn drain_ns(&self) -> u64 {
        self.stretched(nanos(self.drain)).saturating_add(nanos(self.margin))
    }

    /// A time of the tenant's clock at its slowest, rounded up.
    fn stretched(&self, ns: u64) -> u64 {
        let drift = u128::from(ns) * u128::from(self.drift_ppm);
        ns.saturating_add(u64::try_from(drift.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A lease as the plane takes it (`lease`, `protect`): `since_ns` is `CLOCK_MONOTONIC` of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// When the request was about to be sent.
    pub since_ns: u64,
    /// Length, milliseconds.
    pub term_ms: u64,
    /// For so long of it frames may bypass, milliseconds.
    pub media_ms: u64,
}

impl Lease {
    /// The first moment at which it is over.
    pub fn end_ns(&self) -> u64 {
        self.since_ns.saturating_add(self.term_ms.saturating_mul(1_000_000))
    }
}

/// Who asks for leases: one per process start, across its sessions.
#[derive(Debug, Default)]
pub struct Tenant {
    newest: u64,
    asked: VecDeque<(u64, u64)>,
}

impl Tenant {
    /// Has asked for nothing.
    pub fn new() -> Tenant {
        Tenant::default()
    }

    /// The number of a request that will be sent *after* `now_ns` was read.
    pub fn request(&mut self, now_ns: u64) -> u64 {
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        self.newest += 1;
        self.asked.push_back((self.newest, now_ns));
        self.newest
    }

    /// A grant came. None if it answers nothing that is waited for: unknown, repeated, older than one that came, or
    /// given up.
    pub fn granted(&mut self, seq: u64, term_ms: u64, media_ms: u64) -> Option<Lease> {
        let at = self.asked.iter().position(|(asked, _)| *asked == seq)?;
        let (_, since_ns) = *self.asked.get(at)?;
        self.asked.drain(..=at);
        Some(Lease { since_ns, term_ms, media_ms: media_ms.min(term_ms) })
    }

    /// Gives up: no grant of a request made so far will be used. Call it once the plane is fenced (or never leased);
    /// the number goes into [`crate::link::message::Up::Surrender`].
    pub fn surrender(&mut self) -> u64 {
        self.asked.clear();
        self.newest
    }
}

/// What the landlord answers to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send the grant; then tell [`Landlord::sent`].
    Grant {
        /// Of the request.
        seq: u64,
        /// Milliseconds.
        term_ms: u64,
    },
    /// Send the refusal.
    Denied {
        /// Of the request.
        seq: u64,
        /// Why.
        reason: String,
    },
    /// A repeated or overtaken request: send nothing.
    Ignored,
}

/// What the landlord knows of the time before its own start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    /// A former start of this process may have granted a lease of at most so long, milliseconds.
    Unknown {
        /// The longest term that was ever configured here; at least the present one is assumed.
        term_ms: u64,
    },
    /// Nobody holds a lease: somebody who knows says so.
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Granting,
    Decided,
    Promoted,
    GivenBack,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    incarnation: u64,
    seq: u64,
    at_ns: u64,
    surrendered_ns: Option<u64>,
}

/// Who grants leases, and waits them out.
#[derive(Debug)]
pub struct Landlord {
    terms: Terms,
    stage: Stage,
    unable: Option<String>,
    last: Option<Granted>,
    /// The newest request that was granted or given up: `(incarnation, seq)`.
    heard: Option<(u64, u64)>,
    /// No promotion before this, whatever is surrendered: leases of others than `last`.
    others_until_ns: u64,
    /// Somebody vouched that nobody speaks, and no grant was given since.
    vouched: bool,
}

impl Landlord {
    /// At the start of the process; not able to promote until told so ([`Landlord::set_able`]).
    pub fn new(terms: Terms, now_ns: u64, former: Former) -> Landlord {
        let others_until_ns = match former {
            Former::Nobody => 0,
            Former::Unknown { term_ms } => {
                now_ns.saturating_add(Terms { term_ms: term_ms.max(terms.term_ms), ..terms }.wait_ns())
            }
        };
        let unable = Some("the standby has no complete checkpoint yet".to_owned());
        Landlord {
            terms,
            stage: Stage::Granting,
            unable,
            last: None,
            heard: None,
            others_until_ns,
            vouched: false,
        }
    }

    /// The terms it grants on.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Whether a promotion could succeed now (a living standby QEMU, a complete checkpoint); the error says why not,
    /// and is what a request is denied with.
    pub fn set_able(&mut self, able: Result<(), String>) {
        self.unable = able.err();
    }

    /// A request came, at `now_ns` or before.
    pub fn ask(&mut self, now_ns: u64, incarnation: u64, seq: u64) -> Answer {
        if self.heard.is_some_and(|heard| heard.0 == incarnation && seq <= heard.1) {
            return Answer::Ignored;
        }
        let why = match (self.stage, &self.unable) {
            (Stage::Granting, None) => None,
            (Stage::Granting, Some(why)) => Some(why.clone()),
            (Stage::Decided, _) => Some("the standby is taking over".to_owned()),
            (Stage::Promoted, _) => Some("the standby has taken over".to_owned()),
            (Stage::GivenBack, _) => Some("the standby has given the lease back".to_owned()),
        };
        if let Some(reason) = why {
            return Answer::Denied { seq, reason };
        }
        if let Some(last) = self.last.filter(|last| last.incarnation != incarnation) {
            // A surrender of the new incarnation says nothing of a lease that the old one may still use.
            self.others_until_ns = self.others_until_ns.max(self.end_of(&last));
        }
        self.vouched = false;
        self.heard = Some((incarnation, seq));
        self.last = Some(Granted { incarnation, seq, at_ns: now_ns, surrendered_ns: None });
        Answer::Grant { seq, term_ms: self.terms.term_ms }
    }

    /// The grant has been written, or its writing has failed (it may have arrived all the same).
    pub fn sent(&mut self, now_ns: u64) {
        if let Some(last) = &mut self.last {
            last.at_ns = last.at_ns.max(now_ns);
        }
    }

    /// The tenant gave up; false if that does not cover the last grant, and changes nothing then.
    pub fn surrendered(&mut self, now_ns: u64, incarnation: u64, upto: u64) -> bool {
        match &mut self.last {
            Some(last) if last.incarnation == incarnation && upto >= last.seq => {
                last.surrendered_ns.get_or_insert(now_ns);
                // Requests up to there that are still on the way get no grant.
                self.heard = Some((incarnation, upto));
                true
            }
            _ => false,
        }
    }

    /// An operator, a manager or a witness vouches that no tenant speaks and none will (its power is cut, it is fenced).
    pub fn vouch_nobody(&mut self) {
        self.last = None;
        self.others_until_ns = 0;
        self.vouched = true;
    }

    /// Decides to take over: grants nothing from now on.
    pub fn decide(&mut self) {
        if self.stage == Stage::Granting {
            self.stage = Stage::Decided;
        }
    }

    /// Takes a decision back, as long as [`Landlord::promote`] has not agreed; false if it has.
    pub fn relent(&mut self) -> bool {
        if self.stage == Stage::Decided {
            self.stage = Stage::Granting;
        }
        self.stage != Stage::Promoted
    }

    /// Gives the lease back: never promotes, until [`Landlord::take_in`] and a grant after it. False, and nothing
    /// changes, if it has promoted. Only after this the primary may be told so.
    pub fn give_back(&mut self) -> bool {
        if self.stage == Stage::Promoted {
            return false;
        }
        self.stage = Stage::GivenBack;
        self.last = None;
        self.vouched = false;
        true
    }

    /// It has given the lease back, and nobody has taken it in since.
    pub fn has_given_back(&self) -> bool {
        self.stage == Stage::GivenBack
    }

    /// The primary takes this standby in anew: it may grant again. Only when no request of a session from before can
    /// come any more: that session is stopped and its messages are thrown away.
    pub fn take_in(&mut self) {
        if self.stage == Stage::GivenBack {
            self.stage = Stage::Granting;
        }
    }

    /// When it may promote, nanoseconds of its clock. None: not at all, since it has granted nothing (then the primary
    /// may speak without a lease) or has given the lease back.
    pub fn may_promote_at(&self) -> Option<u64> {
        if self.stage == Stage::GivenBack {
            return None;
        }
        match &self.last {
            Some(last) => Some(self.end_of(last).max(self.others_until_ns)),
            None if self.vouched => Some(0),
            None => None,
        }
    }

    /// Promotes, if the time has come: from then on it never grants again. The error says how long to wait, if that
    /// helps.
    pub fn promote(&mut self, now_ns: u64) -> Result<(), Option<Duration>> {
        match self.may_promote_at() {
            _ if self.stage == Stage::Granting => Err(None),
            Some(at) if now_ns >= at => {
                self.stage = Stage::Promoted;
                Ok(())
            }
            Some(at) => Err(Some(Duration::from_nanos(at - now_ns))),
            None => Err(None),
        }
    }

    /// Whether it has promoted.
    pub fn promoted(&self) -> bool {
        self.stage == Stage::Promoted
    }

    /// When nothing of this grant leaves the tenant any more.
    fn end_of(&self, granted: &Granted) -> u64 {
        let runs_out = granted.at_ns.saturating_add(self.terms.wait_ns());
        let surrendered = granted.surrendered_ns.map(|at| at.saturating_add(self.terms.drain_ns()));
        surrendered.map_or(runs_out, |at| at.min(runs_out))
    }
}

#[cfg(test)]
mod tests;
