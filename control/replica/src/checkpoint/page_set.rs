//! Sets of page numbers: a bit a page.

use super::PAGE;

/// Which pages of RAM; a bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    pages: usize,
}

impl PageSet {
    /// None of `pages` pages.
    pub fn empty(pages: usize) -> PageSet {
        PageSet { words: vec![0; pages.div_ceil(64)], pages }
    }

    /// All of them.
    pub fn full(pages: usize) -> PageSet {
        let mut set = PageSet { words: vec![u64::MAX; pages.div_ceil(64)], pages };
        if let (Some(last), 1..) = (set.words.last_mut(), pages % 64) {
            *last = (1 << (pages % 64)) - 1;
        }
        set
    }

    /// Of how many pages this is a set.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// How many are in it.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// None is in it.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Bytes of the pages in it.
    pub fn bytes(&self) -> usize {
        self.len() * PAGE
    }

    /// Puts a page in; one beyond the last is nobody's.
    pub fn insert(&mut self, page: usize) {
        if page < self.pages {
            self.words[page / 64] |= 1 << (page % 64);
        }
    }

    /// Whether it is in.
    pub fn contains(&self, page: usize) -> bool {
        page < self.pages && self.words[page / 64] & (1 << (page % 64)) != 0
    }

    /// Puts in all that the other has.
    pub fn union(&mut self, other: &PageSet) {
        debug_assert_eq!(self.pages, other.pages);
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// Whether all that the other has is in.
    pub fn covers(&self, other: &PageSet) -> bool {
        self.words.iter().zip(&other.words).all(|(word, other)| other & !word == 0)
    }

    /// The numbers in it, rising.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.within(0, self.pages)
    }

    /// The numbers in it from `from` to before `to`, rising.
    pub fn within(&self, from: usize, to: usize) -> impl Iterator<Item = usize> + '_ {
        let (first, last) = (from / 64, to.min(self.pages).div_ceil(64));
        let words = self.words.get(first..last).unwrap_or(&[]);
        words
            .iter()
            .enumerate()
            .flat_map(move |(at, &word)| Bits(word).map(move |bit| (first + at) * 64 + bit))
            .filter(move |page| (from..to).contains(page))
    }
}

/// The positions of a word's ones, rising.
struct Bits(u64);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

impl Extend<usize> for PageSet {
    fn extend<I: IntoIterator<Item = usize>>(&mut self, pages: I) {
        for page in pages {
            self.insert(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    proptest::proptest! {
        #[test]
        fn it_is_a_set(pages in 1_usize..300, numbers in proptest::collection::vec(0_usize..400, 0..60),
                       from in 0_usize..300, to in 0_usize..400) {
            let mut set = PageSet::empty(pages);
            set.extend(numbers.iter().copied());
            let model: BTreeSet<usize> = numbers.into_iter().filter(|&page| page < pages).collect();
            proptest::prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), model.clone());
            proptest::prop_assert_eq!(set.len(), model.len());
            let part: Vec<usize> = set.within(from, to).collect();
            let wanted: Vec<usize> = model.into_iter().filter(|page| (from..to).contains(page)).collect();
            proptest::prop_assert_eq!(part, wanted);
            proptest::prop_assert!(PageSet::full(pages).covers(&set));
            proptest::prop_assert_eq!(PageSet::full(pages).len(), pages);
        }
    }
}
