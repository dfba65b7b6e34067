//! Which ports of a guest carry SRTP and which certainly do not, as its signalling describes them now.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidegate_control::signalling::Lesson;
use tidegate_dataplane::wire::display_address;

/// Ports with what is said of them. As many as whoever reads the signalling keeps.
#[derive(Debug, Default)]
pub struct Described(Mutex<HashSet<(IpAddr, u16, bool)>>);

impl Described {
    fn ports(&self) -> MutexGuard<'_, HashSet<(IpAddr, u16, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port of the lesson carries SRTP or does not, or nobody says so any more.
    pub fn note(&self, lesson: &Lesson, secured: bool) {
        let port = (display_address(lesson.address), lesson.port, secured);
        match lesson.open {
            true => self.ports().insert(port),
            false => self.ports().remove(&port),
        };
    }

    /// What is said of a port; nothing when two calls disagree about it.
    pub fn secured(&self, address: IpAddr, port: u16) -> Option<bool> {
        let ports = self.ports();
        let says = |secured| ports.contains(&(address, port, secured));
        match (says(true), says(false)) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_control::signalling::Learned;
    use tidegate_dataplane::wire::address_bytes;

    #[test]
    fn a_port_is_what_is_said_of_it_now() {
        let (described, address) = (Described::default(), IpAddr::from([10, 0, 0, 2]));
        let note = |secured, open| {
            let what = Learned::Secured(secured);
            described.note(&Lesson { address: address_bytes(address), port: 4000, what, open }, secured);
        };
        let told = || described.secured(address, 4000);
        assert_eq!(told(), None);
        note(false, true);
        note(false, true);
        assert_eq!((told(), described.secured(address, 4002)), (Some(false), None));
        note(true, true);
        assert_eq!(told(), None, "one call says so, the other does not");
        note(false, false);
        assert_eq!(told(), Some(true));
        note(true, false);
        assert_eq!(told(), None);
    }
}
