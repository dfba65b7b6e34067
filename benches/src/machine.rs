//! What a bench needs of the machine: two CPUs, memory, a directory.

use crate::failure::{Context, Failure, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Where mbufs live, in every process of a bench alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pages {
    /// Huge pages of 2 MiB.
    Huge,
    /// Ordinary pages.
    NoHuge,
}

impl Pages {
    /// Huge pages when `mib` of them are free.
    pub fn choose(mib: u32) -> Pages {
        let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        let free: u32 = free.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if free >= mib.div_ceil(2) { Pages::Huge } else { Pages::NoHuge }
    }

    /// The words that ask EAL for it.
    pub fn eal_args(self, mib: u32) -> Vec<String> {
        match self {
            Pages::Huge => {
                vec!["--in-memory".into(), "--single-file-segments".into(), format!("--socket-mem={mib}")]
            }
            Pages::NoHuge => vec!["--no-huge".into(), "-m".into(), mib.to_string()],
        }
    }
}

/// One CPU for what is measured, one for what feeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cpus {
    /// The lcore of the device under test.
    pub dut: u32,
    /// The lcore of the generator.
    pub generator: u32,
}

impl Cpus {
    /// The last and the first CPU allowed to this process: the first one is where kernels put their own work.
    pub fn choose() -> Result<Cpus> {
        let status =
            fs::read_to_string("/proc/self/status").context(|| "cannot read /proc/self/status".into())?;
        let list =
            status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
        let mut cpus = list.trim().split([',', '-']).filter_map(|word| word.parse().ok());
        match (cpus.next(), cpus.next_back()) {
            (Some(generator), Some(dut)) if generator != dut => Ok(Cpus { dut, generator }),
            _ => Err(Failure::new(
                "this bench needs two CPUs, one for the program measured and one for the generator; only one is \
                 allowed to this process (see `taskset -cp $$`)",
            )),
        }
    }
}

/// A directory for sockets, configurations and logs; gone when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Below the system's directory for temporary files. Short, because a socket's path is at most 107 bytes.
    pub fn new() -> Result<Scratch> {
        let dir = std::env::temp_dir().join(format!("tidegate-bench-{}", std::process::id()));
        fs::create_dir_all(&dir).context(|| format!("cannot make {}", dir.display()))?;
        Ok(Scratch(dir))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // What cannot be removed now is a temporary file all the same.
    }
}
