//! What runs on a tidegate lcore, and what it needs.
//!
//! The way of a frame (design: one lcore owns a lane, so nothing here takes a lock):
//!
//! ```text
//! guest --rx burst--> classify --+--> bypass -----------> tx (first) --> wire
//!                                +--> hold --commit--> release (paced) --^
//! wire --rx burst--> guest       never held; queued, bounded, while the guest is paused
//! ```
//!
//! Read [`lcore`] first: it is the loop. [`lane`] is what the loop does with a frame, [`gate`] the few
//! atomic words that cross threads, [`hold`] the queue, [`guest`] the epoch ledger of the control side.
//!
//! Everything but [`dpdk`] builds without DPDK and is driven by the simulator, loom and the sanitizers.

pub mod announcement;
pub mod arena;
pub mod burst;
mod channels;
pub mod checksum;
pub mod class;
pub mod classify;
pub mod counters;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod ear;
pub mod egress;
mod endpoints;
mod fragments;
pub mod gate;
pub mod guest;
pub mod histogram;
pub mod hold;
pub mod identities;
pub mod inbox;
pub mod lane;
pub mod lcore;
mod lessons;
pub mod policy;
pub mod port;
pub mod quality;
pub mod rtp;
pub mod streams;
mod sync;
pub mod tsc;
mod udptl;
pub mod wire;
