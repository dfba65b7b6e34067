//! Kill the primary at any moment: did any peer see something that the backup does not know?
//!
//! A [`network::Network`] ties two [`host::Host`]s to a bridge and a peer. Each [`trial`] starts the same booted guest
//! ([`host::Snapshot`]) on the first, replicates it to the second ([`replication`]), runs transactions
//! ([`client`], [`account`]), transfers ([`transfer`]), a call in the clear ([`call`]) and one by TLS and DTLS-SRTP
//! ([`dialog`]) through it, and lets a [`blow`] fall. What
//! the peers met and what two captures show ([`seen`]) is the [`outcome`]; a [`report`] sums up. A test that leads a
//! replication step by step takes a [`pair`].

pub mod account;
pub mod aims;
pub mod blow;
pub mod call;
pub mod cli;
pub mod client;
pub mod dialog;
pub mod frozen;
pub mod hand;
pub mod host;
pub mod mark;
pub mod network;
pub mod outcome;
pub mod pair;
pub mod relay;
pub mod replication;
pub mod report;
pub mod seen;
pub mod telling;
pub mod transfer;
pub mod trial;
