//! Whether a port's link is up, and how fast it is.

/// The state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Frames can pass; of a vhost port: the guest's rings are on.
    pub up: bool,
    /// Mbit/s; `None` where there is no such thing (vhost, veth) or it is not known.
    pub mbit: Option<u32>,
}

/// Asks for the link of one port. Of a port that is closed it says that it is down.
#[derive(Clone, Debug)]
pub struct LinkWatch {
    id: u16,
    interface: Option<String>,
    knows_speed: bool,
}

impl LinkWatch {
    /// Of port `id`, which shares `interface` with the kernel if it shares one; `knows_speed`: the driver tells a
    /// link's real speed.
    pub(super) fn new(id: u16, interface: Option<String>, knows_speed: bool) -> LinkWatch {
        LinkWatch { id, interface, knows_speed }
    }

    /// The link now. Drivers of virtual devices make a speed up, and those that share an interface with the kernel do
    /// not notice when it goes down; there the kernel is asked.
    pub fn link(&self) -> Link {
        let mut link = link_of(self.id).unwrap_or(Link { up: false, mbit: None });
        if let Some(interface) = &self.interface {
            link.up &= interface_is_up(interface);
        }
        if !self.knows_speed {
            link.mbit = self.interface.as_deref().and_then(speed_of_interface);
        }
        link
    }
}

/// The link of a port as the driver last knew it.
pub(super) fn link_of(port: u16) -> Option<Link> {
    // SAFETY: a struct of integers.
    let mut link: dpdk_sys::rte_eth_link = unsafe { std::mem::zeroed() };
    // SAFETY: fills `link`; fails for a port that does not exist.
    if unsafe { dpdk_sys::rte_eth_link_get_nowait(port, &mut link) } != 0 {
        return None;
    }
    let known = link.link_speed != 0 && link.link_speed != dpdk_sys::SPEED_UNKNOWN;
    Some(Link { up: link.link_status() != 0, mbit: known.then_some(link.link_speed) })
}

/// A device that is gone is down. One that is set down refuses to tell its carrier.
fn interface_is_up(name: &str) -> bool {
    let carrier = std::path::Path::new("/sys/class/net").join(name).join("carrier");
    std::fs::read_to_string(carrier).is_ok_and(|text| text.trim() == "1")
}

/// The kernel says "10000" for a veth, which means nothing; only a device on a bus has a speed.
fn speed_of_interface(name: &str) -> Option<u32> {
    let base = std::path::Path::new("/sys/class/net").join(name);
    base.join("device").exists().then_some(())?;
    std::fs::read_to_string(base.join("speed")).ok()?.trim().parse().ok().filter(|&mbit| mbit > 0)
}
