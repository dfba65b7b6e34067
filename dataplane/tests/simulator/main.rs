//! The simulator: source, gate, lane and wire, step by step from a seed, crashes at every step.
//!
//! What runs is the shipped ledger, gate, lane, hold queue, egress and classifier. Replaced are the ports
//! (`ports.rs`), the clock, and everything around: a VM that makes frames, a tool stack that pauses it and
//! carries checkpoints (`source.rs`), a backup, a wire that looks at each frame as it goes by
//! (`world.rs`). The world moves *inside* the lane's own calls too (each dequeue, each transmit, each
//! look at the clock), so that every interleaving of lcore and control that one thread can show occurs.
//!
//! A failure prints its seed: `TIDEGATE_SIM_SEED=n cargo test -p tidegate-dataplane --test simulator`
//! replays it, with `TIDEGATE_SIM_TRACE=1` word by word. `TIDEGATE_SIM_RUNS` sets how many seeds are tried.

mod plane;
mod ports;
mod random;
mod source;
mod world;

use plane::Plane;
use std::cell::RefCell;
use std::rc::Rc;
use world::World;

/// One whole life: a VM, its source, planes that crash and come back.
fn live(seed: u64, steps: u32) -> World {
    let world = Rc::new(RefCell::new(World::new(seed)));
    let mut plane = Plane::start(&world);
    for _ in 0..steps {
        let crash = world.borrow_mut().crash_now();
        if crash {
            plane.crash();
            plane = Plane::start(&world);
        }
        plane.poll();
    }
    plane.settle();
    plane.stop();
    drop(plane);
    let Ok(world) = Rc::try_unwrap(world) else { panic!("the plane has not let go of the world") };
    let world = world.into_inner();
    assert_eq!(world.frames_alive(), world.frames_in_rings(), "seed {seed}: a frame has leaked");
    world
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    match number("TIDEGATE_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("TIDEGATE_SIM_RUNS").unwrap_or(400)).collect(),
    }
}

#[test]
fn the_invariants_hold_whatever_happens() {
    let mut seen = world::Tally::default();
    for seed in seeds() {
        seen += live(seed, 3000).tally;
    }
    eprintln!("{seen:#?}");
    // A simulator that no longer reaches a case proves nothing about it.
    if seeds().len() >= 100 {
        for (what, times) in seen.named() {
            assert!(times > 0, "the runs never saw: {what}");
        }
    }
}
