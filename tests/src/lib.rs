//! What the end-to-end tests share: the laboratory in which a real guest meets a real plane.
//!
//! A test makes a [`scratch::Scratch`] directory, a network [`namespace::Namespace`] that plays the
//! outer world, a [`plane::Plane`] and a [`qemu::Guest`]; it captures what leaves the plane
//! ([`capture::Capture`]) and lets [`commit_log::CommitLog`] say whether any of it left too early.
//! [`laboratory::Laboratory`] puts these together. Everything a test starts dies with it.
//!
//! Where no virtual machine is needed, [`virtio`] is a guest in a process, and [`mod@oracle`] judges frame by
//! frame what such a guest's frames met.

pub mod beacon_record;
pub mod capture;
pub mod commit_log;
pub mod control_client;
pub mod counter_track;
pub mod demo;
pub mod failure;
pub mod guest_image;
pub mod json_lines;
pub mod laboratory;
pub mod libvirt;
pub mod media;
pub mod namespace;
pub mod oracle;
pub mod outcome;
pub mod phone;
pub mod plane;
pub mod plug;
pub mod process;
pub mod prompter;
pub mod qemu;
pub mod qmp;
pub mod router;
pub mod scratch;
pub mod serial_line;
pub mod survival;
pub mod tool_stack;
pub mod virtio;
pub mod wall_clock;
pub mod xen_lab;
