//! The raw samples of a scenario, in a directory of its name: what arrived where and when, and under which conditions.
//!
//! | file | what |
//! |---|---|
//! | `wire-0.pcap`, `wire-1.pcap` | all UDP at the peer's port of each host, stamped in nanoseconds, both directions |
//! | `primary.jsonl`, `standby.jsonl` | what `tidegate replicate` and `tidegate standby` told |
//! | `iperf3-inward.log`, `iperf3-outward.log` | the TCP beside the call, every tenth of a second |
//! | `meta.json` | [`Meta`]; written last, so a directory that has it is complete |

use super::conditions::Conditions;
use super::hiccups::Noise;
use super::plugged::Plugged;
use super::scenario::Scenario;
use crate::failure::{Context, Failure, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tidegate_tests::capture::{self, Frame};

const META: &str = "meta.json";
/// Everything else that may be there.
pub const FILES: [&str; 6] = [
    "wire-0.pcap",
    "wire-1.pcap",
    "primary.jsonl",
    "standby.jsonl",
    "iperf3-inward.log",
    "iperf3-outward.log",
];
/// [`Meta::form`] that this program writes and reads.
const FORM: u32 = 1;

/// What is known of a run beside its packets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Of this file and those beside it.
    pub form: u32,
    /// What was run.
    pub scenario: Scenario,
    /// Nanoseconds since 1970: what is measured begins. The VM is protected and the call flows.
    pub begin_ns: u64,
    /// It ends.
    pub end_ns: u64,
    /// The primary was killed.
    pub killed_ns: Option<u64>,
    /// The standby's report of its promotion.
    pub promotion: Option<Value>,
    /// Why the call did not end as a call does.
    pub call_broken: Option<String>,
    /// The plane's own counters at the end.
    pub plane: Option<Value>,
    /// What the router's sch_plug did, where that held.
    #[serde(default)]
    pub plug: Option<Plugged>,
    /// See [`Conditions`].
    pub conditions: Conditions,
    /// See [`Noise`].
    pub noise: Noise,
}

impl Meta {
    /// Of a run that begins.
    pub fn new(scenario: &Scenario, conditions: Conditions) -> Meta {
        Meta {
            form: FORM,
            scenario: scenario.clone(),
            begin_ns: 0,
            end_ns: 0,
            killed_ns: None,
            promotion: None,
            call_broken: None,
            plane: None,
            plug: None,
            conditions,
            noise: Noise::default(),
        }
    }
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Samples(PathBuf);

impl Samples {
    /// Of a scenario below the directory `out`; there may be nothing yet.
    pub fn of(scenario: &Scenario, out: &Path) -> Samples {
        Samples(out.join(&scenario.name))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What was kept, if it is complete.
    pub fn meta(&self) -> Result<Option<Meta>> {
        kept(&self.file(META), FORM)
    }

    /// A directory without samples: those of a former run go, and nothing else does.
    pub fn clear(&self) -> Result<()> {
        // First the mark that it is complete.
        for name in [META].iter().chain(&FILES) {
            let path = self.file(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::new(format!("cannot remove {}: {error}", path.display())));
                }
                _ => {}
            }
        }
        fs::create_dir_all(&self.0).context(|| format!("cannot make {}", self.0.display()))
    }

    /// Takes over a file of the run.
    pub fn keep(&self, from: &Path, name: &str) -> Result<()> {
        fs::copy(from, self.file(name)).context(|| format!("cannot keep {}", from.display())).map(drop)
    }

    /// Takes over events, a line each.
    pub fn keep_lines(&self, events: &[Value], name: &str) -> Result<()> {
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        let path = self.file(name);
        fs::write(&path, lines).context(|| format!("cannot write {}", path.display()))
    }

    /// Marks it as complete.
    pub fn complete(&self, meta: &Meta) -> Result<()> {
        let (path, aside) = (self.file(META), self.file("meta.part"));
        let text = serde_json::to_string(meta).context(|| "the conditions cannot be written".into())?;
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .context(|| format!("cannot write {}", path.display()))
    }

    /// The packets, of both wires in the order in which they came.
    pub fn frames(&self) -> Result<Vec<Frame>> {
        let mut frames = capture::read(&self.file("wire-0.pcap"))?;
        let second = self.file("wire-1.pcap");
        if second.exists() {
            frames.extend(capture::read(&second)?);
        }
        frames.sort_by_key(|frame| frame.at_ns);
        Ok(frames)
    }

    /// What the primary told.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// What a run kept of itself in a file of this form; none where there is no file.
pub fn kept<T: serde::de::DeserializeOwned>(path: &Path, form: u32) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.context(|| format!("cannot read {}", path.display()))?,
    };
    let what = || format!("{}: not what this program writes; take another --out, or --again", path.display());
    let value: Value = serde_json::from_str(&text).context(what)?;
    if value["form"] != form {
        return Err(Failure::new(format!("{} (its form is {}, not {form})", what(), value["form"])));
    }
    serde_json::from_value(value).context(what).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_complete_only_once_its_meta_is_written() {
        let out = std::env::temp_dir().join(format!("tidegate-bench-samples-{}", std::process::id()));
        let scenario = Scenario::paper().unwrap().remove(0);
        let samples = Samples::of(&scenario, &out);
        assert_eq!(samples.meta().unwrap(), None);
        samples.clear().unwrap();
        fs::write(samples.file("wire-0.pcap"), "half").unwrap();
        assert_eq!(samples.meta().unwrap(), None, "interrupted");
        let meta = Meta::new(&scenario, Conditions::default());
        samples.complete(&meta).unwrap();
        assert_eq!(samples.meta().unwrap(), Some(meta));
        fs::write(samples.file(META), "{\"form\":0}").unwrap();
        let refusal = samples.meta().unwrap_err().to_string();
        assert!(refusal.contains("--again") && refusal.contains("form is 0"), "{refusal}");
        samples.clear().unwrap();
        assert_eq!((samples.meta().unwrap(), samples.file("wire-0.pcap").exists()), (None, false));
        fs::remove_dir_all(out).unwrap();
    }
}
