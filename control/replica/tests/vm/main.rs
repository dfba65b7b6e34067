//! Checkpoints of a real VM under software emulation: taken, applied to a second QEMU that waits, loaded there.

mod agreement;
mod disks;
mod guest;
mod host;
mod restarts;
mod soft_dirty;

#[path = "../process/mod.rs"]
mod process;
#[path = "../../../plane/tests/rig/mod.rs"]
mod rig;

use std::fs;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use guest::{Machine, Memory, Scratch, Vm, initramfs};
use tidegate_replica::checkpoint::{
    Checkpoint, CheckpointId, Image, ImageError, ImageState, Ram, RamError, TakeError, TakeOptions, Taken,
    Taker,
};
use tidegate_replica::qmp::{Qmp, QmpError, RunState};

/// Two emulated machines at a time are enough for a small host.
static ALONE: Mutex<()> = Mutex::new(());
const LOAD_WITHIN: Duration = Duration::from_secs(5);

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn id(epoch: u64) -> CheckpointId {
    CheckpointId { generation: 7, epoch }
}

/// A VM that counts, and one that waits for its state.
struct Pair {
    primary: Vm,
    qmp: Qmp,
    taker: Taker,
    standby: Vm,
    waiting: Qmp,
    image: Image,
}

impl Pair {
    fn start(scratch: &Scratch, mib: usize) -> Pair {
        let image = initramfs(scratch, None);
        let machine = Machine { scratch, mib, memory: Memory::File, initramfs: &image };
        let mut primary = machine.start("primary", &[]);
        let standby = machine.start("standby", &["-incoming", "defer"]);
        let (mut qmp, mut waiting) = (primary.qmp(), standby.qmp());
        let image = Image::prepare(&mut waiting, false).expect("a QEMU that waits");
        primary.wait_for("COUNT 3");
        let taker = Taker::prepare(&mut qmp, TakeOptions::default()).expect("a VM that can be sent");
        Pair { primary, qmp, taker, standby, waiting, image }
    }

    /// The first copy, while the VM runs; bytes.
    fn seed(&mut self) -> usize {
        self.image.begin().expect("an empty image");
        let mut bytes = 0;
        while let Some(pages) = self.taker.seed() {
            bytes += pages.bytes.len();
            self.image.seed(&pages).expect("a chunk");
        }
        bytes
    }

    /// Stop, take; the VM stays paused.
    fn pause(&mut self, epoch: u64) -> Result<Taken, TakeError> {
        self.qmp.stop().expect("stop");
        self.taker.take(&mut self.qmp, id(epoch))
    }

    fn apply(&mut self, taken: Taken) {
        self.image.admit(taken.checkpoint).expect("a checkpoint that fits");
        self.image.apply().expect("room");
    }

    /// Bit for bit: what the standby holds is what the paused VM holds.
    fn same_ram(&self) {
        let (ours, theirs) = (fs::read(&self.primary.ram).unwrap(), fs::read(&self.standby.ram).unwrap());
        let page = ours.chunks(4096).zip(theirs.chunks(4096)).position(|(ours, theirs)| ours != theirs);
        assert!(ours.len() == theirs.len() && page.is_none(), "page {page:?} differs");
        self.image.verify().expect("the digest of all of RAM");
    }

    /// Kills the primary, loads and runs the standby, and sees that the guest counts on where the pause `seen` was.
    fn promote(&mut self, seen: &str) -> (Duration, Duration) {
        self.primary.kill();
        let timings = self.image.load(&mut self.waiting, LOAD_WITHIN).expect("a restored VM");
        let begin = Instant::now();
        self.waiting.cont().expect("cont");
        let cont = begin.elapsed();
        goes_on(seen, &mut self.standby);
        (timings.load, cont)
    }
}

/// The serial line of the restored VM goes on to the byte where the paused one had stopped.
fn goes_on(seen: &str, standby: &mut Vm) {
    let next = counts(seen).last().expect("a count") + 10;
    standby.wait_for(&format!("COUNT {next}"));
    let all = counts(&(seen.to_owned() + &standby.serial()));
    for (at, pair) in all.windows(2).enumerate() {
        assert_eq!(pair[0] + 1, pair[1], "count {at} after {seen:?}");
    }
}

/// The numbers in whole lines.
fn counts(serial: &str) -> Vec<u64> {
    let lines = serial.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.filter_map(|line| line.trim().strip_prefix("COUNT ")?.parse().ok()).collect()
}

fn page_bytes(checkpoint: &Checkpoint) -> usize {
    match &checkpoint.ram {
        Ram::Streamed => 0,
        Ram::Difference { pages, .. } => pages.bytes.len(),
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Median and largest.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("median {:.1}, max {:.1}", values[values.len() / 2], values[values.len() - 1])
}

#[derive(Default)]
struct Costs {
    pause: Vec<f64>,
    stop: Vec<f64>,
    device: Vec<f64>,
    ram: Vec<f64>,
    cont: Vec<f64>,
    bytes: Vec<f64>,
}

impl Costs {
    fn print(self, what: &str) {
        println!("{what}: pause ms {}", spread(self.pause));
        println!(
            "  stop ms {}; device ms {}; ram ms {}; cont ms {}",
            spread(self.stop),
            spread(self.device),
            spread(self.ram),
            spread(self.cont)
        );
        println!("  pages in a checkpoint, KiB: {}", spread(self.bytes));
    }
}

fn checkpoints(pair: &mut Pair, epochs: std::ops::RangeInclusive<u64>, exact: bool) -> (Costs, String) {
    let (mut costs, mut seen, mut device_bytes) = (Costs::default(), String::new(), 0);
    for epoch in epochs {
        let begin = Instant::now();
        pair.qmp.stop().expect("stop");
        let stopped = begin.elapsed();
        let taken = pair.taker.take(&mut pair.qmp, id(epoch)).expect("a checkpoint");
        let took = begin.elapsed();
        let timings = taken.timings;
        seen = pair.primary.serial();
        device_bytes = taken.checkpoint.device.len();
        costs.bytes.push(page_bytes(&taken.checkpoint) as f64 / 1024.0);
        if exact {
            pair.apply(taken);
            pair.same_ram();
            let begin = Instant::now();
            pair.qmp.cont().expect("cont");
            costs.cont.push(ms(begin.elapsed()));
        } else {
            let begin = Instant::now();
            pair.qmp.cont().expect("cont");
            costs.cont.push(ms(begin.elapsed()));
            pair.apply(taken);
        }
        assert!(pair.taker.acknowledged(id(epoch)));
        costs.stop.push(ms(stopped));
        costs.device.push(ms(timings.device));
        costs.ram.push(ms(timings.ram));
        costs.pause.push(ms(took) + costs.cont[costs.cont.len() - 1]);
        std::thread::sleep(Duration::from_millis(40));
    }
    println!("the devices' state: {} KiB", device_bytes >> 10);
    (costs, seen)
}

#[test]
fn fifty_checkpoints_are_applied_bit_for_bit_and_the_guest_goes_on() {
    let _alone = alone();
    let scratch = Scratch::new();
    let mut pair = Pair::start(&scratch, 128);
    println!("first copy: {} MiB", pair.seed() >> 20);
    let (_, _) = checkpoints(&mut pair, 1..=5, true);
    let descriptors = (pair.primary.descriptors(), fs::read_dir("/proc/self/fd").unwrap().count());
    let (costs, _) = checkpoints(&mut pair, 6..=48, false);
    costs.print("43 checkpoints");
    let (_, seen) = checkpoints(&mut pair, 49..=50, true);
    let now = (pair.primary.descriptors(), fs::read_dir("/proc/self/fd").unwrap().count());
    assert_eq!(descriptors, now, "descriptors of QEMU and of ours");
    let (load, cont) = pair.promote(&seen);
    println!("load {:.1} ms, cont {:.1} ms", ms(load), ms(cont));
}

#[test]
fn the_restored_vm_is_replicated_in_its_turn() {
    let _alone = alone();
    let scratch = Scratch::new();
    let mut pair = Pair::start(&scratch, 128);
    pair.seed();
    let (_, seen) = checkpoints(&mut pair, 1..=2, true);
    pair.promote(&seen);
    let initramfs = scratch.file("initramfs");
    let machine = Machine { scratch: &scratch, mib: 128, memory: Memory::File, initramfs: &initramfs };
    let standby = machine.start("third", &["-incoming", "defer"]);
    let mut waiting = standby.qmp();
    let image = Image::prepare(&mut waiting, false).expect("a QEMU that waits");
    let Pair { standby: primary, waiting: mut qmp, .. } = pair;
    let taker = Taker::prepare(&mut qmp, TakeOptions::default()).expect("the restored VM can be sent");
    let mut pair = Pair { primary, qmp, taker, standby, waiting, image };
    pair.seed();
    let (_, seen) = checkpoints(&mut pair, 3..=5, true);
    pair.promote(&seen);
}

#[test]
fn a_difference_and_a_full_state_restore_the_same_vm() {
    let _alone = alone();
    let scratch = Scratch::new();
    let mut pair = Pair::start(&scratch, 128);
    pair.seed();
    checkpoints(&mut pair, 1..=3, false);
    let taken = pair.pause(4).expect("a checkpoint");
    let device = taken.checkpoint.device.clone();
    pair.apply(taken);
    let seen = pair.primary.serial();

    // The restored VM, before it runs, as a whole: RAM in QEMU's stream. (A state is given once a pause.)
    let before = fs::read(&pair.primary.ram).unwrap();
    pair.primary.kill();
    pair.image.load(&mut pair.waiting, LOAD_WITHIN).expect("a restored VM");
    assert!(fs::read(&pair.standby.ram).unwrap() == before, "RAM after a difference");
    let initramfs = scratch.file("initramfs");
    let machine = Machine { scratch: &scratch, mib: 128, memory: Memory::File, initramfs: &initramfs };
    let mut second = machine.start("full", &["-incoming", "defer"]);
    let mut waiting = second.qmp();
    let mut full = Image::prepare(&mut waiting, true).expect("a QEMU that waits");
    full.begin().expect("an empty image");
    let options = TakeOptions {
        full: true,
        device_limit: 256 << 20,
        within: Duration::from_secs(10),
        ..TakeOptions::default()
    };
    let mut whole = Taker::prepare(&mut pair.waiting, options).expect("a VM that can be sent");
    let taken = whole.take(&mut pair.waiting, id(4)).expect("a full checkpoint");
    println!("full: {} MiB in {:.0} ms", taken.checkpoint.device.len() >> 20, ms(taken.timings.whole));
    full.admit(taken.checkpoint).expect("a checkpoint that fits");
    full.apply().expect("nothing to do");
    full.load(&mut waiting, LOAD_WITHIN).expect("a restored VM");
    assert!(fs::read(&second.ram).unwrap() == before, "RAM after a full state");

    // Bit for bit the devices that the first VM had in its pause.
    let mut last = Taker::prepare(&mut waiting, TakeOptions::default()).expect("a VM that can be sent");
    let last = last.take(&mut waiting, id(5)).expect("a checkpoint").checkpoint;
    assert!(last.device == device, "the devices' states differ");
    waiting.cont().expect("cont");
    goes_on(&seen, &mut second);
    pair.waiting.cont().expect("cont");
    goes_on(&seen, &mut pair.standby);
}

#[test]
fn a_checkpoint_that_fails_lets_the_vm_go_on_and_is_owed() {
    let _alone = alone();
    let scratch = Scratch::new();
    let mut pair = Pair::start(&scratch, 128);
    pair.seed();
    let mut epoch = 0;
    // Too large for us, too slow for us: after the comparison, so that the shadow is ahead of what was sent.
    for limits in [(64 << 10, Duration::from_secs(2)), (64 << 20, Duration::from_micros(1))] {
        for _ in 0..3 {
            epoch += 1;
            pair.taker.set_limits(limits.0, limits.1);
            let failure = pair.pause(epoch).expect_err("a failure");
            println!("{failure}");
            assert!(matches!(failure, TakeError::Stream { .. }), "{failure}");
            let before = counts(&pair.primary.serial()).len();
            pair.qmp.cont().expect("a VM that goes on");
            pair.primary.wait_for(&format!("COUNT {}", before + 3));
            pair.taker.set_limits(64 << 20, Duration::from_secs(2));
            epoch += 1;
            let taken = pair.pause(epoch).expect("the next one");
            pair.apply(taken);
            pair.same_ram();
            pair.qmp.cont().expect("cont");
        }
    }
    // One that was taken and never sent, and one that was sent and lost.
    let lost = pair.pause(epoch + 1).unwrap();
    let twice = pair.pause(epoch + 2).expect_err("a second state in one pause");
    assert!(matches!(twice, TakeError::NotPaused(RunState::PostMigrate)), "{twice}");
    pair.qmp.cont().unwrap();
    let void = pair.pause(epoch + 2).unwrap();
    assert!(pair.taker.withdraw(void.checkpoint.id));
    assert!(pair.taker.acknowledged(id(epoch)) && pair.taker.rebase(id(epoch)));
    pair.qmp.cont().unwrap();
    let taken = pair.pause(epoch + 3).unwrap();
    pair.apply(taken);
    pair.same_ram();
    assert!(matches!(pair.image.admit(lost.checkpoint), Err(ImageError::Unfit { .. })), "an older one");
    let seen = pair.primary.serial();
    pair.promote(&seen);
}

#[test]
fn nothing_is_loaded_without_a_complete_checkpoint() {
    let _alone = alone();
    let scratch = Scratch::new();
    let mut pair = Pair::start(&scratch, 128);
    let refusal = pair.image.load(&mut pair.waiting, LOAD_WITHIN).expect_err("nothing is held");
    assert!(matches!(refusal, ImageError::State { state: ImageState::Empty, .. }), "{refusal}");
    pair.seed();
    let refusal = pair.image.load(&mut pair.waiting, LOAD_WITHIN).expect_err("a first copy is no checkpoint");
    assert!(matches!(refusal, ImageError::State { state: ImageState::Seeding, .. }), "{refusal}");
    assert_eq!(pair.waiting.status().unwrap(), RunState::InMigrate);
    let running = pair.taker.take(&mut pair.qmp, id(1)).expect_err("it runs");
    assert!(matches!(running, TakeError::NotPaused(RunState::Running)), "{running}");

    // Devices that QEMU cannot read: it ends, and that is told.
    let mut taken = pair.pause(1).unwrap();
    let length = taken.checkpoint.device.len();
    taken.checkpoint.device.truncate(length / 2);
    pair.apply(taken);
    let failure = pair.image.load(&mut pair.waiting, LOAD_WITHIN).expect_err("half a state");
    println!("{failure}");
    assert!(matches!(failure, ImageError::Load { .. }), "{failure}");
    assert!(pair.standby.wait_end() || pair.waiting.status().is_err(), "{}", pair.standby.output());
    assert!(matches!(
        pair.image.load(&mut pair.waiting, LOAD_WITHIN),
        Err(ImageError::State { .. } | ImageError::Qmp(_))
    ));
    // The end of a QEMU is an error of its own.
    pair.primary.kill();
    assert!(matches!(pair.qmp.status(), Err(QmpError::Gone)));
}

#[test]
fn ram_is_found_in_a_memfd_and_missed_in_private_memory() {
    let _alone = alone();
    let scratch = Scratch::new();
    let initramfs = initramfs(&scratch, None);
    let machine = |memory| Machine { scratch: &scratch, mib: 64, memory, initramfs: &initramfs };
    let memfd = machine(Memory::Memfd).start("memfd", &["-S"]);
    let taker = Taker::prepare(&mut memfd.qmp(), TakeOptions::default()).expect("a memfd");
    assert_eq!(taker.ram_bytes(), Some(64 << 20));
    let private = machine(Memory::Private).start("private", &["-S"]);
    let refusal = Taker::prepare(&mut private.qmp(), TakeOptions::default()).err().expect("private memory");
    assert!(matches!(refusal, TakeError::Ram(RamError::NotShared { .. })), "{refusal}");
    println!("{refusal}");
}

/// RAM of two guests.
const FOR_TWO_GIGABYTES_MIB: u64 = 4 << 10;

/// Memory that can be had, MiB, as the kernel says.
fn available_mib() -> u64 {
    let told = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let line = told.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("MemAvailable");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") >> 10
}

/// It works; what it costs is told, not promised:
/// `cargo test --profile quick -p tidegate-replica --test vm two_gigabytes -- --nocapture`.
#[test]
fn a_guest_of_two_gigabytes() {
    let _alone = alone();
    let free = available_mib();
    if free < FOR_TWO_GIGABYTES_MIB {
        println!(
            "SKIPPED a guest of 2 GiB: {free} MiB of memory are available, it takes {FOR_TWO_GIGABYTES_MIB}"
        );
        return;
    }
    let scratch = Scratch::new();
    let mut pair = Pair::start(&scratch, 2048);
    let begin = Instant::now();
    let bytes = pair.seed();
    println!("first copy: {} MiB in {:.0} ms", bytes >> 20, ms(begin.elapsed()));
    let (costs, _) = checkpoints(&mut pair, 1..=20, false);
    costs.print("2 GiB");
    let (_, seen) = checkpoints(&mut pair, 21..=21, true);
    let (load, cont) = pair.promote(&seen);
    println!("load {:.1} ms, cont {:.1} ms", ms(load), ms(cont));
}
