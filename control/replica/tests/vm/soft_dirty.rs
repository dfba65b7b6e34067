//! The kernel's answer is a superset of what changed: proven under Debian's kernel, in a VM when this one has none.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tidegate_replica::checkpoint::{GuestRam, Shadow, Tracking};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use crate::guest::{Machine, Memory, Scratch, initramfs};

const PAGES: usize = 4096;
const PAGE: usize = 4096;
const ROUNDS: u64 = 400;
/// Makes this program a process that writes to the file it names.
const WRITES_TO: &str = "TIDEGATE_TEST_WRITES_TO";

/// A process that maps RAM and writes there when told: QEMU, or the plane.
struct Writer(Child);

impl Writer {
    fn start(file: &Path) -> Writer {
        let child = Command::new(std::env::current_exe().expect("a program"))
            .args(["--exact", "soft_dirty::the_candidates_cover_what_changed", "--nocapture"])
            .env(WRITES_TO, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        Writer(child)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Lets it write to these pages, and waits until it has.
    fn write(&mut self, round: u64, pages: &[usize]) {
        let pages: Vec<String> = pages.iter().map(usize::to_string).collect();
        writeln!(self.0.stdin.as_mut().expect("a pipe"), "{round} {}", pages.join(" ")).expect("a writer");
        let output = BufReader::new(self.0.stdout.as_mut().expect("a pipe"));
        let wanted = format!("WROTE {round}");
        assert!(output.lines().map_while(Result::ok).any(|line| line.contains(&wanted)), "the writer ended");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The other process: see [`Writer`].
fn write_to(path: &Path) {
    let file = File::options().read(true).write(true).open(path).expect("the file");
    let region = MmapRegion::<()>::from_file(FileOffset::new(file, 0), PAGES * PAGE).expect("a mapping");
    let memory = region.get_slice(0, PAGES * PAGE).expect("a mapping");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let Some((round, pages)) = numbers.split_first() else { continue };
        for &page in pages {
            let at = page as usize * PAGE + (*round as usize * 64) % PAGE;
            let before: u64 = memory.read_obj(at).expect("a page");
            memory.write_obj(before + 1 + round, at).expect("a page");
        }
        println!("\nWROTE {round}");
    }
}

/// Numbers that look drawn and are the same each time.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }

    fn pages(&mut self, most: usize) -> Vec<usize> {
        let count = self.below(most);
        (0..count).map(|_| self.below(PAGES)).collect()
    }
}

/// The promise itself, on a kernel that can: candidates cover what changed, whoever wrote; few when few.
#[test]
fn the_candidates_cover_what_changed() {
    if let Some(path) = std::env::var_os(WRITES_TO) {
        return write_to(Path::new(&path));
    }
    let scratch = Scratch::new();
    let path = scratch.file("ram");
    File::create(&path).and_then(|file| file.set_len((PAGES * PAGE) as u64)).expect("a file");
    let ram = GuestRam::open(&path).expect("RAM");
    let (mut qemu, mut plane) = (Writer::start(&path), Writer::start(&path));
    let mut drawn = Drawn(7);
    // QEMU has touched all of its RAM once.
    let all: Vec<usize> = (0..PAGES).collect();
    qemu.write(1, &all);
    plane.write(1, &[]);
    let mut tracking = Tracking::new(Some(qemu.pid()), &[plane.pid()], &ram);
    if let Err(why) = tracking.usable() {
        println!("SKIPPED soft-dirty here: {why}");
        return;
    }
    let mut shadow = Shadow::new(PAGES, 1);
    let (mut known, mut narrow) = (0, 0);
    for round in 2..ROUNDS {
        qemu.write(round, &drawn.pages(50));
        if round.is_multiple_of(5) {
            plane.write(round, &drawn.pages(3));
        }
        let candidates = tracking.candidates(&ram);
        let changed = shadow.collect(&ram, None);
        if let Some(candidates) = candidates {
            known += 1;
            narrow += usize::from(candidates.set.len() < PAGES / 2);
            let missed: Vec<u32> = changed
                .numbers
                .iter()
                .copied()
                .filter(|&page| !candidates.set.contains(page as usize))
                .collect();
            assert!(missed.is_empty(), "round {round}: {missed:?} changed and were not named");
        }
    }
    assert!(tracking.usable().is_ok());
    println!("SOFT-DIRTY proven in {known} rounds, {narrow} of them with less than half of RAM");
    assert!(known > ROUNDS - 20 && narrow > 50, "{known} {narrow}");
}

#[test]
fn the_candidates_cover_what_changed_under_debians_kernel() {
    let _alone = crate::alone();
    let scratch = Scratch::new();
    let image = initramfs(&scratch, Some("soft_dirty::the_candidates_cover_what_changed"));
    let machine = Machine { scratch: &scratch, mib: 512, memory: Memory::Private, initramfs: &image };
    let mut vm = machine.start("debian", &[]);
    vm.wait_for("INNER-DONE ");
    let serial = vm.serial();
    println!("{serial}");
    assert!(serial.contains("SOFT-DIRTY proven") && serial.contains("INNER-DONE 0"), "{serial}");
}
