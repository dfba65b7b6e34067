//! Checkpoints on their way: what was sent and not acknowledged yet. A commit is due only for what the standby says it
//! holds, with the length and checksum that were sent.

use crate::checkpoint::{CheckpointId, RamDigest};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What an acknowledgement must repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which checkpoint.
    pub id: CheckpointId,
    /// Bytes.
    pub length: u64,
    /// Over all of them.
    pub checksum: u128,
    /// What the standby's RAM holds with it.
    pub digest: Option<RamDigest>,
}

/// An acknowledged checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landed {
    /// Which.
    pub id: CheckpointId,
    /// A commit is due: false for the one that protection began with, whose epoch holds nothing.
    pub commits: bool,
    /// Since the VM ran again.
    pub after: Duration,
}

#[derive(Debug)]
struct Flying {
    id: CheckpointId,
    commits: bool,
    ran: Instant,
    receipt: Option<Receipt>,
}

/// An acknowledgement may overtake the thread that sends, which has yet to note what it sent.
const NOTED_WITHIN: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Debug, Default)]
pub struct Flight {
    flying: Mutex<VecDeque<Flying>>,
    moved: Condvar,
}

impl Flight {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Flying>> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is about to be sent.
    pub fn depart(&self, id: CheckpointId, commits: bool, ran: Instant) {
        self.lock().push_back(Flying { id, commits, ran, receipt: None });
    }

    /// It was sent whole.
    pub fn sent(&self, receipt: Receipt) {
        // A checkpoint that closed nothing has the name of the one before it.
        if let Some(flying) =
            self.lock().iter_mut().find(|flying| flying.id == receipt.id && flying.receipt.is_none())
        {
            flying.receipt = Some(receipt);
        }
        self.moved.notify_all();
    }

    /// The standby holds a checkpoint. It must be the oldest on its way, exactly as it was sent: anything else is an
    /// error, and the session with that standby is over.
    pub fn landed(&self, told: Receipt) -> Result<Landed, String> {
        let mut flying = self.lock();
        let deadline = Instant::now() + NOTED_WITHIN;
        loop {
            let Some(first) = flying.front() else {
                return Err(format!(
                    "the standby acknowledges epoch {}, and none is on its way",
                    told.id.epoch
                ));
            };
            if first.id != told.id {
                let expected = first.id.epoch;
                return Err(format!("the standby acknowledges epoch {} before {expected}", told.id.epoch));
            }
            if let Some(receipt) = first.receipt {
                if receipt != told {
                    return Err(format!(
                        "the standby holds another epoch {} than was sent: {told:?}",
                        told.id.epoch
                    ));
                }
                let landed = Landed { id: first.id, commits: first.commits, after: first.ran.elapsed() };
                flying.pop_front();
                self.moved.notify_all();
                return Ok(landed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!(
                    "the standby acknowledges epoch {}, which was not sent whole",
                    told.id.epoch
                ));
            }
            flying = self.moved.wait_timeout(flying, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many are on their way.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// The session is over: nobody will acknowledge these any more.
    pub fn clear(&self) {
        self.lock().clear();
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn receipt(epoch: u64) -> Receipt {
        let id = CheckpointId { generation: 7, epoch };
        Receipt { id, length: 100 + epoch, checksum: 9, digest: Some(RamDigest(u128::from(epoch))) }
    }

    fn flight(epochs: std::ops::Range<u64>) -> Flight {
        let flight = Flight::default();
        for epoch in epochs {
            flight.depart(receipt(epoch).id, epoch > 1, Instant::now());
            flight.sent(receipt(epoch));
        }
        flight
    }

    #[test]
    fn what_landed_as_it_was_sent_is_committed_in_order() {
        let flight = flight(1..4);
        let landed = [1, 2].map(|epoch| flight.landed(receipt(epoch)).unwrap());
        assert_eq!(landed.map(|l| (l.id.epoch, l.commits)), [(1, false), (2, true)]);
        assert_eq!(flight.len(), 1);
    }

    #[test]
    fn two_of_the_same_name_each_have_what_was_sent_of_them() {
        let flight = Flight::default();
        let (first, second) = (receipt(5), Receipt { length: 7, ..receipt(5) });
        flight.depart(first.id, true, Instant::now());
        flight.sent(first);
        flight.depart(second.id, false, Instant::now());
        flight.sent(second);
        assert!(flight.landed(first).unwrap().commits);
        assert!(!flight.landed(second).unwrap().commits);
    }

    #[test]
    fn nothing_else_is_ever_committed() {
        let flight = flight(1..4);
        let changed = [
            Receipt { length: 5, ..receipt(1) },
            Receipt { checksum: 0, ..receipt(1) },
            Receipt { digest: None, ..receipt(1) },
            Receipt { id: CheckpointId { generation: 6, epoch: 1 }, ..receipt(1) },
            receipt(2), // overtakes
            receipt(9), // never sent
        ];
        for told in changed {
            assert!(flight.landed(told).is_err(), "{told:?}");
        }
        assert_eq!(flight.len(), 3);
        flight.clear();
        assert!(flight.landed(receipt(1)).is_err(), "of a session that is over");
        flight.depart(receipt(5).id, true, Instant::now());
        assert!(flight.landed(receipt(5)).unwrap_err().contains("not sent whole"), "half sent");
    }

    #[test]
    fn an_acknowledgement_may_overtake_the_note_of_what_was_sent() {
        let flight = Arc::new(Flight::default());
        flight.depart(receipt(1).id, true, Instant::now());
        let other = Arc::clone(&flight);
        let answers = std::thread::spawn(move || other.landed(receipt(1)));
        std::thread::sleep(Duration::from_millis(20));
        flight.sent(receipt(1));
        assert!(answers.join().unwrap().is_ok());
        assert_eq!(flight.len(), 0);
    }
}
