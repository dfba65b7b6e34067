//! The relay pair of Xen: the follower of the stream, and both processes with their real link and real planes on ports in
//! memory. Where a Xen would be, there is what it writes.

mod format;
mod pair;
mod proxy;
mod relay;
mod replay;
mod takeover;
mod writer;

#[path = "../../../plane/tests/rig/mod.rs"]
mod rig;

#[path = "../process/mod.rs"]
mod process;
