//! Close, seal, commit: the epoch protocol itself.

use super::{ClosedEpoch, Closer, Guest, Mode, Outcome, Record, Refusal, Rings, Ticket, Under};
use crate::gate::Closed;

impl Guest {
    /// Begins to close the open epoch, or finds that this pause has closed one already.
    ///
    /// One pause closes one epoch however many parties ask: who comes second shares the ticket, or is told
    /// of the epoch that the rings closed, provided that every lane has stopped since and nothing came after.
    pub fn begin_close(&mut self, by: Closer) -> Result<Ticket, Refusal> {
        if self.mode != Mode::Protected {
            return Err(Refusal::WrongMode(self.mode));
        }
        if by == Closer::Source
            && let Some(lane) = self.running_lane()
        {
            return Err(Refusal::RingsRun(lane));
        }
        match &mut self.under {
            Some((ticket, Under::Close { claimed, .. })) => {
                *claimed |= by != Closer::Rings;
                return Ok(*ticket);
            }
            Some(_) => return Err(Refusal::Busy),
            None => {}
        }
        if by != Closer::VouchingSource
            && let Some(closed) = self.closed_by_the_rings()
        {
            if let Some(record) = self.in_flight.iter_mut().find(|r| r.closed.epoch == closed.epoch) {
                record.claimed |= by == Closer::Source;
            }
            let ticket = self.ticket();
            self.ended(ticket, Outcome::Closed(closed));
            return Ok(ticket);
        }
        self.make_room()?;
        let (ticket, epoch) = (self.ticket(), self.open);
        for member in self.members.iter().filter(|m| m.joined) {
            member.gate.request_close(epoch);
        }
        self.under = Some((ticket, Under::Close { epoch, claimed: by != Closer::Rings }));
        Ok(ticket)
    }

    /// The epoch that this pause closed already, when nothing has arrived since.
    fn closed_by_the_rings(&self) -> Option<ClosedEpoch> {
        let epoch = self.closed_in_pause?;
        if self.members.iter().any(|m| m.joined && m.gate.open_frames() > 0) {
            return None;
        }
        self.in_flight.iter().map(|r| r.closed).find(|closed| closed.epoch == epoch)
    }

    /// At the limit an epoch that no source was told of makes room: it merges into the next.
    fn make_room(&mut self) -> Result<(), Refusal> {
        if self.in_flight.len() < self.limit {
            return Ok(());
        }
        self.tally.merged += 1;
        match self.in_flight.iter().position(|record| !record.claimed) {
            Some(unclaimed) => {
                self.in_flight.remove(unclaimed);
                Ok(())
            }
            None => Err(Refusal::InFlight(self.limit)),
        }
    }

    /// Gives a close up: the epoch merges into the next. What a lane answers later does not count.
    /// An order cannot be given up; it stays under way.
    pub fn give_up(&mut self, ticket: Ticket) {
        if let Some((current, Under::Close { epoch, .. })) = self.under
            && current == ticket
        {
            self.step(); // an answer that came in time counts
            if self.under.is_some() {
                self.under = None;
                self.open = epoch + 1;
                self.tally.merged += 1;
                self.ended(ticket, Outcome::Merged(epoch));
            }
        }
    }

    /// Looks whether what is under way has ended.
    pub fn step(&mut self) {
        match &self.under {
            Some((ticket, Under::Close { epoch, claimed })) => {
                let (ticket, epoch, claimed) = (*ticket, *epoch, *claimed);
                self.step_close(ticket, epoch, claimed);
            }
            Some((ticket, Under::Order { numbers, then })) => {
                let all = numbers
                    .iter()
                    .all(|&(lane, number)| self.members.get(lane).is_none_or(|m| m.gate.done() >= number));
                if all {
                    let (ticket, then) = (*ticket, *then);
                    self.under = None;
                    self.become_(then);
                    self.ended(ticket, Outcome::Done);
                }
            }
            None => {}
        }
    }

    fn step_close(&mut self, ticket: Ticket, epoch: u64, claimed: bool) {
        let mut sum = Closed { epoch, ..Closed::default() };
        for member in self.members.iter().filter(|m| m.joined) {
            let closed = member.gate.closed();
            if closed.epoch < epoch {
                return;
            }
            sum.frames += closed.frames;
            sum.bytes += closed.bytes;
        }
        let closed = ClosedEpoch {
            epoch,
            generation: self.generation,
            frames: sum.frames,
            bytes: sum.bytes,
            pause: self.pause,
        };
        self.under = None;
        self.open = epoch + 1;
        self.closed_in_pause = Some(epoch);
        self.in_flight.push_back(Record { closed, claimed, void: false });
        self.tally.closed += 1;
        self.ended(ticket, Outcome::Closed(closed));
    }

    /// How the thing behind `ticket` ended; `None` while it has not, or when that is long ago.
    pub fn outcome(&self, ticket: Ticket) -> Option<Outcome> {
        self.outcomes.iter().find(|(t, _)| *t == ticket).map(|(_, outcome)| *outcome)
    }

    /// A ring of `lane` has stopped for certain.
    pub fn rings_stopped(&mut self, lane: usize) {
        if let Some(member) = self.members.get_mut(lane) {
            member.rings = Rings::Stopped;
        }
    }

    /// A ring of `lane` runs again: the pause is over.
    pub fn rings_started(&mut self, lane: usize) {
        if let Some(member) = self.members.get_mut(lane) {
            member.rings = Rings::Running;
            self.ran_on();
        }
    }

    /// How often the guest was seen to run: one more, and a pause is over.
    pub fn times_seen_running(&self) -> u64 {
        self.pause
    }

    /// The guest was seen to run (RESUME, `resumed`).
    pub fn ran_on(&mut self) {
        self.pause += 1;
        self.closed_in_pause = None;
    }

    /// The source has the state of `epoch` and is about to let the guest run. False, and the checkpoint is
    /// void, when the guest has run since the epoch was closed: the state saved is not that pause's.
    pub fn seal(&mut self, epoch: u64) -> bool {
        let pause = self.pause;
        match self.in_flight.iter_mut().find(|r| r.closed.epoch == epoch) {
            Some(record) if record.closed.pause == pause => true,
            Some(record) => {
                record.void = true;
                self.tally.void += 1;
                false
            }
            None => false,
        }
    }

    /// The backup holds the checkpoint of `epoch`: everything stamped up to it may leave.
    /// Cumulative and idempotent; returns how many epochs this committed.
    pub fn commit(&mut self, generation: u64, epoch: u64, now_tsc: u64) -> Result<usize, Refusal> {
        let judged = self.judge_commit(generation, epoch, now_tsc);
        if judged.is_err() {
            self.tally.commits_refused += 1;
            return judged;
        }
        if epoch <= self.committed {
            return Ok(0);
        }
        let covered = self.in_flight.iter().take_while(|r| r.closed.epoch <= epoch).count();
        self.in_flight.drain(..covered);
        self.committed = epoch;
        self.tally.committed += covered as u64;
        for member in &self.members {
            member.gate.commit(epoch, now_tsc);
        }
        Ok(covered)
    }

    fn judge_commit(&self, generation: u64, epoch: u64, now_tsc: u64) -> Result<usize, Refusal> {
        if generation != self.generation {
            return Err(Refusal::Generation(self.generation));
        }
        if self.mode != Mode::Protected {
            return Err(Refusal::WrongMode(self.mode));
        }
        if self.is_fenced(now_tsc) {
            return Err(Refusal::Fenced);
        }
        if epoch <= self.committed {
            return Ok(0);
        }
        match self.in_flight.iter().find(|r| r.closed.epoch == epoch) {
            Some(record) if record.void => Err(Refusal::Void(epoch)),
            Some(_) => Ok(0),
            None if epoch >= self.open => Err(Refusal::Unclosed(self.open)),
            None => Err(Refusal::Void(epoch)),
        }
    }
}
