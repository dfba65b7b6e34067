//! What `scripts/bench` runs: each bench by name, and the nouns they share.
//!
//! | bench | question |
//! |---|---|
//! | [`ceiling`] | frames a second of tidegate against DPDK's own forwarder on the same ports |
//! | [`variant`] | what the histograms cost, or another key of the configuration |
//! | [`mod@classify`] | what looking at a frame costs on one core, over DPDK's own forwarder |
//! | [`cost`] | instructions for a frame of each class, under callgrind |
//! | [`testbed`] | how calls fare through a VM that is replicated: the figures of the paper |
//! | [`ratios`] | the nine ratios of the testbed, each under its key |
//! | [`scale`] | what a frame costs, and a held one takes, as calls, guests, streams and depth grow |
//! | [`peers`] | tidegate beside what one would otherwise run: voice, TCP, frames a second |
//! | [`hosts`] | the same traffic between two or three hosts with NICs |
//! | [`sweep`] | how often a VM should be checkpointed |
//! | [`idle`] | how late a frame leaves when its lcore was asleep |
//!
//! Nothing here judges by itself: a bench reports numbers and whether the aim is met, and fails for a missed
//! aim only when asked to (`--check`). Speed on a shared machine is no test.

pub mod callgrind;
pub mod ceiling;
pub mod classify;
pub mod contest;
pub mod core_distance;
pub mod cost;
pub mod cpu_time;
pub mod dut;
pub mod failure;
pub mod frames;
pub mod generator;
pub mod head;
pub mod hosts;
pub mod idle;
pub mod machine;
pub mod memory_lane;
pub mod peers;
pub mod process;
pub mod ratios;
pub mod replay;
pub mod report;
pub mod rig;
pub mod scale;
pub mod source;
pub mod stats;
pub mod stream;
pub mod sweep;
pub mod testbed;
pub mod trial;
pub mod variant;
