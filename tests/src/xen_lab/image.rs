//! A Dom0's whole user space as an initramfs: Xen's tools, tidegate, and within it the domain's kernel and user space.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::packages::{LIBRARIES, Packages};
use crate::failure::{Context, Failure, Result};
use crate::guest_image::{Entry, Files, load_order, read, which, write_archive};
use crate::process::run;

const DOM0: &str = include_str!("../../xen/dom0.sh");
const DOMAIN: &str = include_str!("../../xen/guest.sh");
const CONFIGURATION: &str = include_str!("../../xen/pbx.cfg");
/// The hotplug script, as it is installed.
const HOTPLUG: &str = include_str!("../../../scripts/vif-tidegate");
/// The script's place for the domain's NIC.
pub const PLACE: &str = "tg-pbx0";

const DOM0_MODULES: [&str; 12] = [
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xenfs",
    "xen-netback",
    "virtio_pci",
    "virtio_net",
    "veth",
    "sch_ingress",
    "cls_bpf",
    "act_mirred",
];
const XEN_TOOLS: [&str; 6] =
    ["xl", "xenstored", "xenconsoled", "libxl-save-helper", "xen-init-dom0", "xenconsole"];
const XENSTORE_TOOLS: [&str; 4] = ["xenstore-read", "xenstore-write", "xenstore-ls", "xenstore-list"];
const OWN: [&str; 3] = ["tidegate", "tidegate-plane", "tidegate-replica"];
const SYSTEM: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ethtool", "ethtool"),
    ("setpriv", "util-linux"),
    ("tcpdump", "tcpdump"),
];
/// DPDK loads what is in this directory under names with its ABI.
const DRIVERS: &str = "/usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0";
const DRIVER_NAMES: [&str; 5] = ["bus_vdev", "mempool_ring", "mempool_stack", "net_af_packet", "net_null"];

/// The initramfs of a Dom0.
#[derive(Debug, Clone)]
pub struct Image {
    /// Compressed: the emulated loader copies slowly.
    pub initramfs: PathBuf,
}

impl Image {
    /// From the cache, or newly built. `bin` has tidegate's programs and the teller.
    pub fn build(packages: &Packages, bin: &Path, cache: &Path) -> Result<Image> {
        let domain = cache.join("domain.cpio");
        write_archive(&domain, domain_files(packages, bin)?)?;
        let mut files = dom0_files(packages, bin, &domain)?;
        certificates(bin, cache, &mut files)?;
        let mut digest = DefaultHasher::new();
        for (name, entry) in &files {
            (name, entry.mode, &entry.content).hash(&mut digest);
        }
        let plain = cache.join("dom0.cpio");
        let initramfs = cache.join("dom0.cpio.gz");
        let (stamp, known) = (cache.join("dom0.digest"), format!("{:016x}", digest.finish()));
        if initramfs.exists() && fs::read_to_string(&stamp).is_ok_and(|text| text == known) {
            return Ok(Image { initramfs });
        }
        write_archive(&plain, files)?;
        run(&format!("gzip -1 -f {}", plain.display()))?;
        fs::write(&stamp, known).context(|| format!("cannot write {}", stamp.display()))?;
        Ok(Image { initramfs })
    }
}

/// An archive in the making.
struct Tree<'p> {
    packages: &'p Packages,
    files: Files,
}

impl Tree<'_> {
    fn put(&mut self, name: &str, mode: u32, content: Vec<u8>) {
        self.files.insert(name.trim_start_matches('/').to_owned(), Entry { mode, content });
    }

    /// A file of this machine or of the packages, and the libraries that it needs.
    fn program(&mut self, name: &str, from: &Path, package: &str) -> Result<()> {
        self.put(name, 0o755, read(from, package)?);
        for (library, found) in libraries(from, &self.packages.root.join(LIBRARIES))? {
            if !self.files.contains_key(&library) {
                let content = read(&found, "the C library")?;
                self.put(&library, 0o755, content);
            }
        }
        Ok(())
    }

    fn modules(&mut self, wanted: &[&str]) -> Result<()> {
        let root = self.packages.root.join("lib/modules").join(&self.packages.release);
        let mut order = String::new();
        for module in load_order(&root, wanted)? {
            let name = module.rsplit('/').next().unwrap_or(&module).to_owned();
            self.put(&format!("lib/modules/{name}"), 0o644, read(&root.join(&module), "linux-image-amd64")?);
            order.push_str(&name);
            order.push('\n');
        }
        self.put("etc/modules", 0o644, order.into_bytes());
        Ok(())
    }
}

fn domain_files(packages: &Packages, bin: &Path) -> Result<Files> {
    let mut tree = Tree { packages, files: Files::new() };
    tree.put("init", 0o755, DOMAIN.into());
    tree.put("bin/busybox", 0o755, read(Path::new("/bin/busybox"), "busybox-static")?);
    tree.program("bin/teller", &bin.join("teller"), "the workspace itself")?;
    tree.modules(&["xen-netfront"])?;
    Ok(tree.files)
}

fn dom0_files(packages: &Packages, bin: &Path, domain: &Path) -> Result<Files> {
    let mut tree = Tree { packages, files: Files::new() };
    tree.put("init", 0o755, DOM0.into());
    tree.put("bin/busybox", 0o755, read(Path::new("/bin/busybox"), "busybox-static")?);
    // busybox's own shell takes its applets first, and its ip knows no veth.
    tree.program("bin/sh", Path::new("/bin/dash"), "dash")?;
    tree.modules(&DOM0_MODULES)?;
    for tool in XEN_TOOLS {
        let name = format!("usr/lib/xen-4.17/bin/{tool}");
        tree.program(&name, &packages.root.join(&name), "xen-utils-4.17")?;
    }
    for tool in XENSTORE_TOOLS {
        let name = format!("usr/bin/{tool}");
        tree.program(&name, &packages.root.join(&name), "xenstore-utils")?;
    }
    for program in OWN {
        tree.program(&format!("usr/bin/{program}"), &bin.join(program), "the workspace itself")?;
    }
    for (program, package) in SYSTEM {
        tree.program(&format!("usr/sbin/{program}"), &which(program, package)?, package)?;
    }
    tree.program("usr/bin/dompoll", &packages.dompoll, "the laboratory")?;
    for driver in DRIVER_NAMES {
        let path = format!("{DRIVERS}/librte_{driver}.so.23.0");
        tree.program(&path, Path::new(&path), "librte-meta-net")?;
    }
    tree.put("etc/xen/scripts/vif-tidegate", 0o755, HOTPLUG.into());
    tree.put("etc/xen/xl.conf", 0o644, b"autoballoon=\"off\"\n".to_vec());
    tree.put("etc/xen/pbx.cfg", 0o644, CONFIGURATION.into());
    tree.put("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n".to_vec());
    tree.put("boot/vmlinuz", 0o644, read(&packages.kernel, "linux-image-amd64")?);
    tree.put("boot/domain.cpio", 0o644, read(domain, "the laboratory")?);
    Ok(tree.files)
}

/// Two hosts know each other by these, made once.
fn certificates(bin: &Path, cache: &Path, files: &mut Files) -> Result<()> {
    let directory = cache.join("certs");
    if !directory.join("host-b.key").exists() {
        run(&format!("{} certs {} host-a host-b", bin.join("tidegate").display(), directory.display()))?;
    }
    for name in ["ca.pem", "host-a.pem", "host-a.key", "host-b.pem", "host-b.key"] {
        let content = read(&directory.join(name), "the laboratory")?;
        files.insert(format!("etc/tidegate/certs/{name}"), Entry { mode: 0o600, content });
    }
    Ok(())
}

/// The shared libraries of a program: where its loader will look for each, and where it is now.
fn libraries(program: &Path, beside: &Path) -> Result<Vec<(String, PathBuf)>> {
    let output = Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", beside).output();
    let output = output.context(|| "cannot run ldd".to_owned())?;
    let mut needed = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [name, "=>", "not", "found"] => {
                return Err(Failure::new(format!("{} needs {name}, which is not here", program.display())));
            }
            [name, "=>", path, ..] => needed.push((format!("{LIBRARIES}/{name}"), PathBuf::from(path))),
            [path, ..] if path.starts_with('/') => {
                needed.push((path.trim_start_matches('/').to_owned(), PathBuf::from(path)));
            }
            _ => {}
        }
    }
    Ok(needed)
}
