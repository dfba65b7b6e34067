//! Rules in front of a policy, and what they are made of.

use crate::quantity::Written;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// One rule: it matches when all keys that are set match; then its verdict decides.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp` or the protocol's number.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// Network of the sender, `10.0.0.0/8` or `2001:db8::/32`.
    #[serde(default)]
    pub src: Option<Network>,
    /// Network of the receiver.
    #[serde(default)]
    pub dst: Option<Network>,
    /// Ports of the sender, `5060` or `10000-20000`.
    #[serde(default)]
    pub src_ports: Option<PortRange>,
    /// Ports of the receiver.
    #[serde(default)]
    pub dst_ports: Option<PortRange>,
    /// Outermost VLAN, 1 to 4094.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// DSCP, 0 to 63.
    #[serde(default)]
    pub dscp: Option<u8>,
    /// What becomes of the frame.
    pub verdict: RuleVerdict,
}

/// `rule.verdict`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleVerdict {
    /// Wait for the commit.
    Hold,
    /// To the wire at once.
    Bypass,
    /// Not to the wire at all.
    Refuse,
}

/// An IP protocol, by name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "u8")]
pub struct Protocol(pub u8);

/// Ports `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "String")]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// Addresses that share a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    /// Any address in it.
    pub address: IpAddr,
    /// Bits that count: 0 to 32 or 128.
    pub prefix: u8,
}

impl TryFrom<Written> for Protocol {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(number) => {
                u8::try_from(number).map(Protocol).map_err(|_| format!("no protocol has number {number}"))
            }
            Written::Text(text) => text.parse(),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text {
            "icmp" => 1,
            "tcp" => 6,
            "udp" => 17,
            "icmpv6" => 58,
            "sctp" => 132,
            other => other.parse().map_err(|_| {
                format!("`{text}` is no protocol: write tcp, udp, icmp, icmpv6, sctp or its number")
            })?,
        };
        Ok(Protocol(number))
    }
}

impl From<Protocol> for u8 {
    fn from(protocol: Protocol) -> u8 {
        protocol.0
    }
}

impl TryFrom<Written> for PortRange {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(port) => port.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no range of ports: write \"5060\" or \"10000-20000\"");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = PortRange {
            first: first.trim().parse().map_err(|_| wrong())?,
            last: last.trim().parse().map_err(|_| wrong())?,
        };
        if range.first > range.last { Err(wrong()) } else { Ok(range) }
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> String {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no network: write \"10.0.0.0/8\" or \"2001:db8::/32\"");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(prefix) => prefix.trim().parse().ok().filter(|p| *p <= most).ok_or_else(wrong)?,
        };
        Ok(Network { address, prefix })
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        format!("{}/{}", network.address, network.prefix)
    }
}

impl Rule {
    /// What is wrong with a rule that parses, and what to do.
    pub fn problem(&self) -> Option<String> {
        if self.vlan.is_some_and(|vlan| !(1..=4094).contains(&vlan)) {
            return Some("vlan: a VLAN is 1 to 4094".into());
        }
        if self.dscp.is_some_and(|dscp| dscp > 63) {
            return Some("dscp: a DSCP is 0 to 63".into());
        }
        if let (Some(src), Some(dst)) = (self.src, self.dst)
            && src.address.is_ipv4() != dst.address.is_ipv4()
        {
            return Some("src, dst: one is IPv4, the other IPv6, so nothing matches; use one family".into());
        }
        let ports = self.src_ports.is_some() || self.dst_ports.is_some();
        if ports && self.protocol.is_some_and(|p| ![6, 17].contains(&p.0)) {
            return Some("src_ports, dst_ports: ports are matched of tcp and udp only".into());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_ranges_and_protocols_are_read_or_refused() {
        assert_eq!("10.0.0.0/8".parse(), Ok(Network { address: IpAddr::from([10, 0, 0, 0]), prefix: 8 }));
        assert_eq!("2001:db8::1".parse::<Network>().map(|n| n.prefix), Ok(128));
        assert_eq!("10000-20000".parse(), Ok(PortRange { first: 10000, last: 20000 }));
        assert_eq!("udp".parse(), Ok(Protocol(17)));
        assert_eq!("47".parse(), Ok(Protocol(47)));
        for text in ["10.0.0.0/33", "10.0.0/8", "host", "::/129", "/8"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        for text in ["", "2-1", "70000", "1-", "-1", "http"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
        assert!("ipx".parse::<Protocol>().is_err());
        for (key, value, said) in [
            ("dst_ports", "-5", "10000-20000"),
            ("dst_ports", "70000", "10000-20000"),
            ("protocol", "-5", "sctp or its number"),
            ("protocol", "256", "no protocol has number 256"),
        ] {
            let rule = format!("{{\"{key}\": {value}, \"verdict\": \"hold\"}}");
            let error = serde_json::from_str::<Rule>(&rule).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
