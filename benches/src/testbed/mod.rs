//! Calls through a VM that is replicated, measured as their peer hears them: the figures of the paper.
//!
//! ```text
//! scenario (TOML) -> run (namespaces, QEMU, planes, replication, a call) -> samples (raw, kept)
//!                                                          samples -> panel (numbers) -> plot, page
//! ```
//! Samples and figures are apart: what was measured once is drawn again without being measured again. Further ways to
//! measure (hosts with NICs, other peers) make the same samples.

pub mod conditions;
pub mod figures;
pub mod hiccups;
pub mod lab;
pub mod page;
pub mod panel;
pub mod plot;
pub mod plugged;
pub mod run;
pub mod samples;
pub mod scenario;
pub mod stream;
pub mod talk;
pub mod transfer;
