//! Protection, leases, standbys, and lanes that come and go.

use super::refusal::FIRST_EPOCH_MAX;
use super::{Guest, Member, Mode, Refusal, Rings, Then, Ticket};
use crate::gate::{FENCE, Gate, Lease, NO_LEASE, Order};
use std::sync::Arc;

impl Guest {
    /// Begins protection in a new `generation`, inside a pause: the first epoch starts here. `first`: number
    /// it at least so. From `open` the frames before it pass; from `protected` they wait for a commit of the
    /// new generation; behind a fence they are discarded, and there must be a `lease`.
    pub fn begin_protect(
        &mut self,
        generation: u64,
        first: u64,
        vouched: bool,
        lease: Option<Lease>,
        now_tsc: u64,
    ) -> Result<Ticket, Refusal> {
        if self.mode == Mode::Muted {
            return Err(Refusal::WrongMode(self.mode));
        }
        if !vouched && let Some(lane) = self.running_lane() {
            return Err(Refusal::RingsRun(lane));
        }
        if self.under.is_some() {
            return Err(Refusal::Busy);
        }
        if first > FIRST_EPOCH_MAX {
            return Err(Refusal::FirstEpoch);
        }
        let fenced = self.is_fenced(now_tsc);
        match lease {
            Some(lease) if lease.end <= now_tsc => return Err(Refusal::Late),
            None if fenced || self.leased => return Err(Refusal::Fenced),
            _ => {}
        }
        let open = first.max(self.open + 1);
        for member in &self.members {
            if let Some(lease) = lease {
                member.gate.set_lease(lease);
            }
            member.gate.request_close(open - 1);
        }
        self.leased |= lease.is_some();
        let order = if fenced { Order::Unfence } else { Order::Protect };
        Ok(self.give(order, Then::Anew { mode: Mode::Protected, open, generation }))
    }

    /// Ends protection. The only way in which an uncommitted frame ever leaves (I4), when `release`.
    /// A leased guest needs `evidence` that no standby can take over (I9).
    pub fn begin_unprotect(&mut self, release: bool, evidence: bool) -> Result<Ticket, Refusal> {
        if self.mode == Mode::Muted {
            return Err(Refusal::WrongMode(self.mode));
        }
        if self.leased && !evidence {
            return Err(Refusal::Fenced);
        }
        if self.under.is_some() {
            return Err(Refusal::Busy);
        }
        self.leased = false;
        for member in &self.members {
            member.gate.set_lease(NO_LEASE);
        }
        let order = if release { Order::UnprotectRelease } else { Order::UnprotectDrop };
        Ok(self.give(order, Then::Mode(Mode::Open)))
    }

    /// Makes this a standby: what is held is discarded, and so is what comes. A standby has no lease to keep: once it is
    /// muted, its lanes have none.
    pub fn begin_mute(&mut self) -> Result<Ticket, Refusal> {
        self.begin(Order::Mute, Then::Mode(Mode::Muted))
    }

    /// Ends the muting, in a new `generation`, open or `protected` at once. `first`: number the first epoch at least
    /// so, because epochs are counted on from those of the dead primary. `lease`: one to begin with; a guest
    /// that somebody fenced while it was muted needs one.
    pub fn begin_unmute(
        &mut self,
        generation: u64,
        protected: bool,
        first: u64,
        lease: Option<Lease>,
        now_tsc: u64,
    ) -> Result<Ticket, Refusal> {
        if self.mode != Mode::Muted {
            return Err(Refusal::WrongMode(self.mode));
        }
        if self.under.is_some() {
            return Err(Refusal::Busy);
        }
        if first > FIRST_EPOCH_MAX {
            return Err(Refusal::FirstEpoch);
        }
        match lease {
            Some(lease) if lease.end <= now_tsc => return Err(Refusal::Late),
            None if self.is_fenced(now_tsc) => return Err(Refusal::Fenced),
            _ => {}
        }
        let open = first.max(self.open + 1);
        for member in &self.members {
            if let Some(lease) = lease {
                member.gate.set_lease(lease);
            }
            member.gate.request_close(open - 1);
        }
        self.leased |= lease.is_some();
        let (order, mode) = match protected {
            true => (Order::UnmuteProtected, Mode::Protected),
            false => (Order::UnmuteOpen, Mode::Open),
        };
        Ok(self.give(order, Then::Anew { mode, open, generation }))
    }

    /// The guest runs again, where its rings do not tell.
    pub fn begin_resumed(&mut self) -> Result<Ticket, Refusal> {
        let ticket = self.begin(Order::Resumed, Then::Nothing)?;
        self.ran_on();
        Ok(ticket)
    }

    /// Has every lane take the policy out of its mailbox.
    pub fn begin_policy(&mut self) -> Result<Ticket, Refusal> {
        self.begin(Order::Policy, Then::Nothing)
    }

    /// Prolongs the lease to the moments of `lease`. Refused once it has ended (I9: only a new generation helps), and for an
    /// open guest that has none: whoever opened it knows of no standby, and a late lease would only fence it.
    pub fn lease(&mut self, generation: u64, lease: impl Into<Lease>, now_tsc: u64) -> Result<(), Refusal> {
        let lease = lease.into();
        if generation != self.generation {
            return Err(Refusal::Generation(self.generation));
        }
        if self.mode == Mode::Open && !self.leased {
            return Err(Refusal::WrongMode(self.mode));
        }
        if self.is_fenced(now_tsc) {
            return Err(Refusal::Fenced);
        }
        if lease.end <= now_tsc {
            return Err(Refusal::Late);
        }
        self.leased = true;
        for member in &self.members {
            let lease = match member.gate.whole_lease() {
                Lease { end: NO_LEASE, .. } => lease,
                current => current.or_later(lease),
            };
            member.gate.set_lease(lease);
        }
        Ok(())
    }

    /// There is evidence that no standby can take over, and the operator wants to go on holding: a lease that has not
    /// run out does not any more, so that what is bypassed goes on. A fence that has fallen stays (I9).
    pub fn lift_lease(&mut self, now_tsc: u64) {
        if self.mode != Mode::Protected || self.is_fenced(now_tsc) {
            return;
        }
        self.leased = false;
        for member in &self.members {
            member.gate.set_lease(NO_LEASE);
        }
    }

    /// Drops the fence now. Always accepted.
    pub fn fence(&mut self) {
        self.leased = true;
        for member in &self.members {
            member.gate.set_lease(FENCE);
        }
    }

    // ---- lanes that come and go ----

    /// Begins to take in a lane whose lcore polls it but which has not joined. Its gate is brought up to
    /// date first: a lane that joins with an old epoch would stamp frames that are committed already, one
    /// that joins in an old mode would send what a muted guest must not.
    pub fn begin_join(&mut self, gate: Arc<Gate>, rings: Rings, now_tsc: u64) -> Result<Ticket, Refusal> {
        if self.under.is_some() {
            return Err(Refusal::Busy);
        }
        gate.request_close(self.open - 1);
        gate.commit(self.committed, now_tsc);
        gate.set_lease(self.members.first().map_or(NO_LEASE.into(), |m| m.gate.whole_lease()));
        self.members.push(Member { gate, rings, joined: true });
        let lane = self.members.len() - 1;
        let order = match self.mode {
            Mode::Open => Order::JoinOpen,
            Mode::Protected => Order::JoinProtected,
            Mode::Muted => Order::JoinMuted,
        };
        Ok(self.give_to(&[lane], order, Then::Nothing))
    }

    /// Begins to let a lane go: it is drained, and what it holds waits for its commit as before.
    pub fn begin_leave(&mut self, lane: usize) -> Result<Ticket, Refusal> {
        if self.under.is_some() {
            return Err(Refusal::Busy);
        }
        let member = self.members.get_mut(lane).ok_or(Refusal::NoLane(lane))?;
        member.joined = false;
        Ok(self.give_to(&[lane], Order::Leave, Then::Nothing))
    }
}
