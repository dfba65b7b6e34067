//! The link between primary and standby (and of both with a witness).
//!
//! The standby listens on one TCP address; the primary dials it once per [`Direction`], and after the handshake each
//! connection carries messages one way only, so that a blocking TLS stream has one user. A session is all of them;
//! there is one per guest and peer, and a newer one replaces the older.
//!
//! ```text
//! primary                     standby
//!   up    --Hello-->                      version, guest, node, incarnation
//!         <--Welcome--                    session, newest checkpoint, term
//!         --Up-->                         beats (lease requests), guard reports, surrender
//!   down  --Hello(session)-->  <--Down--  grants, acknowledgements, refusals
//!   bulk  --Hello(session)-->  --frames-> seed and checkpoints
//! ```

pub mod bulk;
pub mod dial;
pub mod envelope;
mod gathering;
pub mod listen;
pub mod message;
pub mod relay;
pub mod socket;
pub mod tls;
pub mod wire;

pub use envelope::LinkError;
pub use wire::{Receiver, Sender, Wire};

#[cfg(test)]
mod tests;
