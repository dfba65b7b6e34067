//! A make-believe machine: a directory with as much of /sys and /proc as the start-up scripts read.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a script did.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code: 0 done, 1 failed, 2 wrong use.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Outcome {
    /// Done, and `text` was said on either channel.
    #[track_caller]
    pub fn done(self, text: &str) -> Self {
        self.ended(0, text)
    }

    /// Refused or failed, saying `text`.
    #[track_caller]
    pub fn failed(self, text: &str) -> Self {
        self.ended(1, text)
    }

    /// Ended with `code`, saying `text`.
    #[track_caller]
    pub fn ended(self, code: i32, text: &str) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.out.contains(text) || self.err.contains(text), "nothing of {text:?} in {self:?}");
        self
    }

    /// The output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.out.lines().count(), 1, "one line of JSON: {self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs a start-up script of this tree.
pub fn script(name: &str, args: &[&str]) -> Outcome {
    let file = scripts().join(name);
    let output =
        Command::new("timeout").arg("60").arg(&file).args(args).output().expect("timeout, of coreutils");
    Outcome {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The directory of the start-up scripts.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("scripts")
}

/// A directory that goes when it is dropped.
pub struct Machine {
    /// Stands for `/`.
    pub root: PathBuf,
}

impl Machine {
    /// An empty one.
    pub fn bare() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("machine-{}-{number}", std::process::id()));
        fs::create_dir_all(&root).expect("a directory below target/tmp");
        let machine = Self { root };
        machine.write("proc/mounts", "proc /proc proc rw 0 0\n");
        machine.write("proc/meminfo", "HugePages_Total: 0\nHugePages_Free: 0\nHugepagesize:    2048 kB\n");
        machine.write("proc/cmdline", "quiet\n");
        machine
    }

    /// Huge page pools of 2 MiB and 1 GiB, and as many NUMA nodes with their own.
    pub fn with_pools(self, nodes: u32) -> Self {
        for kb in [2048, 1048576] {
            let mut places = vec!["sys/kernel/mm/hugepages".to_owned()];
            places.extend((0..nodes).map(|n| format!("sys/devices/system/node/node{n}/hugepages")));
            for place in places {
                for file in ["nr", "free", "resv", "surplus"] {
                    self.write(&format!("{place}/hugepages-{kb}kB/{file}_hugepages"), "0\n");
                }
            }
        }
        self
    }

    /// CPUs `0..count`, each sharing its core with the next.
    pub fn with_cpus(self, count: u32) -> Self {
        self.write("sys/devices/system/cpu/online", &format!("0-{}\n", count - 1));
        for cpu in 0..count {
            let pair = format!("{}-{}\n", cpu & !1, cpu | 1);
            self.write(&format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), &pair);
        }
        self
    }

    /// A PCI device: class such as `0x020000`, its driver, its IOMMU group, and its interface. The interface of a
    /// virtio card lies one level deeper.
    pub fn with_device(self, pci: &str, class: &str, driver: &str, group: Option<u32>, iface: &str) -> Self {
        let device = format!("sys/devices/pci0000:00/{pci}");
        for (file, text) in
            [("class", class), ("vendor", "0x8086"), ("device", "0x10d3"), ("numa_node", "-1")]
        {
            self.write(&format!("{device}/{file}"), &format!("{text}\n"));
        }
        self.link(&format!("sys/bus/pci/devices/{pci}"), &device);
        if !driver.is_empty() {
            fs::create_dir_all(self.root.join(format!("sys/bus/pci/drivers/{driver}"))).unwrap();
            self.link(&format!("{device}/driver"), &format!("sys/bus/pci/drivers/{driver}"));
        }
        if let Some(group) = group {
            let group = format!("sys/kernel/iommu_groups/{group}");
            fs::create_dir_all(self.root.join(&group).join("devices")).unwrap();
            self.link(&format!("{device}/iommu_group"), &group);
            self.link(&format!("{group}/devices/{pci}"), &device);
        }
        if !iface.is_empty() {
            let place = if driver == "virtio-pci" { format!("{device}/virtio0") } else { device };
            let net = format!("{place}/net/{iface}");
            fs::create_dir_all(self.root.join(&net)).unwrap();
            self.link(&format!("{net}/device"), &place);
            self.link(&format!("sys/class/net/{iface}"), &net);
        }
        self
    }

    /// Runs a script on it.
    pub fn run(&self, name: &str, args: &[&str]) -> Outcome {
        script(name, &[args, &["--root", self.root.to_str().unwrap()]].concat())
    }

    /// A file's text, without the line's end.
    #[track_caller]
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.root.join(file))
            .unwrap_or_else(|e| panic!("{file}: {e}"))
            .trim_end()
            .to_owned()
    }

    /// Writes a file, and the directories above it.
    pub fn write(&self, file: &str, text: &str) {
        let file = self.root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// Makes `from` a link to `to`, both below the root.
    pub fn link(&self, from: &str, to: &str) {
        let from = self.root.join(from);
        fs::create_dir_all(from.parent().unwrap()).unwrap();
        symlink(self.root.join(to), from).unwrap();
    }

    /// Every file with its text, to see whether anything changed.
    pub fn snapshot(&self) -> Vec<(PathBuf, String)> {
        let mut files = Vec::new();
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() {
                    files.push((entry.path(), fs::read_to_string(entry.path()).unwrap_or_default()));
                }
            }
        }
        files.sort();
        files
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
