//! The start-up scripts on a real kernel: huge pages on two NUMA nodes, and a network card (e1000e, emulated, behind
//! an emulated IOMMU) that goes to vfio-pci, carries frames for a DPDK program, and comes back to its kernel driver.
//! What happens inside is in `tests/vm/nic-steps`; the far end of the card's cable is here.

mod frames;
mod vm;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use vm::{Kind, Vm, Word};

/// Frames sent through the DPDK program, and back.
const FRAMES: u32 = 500;
/// Sent before the first returns: the receive ring of the card has 256 places or more.
const WINDOW: u32 = 32;

/// Sends numbered frames to the card; all come back, in order, each once, with their addresses swapped.
fn frames_go_through(vm: &Vm) {
    // The first one finds out when the link is up.
    vm.ask(&frames::numbered(0), "no frame came back through vfio-pci", |frame| {
        frames::returned(frame) == Some(0)
    });
    while vm.receive().is_some() {}

    let mut back = Vec::new();
    let mut sent = 1;
    let mut quiet_since = Instant::now();
    while back.len() < FRAMES as usize && quiet_since.elapsed() < Duration::from_secs(5) {
        while sent <= FRAMES && sent - 1 - (back.len() as u32) < WINDOW {
            vm.send(&frames::numbered(sent));
            sent += 1;
        }
        if let Some(number) = vm.receive().and_then(|frame| frames::returned(&frame)) {
            back.push(number);
            quiet_since = Instant::now();
        }
    }
    if back != Vec::from_iter(1..=FRAMES) {
        vm.fail(&format!("sent frames 1 to {FRAMES}, back came {} of them: {back:?}", back.len()));
    }
}

/// Goes through the steps; returns the names of those that came out well.
fn walk(vm: &mut Vm) -> BTreeSet<String> {
    let (mut done, mut failed) = (BTreeSet::new(), Vec::new());
    loop {
        match vm.next() {
            Some(Word::Step { name, outcome }) if outcome == "ok" => {
                done.insert(name);
            }
            Some(Word::Step { name, outcome }) => failed.push(format!("{name} {outcome}")),
            Some(Word::Wait(place)) => {
                match place.as_str() {
                    "kernel-before" | "kernel-after" => vm.kernel_answers(),
                    "vfio" if failed.is_empty() => frames_go_through(vm),
                    _ => vm.fail(&format!("waits at {place:?} after {failed:?}")),
                }
                vm.go_on();
            }
            Some(Word::End) if failed.is_empty() => return done,
            Some(Word::End) => vm.fail(&failed.join("\n")),
            None => vm.fail("ended early"),
        }
    }
}

#[test]
fn a_card_goes_to_vfio_pci_carries_frames_and_comes_back() {
    let mut vm = Vm::boot("vfio", Kind::Iommu);
    let done = walk(&mut vm);
    for step in ["pages-on-a-node", "bind", "program-runs", "refuse-half-a-group", "unbind", "undo-driver"] {
        assert!(done.contains(step), "{step} was left out: {done:?}");
    }
}

#[test]
fn without_an_iommu_a_card_stays_with_its_kernel_driver() {
    let mut vm = Vm::boot("no-iommu", Kind::NoIommu);
    let done = walk(&mut vm);
    for step in ["refuse-no-iommu", "noiommu-leaves-the-card"] {
        assert!(done.contains(step), "{step} was left out: {done:?}");
    }
}

#[test]
fn the_unit_pins_locks_isolates_restarts_and_stops_a_program_that_drives_a_card() {
    let mut vm = Vm::boot("unit", Kind::Systemd);
    let done = walk(&mut vm);
    for step in ["unit-starts", "unit-capabilities", "unit-comes-back", "unit-stops", "unit-does-not-insist"]
    {
        assert!(done.contains(step), "{step} was left out: {done:?}");
    }
}
