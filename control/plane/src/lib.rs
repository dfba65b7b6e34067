//! The plane's process: lanes on lcores, the control socket, the sources of epochs.
//!
//! Read [`guest`] first: it is where sessions, the timer and the vhost library's thread meet the epoch ledger.
//! [`server`], [`session`] and [`verbs`] are the socket, [`report`] the numbers, [`promotion`] what a standby becomes,
//! [`assembly`] builds what runs and [`start`] is the life of the process.

pub mod announce;
pub mod assembly;
pub mod described;
pub mod events;
pub mod generation;
pub mod guest;
pub mod handover;
pub mod lines;
pub mod links;
pub mod memory;
pub mod moment;
pub mod nap;
pub mod notify;
pub mod pauses;
pub mod plane;
pub mod promotion;
pub mod pulse;
pub mod recorder;
pub mod report;
pub mod server;
pub mod session;
pub mod signalling;
pub mod socket;
pub mod start;
pub mod tapcheck;
pub mod timer;
pub mod verbs;
pub mod watch;
pub mod witness;
