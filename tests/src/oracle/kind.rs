//! What a test frame is, as its generator knows it, and which policy must hold it: the oracle's own words,
//! none of them the plane's.

use std::fmt;

/// What a frame was made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// ARP, a gratuitous one.
    Arp,
    /// TCP over IPv4.
    Tcp,
    /// UDP over IPv4 that is no media.
    Udp,
    /// A packet of an RTP stream whose sequence numbers follow each other.
    Rtp,
    /// UDP whose payload begins like RTP, each with an SSRC of its own: no stream.
    RtpAlike,
    /// ICMP echo.
    Icmp,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over IPv6 behind a hop-by-hop extension header.
    UdpV6,
    /// TCP in a VLAN.
    TcpVlan,
    /// UDP in two VLANs.
    UdpVlan,
    /// The first fragment of a UDP datagram that is no media.
    UdpFirstFragment,
    /// A later fragment of the same.
    UdpLaterFragment,
    /// A later fragment of a TCP segment.
    TcpLaterFragment,
    /// An EtherType for experiments.
    Unknown,
    /// ARP with something behind it: more than an announcement.
    ArpAndMore,
}

impl Kind {
    /// All of them, by their number.
    pub const ALL: [Kind; 15] = [
        Kind::Arp,
        Kind::Tcp,
        Kind::Udp,
        Kind::Rtp,
        Kind::RtpAlike,
        Kind::Icmp,
        Kind::TcpV6,
        Kind::UdpV6,
        Kind::TcpVlan,
        Kind::UdpVlan,
        Kind::UdpFirstFragment,
        Kind::UdpLaterFragment,
        Kind::TcpLaterFragment,
        Kind::Unknown,
        Kind::ArpAndMore,
    ];

    /// The kind with this number.
    pub fn of(number: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(number)).copied()
    }

    const fn is_tcp(self) -> bool {
        matches!(self, Kind::Tcp | Kind::TcpV6 | Kind::TcpVlan | Kind::TcpLaterFragment)
    }
}

/// A policy, and what it promises to hold.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, serde::Serialize, PartialOrd, Ord,
)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Holds everything but media streams and announcements.
    Realtime,
    /// Holds TCP.
    NonTcp,
    /// Holds everything.
    HoldAll,
}

impl Policy {
    /// The word used in configuration, logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Realtime => "realtime",
            Policy::NonTcp => "non-tcp",
            Policy::HoldAll => "hold-all",
        }
    }

    /// True when no frame of this kind may leave before its commit.
    pub const fn holds(self, kind: Kind) -> bool {
        match self {
            Policy::HoldAll => true,
            Policy::NonTcp => kind.is_tcp(),
            Policy::Realtime => !matches!(kind, Kind::Arp | Kind::Rtp),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_numbered_in_order_and_policies_hold_what_they_promise() {
        for (number, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!((*kind as usize, Kind::of(number as u8)), (number, Some(*kind)));
        }
        assert_eq!(Kind::of(Kind::ALL.len() as u8), None);
        let held = |policy: Policy| Kind::ALL.iter().filter(|kind| policy.holds(**kind)).count();
        assert_eq!((held(Policy::HoldAll), held(Policy::NonTcp), held(Policy::Realtime)), (15, 4, 13));
    }
}
