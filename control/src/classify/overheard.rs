//! The SIP in a capture, heard as it passes: with `--guest` as that guest's, else each sender's as if it were a guest.

use super::capture::Captured;
use crate::signalling::{Learner, Lesson};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use tidegate_dataplane::wire::{Headers, Kind, display_address, udp};

/// Senders of SIP that are told apart in one capture.
const GUESTS: usize = 1024;

/// Who learns from a capture.
pub(crate) struct Overheard {
    ports: Vec<u16>,
    guests: Vec<IpAddr>,
    learners: HashMap<IpAddr, Learner>,
}

impl Overheard {
    pub fn new(ports: &[u16], guests: &[IpAddr]) -> Overheard {
        Overheard { ports: ports.to_vec(), guests: guests.to_vec(), learners: HashMap::new() }
    }

    /// Under which name a learner listens to this address, if it is a guest's.
    fn guest(&self, address: IpAddr) -> Option<IpAddr> {
        match self.guests.is_empty() {
            true => Some(address),
            // All that are named are one guest.
            false => self.guests.contains(&address).then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        }
    }

    /// What a packet teaches.
    pub fn hear(&mut self, headers: &Headers, packet: &Captured<'_>) -> Vec<Lesson> {
        let ours = headers.has_ports()
            && (self.ports.contains(&headers.sport) || self.ports.contains(&headers.dport));
        let mut lessons = Vec::new();
        if !ours && (headers.kind != Kind::Fragment || self.ports.is_empty()) {
            return lessons;
        }
        for (address, from_guest) in [(headers.src, true), (headers.dst, false)] {
            let Some(name) = self.guest(display_address(address)) else { continue };
            // A later fragment may come before the one that has the ports.
            let may_be = ours || headers.protocol == udp::PROTOCOL;
            if may_be && !self.learners.contains_key(&name) && self.learners.len() < GUESTS {
                self.learners.insert(name, Learner::at_home(&self.ports, &self.guests));
            }
            if let Some(learner) = self.learners.get_mut(&name) {
                learner.hear_frame(packet.bytes, from_guest, packet.at_ns, &mut lessons);
            }
        }
        lessons
    }
}
