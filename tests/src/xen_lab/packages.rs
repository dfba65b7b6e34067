//! Xen and a kernel for its Dom0, from Debian's packages: downloaded once, unpacked beside each other, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Context, Failure, Result};
use crate::process::run;

/// What a Dom0 needs, and for the laboratory's own look at a domain the headers of Xen's library.
const PACKAGES: [&str; 16] = [
    "xen-hypervisor-4.17-amd64",
    "xen-utils-4.17",
    "libxenmisc4.17",
    "libxenstore4",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "xenstore-utils",
    "libxen-dev",
    // The cloud kernel is no Dom0.
    "linux-image-amd64",
];
/// Prints what an emulated domain does; see there.
const DOMPOLL: &str = include_str!("../../xen/dompoll.c");
/// Where Debian keeps libraries.
pub const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The unpacked packages.
#[derive(Debug, Clone)]
pub struct Packages {
    /// The directory that they share.
    pub root: PathBuf,
    /// The hypervisor, unpacked: that is how QEMU boots it.
    pub hypervisor: PathBuf,
    /// The kernel, of Dom0 and domain.
    pub kernel: PathBuf,
    /// Its release.
    pub release: String,
    /// The watcher of a domain, built.
    pub dompoll: PathBuf,
}

impl Packages {
    /// From the cache, or fetched into it with apt-get.
    pub fn ready(cache: &Path) -> Result<Packages> {
        let done = cache.join("unpacked");
        if !done.exists() {
            fetch(cache)?;
        }
        let root = cache.join("root");
        let release = only_entry(&root.join("lib/modules"))?;
        let packages = Packages {
            hypervisor: cache.join("xen"),
            kernel: root.join(format!("boot/vmlinuz-{release}")),
            dompoll: cache.join("dompoll"),
            root,
            release,
        };
        if !done.exists() {
            run(&format!("depmod -b {} {}", packages.root.display(), packages.release))?;
            packages.unpack_hypervisor()?;
            packages.build_dompoll(cache)?;
            fs::write(&done, "").context(|| format!("cannot write {}", done.display()))?;
        }
        Ok(packages)
    }

    fn unpack_hypervisor(&self) -> Result<()> {
        let boot = self.root.join("boot");
        let entries = fs::read_dir(&boot).context(|| format!("cannot read {}", boot.display()))?;
        let packed = entries.flatten().map(|entry| entry.path()).find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("xen-") && name.ends_with(".gz")
        });
        let packed = packed.ok_or_else(|| Failure::new(format!("no hypervisor in {}", boot.display())))?;
        let unpacked = Command::new("gunzip").arg("-c").arg(&packed).output();
        let unpacked = unpacked.context(|| "cannot run gunzip".to_owned())?;
        crate::ensure!(unpacked.status.success(), "gunzip cannot read {}", packed.display());
        fs::write(&self.hypervisor, unpacked.stdout)
            .context(|| format!("cannot write {}", self.hypervisor.display()))
    }

    fn build_dompoll(&self, cache: &Path) -> Result<()> {
        let source = cache.join("dompoll.c");
        fs::write(&source, DOMPOLL).context(|| format!("cannot write {}", source.display()))?;
        let (root, libraries) = (self.root.display(), self.root.join(LIBRARIES));
        let libraries = libraries.display();
        run(&format!(
            "gcc -O2 -I {root}/usr/include -o {} {} -L {libraries} -Wl,-rpath-link,{libraries} -lxenctrl",
            self.dompoll.display(),
            source.display()
        ))
        .map(drop)
    }
}

fn fetch(cache: &Path) -> Result<()> {
    let (archives, root) = (cache.join("archives"), cache.join("root"));
    // What an interrupted run left may be half a file.
    for directory in [&archives, &root] {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut wanted: Vec<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
    if let Some(last) = wanted.last_mut() {
        *last = kernel_package()?;
    }
    let fetched =
        Command::new("apt-get").args(["-q", "download"]).args(&wanted).current_dir(&archives).output();
    let fetched =
        fetched.context(|| "cannot run apt-get: this laboratory is made of Debian's packages".to_owned())?;
    crate::ensure!(
        fetched.status.success(),
        "apt-get download ended with {} (apt-get update may help):\n{}",
        fetched.status,
        String::from_utf8_lossy(&fetched.stderr)
    );
    let entries = fs::read_dir(&archives).context(|| format!("cannot read {}", archives.display()))?;
    for archive in entries.flatten() {
        run(&format!("dpkg-deb -x {} {}", archive.path().display(), root.display()))?;
    }
    let _ = fs::remove_dir_all(&archives);
    Ok(())
}

/// The package that the kernel's meta-package stands for.
fn kernel_package() -> Result<String> {
    let said = run("apt-cache depends linux-image-amd64")?;
    said.lines()
        .find_map(|line| {
            line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-"))
        })
        .map(str::to_owned)
        .ok_or_else(|| Failure::new("apt-cache knows no kernel behind linux-image-amd64: apt-get update"))
}

fn only_entry(directory: &Path) -> Result<String> {
    let entries = fs::read_dir(directory).context(|| format!("cannot read {}", directory.display()))?;
    let mut names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.next().ok_or_else(|| Failure::new(format!("{} is empty", directory.display())))
}
