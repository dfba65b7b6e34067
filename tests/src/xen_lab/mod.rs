//! Emulated Xen hosts made of Debian's packages, a protected domain on them, and what its peers noticed.
//!
//! [`packages`] fetches and unpacks what Debian ships; an [`image`] is a Dom0's whole user space with tidegate's own
//! programs in it; a [`host`] boots Xen, that Dom0 and the domain under QEMU. A [`trial`] replicates the domain, from one
//! host to itself or to a second one that takes over; a [`record`] of clocks that agree and the captures are judged in
//! [`verdict`]; a [`report`] sums up.

pub mod cli;
pub mod host;
pub mod image;
pub mod packages;
pub mod record;
pub mod report;
pub mod trial;
pub mod verdict;
pub mod wires;
