//! A port's name as the operator writes it: a PCI address, or DPDK's device arguments; and what follows from it for
//! the pool of its frames.
//!
//! A crate of its own, because two ask: the data plane, which opens the port, and the `tidegate` command, which says
//! whether a configuration can work and must not need libdpdk for it.

use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of an mbuf's room where nothing asks for more: longer frames chain.
const LEAST_ROOM: u32 = 2048;
/// Ethernet header, two VLAN tags, FCS.
const FRAMING: u32 = 26;
/// What the kernel keeps in front of each frame of an XDP socket.
const XDP_HEADROOM: u32 = 256;

/// Numbers for devices that the operator did not number.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// "net_vhost0,iface=/run/x.sock,client=1", taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devargs {
    /// The device: "net_vhost0" or "0000:03:00.0".
    pub name: String,
    /// Its arguments, in order.
    pub args: Vec<(String, String)>,
}

impl Devargs {
    /// Takes a specification apart; the error says what is wrong with it.
    pub fn parse(spec: &str) -> Result<Devargs, String> {
        let spec_ = spec.trim();
        let spec_ = spec_.strip_prefix("vdev:").or_else(|| spec_.strip_prefix("pci:")).unwrap_or(spec_);
        let mut words = spec_.split(',');
        let name = words.next().unwrap_or_default();
        if name.is_empty() {
            return Err("it is empty".into());
        }
        if spec.contains('\0') || name.contains(char::is_whitespace) {
            return Err("a device name has no blanks".into());
        }
        let mut args = Vec::new();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(format!("{word:?} is not key=value"));
            };
            args.push((key.to_owned(), value.to_owned()));
        }
        let mut devargs = Devargs { name: name.to_owned(), args };
        if devargs.is_pci() {
            if name.matches(':').count() == 1 {
                devargs.name = format!("0000:{name}"); // As DPDK names the port.
            }
        } else {
            if !name.starts_with("net_") && !name.starts_with("eth_") {
                return Err(
                    "it is neither a PCI address (0000:03:00.0) nor a net_ driver (net_vhost0,iface=...)"
                        .into(),
                );
            }
            if !name.ends_with(|c: char| c.is_ascii_digit()) {
                // DPDK knows devices by name, so two of one driver need two names.
                devargs.name = format!("{name}_tg{}", NEXT.fetch_add(1, Ordering::Relaxed));
            }
        }
        Ok(devargs)
    }

    /// "[domain:]bus:device.function", hexadecimal.
    pub fn is_pci(&self) -> bool {
        let Some((path, function)) = self.name.rsplit_once('.') else { return false };
        let hex = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_hexdigit());
        let parts: Vec<_> = path.split(':').collect();
        (2..=3).contains(&parts.len()) && parts.iter().all(|part| hex(part)) && hex(function)
    }

    /// The driver of a virtual device: "vhost" of "net_vhost0".
    pub fn kind(&self) -> &str {
        const KINDS: [&str; 8] =
            ["vhost", "virtio_user", "af_packet", "af_xdp", "tap", "ring", "null", "pcap"];
        let driver = self.name.get(4..).unwrap_or_default();
        KINDS.into_iter().find(|kind| driver.starts_with(kind)).unwrap_or(driver)
    }

    /// The value of an argument.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.args.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Adds an argument unless the operator gave it.
    pub fn default_to(&mut self, key: &str, value: impl ToString) {
        if self.get(key).is_none() {
            self.args.push((key.to_owned(), value.to_string()));
        }
    }

    /// Adds what the driver has to be told of queues and frame size.
    pub fn complete(&mut self, queues: u16, mtu: u16) {
        match self.kind().to_owned().as_str() {
            "vhost" => {
                self.default_to("queues", queues);
                self.default_to("tso", 0);
            }
            "virtio_user" => self.default_to("queues", queues),
            "af_xdp" if queues > 1 => self.default_to("queue_count", queues),
            "af_packet" => {
                if queues > 1 {
                    self.default_to("qpairs", queues);
                }
                // The driver's 2 KiB slots cut longer frames off.
                let slot = slot_for(mtu);
                if slot > 2048 {
                    self.default_to("framesz", slot);
                    self.default_to("blocksz", slot * 2);
                }
            }
            _ => {}
        }
    }

    /// Bytes that each mbuf of the port's pool must have room for: drivers that copy whole slots do not
    /// chain.
    pub fn data_room(&self, mtu: u16) -> u32 {
        let frame = u32::from(mtu) + FRAMING;
        let room = match self.kind() {
            "af_packet" => self.get("framesz").and_then(|slot| slot.parse().ok()).unwrap_or(slot_for(mtu)),
            "tap" => frame,
            "af_xdp" => frame + XDP_HEADROOM,
            _ => 0,
        };
        room.max(LEAST_ROOM)
    }

    /// The largest MTU that the driver can have, where the driver and not the device sets the limit.
    pub fn largest_mtu(&self) -> Option<u16> {
        // The kernel wants a frame of an XDP socket, mbuf and all, within a page.
        (self.kind() == "af_xdp").then_some(3430)
    }

    /// The first argument that the driver does not have, and those that it has. For what DPDK has refused: a later
    /// DPDK may know more.
    pub fn unknown(&self) -> Option<(&str, &'static str)> {
        let known = match self.kind() {
            "vhost" => {
                "iface queues client iommu-support postcopy-support tso linear-buffer ext-buffer legacy-ol-flags"
            }
            "virtio_user" => {
                "path mac cq queue_size queues iface server mrg_rxbuf in_order packed_vq speed vectorized"
            }
            "af_packet" => "iface qpairs blocksz framesz framecnt qdisc_bypass",
            "af_xdp" => "iface start_queue queue_count shared_umem xdp_prog busy_budget force_copy",
            "tap" => "iface mac remote",
            "null" => "size copy no-rx",
            "ring" => "nodeaction",
            "pcap" => "rx_pcap tx_pcap rx_iface rx_iface_in tx_iface iface phy_mac infinite_rx",
            _ => return None,
        };
        let has = |key: &str| known.split(' ').any(|word| word == key);
        self.args.iter().find(|(key, _)| !has(key)).map(|(key, _)| (key.as_str(), known))
    }

    /// What DPDK is given.
    pub fn text(&self) -> String {
        let mut text = self.name.clone();
        for (key, value) in &self.args {
            text += &format!(",{key}={value}");
        }
        text
    }
}

/// Bytes of a slot in af_packet's ring: the frame, its tags, and the kernel's own header of 52 bytes.
fn slot_for(mtu: u16) -> u32 {
    (u32::from(mtu) + 128).next_power_of_two().max(2048)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_arguments_and_addresses_are_told_apart() {
        let vhost = Devargs::parse("net_vhost7,iface=/run/a.sock,client=1").unwrap();
        assert_eq!((vhost.kind(), vhost.get("iface"), vhost.is_pci()), ("vhost", Some("/run/a.sock"), false));
        assert_eq!(vhost.text(), "net_vhost7,iface=/run/a.sock,client=1");
        let nic = Devargs::parse("03:00.1").unwrap();
        assert!(nic.is_pci());
        assert_eq!(nic.name, "0000:03:00.1");
        for wrong in ["", "eth0", "net vhost0", "net_vhost0,iface", "enp3s0,iface=x"] {
            assert!(Devargs::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn devices_without_a_number_get_names_of_their_own() {
        let (one, two) = (Devargs::parse("net_tap").unwrap(), Devargs::parse("net_tap").unwrap());
        assert_ne!(one.name, two.name);
        assert_eq!(one.kind(), "tap");
    }

    #[test]
    fn drivers_hear_of_queues_and_frame_size_unless_the_operator_said_so() {
        let mut vhost = Devargs::parse("net_vhost0,iface=a,queues=8").unwrap();
        vhost.complete(2, 1500);
        assert_eq!(vhost.text(), "net_vhost0,iface=a,queues=8,tso=0");
        let mut packet = Devargs::parse("net_af_packet0,iface=veth0").unwrap();
        packet.complete(1, 1500);
        assert_eq!(packet.text(), "net_af_packet0,iface=veth0");
        packet.complete(2, 9000);
        assert_eq!(packet.text(), "net_af_packet0,iface=veth0,qpairs=2,framesz=16384,blocksz=32768");
    }

    #[test]
    fn mbufs_have_room_for_the_longest_frame_where_a_driver_does_not_chain() {
        let room = |spec: &str, mtu| Devargs::parse(spec).unwrap().data_room(mtu);
        for spec in ["net_vhost0,iface=a", "0000:03:00.0", "net_null0"] {
            assert_eq!(room(spec, 9000), 2048, "{spec} chains");
        }
        assert_eq!(
            (room("net_af_packet0,iface=a", 1500), room("net_af_packet0,iface=a", 9000)),
            (2048, 16384)
        );
        assert_eq!(room("net_af_packet0,iface=a,framesz=32768", 1500), 32768, "the operator's slot");
        assert_eq!((room("net_tap0", 9000), room("net_af_xdp0,iface=a", 1900)), (9026, 2182));
    }

    #[test]
    fn an_argument_that_a_driver_has_not_is_named_with_those_that_it_has() {
        let unknown = |spec: &str| Devargs::parse(spec).unwrap().unknown().map(|(key, _)| key.to_owned());
        assert_eq!(unknown("net_vhost0,iface=/x.sock,foo=bar"), Some("foo".into()));
        assert_eq!(unknown("net_vhost0,iface=/x.sock,queues=2,tso=0,client=1"), None);
        assert_eq!(unknown("net_af_packet0,iface=eth1,queues=2"), Some("queues".into()));
        assert_eq!(unknown("net_of_tomorrow0,foo=bar"), None, "nothing is known of it");
    }
}
