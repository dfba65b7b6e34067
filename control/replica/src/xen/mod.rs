//! Xen: the relay pair of a domain that `xl remus` checkpoints.
//!
//! ```text
//! primary Dom0                                           backup Dom0
//! xl remus --pipe--> tidegate xen-send --bulk: stream--> tidegate xen-receive --pipe--> xl migrate-receive
//!                      |    |   |  <----down: grants, acks----    |    |
//! plane <---socket-----+    +---up: beats, guard-------------->---+    +---socket--> plane (muted)
//! ```
//!
//! Stock Xen calls a checkpoint done when it has been *written*. Here the epoch is closed at the checkpoint's first byte,
//! while the guest is suspended ([`pipe`]), and committed when the other side *has* all of it ([`stream`] says what all of
//! it is). Link, heartbeats, lease and generation are those of `tidegate replicate`.

pub mod child;
pub mod domain;
pub mod name;
pub mod pipe;
pub mod remus;
pub mod sluice;
pub mod stream;
pub mod writer;

/// What a receiver says on its standard output before it reads, newline and all; `xl remus` waits for exactly this.
pub const READY: &[u8] = b"xl migration receiver ready, send binary domain data.\n";
