//! From the policy that a person wrote to the one that an lcore asks.

use super::{Config, Guest, Network, PolicyName, PortRange, Rule, RuleVerdict};
use std::path::Path;
use tidegate_dataplane::policy as plane;
use tidegate_dataplane::policy::{CompiledPolicy, PolicyError};

/// What bypasses, as configured or as `policy` changed it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySpec {
    /// The policy.
    pub name: PolicyName,
    /// UDP ports that carry media for certain.
    pub media_ports: Vec<PortRange>,
    /// Rules in front.
    pub rules: Vec<Rule>,
}

impl PolicySpec {
    /// As a guest's section says.
    pub fn of(guest: &Guest) -> Self {
        Self { name: guest.policy, media_ports: guest.media_ports.clone(), rules: guest.rules.clone() }
    }

    /// As the section of `guest` in a file says; without a name, of the only guest there.
    pub fn read(file: &Path, guest: Option<&str>) -> Result<Self, String> {
        let config = Config::read(file)?;
        config.guest(guest).map(Self::of).map_err(|what| format!("{}: {what}", file.display()))
    }

    /// Checks it; a lane's lcore asks the result.
    pub fn compile(&self) -> Result<Box<CompiledPolicy>, PolicyError> {
        self.plane().compile()
    }

    /// The same as the data plane has it, unchecked.
    pub fn plane(&self) -> plane::Policy {
        plane::Policy {
            name: match self.name {
                PolicyName::Realtime => plane::PolicyName::Realtime,
                PolicyName::NonTcp => plane::PolicyName::NonTcp,
                PolicyName::HoldAll => plane::PolicyName::HoldAll,
                PolicyName::BypassAll => plane::PolicyName::BypassAll,
            },
            media_ports: self.media_ports.iter().map(|range| range.first..=range.last).collect(),
            rules: self.rules.iter().map(rule).collect(),
        }
    }
}

fn rule(rule: &Rule) -> plane::Rule {
    let prefix = |n: Network| plane::Prefix { address: n.address, length: n.prefix };
    plane::Rule {
        protocol: rule.protocol.map(|protocol| protocol.0),
        src: rule.src.map(prefix),
        dst: rule.dst.map(prefix),
        sport: rule.src_ports.map(|range| range.first..=range.last),
        dport: rule.dst_ports.map(|range| range.first..=range.last),
        vlan: rule.vlan,
        dscp: rule.dscp,
        ssrc: rule.ssrc.map(|range| range.first..=range.last),
        verdict: match rule.verdict {
            RuleVerdict::Hold => plane::RuleVerdict::Hold,
            RuleVerdict::Bypass => plane::RuleVerdict::Bypass,
            RuleVerdict::Refuse => plane::RuleVerdict::Refuse,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_rule_arrives_and_what_contradicts_itself_is_refused() {
        let text = r#"{"protocol":"udp","src":"10.0.0.0/8","dst":"10.1.0.0/16","src_ports":"1-2",
            "dst_ports":53,"vlan":7,"dscp":46,"ssrc":"0x10-0x1f","verdict":"bypass"}"#;
        let written: Rule = serde_json::from_str(text).expect("a rule");
        let made = rule(&written);
        assert_eq!((made.protocol, made.vlan, made.dscp), (Some(17), Some(7), Some(46)));
        assert_eq!((made.sport, made.dport), (Some(1..=2), Some(53..=53)));
        assert_eq!(made.ssrc, Some(0x10..=0x1f));
        assert_eq!(made.src.map(|p| p.to_string()).as_deref(), Some("10.0.0.0/8"));
        assert_eq!(made.dst.map(|p| p.length), Some(16));
        let mut spec = PolicySpec { rules: vec![written], ..PolicySpec::default() };
        assert!(spec.compile().is_ok());
        spec.name = PolicyName::HoldAll;
        assert!(spec.compile().unwrap_err().to_string().contains("hold-all"), "a bypass rule under hold-all");
    }
}
