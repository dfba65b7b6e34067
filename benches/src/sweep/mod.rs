//! The best checkpoint interval: the same telephone server, replicated at one interval after the other, under calls and
//! TCP, and once with `--interval auto` beside them.
//!
//! ```text
//! plan (intervals x calls x loads) -> run (a replicated VM an interval) -> samples (raw, kept, a directory a cell)
//!                                samples -> cell (numbers) -> verdict (the rule of `--interval auto`) -> chart, page
//! ```
//! The rule and its constants are [`tidegate_replica::cadence`]'s: what is recommended here is what `auto` does there.

pub mod cell;
pub mod chart;
pub mod command;
pub mod held;
pub mod open_loop;
pub mod page;
pub mod plan;
pub mod run;
pub mod samples;
pub mod signalling;
pub mod talkers;
pub mod transactions;
pub mod verdict;
