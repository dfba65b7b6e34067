//! Replication of a running VM: checkpoints of it, their way to a standby, and who may go on when something dies.
//!
//! ```text
//! primary host                                            standby host
//! QEMU <-QMP- tidegate replicate --bulk: checkpoints----> tidegate standby -QMP-> QEMU (-incoming defer)
//!   |              |    |  <------down: grants, acks-----      |                     |
//! plane <-socket---+    +------up: beats, guard--------->      +--socket-> plane (muted)
//! ```
//!
//! Both are clients of their plane's control socket: the plane holds, the lease lives in its lcore (I9), and a commit
//! is given when the standby has *acknowledged* the complete checkpoint.

pub mod cadence;
pub mod certs;
pub mod checkpoint;
pub mod chronicle;
pub mod command;
pub mod desk;
pub mod disks;
pub mod lease;
pub mod link;
pub mod observe;
pub mod orders;
pub mod pacing;
pub mod plane;
pub mod primary;
pub mod qmp;
pub mod standby;
pub mod vm;
pub mod witness;
pub mod xen;
