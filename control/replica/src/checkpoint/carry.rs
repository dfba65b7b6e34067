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
    /// The newest acknowledged checkpoint and what RAM was then.
    base: Option<(CheckpointId, RamDigest)>,
    sent: VecDeque<Sent>,
}

#[derive(Debug)]
struct Sent {
    id: CheckpointId,
    changed: PageSet,
    digest: RamDigest,
}

impl Carry {
    /// Of RAM with so many pages.
    pub fn new(pages: usize) -> Carry {
        Carry { pages, base: None, sent: VecDeque::new() }
    }

    /// A checkpoint was taken: what changed in it, and what RAM holds then.
    pub fn sent(&mut self, id: CheckpointId, changed: PageSet, digest: RamDigest) {
        self.sent.push_back(Sent { id, changed, digest });
    }

    /// The standby has it, and so all before. False when it is none of those on their way.
    pub fn acknowledged(&mut self, id: CheckpointId) -> bool {
        let Some(at) = self.sent.iter().position(|sent| sent.id == id) else { return false };
        if let Some(newest) = self.sent.drain(..=at).next_back() {
            self.base = Some((newest.id, newest.digest));
        }
        true
    }

    /// What the next difference must hold in addition, and its base, when it is to start from `id`: the newest
    /// acknowledged one or one on its way. `None` when nothing is known of `id`: then only a new seed helps.
    ///
    /// The checkpoints after `id` are not on their way any more.
    pub fn rebase(&mut self, id: CheckpointId) -> Option<(RamDigest, PageSet)> {
        let (digest, from) = match (&self.base, self.sent.iter().position(|sent| sent.id == id)) {
            (_, Some(at)) => (self.sent[at].digest, at + 1),
            (Some((base, digest)), None) if *base == id => (*digest, 0),
            _ => return None,
        };
        let mut union = PageSet::empty(self.pages);
        for sent in self.sent.drain(from..) {
            union.union(&sent.changed);
        }
        Some((digest, union))
    }

    /// How many are on their way.
    pub fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// The newest acknowledged one.
    pub fn newest_acknowledged(&self) -> Option<CheckpointId> {
        self.base.map(|(id, _)| id)
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
        let mut carry = Carry::new(8);
        for (epoch, numbers) in [(1, [0, 1]), (2, [1, 2]), (3, [5, 6])] {
            carry.sent(id(epoch), set(&numbers), RamDigest(u128::from(epoch)));
        }
        carry
    }

    #[test]
    fn what_is_not_acknowledged_carries_over() {
        let mut carry = three();
        assert!(carry.acknowledged(id(1)));
        assert_eq!(carry.rebase(id(1)), Some((RamDigest(1), set(&[1, 2, 5, 6]))));
        assert_eq!(carry.in_flight(), 0);
        assert_eq!(carry.rebase(id(1)), Some((RamDigest(1), set(&[]))), "nothing is carried twice");
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
        assert_eq!(carry.rebase(id(2)), Some((RamDigest(2), set(&[5, 6]))));
        assert_eq!(carry.in_flight(), 2);
    }
}
