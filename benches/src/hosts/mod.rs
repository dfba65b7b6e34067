//! The testbed on two or three hosts: who makes the traffic, who is the plane, who receives and measures.
//!
//! ```text
//! generator (plays the guest) ==port==  guest_port [ plane ] wire_port  ==port== sink (the world outside)
//!        agent                                agent                                 agent
//!          +---------------- control port, one each ---- run (scenario, anywhere) ----+
//! ```
//! Each host runs an agent ([`agent`]) on a control port that wants a secret; `run` ([`coordinate`]) tells them what to
//! do from a scenario ([`scenario`]) and fetches the raw samples. Generator and sink may be one host with two ports; the
//! plane may be left out: then the ports are cabled together. [`local`] is all of it in network namespaces of one machine.
//!
//! Calls are sent open loop: each packet carries the moment it was *intended* for, and the sink's kernel stamps it at
//! its port. Between hosts their clocks are compared over the control port, and how far that can be wrong is told.

pub mod agent;
pub mod clock;
pub mod command;
pub mod coordinate;
pub mod door;
pub mod local;
pub mod media;
pub mod message;
pub mod outcome;
pub mod page;
pub mod plane;
pub mod scenario;
pub mod traffic;
