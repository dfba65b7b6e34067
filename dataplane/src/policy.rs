//! What is held and what is not: a named policy, ports that the operator vouches for, and rules in front.
//!
//! A [`Policy`] is what a person writes; [`Policy::compile`] checks it and makes the [`CompiledPolicy`]
//! that the lcore asks.

mod compiled;
mod plain;

pub use compiled::CompiledPolicy;

use crate::wire::address_bytes;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Rules and port ranges that a policy may have of each.
pub const MAX: usize = 64;

/// The four policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum PolicyName {
    /// Real-time media and announcements pass, everything else waits.
    #[default]
    Realtime,
    /// TCP waits, everything else passes.
    NonTcp,
    /// Everything waits but the plane's own announcements.
    HoldAll,
    /// Everything passes.
    BypassAll,
}

impl PolicyName {
    /// All policies.
    pub const ALL: [PolicyName; 4] =
        [PolicyName::Realtime, PolicyName::NonTcp, PolicyName::HoldAll, PolicyName::BypassAll];

    /// The word used in files, on the socket and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            PolicyName::Realtime => "realtime",
            PolicyName::NonTcp => "non-tcp",
            PolicyName::HoldAll => "hold-all",
            PolicyName::BypassAll => "bypass-all",
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PolicyName {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        PolicyName::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| PolicyError::UnknownPolicy(text.to_owned()))
    }
}

/// What a rule says of a frame that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleVerdict {
    /// To the wire at once.
    Bypass,
    /// Wait for the commit.
    Hold,
    /// Not to the wire at all.
    Refuse,
}

impl RuleVerdict {
    /// The word used in files, on the socket and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            RuleVerdict::Bypass => "bypass",
            RuleVerdict::Hold => "hold",
            RuleVerdict::Refuse => "refuse",
        }
    }
}

impl fmt::Display for RuleVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RuleVerdict {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        [RuleVerdict::Bypass, RuleVerdict::Hold, RuleVerdict::Refuse]
            .into_iter()
            .find(|verdict| verdict.name() == text)
            .ok_or_else(|| PolicyError::UnknownVerdict(text.to_owned()))
    }
}

/// An address and how many of its leading bits count: `10.0.0.0/8`, `2001:db8::/32`, `10.0.0.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address; bits behind the length must be 0.
    pub address: IpAddr,
    /// Leading bits that count: up to 32 for IPv4, 128 for IPv6.
    pub length: u8,
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let bad = || PolicyError::BadPrefix(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix = Prefix { address, length: length.unwrap_or(if address.is_ipv4() { 32 } else { 128 }) };
        if prefix.is_valid() { Ok(prefix) } else { Err(bad()) }
    }
}

impl Prefix {
    fn is_valid(self) -> bool {
        let widest = if self.address.is_ipv4() { 32 } else { 128 };
        self.length <= widest && {
            let (bits, mask) = self.bits();
            bits & !mask == 0
        }
    }

    /// The address as IPv4-mapped or plain IPv6 bits, and the mask for them.
    fn bits(self) -> (u128, u128) {
        let skipped = if self.address.is_ipv4() { 96 } else { 0 };
        let length = (skipped + self.length.min(128 - skipped)) as u32;
        let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
        (u128::from_be_bytes(address_bytes(self.address)), mask)
    }
}

/// One rule: a frame that agrees with everything given gets the verdict. The first rule that matches
/// decides. Something given that a frame does not have (ports of an ARP) does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// IP protocol number, 17 for UDP; behind IPv6 extension headers.
    pub protocol: Option<u8>,
    /// Source address.
    pub src: Option<Prefix>,
    /// Destination address.
    pub dst: Option<Prefix>,
    /// Source port of UDP or TCP.
    pub sport: Option<RangeInclusive<u16>>,
    /// Destination port of UDP or TCP.
    pub dport: Option<RangeInclusive<u16>>,
    /// VLAN id of the outermost tag; 0 for frames without one.
    pub vlan: Option<u16>,
    /// Differentiated services code point.
    pub dscp: Option<u8>,
    /// Synchronisation source of RTP, or of RTCP's sender. Matches nothing that fails the check of either header.
    pub ssrc: Option<RangeInclusive<u32>>,
    /// What becomes of such a frame.
    pub verdict: RuleVerdict,
}

impl Rule {
    /// A rule that matches every frame whose headers can be read.
    pub const fn new(verdict: RuleVerdict) -> Self {
        Rule {
            protocol: None,
            src: None,
            dst: None,
            sport: None,
            dport: None,
            vlan: None,
            dscp: None,
            ssrc: None,
            verdict,
        }
    }
}

/// What an operator chooses for a guest or a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Which of the four.
    pub name: PolicyName,
    /// The guest's own UDP ports whose RTP is media from its first packet on. RTP's header checks and the
    /// sequence window of each stream still hold.
    pub media_ports: Vec<RangeInclusive<u16>>,
    /// Asked in order before the policy itself. The plane's own announcements pass before any rule.
    pub rules: Vec<Rule>,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        Policy { name, ..Policy::default() }
    }
}

/// What is wrong with a policy. Rules and ranges are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// No policy has this name.
    UnknownPolicy(String),
    /// No verdict has this name.
    UnknownVerdict(String),
    /// Not an address with a prefix length, or with bits behind it.
    BadPrefix(String),
    /// More rules than [`MAX`].
    TooManyRules(usize),
    /// More port ranges than [`MAX`].
    TooManyRanges(usize),
    /// A range of media ports that is empty, or reaches below 1024.
    MediaPorts(usize, RangeInclusive<u16>),
    /// A rule that can match nothing or says something impossible, and why.
    Rule(usize, &'static str),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::UnknownPolicy(text) => {
                write!(f, "unknown policy {text:?}: say realtime, non-tcp, hold-all or bypass-all")
            }
            PolicyError::UnknownVerdict(text) => {
                write!(f, "unknown verdict {text:?}: say bypass, hold or refuse")
            }
            PolicyError::BadPrefix(text) => write!(
                f,
                "{text:?} is no address prefix: write an address, or one with a length and no bits behind \
                 it, such as 10.0.0.0/8 or 2001:db8::/32"
            ),
            PolicyError::TooManyRules(n) => {
                write!(f, "{n} rules: {MAX} is the most; merge prefixes or port ranges")
            }
            PolicyError::TooManyRanges(n) => {
                write!(f, "{n} ranges of media ports: {MAX} is the most; merge neighbours")
            }
            PolicyError::MediaPorts(n, range) => write!(
                f,
                "range {n} of the media ports, {}-{}: write the lower port first, 1024 or above",
                range.start(),
                range.end()
            ),
            PolicyError::Rule(n, why) => write!(f, "rule {n}: {why}"),
        }
    }
}

impl std::error::Error for PolicyError {}

impl Policy {
    /// Says what is wrong, if anything is.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.rules.len() > MAX {
            return Err(PolicyError::TooManyRules(self.rules.len()));
        }
        if self.media_ports.len() > MAX {
            return Err(PolicyError::TooManyRanges(self.media_ports.len()));
        }
        for (n, range) in self.media_ports.iter().enumerate() {
            if range.is_empty() || *range.start() < 1024 {
                return Err(PolicyError::MediaPorts(n + 1, range.clone()));
            }
        }
        for (n, rule) in self.rules.iter().enumerate() {
            rule.validate(self.name).map_err(|why| PolicyError::Rule(n + 1, why))?;
        }
        Ok(())
    }

    /// Checks the policy and makes what the lcore asks.
    pub fn compile(&self) -> Result<Box<CompiledPolicy>, PolicyError> {
        self.validate()?;
        Ok(CompiledPolicy::new(self))
    }
}

impl Rule {
    fn validate(&self, policy: PolicyName) -> Result<(), &'static str> {
        if policy == PolicyName::HoldAll && self.verdict == RuleVerdict::Bypass {
            return Err("says bypass, but hold-all bypasses nothing; choose another policy or drop the rule");
        }
        if self.vlan.is_some_and(|id| id > 4094) {
            return Err("VLAN ids end at 4094 (0 is for frames without a tag)");
        }
        if self.dscp.is_some_and(|dscp| dscp > 63) {
            return Err("code points end at 63; a TOS byte is four times as much");
        }
        for range in [&self.sport, &self.dport].into_iter().flatten() {
            if range.is_empty() {
                return Err("a port range is empty; write the lower port first");
            }
            if self.protocol.is_some_and(|protocol| !matches!(protocol, 6 | 17)) {
                return Err("ports are matched of TCP (6) and UDP (17) only");
            }
        }
        if let Some(range) = &self.ssrc {
            if range.is_empty() {
                return Err("an SSRC range is empty; write the lower one first");
            }
            if self.protocol.is_some_and(|protocol| protocol != 17) {
                return Err("an SSRC is matched of UDP (17) only");
            }
        }
        for prefix in [self.src, self.dst].into_iter().flatten() {
            if !prefix.is_valid() {
                return Err("a prefix has bits behind its length, or is longer than its address");
            }
        }
        match (self.src, self.dst) {
            (Some(src), Some(dst)) if src.address.is_ipv4() != dst.address.is_ipv4() => {
                Err("one address is IPv4 and the other IPv6; write two rules")
            }
            _ => Ok(()),
        }
    }

    /// The IP versions (bit 0: none, 1: IPv4, 2: IPv6) of frames that can match.
    fn versions(&self) -> u8 {
        match self.src.or(self.dst) {
            Some(prefix) if prefix.address.is_ipv4() => 0b010,
            Some(_) => 0b100,
            None if self.protocol.is_some() || self.dscp.is_some() => 0b110,
            None if self.has_ports() || self.ssrc.is_some() => 0b110,
            None => 0b111,
        }
    }

    fn has_ports(&self) -> bool {
        self.sport.is_some() || self.dport.is_some()
    }
}

#[cfg(test)]
mod tests;
