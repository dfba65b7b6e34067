//! The frame-level oracle: was any frame on the wire before its commit?
//!
//! A [`generator`] plays guest and tool stack: it sends labelled [`frames`] in runs, has the plane close an
//! epoch after each, commits it later, and watches the wire. It leaves two files: its [`journal`] and the
//! [`capture`] from behind the wire. The [`verdict`] comes from these two alone.
//!
//! What judges ([`label`], [`kind`], [`frames`], [`journal`], [`capture`], [`verdict`]) uses no code of the plane
//! and knows only what the generator knew. What transports ([`lane`]) uses the plane's layer over DPDK.

pub mod capture;
pub mod commits;
pub mod control;
pub mod frames;
pub mod generator;
pub mod incident;
pub mod journal;
pub mod kind;
pub mod label;
pub mod lane;
pub mod plan;
pub mod trial;
pub mod verdict;
pub mod watch;
