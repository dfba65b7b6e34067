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
    /// Synchronisation source of RTP, or of RTCP's sender: `0xcafe0001` or `0x10-0x1f`. Such a rule matches only
    /// what passes the check of either header.
    #[serde(default)]
    pub ssrc: Option<SsrcRange>,
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

/// Synchronisation sources `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "String")]
pub struct SsrcRange {
    /// The lowest.
    pub first: u32,
    /// The highest.
    pub last: u32,
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

impl TryFrom<Written> for SsrcRange {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(ssrc) => ssrc.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl FromStr for SsrcRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = ssrc(first).zip(ssrc(last)).map(|(first, last)| SsrcRange { first, last });
        range.filter(|range| range.first <= range.last).ok_or_else(|| {
            format!(
                "`{text}` is no range of SSRCs: write \"0xcafe0001\" or \"0x10-0x1f\", the lower one first"
            )
        })
    }
}

/// An SSRC as people write it: `0x` and hex digits, or decimal.
pub(crate) fn ssrc(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // What `from_str_radix` takes beside digits is a sign.
        Some(hex) if !hex.starts_with('+') => u32::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None => text.parse().ok(),
    }
}

impl From<SsrcRange> for String {
    fn from(range: SsrcRange) -> String {
        range.to_string()
    }
}

impl fmt::Display for SsrcRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{:#010x}", self.first)
        } else {
            write!(f, "{:#010x}-{:#010x}", self.first, self.last)
        }
    }
}

impl RuleVerdict {
    /// The word used in configuration, logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            RuleVerdict::Hold => "hold",
            RuleVerdict::Bypass => "bypass",
            RuleVerdict::Refuse => "refuse",
        }
    }
}

/// As it is written, without what it leaves open: `protocol 17, dst_ports 53: bypass`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = |network: Option<Network>| network.map(String::from);
        let keys = [
            ("protocol", self.protocol.map(|protocol| protocol.0.to_string())),
            ("src", network(self.src)),
            ("dst", network(self.dst)),
            ("src_ports", self.src_ports.map(String::from)),
            ("dst_ports", self.dst_ports.map(String::from)),
            ("vlan", self.vlan.map(|vlan| vlan.to_string())),
            ("dscp", self.dscp.map(|dscp| dscp.to_string())),
            ("ssrc", self.ssrc.map(String::from)),
        ];
        let given: Vec<String> =
            keys.into_iter().filter_map(|(key, value)| Some(format!("{key} {}", value?))).collect();
        let what = if given.is_empty() { "every frame".into() } else { given.join(", ") };
        write!(f, "{what}: {}", self.verdict.name())
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
        if self.ssrc.is_some() && self.protocol.is_some_and(|p| p.0 != 17) {
            return Some("ssrc: an SSRC is matched of udp only".into());
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
        assert_eq!("0xCAFE0001".parse(), Ok(SsrcRange { first: 0xcafe_0001, last: 0xcafe_0001 }));
        assert_eq!("0x10 - 31".parse(), Ok(SsrcRange { first: 16, last: 31 }));
        for text in ["", "0x", "2-1", "0x100000000", "-1", "cafe", "0x+1", "1-2-3"] {
            assert!(text.parse::<SsrcRange>().is_err(), "{text}");
        }
        for (key, value, said) in [
            ("dst_ports", "-5", "10000-20000"),
            ("dst_ports", "70000", "10000-20000"),
            ("protocol", "-5", "sctp or its number"),
            ("protocol", "256", "no protocol has number 256"),
            ("ssrc", "4294967296", "0x10-0x1f"),
        ] {
            let rule = format!("{{\"{key}\": {value}, \"verdict\": \"hold\"}}");
            let error = serde_json::from_str::<Rule>(&rule).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_rule_is_told_as_it_was_written_and_read_back() {
        let text = r#"{"protocol":"udp","dst_ports":"53","ssrc":"0x10-0x1f","verdict":"bypass"}"#;
        let rule: Rule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.to_string(), "protocol 17, dst_ports 53, ssrc 0x00000010-0x0000001f: bypass");
        let again: Rule = serde_json::from_str(&serde_json::to_string(&rule).unwrap()).unwrap();
        assert_eq!(again, rule);
        let all: Rule = toml::from_str("verdict = \"hold\"").unwrap();
        assert_eq!(all.to_string(), "every frame: hold");
        let tcp: Rule = toml::from_str("protocol = \"tcp\"\nssrc = 0x10\nverdict = \"hold\"").unwrap();
        assert!(tcp.problem().is_some_and(|what| what.starts_with("ssrc")));
    }
}
