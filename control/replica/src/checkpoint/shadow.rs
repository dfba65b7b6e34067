//! What was last sent: a private copy of RAM, against which RAM is compared while the VM is paused.

use std::num::NonZero;

use super::digest::{PageHashes, page_hash};
use super::{PAGE, PageSet, Pages, RamDigest, ram::GuestRam};

/// Pages in a chunk of the first copy: 1 MiB.
const SEED_PAGES: usize = 256;
/// Pages that a thread takes at a time.
const BLOCK: usize = 64;

/// See the module's head. It begins all zero, as does the standby's image: so a page that is zero is never sent.
pub struct Shadow {
    bytes: Vec<u8>,
    hashes: PageHashes,
    threads: usize,
    /// Pages that were ever anything but zero.
    filled: PageSet,
    /// The first page that the first copy has not visited.
    seeded: usize,
}

/// What one thread found: pages, in rising order.
#[derive(Default)]
struct Found {
    pages: Pages,
    hashes: Vec<(u32, u128)>,
}

impl Shadow {
    /// Of RAM with so many pages, compared by so many threads (0: two, or one where there is but one core).
    pub fn new(pages: usize, threads: usize) -> Shadow {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = if threads == 0 { cores.min(2) } else { threads };
        Shadow {
            bytes: vec![0; pages * PAGE],
            hashes: PageHashes::zeroed(pages),
            threads,
            filled: PageSet::empty(pages),
            seeded: 0,
        }
    }

    /// What all of it holds.
    pub fn digest(&self) -> RamDigest {
        self.hashes.digest()
    }

    /// How many pages.
    pub fn pages(&self) -> usize {
        self.hashes.pages()
    }

    /// Finds the pages in which RAM differs, among `candidates` or all, takes them over and gives them out. The VM is
    /// paused.
    pub fn collect(&mut self, ram: &GuestRam, candidates: Option<&PageSet>) -> Pages {
        let (pages, filled) = (self.pages(), &self.filled);
        // Whole blocks a thread, so that the parts lie one behind the other.
        let share = pages.div_ceil(self.threads).next_multiple_of(BLOCK);
        let mut parts = Vec::new();
        std::thread::scope(|scope| {
            let mut others = Vec::new();
            let mut chunks = self.bytes.chunks_mut(share * PAGE).enumerate();
            let own = chunks.next();
            for (at, chunk) in chunks {
                others.push(scope.spawn(move || compare(ram, candidates, filled, at * share, chunk)));
            }
            parts.extend(own.map(|(_, chunk)| compare(ram, candidates, filled, 0, chunk)));
            for other in others {
                // A thread that panicked has left its part undone: that must not look like a part without changes.
                parts.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
        });
        let mut all = Pages::default();
        for part in parts {
            self.hashes.update(&part.hashes);
            if all.numbers.is_empty() {
                all = part.pages;
            } else {
                all.numbers.extend_from_slice(&part.pages.numbers);
                all.bytes.extend_from_slice(&part.pages.bytes);
            }
        }
        self.filled.extend(all.numbers.iter().map(|number| *number as usize));
        all
    }

    /// The next chunk of the first copy, taken while the VM runs: at most 1 MiB, without pages that are as they were
    /// (zero). `None` when every page was visited. A page that the guest writes to at this moment is torn; the first
    /// comparison finds it.
    pub fn seed(&mut self, ram: &GuestRam) -> Option<Pages> {
        while self.seeded < self.pages() {
            let from = self.seeded;
            let to = (from + SEED_PAGES).min(self.pages());
            self.seeded = to;
            let found = compare(ram, None, &self.filled, from, &mut self.bytes[from * PAGE..to * PAGE]);
            self.filled.extend(found.pages.numbers.iter().map(|number| *number as usize));
            self.hashes.update(&found.hashes);
            if !found.pages.numbers.is_empty() {
                return Some(found.pages);
            }
        }
        None
    }

    /// How much of the first copy is done: pages visited.
    pub fn seeded(&self) -> usize {
        self.seeded
    }

    /// Begins anew, all zero: for a new standby.
    pub fn reset(&mut self) {
        self.bytes.fill(0);
        self.hashes = PageHashes::zeroed(self.pages());
        self.filled = PageSet::empty(self.pages());
        self.seeded = 0;
    }

    /// The pages of `set`, as they were last sent.
    pub fn copy_of(&self, set: &PageSet) -> Pages {
        let mut pages = Pages::default();
        for number in set.iter() {
            pages.numbers.push(number as u32);
            pages.bytes.extend_from_slice(&self.bytes[number * PAGE..(number + 1) * PAGE]);
        }
        pages
    }

    /// The copy itself.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Compares the pages from `first` on with `chunk`, and brings that up to date.
/// Where the file holds nothing, only pages that were `filled` once can have changed: to zeros.
fn compare(
    ram: &GuestRam,
    candidates: Option<&PageSet>,
    filled: &PageSet,
    first: usize,
    chunk: &mut [u8],
) -> Found {
    let mut found = Found::default();
    let mut now = [0; PAGE];
    let mut look = |number: usize, before: &mut [u8]| {
        ram.read(number * PAGE, &mut now);
        if now != *before {
            before.copy_from_slice(&now);
            found.pages.numbers.push(number as u32);
            found.pages.bytes.extend_from_slice(&now);
            found.hashes.push((number as u32, page_hash(number as u32, &now)));
        }
    };
    match candidates {
        None => {
            let end = first + chunk.len() / PAGE;
            let mut look_at = |number: usize| {
                let at = (number - first) * PAGE;
                look(number, &mut chunk[at..at + PAGE]);
            };
            let mut seen = first;
            for data in ram.data(first, end - first).into_iter().chain(std::iter::once(end..end)) {
                filled.within(seen, data.start).for_each(&mut look_at);
                seen = data.end;
                data.for_each(&mut look_at);
            }
        }
        Some(set) => {
            for number in set.within(first, first + chunk.len() / PAGE) {
                let at = (number - first) * PAGE;
                look(number, &mut chunk[at..at + PAGE]);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FallocateFlags, fallocate};
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    fn ram(directory: &tempfile::TempDir, pages: usize) -> GuestRam {
        let path = directory.path().join("ram");
        // All holes, as QEMU makes it.
        fs::File::create(&path).unwrap().set_len((pages * PAGE) as u64).unwrap();
        GuestRam::open(&path).unwrap()
    }

    /// Gives a page back, as a balloon does: it is zero.
    fn punch(ram: &GuestRam, page: usize) {
        let file = fs::OpenOptions::new().write(true).open(ram.path()).unwrap();
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, how, (page * PAGE) as i64, PAGE as i64).unwrap();
    }

    #[test]
    fn what_the_guest_never_touched_is_not_made_by_looking() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let ram = ram(&directory, 1000);
        let blocks = || fs::metadata(ram.path()).unwrap().blocks();
        ram.write(500, &[7; PAGE]).unwrap();
        let before = blocks();
        let mut shadow = Shadow::new(1000, 2);
        assert_eq!(shadow.seed(&ram).unwrap().numbers, [500]);
        assert!(shadow.collect(&ram, None).numbers.is_empty());
        assert_eq!(blocks(), before);
        punch(&ram, 500);
        let gone = shadow.collect(&ram, None);
        assert_eq!((gone.numbers, gone.bytes), (vec![500], vec![0; PAGE]));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
        /// However many threads compare, and with candidates that cover the change: the same pages, the whole digest.
        #[test]
        fn what_changed_is_found(
            pages in 1_usize..400,
            threads in 1_usize..5,
            rounds in proptest::collection::vec(
                proptest::collection::vec((0_usize..400, proptest::prelude::any::<u8>()), 0..20), 1..5),
        ) {
            let directory = tempfile::tempdir_in("/dev/shm").unwrap();
            let ram = ram(&directory, pages);
            let (mut all, mut some) = (Shadow::new(pages, threads), Shadow::new(pages, threads));
            for writes in rounds {
                let mut candidates = PageSet::empty(pages);
                for (page, fill) in writes.into_iter().map(|(page, fill)| (page % pages, fill)) {
                    match fill % 4 {
                        0 => punch(&ram, page),
                        _ => ram.write(page, &[fill; PAGE]).unwrap(),
                    }
                    candidates.insert(page);
                }
                let before = all.bytes().to_vec();
                let found = all.collect(&ram, None);
                proptest::prop_assert_eq!(&some.collect(&ram, Some(&candidates)), &found);
                let now = fs::read(ram.path()).unwrap();
                let changed: Vec<u32> = (0..pages)
                    .filter(|page| now[page * PAGE..][..PAGE] != before[page * PAGE..][..PAGE])
                    .map(|page| page as u32)
                    .collect();
                proptest::prop_assert_eq!(&found.numbers, &changed);
                for (number, content) in found.numbers.iter().zip(found.bytes.chunks(PAGE)) {
                    proptest::prop_assert!(content == &now[*number as usize * PAGE..][..PAGE]);
                }
                let whole = now.chunks(PAGE).enumerate();
                let sum = whole.fold(0_u128, |sum, (number, page)| sum.wrapping_add(page_hash(number as u32, page)));
                proptest::prop_assert_eq!(all.digest(), RamDigest(sum));
            }
        }
    }

    #[test]
    fn the_first_copy_comes_in_bounded_chunks_without_zeros() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let ram = ram(&directory, 1000);
        for page in (100..900).chain([999]) {
            ram.write(page, &[page as u8 | 1; PAGE]).unwrap();
        }
        let mut shadow = Shadow::new(1000, 1);
        let mut numbers = Vec::new();
        while let Some(chunk) = shadow.seed(&ram) {
            assert!(!chunk.numbers.is_empty() && chunk.bytes.len() <= 1 << 20);
            numbers.extend(chunk.numbers);
        }
        let wanted: Vec<u32> = (100..900).chain([999]).collect();
        assert_eq!(numbers, wanted);
        assert_eq!(shadow.seeded(), 1000);
        assert!(shadow.collect(&ram, None).numbers.is_empty());
        shadow.reset();
        assert_eq!(shadow.digest(), Shadow::new(1000, 1).digest());
    }
}
