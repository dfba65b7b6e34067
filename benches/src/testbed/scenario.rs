//! What is to be measured: a file of scenarios, each a panel of a figure.
//!
//! ```toml
//! [[scenario]]
//! name = "6-realtime-400"        # its directory below --out: a-z, 0-9 and -
//! figure = "6"                   # panels of one figure stand together
//! title = "Real-time media let go, 400 ms"
//! about = "One sentence under the title."          # may be left out
//! guest = "vm"                   # none: the server is a process of the host
//! call = "through"               # between two phones outside, through kamailio and rtpengine; "to": to the server (the default)
//! length = "20s"                 # of what is measured, 2s to 1h
//! tcp = true                     # iperf3 both ways beside the call (the default)
//! replicate = { policy = "realtime", interval = "400ms" }   # without it nothing is held
//! replicate = { policy = "hold-all", interval = "400ms", gate = "sch_plug" }   # a router VM holds, as a Remus host does
//! kill = true                    # the primary dies in the middle
//! ```

use crate::failure::{Context, Failure, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tidegate_dataplane::policy::PolicyName;

/// The paper's figures.
const FIGURES: &str = include_str!("../../figures.toml");
/// Of [`Scenario::length`].
const LENGTHS: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(3600);
/// Of [`Replicate::interval`].
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);

/// What the server of the calls runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guest {
    /// It is a process of the host.
    None,
    /// A VM behind a plane.
    Vm,
}

/// Whom the call is with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallWay {
    /// The server itself answers and talks.
    #[default]
    To,
    /// Two phones outside talk to each other; signalling and media pass the server.
    Through,
}

/// What holds the VM's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The planes.
    #[default]
    Tidegate,
    /// A router VM behind a plane that lets everything go: the kernel's own sch_plug on an IFB, told of the same closes
    /// and commits.
    SchPlug,
}

/// How the VM is replicated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicate {
    /// What the planes hold: `realtime`, `non-tcp`, `hold-all`, `bypass-all`.
    pub policy: String,
    /// From one checkpoint to the next.
    #[serde(with = "span")]
    pub interval: Duration,
    /// What does the holding.
    #[serde(default)]
    pub gate: Gate,
}

/// One panel. See the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Unique in its file; a directory's name.
    pub name: String,
    /// The figure that it belongs to.
    pub figure: String,
    /// For people.
    pub title: String,
    /// One sentence more.
    #[serde(default)]
    pub about: String,
    /// Where the server is.
    pub guest: Guest,
    /// Whom the call is with.
    #[serde(default)]
    pub call: CallWay,
    /// How long is measured.
    #[serde(with = "span")]
    pub length: Duration,
    /// TCP both ways beside the call.
    #[serde(default = "yes")]
    pub tcp: bool,
    /// Not at all, if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicate: Option<Replicate>,
    /// The primary dies at half of the length.
    #[serde(default)]
    pub kill: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Scenario>,
}

impl Scenario {
    /// Those of the paper.
    pub fn paper() -> Result<Vec<Scenario>> {
        Scenario::parse(FIGURES, "benches/figures.toml")
    }

    /// Those of a file.
    pub fn read(path: &Path) -> Result<Vec<Scenario>> {
        let text = std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?;
        Scenario::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, file: &str) -> Result<Vec<Scenario>> {
        let File { scenario: scenarios } = toml::from_str(text).context(|| file.to_owned())?;
        let mut names = BTreeSet::new();
        for scenario in &scenarios {
            let wrong = |what: String| Failure::new(format!("{file}: scenario {:?}: {what}", scenario.name));
            scenario.check().map_err(wrong)?;
            if !names.insert(&scenario.name) {
                return Err(wrong("the name is there twice; each has a directory of that name".into()));
            }
        }
        if scenarios.is_empty() {
            return Err(Failure::new(format!("{file}: there is no [[scenario]] in it")));
        }
        Ok(scenarios)
    }

    /// What is wrong with it, and what would be right.
    pub fn check(&self) -> std::result::Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > 40 || !self.name.chars().all(plain) {
            return Err("a name has 1 to 40 of a-z, 0-9 and -".into());
        }
        if !LENGTHS.contains(&self.length) {
            return Err(format!("length is {:?}; it goes from 2s to 1h", self.length));
        }
        if (self.guest, self.call) == (Guest::None, CallWay::Through) {
            return Err("call = \"through\" wants guest = \"vm\": kamailio and rtpengine are in there".into());
        }
        let Some(replicate) = &self.replicate else {
            let dies = "kill = true wants a standby: add replicate = { policy = \"realtime\", interval = \"100ms\" }";
            return if self.kill { Err(dies.into()) } else { Ok(()) };
        };
        if self.guest == Guest::None {
            return Err(
                "guest = \"none\" cannot be replicated: take guest = \"vm\", or leave replicate out".into()
            );
        }
        if replicate.policy.parse::<PolicyName>().is_err() {
            let known = PolicyName::ALL.map(PolicyName::name).join(", ");
            return Err(format!("there is no policy {:?}; there are {known}", replicate.policy));
        }
        if replicate.gate == Gate::SchPlug {
            // What the router's filter can tell apart: all IPv4, or TCP.
            if !["hold-all", "non-tcp"].contains(&replicate.policy.as_str()) {
                return Err("gate = \"sch_plug\" knows the policies hold-all and non-tcp only".into());
            }
            if self.kill {
                return Err("gate = \"sch_plug\" has one host's router only: leave kill out".into());
            }
        }
        if !INTERVALS.contains(&replicate.interval) {
            return Err(format!("interval is {:?}; it goes from 10ms to 10s", replicate.interval));
        }
        Ok(())
    }
}

/// Spans as people write them.
mod span {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        match span.subsec_nanos() % 1_000_000 {
            0 => to.serialize_str(&format!("{}ms", span.as_millis())),
            _ => to.serialize_str(&format!("{}ns", span.as_nanos())),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        tidegate_control::quantity::span(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[[scenario]]\nname = \"a\"\nfigure = \"6\"\ntitle = \"T\"\nguest = \"vm\"\nlength = \"20s\"\n\
                        replicate = { policy = \"realtime\", interval = \"400ms\" }\n";

    #[test]
    fn the_papers_figures_are_all_there() {
        let paper = Scenario::paper().unwrap();
        let figures: BTreeSet<&str> = paper.iter().map(|scenario| scenario.figure.as_str()).collect();
        assert_eq!(figures, BTreeSet::from(["3", "4", "5", "6", "7"]));
        assert!(paper.iter().any(|scenario| scenario.kill));
        assert_eq!(paper[0].guest, Guest::None);
    }

    #[test]
    fn a_scenario_is_the_same_after_it_was_kept() {
        let scenario = Scenario::parse(GOOD, "f").unwrap().remove(0);
        assert!(scenario.tcp && !scenario.kill);
        let kept = serde_json::to_string(&scenario).unwrap();
        assert_eq!(serde_json::from_str::<Scenario>(&kept).unwrap(), scenario);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place_and_what_would() {
        for (from, to, said) in [
            ("name = \"a\"", "name = \"A b\"", "a-z"),
            ("\"20s\"", "\"1s\"", "from 2s to 1h"),
            ("\"20s\"", "\"20\"", "line 6"),
            ("\"20s\"", "\"20\"", "200ms"),
            ("realtime", "remus", "hold-all"),
            ("400ms", "1ms", "from 10ms"),
            ("\"vm\"", "\"none\"", "cannot be replicated"),
            ("\"vm\"", "\"xen\"", "unknown variant"),
            ("title", "titel", "titel"),
            ("replicate = { policy = \"realtime\", interval = \"400ms\" }", "kill = true", "wants a standby"),
            ("\"vm\"", "\"none\"\ncall = \"through\"", "wants guest"),
            ("\"400ms\" }", "\"400ms\", gate = \"sch_plug\" }", "hold-all and non-tcp"),
            (
                "realtime\", interval = \"400ms\" }",
                "non-tcp\", interval = \"400ms\", gate = \"sch_plug\" }\nkill = true",
                "one host",
            ),
            ("\"400ms\" }", "\"400ms\", gate = \"qdisc\" }", "unknown variant"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            let refusal = Scenario::parse(&text, "mine.toml").unwrap_err().to_string();
            assert!(refusal.contains(said) && refusal.contains("mine.toml"), "{to}: {refusal}");
        }
        let twice = Scenario::parse(&GOOD.repeat(2), "f").unwrap_err().to_string();
        assert!(twice.contains("twice"), "{twice}");
        assert!(Scenario::parse("scenario = []", "f").unwrap_err().to_string().contains("[[scenario]]"));
    }
}
