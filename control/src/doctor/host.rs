//! The host as the doctor sees it: files below a root, and a few facts that no file tells.

use nix::sys::resource::{Resource, getrlimit};
use std::path::{Path, PathBuf};

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Host {
    pub(super) root: PathBuf,
    /// The version of DPDK that the plane loads, or why it does not.
    pub dpdk: Result<String, String>,
    /// The effective user is root.
    pub root_user: bool,
    /// `RLIMIT_MEMLOCK`, bytes; `u64::MAX` for none.
    pub memlock: u64,
    /// The kernel's release, `uname -r`.
    pub release: String,
    /// Interfaces that have an address; a link-local one, which every interface has that is up, does not count.
    pub addressed: Vec<String>,
}

/// As [`Host::addressed`] says, of this host.
fn addressed() -> Vec<String> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let real = all.filter(|entry| {
        entry.address.is_some_and(|address| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(_), _) => true,
            (_, Some(v6)) => !v6.ip().is_unicast_link_local(),
            _ => false,
        })
    });
    real.map(|entry| entry.interface_name).collect()
}

impl Host {
    /// The host we run on.
    pub fn this() -> Host {
        let dpdk = match crate::cli::plane_program() {
            Some(program) => crate::cli::dpdk_version(&program),
            None => Err("tidegate-plane is not beside this program; install tidegate again".into()),
        };
        let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        Host {
            root: "/".into(),
            dpdk,
            root_user: nix::unistd::geteuid().is_root(),
            memlock: getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft),
            release: release.unwrap_or_default(),
            addressed: addressed(),
        }
    }

    /// A host that has nothing but what lies below `root`.
    pub fn bare(root: &Path) -> Host {
        let dpdk = Err("libdpdk cannot be loaded; install it: apt-get install dpdk".into());
        Host {
            root: root.into(),
            dpdk,
            root_user: false,
            memlock: 0,
            release: "6.1.0".into(),
            addressed: Vec::new(),
        }
    }

    /// A path on it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file; empty when there is none.
    pub fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// The number in a file.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path).trim().parse().ok()
    }

    /// Names in a directory, sorted.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    /// The last part of what a symbolic link names.
    pub fn link(&self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }
}
