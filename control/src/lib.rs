//! The `tidegate` command and what it shares with the plane's process: configuration, protocol, reports.
//!
//! Nothing here needs libdpdk: a host without it can still ask, check a configuration and be told by
//! `tidegate doctor` what is missing. `tidegate run` replaces itself by `tidegate-plane`, which lies beside it.

pub mod classify;
pub mod cli;
pub mod client;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod hlog;
pub mod protocol;
pub mod quantity;
pub mod signalling;
