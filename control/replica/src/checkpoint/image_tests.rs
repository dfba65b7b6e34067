//! What never promotes: tried on a file, with a monitor that must not even be asked.

use std::fs::{self, OpenOptions};

use super::*;
use crate::checkpoint::{PageSet, Shadow};

const PAGES: usize = 64;

struct Bench {
    directory: tempfile::TempDir,
    image: Image,
    primary: GuestRam,
    shadow: Shadow,
}

fn id(epoch: u64) -> CheckpointId {
    CheckpointId { generation: 1, epoch }
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let ram = |name: &str, fill: u8| {
            let path = directory.path().join(name);
            fs::write(&path, vec![fill; PAGES * PAGE]).unwrap();
            GuestRam::open(&path).unwrap()
        };
        let (primary, standby) = (ram("primary", 0), ram("standby", 0xee));
        let image = Image::over(standby);
        Bench { directory, image, primary, shadow: Shadow::new(PAGES, 2) }
    }

    fn write(&self, page: usize, fill: u8) {
        self.primary.write(page, &[fill; PAGE]).unwrap();
    }

    fn difference(&mut self, epoch: u64) -> Checkpoint {
        let base = self.shadow.digest();
        let pages = self.shadow.collect(&self.primary, None);
        let ram = Ram::Difference { base, pages, digest: self.shadow.digest() };
        Checkpoint { id: id(epoch), device: stream::MAGIC.to_vec(), ram }
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.directory.path().join(name)).unwrap()
    }

    fn resize(&self, bytes: u64) {
        let path = self.directory.path().join("standby");
        OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
    }

    /// Tries to promote with a monitor on which nobody answers: a refusal comes before the first command.
    fn refused_load(&mut self) -> ImageError {
        let (mut qmp, _peer) = crate::qmp::silent();
        self.image.load(&mut qmp, Duration::from_millis(100)).unwrap_err()
    }
}

#[test]
fn what_was_in_the_file_before_is_gone_and_differences_make_it_the_same() {
    let mut bench = Bench::new();
    bench.image.begin().unwrap();
    assert!(bench.file("standby").iter().all(|&byte| byte == 0));
    for page in [0, 5, 63] {
        bench.write(page, page as u8 + 1);
    }
    while let Some(chunk) = bench.shadow.seed(&bench.primary) {
        bench.image.seed(&chunk).unwrap();
    }
    for epoch in 1..10_u8 {
        bench.write(usize::from(epoch) * 5, epoch);
        bench.write(usize::from(epoch) * 5 + 1, epoch);
        let checkpoint = bench.difference(epoch.into());
        bench.image.admit(checkpoint).unwrap();
        assert_eq!(bench.image.state(), ImageState::Applying);
        bench.image.apply().unwrap();
        assert!(bench.file("standby") == bench.file("primary"), "epoch {epoch}");
        bench.image.verify().unwrap();
    }
    assert_eq!((bench.image.state(), bench.image.newest()), (ImageState::Holding, Some(id(9))));
}

#[test]
fn a_checkpoint_that_does_not_fit_changes_nothing() {
    let mut bench = Bench::new();
    bench.image.begin().unwrap();
    bench.write(3, 1);
    let first = bench.difference(4);
    bench.image.admit(first.clone()).unwrap();
    bench.image.apply().unwrap();
    let before = bench.file("standby");
    bench.write(7, 2);
    bench.write(9, 2);
    let good = bench.difference(5);
    let with = |change: &dyn Fn(&mut Checkpoint)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let pages = |checkpoint: &mut Checkpoint, change: &dyn Fn(&mut Pages)| {
        if let Ram::Difference { pages, .. } = &mut checkpoint.ram {
            change(pages);
        }
    };
    let unfit = [
        ("the same once more", first),
        ("an older epoch", with(&|bad| bad.id = id(3))),
        (
            "another base",
            with(&|bad| {
                if let Ram::Difference { base, .. } = &mut bad.ram {
                    base.0 ^= 1;
                }
            }),
        ),
        (
            "another digest",
            with(&|bad| {
                if let Ram::Difference { digest, .. } = &mut bad.ram {
                    digest.0 ^= 1;
                }
            }),
        ),
        ("a flipped bit", with(&|bad| pages(bad, &|pages| pages.bytes[4097] ^= 1))),
        (
            "a page less",
            with(&|bad| {
                pages(bad, &|pages| {
                    pages.numbers.pop();
                    pages.bytes.truncate(PAGE);
                })
            }),
        ),
        ("half a page", with(&|bad| pages(bad, &|pages| pages.bytes.truncate(PAGE + 7)))),
        ("the wrong order", with(&|bad| pages(bad, &|pages| pages.numbers.swap(0, 1)))),
        ("a page twice", with(&|bad| pages(bad, &|pages| pages.numbers[1] = 7))),
        ("no such page", with(&|bad| pages(bad, &|pages| pages.numbers[1] = u32::MAX))),
        ("no devices", with(&|bad| bad.device.clear())),
        ("RAM in the stream", with(&|bad| bad.ram = Ram::Streamed)),
    ];
    for (what, bad) in unfit {
        let refusal = bench.image.admit(bad).expect_err(what);
        assert!(matches!(refusal, ImageError::Unfit { .. }), "{what}: {refusal}");
        assert_eq!((bench.image.state(), bench.image.newest()), (ImageState::Holding, Some(id(4))), "{what}");
        assert!(bench.file("standby") == before, "{what}");
    }
    bench.image.admit(good).unwrap();
    bench.image.apply().unwrap();
    assert!(bench.file("standby") == bench.file("primary"));
}

#[test]
fn a_torn_image_never_promotes() {
    let mut bench = Bench::new();
    bench.image.begin().unwrap();
    bench.write(40, 1);
    let first = bench.difference(1);
    bench.image.admit(first).unwrap();
    bench.image.apply().unwrap();
    bench.write(2, 2);
    let second = bench.difference(2);
    bench.image.admit(second).unwrap();
    bench.resize(PAGE as u64 * 8);
    assert!(matches!(bench.image.apply(), Err(ImageError::Ram(_))));
    assert_eq!(bench.image.state(), ImageState::Torn);
    assert!(matches!(bench.refused_load(), ImageError::Ram(_)));
    // The length is back, what lay in page 40 is not: the repair is noticed to be none.
    bench.resize((PAGES * PAGE) as u64);
    assert!(matches!(bench.refused_load(), ImageError::Altered));
    assert_eq!(bench.image.state(), ImageState::Torn);
    let third = bench.difference(3);
    assert!(matches!(bench.image.admit(third), Err(ImageError::State { .. })));
    // Only a new first copy helps.
    bench.image.begin().unwrap();
    assert_eq!((bench.image.state(), bench.image.newest()), (ImageState::Seeding, None));
    assert!(matches!(bench.refused_load(), ImageError::State { .. }));
}

#[test]
fn a_first_copy_with_a_bad_chunk_is_none() {
    let mut bench = Bench::new();
    bench.image.begin().unwrap();
    let chunk = Pages { numbers: vec![PAGES as u32], bytes: vec![1; PAGE] };
    assert!(matches!(bench.image.seed(&chunk), Err(ImageError::Chunk { .. })));
    assert_eq!(bench.image.state(), ImageState::Empty);
    let checkpoint = bench.difference(1);
    assert!(matches!(bench.image.admit(checkpoint), Err(ImageError::State { .. })));
}

#[test]
fn a_chunk_that_was_lost_is_noticed_at_the_first_checkpoint() {
    let mut bench = Bench::new();
    bench.image.begin().unwrap();
    bench.write(11, 1);
    assert!(bench.shadow.seed(&bench.primary).is_some(), "and it never arrives");
    let checkpoint = bench.difference(1);
    assert!(matches!(bench.image.admit(checkpoint), Err(ImageError::Unfit { .. })));
    let all = bench.shadow.copy_of(&PageSet::full(PAGES));
    assert_eq!(all.numbers.len(), PAGES);
}
