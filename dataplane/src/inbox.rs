//! What the control side hands a lane beside orders and lessons: the streams and identities of a primary, for its
//! standby, and frames that announce where the guest lives.
//!
//! Nobody waits: the lcore takes a bounded number in one poll, and whoever finds an inbox full comes again.

use crate::announcement::Announcement;
use crate::counters::Counter;
use crate::identities::Identity;
use crate::rtp::Inherited;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Streams and identities that may be on their way to the lcore.
pub const HANDED: usize = 2048;
/// Announcements that may be.
pub const ANNOUNCEMENTS: usize = 512;
/// How many of either the lcore takes in one poll.
pub(crate) const A_POLL: usize = 16;

/// One thing of a primary's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// A stream of which something went out.
    Stream(Inherited),
    /// Who its guest is.
    Identity(Identity),
}

/// See the module's head. All memory is taken when it is made.
#[derive(Debug)]
pub struct Inbox {
    handed: ArrayQueue<Handed>,
    announcements: ArrayQueue<Announcement>,
    /// Things ever put in: the one word that the lcore looks at.
    given: AtomicU64,
    /// Things that the lcore took.
    taken: AtomicU64,
    /// Streams taken over.
    pub inherited: Counter,
    /// Streams that were not: no room in the table, not from where media comes from, or the lane is no standby's.
    pub not_inherited: Counter,
    /// Announcements that went to the wire.
    pub announced: Counter,
    /// Announcements that did not: behind a fence, in mode `muted`, or the wire or its pool was full.
    pub not_announced: Counter,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox {
            handed: ArrayQueue::new(HANDED),
            announcements: ArrayQueue::new(ANNOUNCEMENTS),
            given: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            inherited: Counter::default(),
            not_inherited: Counter::default(),
            announced: Counter::default(),
            not_announced: Counter::default(),
        }
    }
}

impl Inbox {
    /// Hands something over. False when the lcore has too much to take in: come again.
    pub fn hand(&self, handed: Handed) -> bool {
        self.put(self.handed.push(handed).is_ok())
    }

    /// Has the lcore send a frame. False when it has too many.
    pub fn announce(&self, announcement: Announcement) -> bool {
        self.put(self.announcements.push(announcement).is_ok())
    }

    fn put(&self, there: bool) -> bool {
        if there {
            self.given.fetch_add(1, Ordering::Release);
        }
        there
    }

    /// True when the lcore has taken everything in.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire) >= self.given.load(Ordering::Acquire)
    }
}

/// The lcore's side of an [`Inbox`].
#[derive(Debug)]
pub(crate) struct InboxReader {
    inbox: Arc<Inbox>,
    taken: u64,
}

impl InboxReader {
    pub fn new(inbox: Arc<Inbox>) -> Self {
        InboxReader { inbox, taken: 0 }
    }

    /// True when there is something to take.
    #[inline(always)]
    pub fn is_given(&self) -> bool {
        self.inbox.given.load(Ordering::Acquire) != self.taken
    }

    /// The next thing handed over. One poll takes [`A_POLL`] at most.
    pub fn handed(&mut self) -> Option<Handed> {
        let handed = self.inbox.handed.pop()?;
        self.taken += 1;
        Some(handed)
    }

    /// The next announcement, likewise.
    pub fn announcement(&mut self) -> Option<Announcement> {
        let announcement = self.inbox.announcements.pop()?;
        self.taken += 1;
        Some(announcement)
    }

    /// What was taken has been dealt with.
    pub fn answer(&self) {
        self.inbox.taken.store(self.taken, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_is_bounded_and_says_when_all_is_taken() {
        let inbox = Arc::new(Inbox::default());
        let mut reader = InboxReader::new(Arc::clone(&inbox));
        assert!(inbox.is_taken() && !reader.is_given());
        let identity = Identity::of_mac([2, 0, 0, 0, 0, 1]);
        assert!((0..HANDED).all(|_| inbox.hand(Handed::Identity(identity))));
        assert!(!inbox.hand(Handed::Identity(identity)), "full");
        assert!(reader.is_given() && !inbox.is_taken());
        while reader.handed().is_some() {}
        assert!(!reader.is_given() && !inbox.is_taken(), "taken, and not dealt with yet");
        reader.answer();
        assert!(inbox.is_taken() && reader.announcement().is_none());
    }
}
