//! What was sent and not acknowledged yet.

use std::collections::VecDeque;

use super::{CheckpointId, PageSet, RamDigest};

/// The page sets of the checkpoints on their way, oldest first.
///
/// As long as the link lives, each difference is based on the one sent before. When something on the way was lost, the
/// next is based on the last one that the standby *has*: it then holds the union of all that changed since.
#[derive(Debug)]
pub struct Carry {
    pages: usize,
    /// The newest acknowledged checkpoint, if there is one, and what RAM was then: at first the end of the first copy.
    base: (Option<CheckpointId>, RamDigest),
    sent: VecDeque<Sent>,
}

#[derive(Debug)]
struct Sent {
    id: CheckpointId,
    changed: PageSet,
    digest: RamDigest,
}

impl Carry {
    /// After a first copy that holds `digest`, of RAM with so many pages.
    pub fn new(pages: usize, digest: RamDigest) -> Carry {
        Carry { pages, base: (None, digest), sent: VecDeque::new() }
    }

    /// The first copy went on: it holds this now.
    pub fn seeded(&mut self, digest: RamDigest) {
        debug_assert!(self.sent.is_empty());
        self.base = (None, digest);
    }

    /// What the next difference is based on.
    pub fn next_base(&self) -> RamDigest {
        self.sent.back().map_or(self.base.1, |sent| sent.digest)
    }

    /// A checkpoint was taken: what it holds, and what RAM holds then.
    pub fn sent(&mut self, id: CheckpointId, changed: PageSet, digest: RamDigest) {
        self.sent.push_back(Sent { id, changed, digest });
    }

    /// The standby has it, and so all before. False when it is none of those on their way.
    pub fn acknowledged(&mut self, id: CheckpointId) -> bool {
        let Some(at) = self.position(id) else { return false };
        if let Some(newest) = self.sent.drain(..=at).next_back() {
            self.base = (Some(newest.id), newest.digest);
        }
        true
    }

    /// All after `id` is lost, and the standby has `id`: the newest acknowledged one or one on its way. What the next
    /// difference must hold in addition. `None` when nothing is known of `id`: then only a new first copy helps.
    pub fn rebase(&mut self, id: CheckpointId) -> Option<PageSet> {
        let from = match self.position(id) {
            Some(at) => at + 1,
            None if self.base.0 == Some(id) => 0,
            None => return None,
        };
        Some(self.forget_from(from))
    }

    /// `id` and all after it will never be sent. What the next difference must hold in addition; `None` when `id` is
    /// none of those on their way.
    pub fn withdraw(&mut self, id: CheckpointId) -> Option<PageSet> {
        let from = self.position(id)?;
        Some(self.forget_from(from))
    }

    fn position(&self, id: CheckpointId) -> Option<usize> {
        self.sent.iter().position(|sent| sent.id == id)
    }

    fn forget_from(&mut self, from: usize) -> PageSet {
        let mut union = PageSet::empty(self.pages);
        for sent in self.sent.drain(from..) {
            union.union(&sent.changed);
        }
        union
    }

    /// How many are on their way.
    pub fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// The newest acknowledged one.
    pub fn newest_acknowledged(&self) -> Option<CheckpointId> {
        self.base.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(epoch: u64) -> CheckpointId {
        CheckpointId { generation: 1, epoch }
    }

    fn set(numbers: &[usize]) -> PageSet {
        let mut set = PageSet::empty(8);
        set.extend(numbers.iter().copied());
        set
    }

    fn three() -> Carry {
        let mut carry = Carry::new(8, RamDigest(0));
        for (epoch, numbers) in [(1, [0, 1]), (2, [1, 2]), (3, [5, 6])] {
            carry.sent(id(epoch), set(&numbers), RamDigest(u128::from(epoch)));
        }
        carry
    }

    #[test]
    fn what_is_not_acknowledged_carries_over() {
        let mut carry = three();
        assert!(carry.acknowledged(id(1)));
        assert_eq!(carry.next_base(), RamDigest(3));
        assert_eq!(carry.rebase(id(1)), Some(set(&[1, 2, 5, 6])));
        assert_eq!((carry.in_flight(), carry.next_base()), (0, RamDigest(1)));
        assert_eq!(carry.rebase(id(1)), Some(set(&[])), "nothing is carried twice");
    }

    #[test]
    fn an_acknowledgement_covers_all_before_it() {
        let mut carry = three();
        assert!(carry.acknowledged(id(2)));
        assert_eq!((carry.in_flight(), carry.newest_acknowledged()), (1, Some(id(2))));
        assert!(!carry.acknowledged(id(1)), "known already");
        assert!(!carry.acknowledged(id(9)), "never sent");
        assert_eq!(carry.rebase(id(1)), None, "what changed since 1 is forgotten: only a new seed helps");
    }

    #[test]
    fn a_base_on_its_way_will_do() {
        let mut carry = three();
        assert_eq!(carry.rebase(id(2)), Some(set(&[5, 6])));
        assert_eq!((carry.in_flight(), carry.next_base()), (2, RamDigest(2)));
    }

    #[test]
    fn what_is_withdrawn_is_owed_even_when_it_was_the_first() {
        let mut carry = three();
        assert_eq!(carry.withdraw(id(2)), Some(set(&[1, 2, 5, 6])));
        assert_eq!(carry.next_base(), RamDigest(1));
        assert_eq!(carry.withdraw(id(1)), Some(set(&[0, 1])));
        assert_eq!(carry.next_base(), RamDigest(0));
        assert_eq!(carry.withdraw(id(1)), None);
    }
}
