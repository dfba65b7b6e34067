//! The raw samples of a cell, in a directory of its name.
//!
//! | file | what |
//! |---|---|
//! | `wire.pcap` | all UDP at the peer's port, stamped in nanoseconds, both directions |
//! | `transactions.csv`, `signalling.csv` | each request: when it was intended, when it was answered |
//! | `held.csv` | what the plane held, every few milliseconds |
//! | `primary.jsonl` | what `tidegate replicate` told while it was measured |
//! | `iperf3-outward.log`, `iperf3-inward.log` | the TCP, every tenth of a second |
//! | `meta.json` | [`Meta`]; written last, so a directory that has it is complete |

use super::plan::{Cell, Load};
use crate::failure::{Context, Failure, Result};
use crate::testbed::conditions::Conditions;
use crate::testbed::hiccups::Noise;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

const META: &str = "meta.json";
/// [`Meta::form`] that this program writes and reads.
const FORM: u32 = 1;

/// What is known of a cell beside its samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Of this file and those beside it.
    pub form: u32,
    /// The pace, as a word.
    pub pace: String,
    /// Calls at once.
    pub calls: u16,
    /// TCP beside them.
    pub load: Load,
    /// How long was to be measured, milliseconds.
    pub length_ms: u64,
    /// Nanoseconds since 1970: what is measured begins.
    pub begin_ns: u64,
    /// It ends.
    pub end_ns: u64,
    /// See [`Conditions`].
    pub conditions: Conditions,
    /// See [`Noise`].
    pub noise: Noise,
}

impl Meta {
    /// Of a cell that begins.
    pub fn new(cell: &Cell, length_ms: u64, conditions: Conditions) -> Meta {
        Meta {
            form: FORM,
            pace: cell.pace.to_string(),
            calls: cell.calls,
            load: cell.load,
            length_ms,
            begin_ns: 0,
            end_ns: 0,
            conditions,
            noise: Noise::default(),
        }
    }
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Samples(PathBuf);

impl Samples {
    /// Of a cell below `out`; there may be nothing yet.
    pub fn of(cell: &Cell, out: &Path) -> Samples {
        Samples(out.join(cell.name()))
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What was kept, if it is complete.
    pub fn meta(&self) -> Result<Option<Meta>> {
        crate::testbed::samples::kept(&self.file(META), FORM)
    }

    /// Begins anew: what is not complete any more is not taken for it.
    pub fn clear(&self) -> Result<()> {
        match fs::remove_file(self.file(META)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::new(format!("cannot remove {}: {error}", self.file(META).display())));
            }
            _ => {}
        }
        fs::create_dir_all(&self.0).context(|| format!("cannot make {}", self.0.display()))
    }

    /// Keeps a text.
    pub fn keep(&self, name: &str, text: &str) -> Result<()> {
        let path = self.file(name);
        fs::write(&path, text).context(|| format!("cannot write {}", path.display()))
    }

    /// Keeps a file of the run.
    pub fn keep_file(&self, from: &Path, name: &str) -> Result<()> {
        fs::copy(from, self.file(name)).context(|| format!("cannot keep {}", from.display())).map(drop)
    }

    /// A text that was kept; empty where there is none.
    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// Marks it as complete.
    pub fn complete(&self, meta: &Meta) -> Result<()> {
        let (path, aside) = (self.file(META), self.file("meta.part"));
        let text = serde_json::to_string(meta).context(|| "the conditions cannot be written".into())?;
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Pace;
    use super::*;
    use tidegate_control::cli::Interval;

    #[test]
    fn a_cell_is_complete_only_once_its_meta_is_written() {
        let out = std::env::temp_dir().join(format!("tidegate-bench-sweep-{}", std::process::id()));
        let cell = Cell { pace: Pace(Interval::Auto), calls: 3, load: Load::Full };
        let samples = Samples::of(&cell, &out);
        samples.clear().unwrap();
        samples.keep("held.csv", "half").unwrap();
        assert_eq!(samples.meta().unwrap(), None, "interrupted");
        let meta = Meta::new(&cell, 5000, Conditions::default());
        samples.complete(&meta).unwrap();
        assert_eq!((samples.meta().unwrap(), samples.text("held.csv").as_str()), (Some(meta), "half"));
        samples.keep(META, "{\"form\":0}").unwrap();
        assert!(samples.meta().unwrap_err().to_string().contains("--again"));
        samples.clear().unwrap();
        assert_eq!(samples.meta().unwrap(), None);
        fs::remove_dir_all(out).unwrap();
    }
}
