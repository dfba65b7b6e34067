//! The rig as the bench sees it: a process that is asked and answers.

use super::{Ask, Load, Seen};
use crate::failure::{Context, Result};
use crate::machine::{Cpus, Pages, Scratch};
use crate::process::Running;

/// What a process of it is made for.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Mbufs.
    pub mbufs: u32,
    /// Bytes of frame that fit one.
    pub data_room: u16,
    /// Lanes.
    pub lanes: u16,
}

impl Size {
    /// MiB that it takes: an mbuf's own lines and headroom go with each, and on plain pages whole pages do.
    pub fn memory_mib(self) -> u32 {
        let mbuf = u64::from(self.data_room) + 384;
        (u64::from(self.mbufs) * mbuf * 9 / 8 / (1 << 20)) as u32 + 64
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Rig {
    running: Running,
    /// Where its mbufs live.
    pub pages: Pages,
}

impl Rig {
    /// Starts it.
    pub fn start(size: Size, cpus: Cpus, pages: Option<Pages>, scratch: &Scratch) -> Result<Rig> {
        let pages = pages.unwrap_or_else(|| Pages::choose(size.memory_mib()));
        let mut args = vec!["rig".to_owned()];
        let mut option = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        option("cpu", cpus.dut.to_string());
        option("pages", if pages == Pages::Huge { "huge" } else { "no-huge" }.into());
        option("memory-mib", size.memory_mib().to_string());
        option("mbufs", size.mbufs.to_string());
        option("data-room", size.data_room.to_string());
        option("lanes", size.lanes.to_string());
        let this = std::env::current_exe().context(|| "cannot find this program".into())?;
        let running = Running::start_to_ask(&this, &args, scratch.dir(), "rig")?;
        Ok(Rig { running, pages })
    }

    /// Asks one thing.
    pub fn ask(&mut self, what: Ask) -> Result<Seen> {
        let question = serde_json::to_string(&what).context(|| "a request".into())?;
        let answer = self.running.ask(&question)?;
        serde_json::from_str(&answer).context(|| format!("the rig said {answer:?}"))
    }

    /// See [`Ask::Carry`].
    pub fn carry(&mut self, load: Load, ms: u64) -> Result<Seen> {
        self.ask(Ask::Carry { load, ms })
    }

    /// See [`Ask::Release`].
    pub fn release(&mut self, load: Load, frames: u64, times: u32) -> Result<Seen> {
        self.ask(Ask::Release { load, frames, times })
    }
}
