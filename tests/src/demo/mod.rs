//! `scripts/demo`: calls and TCP transfers of a guest through a plane, once under each policy.
//!
//! ```text
//! guest process                     tidegate                    sink process
//! calls, TCP (smoltcp) --virtio--> vhost | lane | af_packet --veth--> kernel TCP, capture
//! its own tool stack ---control socket--^     or: vhost ----virtio--> smoltcp, capture     (without root)
//! ```
//!
//! The guest process stops making frames for each checkpoint, so it knows which frame belongs to which run
//! between two of them, and when it sent each commit. The sink's capture knows when each frame came. Neither
//! asks the plane: [`verdict`] reconciles the two.

mod alaw;
mod calls;
mod capture;
mod cli;
mod clock;
mod guest;
mod kernel_sink;
mod label;
mod nic;
mod outcome;
mod pattern;
mod process;
mod reports;
mod rtp_meter;
mod run;
mod stack;
mod table;
mod tool_stack;
mod transfers;
mod user_sink;
mod verdict;

pub use cli::main;

use std::net::Ipv4Addr;

/// The guest's address.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// The sink's address.
const SINK: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Length of the network's prefix, bits.
const PREFIX: u8 = 24;
/// The guest's MAC address, of the locally administered kind.
const GUEST_MAC: [u8; 6] = [0x02, 0x74, 0x67, 0, 0, 2];
/// The sink's MAC address when it is a user-space stack.
const SINK_MAC: [u8; 6] = [0x02, 0x74, 0x67, 0, 0, 1];

/// TCP: the guest sends as fast as it may.
const UPLOAD_PORT: u16 = 5001;
/// TCP: the sink sends as fast as it may.
const DOWNLOAD_PORT: u16 = 5002;
/// TCP: a request, an answer, the next request.
const TRANSACTION_PORT: u16 = 5003;
/// UDP that is no media: a question, an answer.
const LOOKUP_PORT: u16 = 5300;
/// UDP: call n goes to this port plus 2n; even ports, as RFC 3550 section 11 wants them.
const MEDIA_PORT: u16 = 30000;
/// Most calls, so that their ports stay below those of the guest's other sockets.
const MAX_CALLS: u16 = 200;

/// Bytes of a request and of its answer.
const REQUEST_LEN: usize = 200;
/// See [`REQUEST_LEN`].
const ANSWER_LEN: usize = 1200;
