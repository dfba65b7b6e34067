//! The test guest's user space: Debian's kernel modules, busybox, sipp, iperf3 and the beacon, for calls between
//! phones outside kamailio and rtpengine, for failovers the teller and a phone, as an initramfs. Built once and kept under a name that is a digest of everything that goes into it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, ModeFileType};

use crate::failure::{Context, Failure, Result};
use crate::process::run;

const INIT: &str = include_str!("../guest/init.sh");
const KAMAILIO: &str = include_str!("../guest/kamailio.cfg");
/// Where Debian keeps kamailio's modules; its configuration names them too.
const KAMAILIO_MODULES: &str = "/usr/lib/x86_64-linux-gnu/kamailio/modules";
const PHONE: [(&str, &str); 2] = [
    ("config", include_str!("../guest/phone/config")),
    ("accounts", include_str!("../guest/phone/accounts")),
];
/// Where Debian keeps baresip's modules; its configuration names them too.
const PHONE_MODULES: &str = "/usr/lib/baresip/modules";
/// With what they depend on: the NIC, and VLANs on it.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "8021q"];
/// What a router that holds needs beside them.
const ROUTER_MODULES: [&str; 6] = ["bridge", "ifb", "sch_ingress", "cls_u32", "act_mirred", "sch_plug"];
/// How many images are kept; older ones go when a new one is built.
const KEPT: usize = 6;

/// What the guest serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// sipp answers calls and echoes their RTP.
    Echo,
    /// kamailio connects phones that are outside, rtpengine relays their media.
    Relay,
    /// The teller keeps accounts and talks, iperf3 serves both ways, baresip answers by TLS: what a failover must not
    /// break, and no more.
    Accounts,
    /// Nothing: it bridges its two NICs and holds what it is told to hold, with sch_plug on an IFB, as Remus does.
    Router,
}

impl Service {
    /// The program of the workspace that the guest runs.
    fn own_program(self) -> &'static str {
        match self {
            Service::Echo | Service::Relay => "beacon",
            Service::Accounts => "teller",
            Service::Router => "plugger",
        }
    }
}

/// A kernel and its initramfs, ready for `-kernel` and `-initrd`.
#[derive(Debug, Clone)]
pub struct GuestImage {
    /// Debian's cloud kernel.
    pub kernel: PathBuf,
    /// An uncompressed newc archive: the guest's CPU is emulated, so unpacking would cost more.
    pub initramfs: PathBuf,
    /// What it serves.
    pub service: Service,
}

impl GuestImage {
    /// The image with this beacon (or teller) in it, from the cache or newly built.
    pub fn build(beacon: &Path, service: Service) -> Result<GuestImage> {
        let release = newest_cloud_kernel()?;
        let kernel = PathBuf::from(format!("/boot/vmlinuz-{release}"));
        let files = collect(&release, beacon, service)?;
        let mut digest = DefaultHasher::new();
        for (name, file) in &files {
            (name, file.mode, &file.content).hash(&mut digest);
        }
        let cache = cache_directory()?;
        let initramfs = cache.join(format!("guest-{:016x}.cpio", digest.finish()));
        if !initramfs.exists() {
            // Written aside and moved: another test may be looking for it at this moment.
            let aside = cache.join(format!("guest-{}.part", std::process::id()));
            write_archive(&aside, files)?;
            fs::rename(&aside, &initramfs).context(|| format!("cannot name {}", initramfs.display()))?;
            forget_old(&cache);
        }
        Ok(GuestImage { kernel, initramfs, service })
    }
}

pub(crate) struct Entry {
    pub(crate) mode: u32,
    pub(crate) content: Vec<u8>,
}

/// The contents of the archive by name, without a leading slash.
pub(crate) type Files = BTreeMap<String, Entry>;

fn collect(release: &str, beacon: &Path, service: Service) -> Result<Files> {
    let mut files = Files::new();
    let mut put =
        |name: &str, mode: u32, content: Vec<u8>| files.insert(name.to_owned(), Entry { mode, content });
    put("init", 0o755, INIT.as_bytes().to_vec());
    put("bin/busybox", 0o755, read(Path::new("/bin/busybox"), "busybox-static")?);
    put(&format!("bin/{}", service.own_program()), 0o755, read(beacon, "the workspace itself")?);
    let mut libraries = needed_libraries(beacon)?;
    let programs: &[(&str, &str)] = match service {
        Service::Echo => &[("sipp", "sip-tester"), ("iperf3", "iperf3")],
        Service::Accounts => &[("iperf3", "iperf3"), ("baresip", "baresip-core"), ("openssl", "openssl")],
        Service::Relay => &[
            ("kamailio", "kamailio"),
            ("rtpengine", "rtpengine-daemon"),
            ("openssl", "openssl"),
            ("iperf3", "iperf3"),
        ],
        Service::Router => &[("tc", "iproute2")],
    };
    if service == Service::Relay {
        put("etc/kamailio/kamailio.cfg", 0o644, KAMAILIO.as_bytes().to_vec());
    }
    if service == Service::Accounts {
        for (name, content) in PHONE {
            put(&format!("etc/phone/{name}"), 0o644, content.as_bytes().to_vec());
        }
    }
    for (path, package) in modules(service) {
        let name = path.to_string_lossy().into_owned();
        put(name.trim_start_matches('/'), 0o755, read(&path, package)?);
        libraries.extend(needed_libraries(&path)?);
    }
    for (program, package) in programs {
        let path = which(program, package)?;
        // busybox has a tc of its own, that knows no plug.
        let place = if *program == "tc" { "usr/sbin" } else { "bin" };
        put(&format!("{place}/{program}"), 0o755, read(&path, package)?);
        libraries.extend(needed_libraries(&path)?);
    }
    for library in &libraries {
        let name = library.to_string_lossy();
        put(name.trim_start_matches('/'), 0o755, read(library, "the C library")?);
    }
    let root = PathBuf::from(format!("/lib/modules/{release}"));
    let mut order = String::new();
    let more: &[&str] = if service == Service::Router { &ROUTER_MODULES } else { &[] };
    for module in load_order(&root, &[&MODULES, more].concat())? {
        let name = module.rsplit('/').next().unwrap_or(&module);
        put(&format!("lib/modules/{name}"), 0o644, read(&root.join(&module), "linux-image-cloud-amd64")?);
        order.push_str(name);
        order.push('\n');
    }
    put("etc/modules", 0o644, order.into_bytes());
    Ok(files)
}

/// The modules that a service's configuration loads, and the packages they belong to.
fn modules(service: Service) -> Vec<(PathBuf, &'static str)> {
    let kamailio = |line: &'static str| line.strip_prefix("loadmodule \"")?.strip_suffix('"');
    let phone = |line: &'static str| {
        let (key, name) = line.split_once(' ')?;
        matches!(key, "module" | "module_tmp" | "module_app").then_some(name)
    };
    let within = |directory: &str, names: Vec<&str>, package: &'static str| {
        names.iter().map(|name| (Path::new(directory).join(name), package)).collect()
    };
    match service {
        Service::Echo | Service::Router => Vec::new(),
        Service::Relay => {
            let names = KAMAILIO.lines().filter_map(kamailio).collect();
            within(KAMAILIO_MODULES, names, "kamailio and kamailio-tls-modules")
        }
        Service::Accounts => {
            within(PHONE_MODULES, PHONE[0].1.lines().filter_map(phone).collect(), "baresip-core")
        }
    }
}

pub(crate) fn read(path: &Path, package: &str) -> Result<Vec<u8>> {
    fs::read(path).context(|| format!("cannot read {} (it belongs to {package})", path.display()))
}

pub(crate) fn which(program: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Failure::new(format!("no {program} in PATH: apt-get install {package}")))
}

/// The shared libraries of a program, by the paths its loader looks for them.
fn needed_libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let listing = run(&format!("ldd {}", program.display()))?;
    Ok(listing
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| PathBuf::from(word.trim_end_matches(':')))
        .collect())
}

fn newest_cloud_kernel() -> Result<String> {
    let mut releases: Vec<String> = fs::read_dir("/lib/modules")
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    releases.retain(|name| {
        name.ends_with("-cloud-amd64") && Path::new(&format!("/boot/vmlinuz-{name}")).exists()
    });
    releases.sort_by_key(|name| {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect::<Vec<u64>>()
    });
    releases.pop().ok_or_else(|| {
        Failure::new("no Debian cloud kernel in /boot: apt-get install linux-image-cloud-amd64")
    })
}

/// These modules and all they need, each after what it needs, as paths below the modules' root. What is built in is there.
pub(crate) fn load_order(root: &Path, modules: &[&str]) -> Result<Vec<String>> {
    let list = root.join("modules.dep");
    let text =
        fs::read_to_string(&list).context(|| format!("cannot read {} (run depmod)", list.display()))?;
    let mut order = Vec::new();
    for wanted in modules {
        let line = text
            .lines()
            .find(|line| {
                let file = line.split(':').next().unwrap_or("").rsplit('/').next().unwrap_or("");
                file.strip_suffix(".ko").is_some_and(|name| name == *wanted)
            })
            .ok_or_else(|| Failure::new(format!("{} names no module {wanted}.ko", list.display())))?;
        // "module: needed later first", so that the reversed line is an order to load in.
        for module in line.split([':', ' ']).filter(|word| !word.is_empty()).rev() {
            if !order.iter().any(|known| known == module) {
                order.push(module.to_owned());
            }
        }
    }
    Ok(order)
}

pub(crate) fn write_archive(path: &Path, files: Files) -> Result<()> {
    let mut directories = BTreeSet::new();
    for name in files.keys() {
        directories.extend(Path::new(name).ancestors().skip(1).map(|up| up.to_string_lossy().into_owned()));
    }
    let mut inputs = Vec::new();
    // The set is sorted, so a directory comes before what is in it.
    for name in directories.into_iter().filter(|name| !name.is_empty()) {
        inputs.push((name, 0o755, ModeFileType::Directory, Vec::new()));
    }
    for (name, entry) in files {
        inputs.push((name, entry.mode, ModeFileType::Regular, entry.content));
    }
    let inputs = inputs.into_iter().enumerate().map(|(number, (name, mode, kind, content))| {
        let head = Builder::new(&name).ino(number as u32 + 1).nlink(1).mode(mode).set_mode_file_type(kind);
        (head, Cursor::new(content))
    });
    let file = File::create(path).context(|| format!("cannot write {}", path.display()))?;
    cpio::write_cpio(inputs, file).context(|| format!("cannot write {}", path.display())).map(drop)
}

pub(crate) fn cache_directory() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    let cache = base.join("tidegate");
    fs::create_dir_all(&cache).context(|| format!("cannot make {}", cache.display()))?;
    Ok(cache)
}

fn forget_old(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    let mut images: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("guest-"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    images.sort();
    let surplus = images.len().saturating_sub(KEPT);
    for (_, path) in &images[..surplus] {
        let _ = fs::remove_file(path);
    }
}
