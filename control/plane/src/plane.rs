//! The running plane as the control side sees it: guests, lcores, the clock.

use crate::events::Hub;
use crate::generation::Generations;
use crate::guest::GuestPlane;
use std::sync::Arc;
use std::time::Instant;
use tidegate_control::protocol::Failure;
use tidegate_dataplane::lcore::LcoreShared;
use tidegate_dataplane::tsc::TscRate;

/// See the module's head.
pub struct Plane {
    /// In the order of the configuration.
    pub guests: Vec<Arc<GuestPlane>>,
    /// The CPU and the words of each lcore that runs lanes.
    pub lcores: Vec<(usize, Arc<LcoreShared>)>,
    /// Ticks of the clock that the lcores use.
    pub rate: TscRate,
    /// Where events go.
    pub hub: Arc<Hub>,
    /// Where generations come from.
    pub generations: Generations,
    /// Since when everything here was counted.
    pub started: Instant,
}

impl Plane {
    /// The guest meant by `name`; without one, the only guest.
    pub fn guest(&self, name: Option<&str>) -> Result<(usize, &Arc<GuestPlane>), Failure> {
        let names = || self.guests.iter().map(|guest| guest.name()).collect::<Vec<_>>().join(", ");
        match (name, self.guests.len()) {
            (None, 1) => Ok((0, &self.guests[0])),
            (None, _) => Err(Failure::new("which-guest", format!("say which guest: {}", names()))),
            (Some(name), _) => {
                let found = self.guests.iter().enumerate().find(|(_, guest)| guest.name() == name);
                found.ok_or_else(|| {
                    Failure::new("no-guest", format!("no guest `{name}`; there are {}", names()))
                })
            }
        }
    }

    /// The guests meant by `name`; without one, all.
    pub fn guests(&self, name: Option<&str>) -> Result<Vec<&Arc<GuestPlane>>, Failure> {
        match name {
            None => Ok(self.guests.iter().collect()),
            Some(_) => self.guest(name).map(|(_, guest)| vec![guest]),
        }
    }
}
