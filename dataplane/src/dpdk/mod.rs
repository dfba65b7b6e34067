//! The safe layer over DPDK: [`Eal`], [`Mempool`], [`Mbuf`], [`EthPort`] and its [`PortBurst`].
//!
//! The order of things: [`Eal::init`] once, a [`Mempool`], ports opened by the control thread, one
//! [`PortBurst`] of each port handed to the lcore that owns the lane, [`Eal::launch`].
#![allow(unsafe_code)] // Together with dpdk-sys this is the one place where unsafe code lives.

mod courier;
mod eal;
mod hugearena;
mod link;
mod mbuf;
mod mempool;
mod port;
mod port_error;
mod portburst;
mod vhost;

pub use eal::{Eal, EalConfig, EalError, LogLevel, Memory, Tsc, version};
pub use hugearena::HugeArena;
pub use link::{Link, LinkWatch};
pub use mbuf::{L4, Mbuf};
pub use mempool::{Mempool, MempoolConfig, MempoolError};
pub use port::{EthPort, PortConfig, PortStats, Role, data_room_for};
pub use port_error::PortError;
pub use portburst::PortBurst;
pub use vhost::{REFUSED_FEATURES, VhostEvents};

/// The last error of the calling thread, as DPDK reports it: a positive errno.
fn last_errno() -> i32 {
    // SAFETY: reads a variable of this thread.
    unsafe { dpdk_sys::shim_errno() }
}
