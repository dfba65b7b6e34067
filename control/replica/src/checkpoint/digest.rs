//! The digest of RAM: see [`RamDigest`].

use twox_hash::XxHash3_128;

use super::{PAGE, RamDigest};

/// The hash of a page: of its number and its content.
///
/// It tells accidents, not attacks: who may send a checkpoint is the link's business.
pub fn page_hash(number: u32, content: &[u8]) -> u128 {
    debug_assert_eq!(content.len(), PAGE);
    XxHash3_128::oneshot_with_seed(u64::from(number), content)
}

/// The hashes of all pages, and their sum.
#[derive(Clone, Debug)]
pub struct PageHashes {
    hashes: Vec<u128>,
    digest: RamDigest,
}

impl PageHashes {
    /// Of RAM that is all zero.
    pub fn zeroed(pages: usize) -> PageHashes {
        let zero = [0; PAGE];
        let hashes: Vec<u128> = (0..pages as u32).map(|number| page_hash(number, &zero)).collect();
        let digest = RamDigest(hashes.iter().fold(0, |sum, hash| sum.wrapping_add(*hash)));
        PageHashes { hashes, digest }
    }

    /// The sum.
    pub fn digest(&self) -> RamDigest {
        self.digest
    }

    /// How many pages.
    pub fn pages(&self) -> usize {
        self.hashes.len()
    }

    /// What the digest becomes when these pages get these hashes. `None` when there is no such page.
    pub fn digest_with(&self, changed: &[(u32, u128)]) -> Option<RamDigest> {
        let mut sum = self.digest.0;
        for &(number, hash) in changed {
            let before = self.hashes.get(number as usize)?;
            sum = sum.wrapping_sub(*before).wrapping_add(hash);
        }
        Some(RamDigest(sum))
    }

    /// Takes the new hashes.
    pub fn update(&mut self, changed: &[(u32, u128)]) {
        for &(number, hash) in changed {
            let Some(slot) = self.hashes.get_mut(number as usize) else { continue };
            let before = std::mem::replace(slot, hash);
            self.digest = RamDigest(self.digest.0.wrapping_sub(before).wrapping_add(hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_elsewhere_or_with_another_content_gives_another_digest() {
        let zeroed = PageHashes::zeroed(4);
        let ones = [1; PAGE];
        let one = zeroed.digest_with(&[(1, page_hash(1, &ones))]);
        let two = zeroed.digest_with(&[(2, page_hash(2, &ones))]);
        assert_ne!(one, two);
        assert_ne!(one, Some(zeroed.digest()));
        assert_eq!(zeroed.digest_with(&[(4, 7)]), None);
    }

    #[test]
    fn the_running_digest_is_the_digest_of_the_whole() {
        let mut hashes = PageHashes::zeroed(3);
        let contents = [[7; PAGE], [8; PAGE], [9; PAGE]];
        let changed: Vec<(u32, u128)> =
            (0..3).map(|number| (number, page_hash(number, &contents[number as usize]))).collect();
        let told = hashes.digest_with(&changed);
        hashes.update(&changed);
        let whole = changed.iter().fold(0_u128, |sum, (_, hash)| sum.wrapping_add(*hash));
        assert_eq!(hashes.digest(), RamDigest(whole));
        assert_eq!(told, Some(RamDigest(whole)));
    }
}
