//! Can soft-dirty be trusted here? Tried on a page of our own, and the conditions looked up one by one.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{major, minor};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::super::{PAGE, PageSet, ram::GuestRam};
use super::pagemap;

const NAME: &CStr = c"tidegate-probe";
const HUGE: &str = "/sys/kernel/mm/transparent_hugepage";

/// Why it cannot be used for this RAM in this process; `None` when it can.
pub(super) fn obstacle(qemu: i32, ram: &GuestRam) -> Option<String> {
    kernel().err().or_else(huge_pages).or_else(|| mount(ram)).or_else(|| swap(qemu, ram))
}

/// Sees the bit come, go and come again.
fn kernel() -> Result<(), String> {
    let own = std::process::id() as i32;
    let text = |error: &dyn std::fmt::Display| format!("no page to try soft-dirty with: {error}");
    let descriptor: OwnedFd = memfd_create(NAME, MFdFlags::MFD_CLOEXEC).map_err(|error| text(&error))?;
    let file = File::from(descriptor);
    file.set_len(PAGE as u64).map_err(|error| text(&error))?;
    let metadata = file.metadata().map_err(|error| text(&error))?;
    let page = MmapRegion::<()>::from_file(FileOffset::new(file, 0), PAGE).map_err(|error| text(&error))?;
    let slice = page.get_slice(0, PAGE).map_err(|error| text(&error))?;
    let identity = (metadata.dev(), metadata.ino());
    let write = |value: u64| slice.write_obj(value, 0).map_err(|error| text(&error));
    let bit = || {
        let mut set = PageSet::empty(1);
        pagemap::gather(own, &pagemap::mappings(own, identity)?, pagemap::dirty, &mut set)?;
        Ok::<bool, String>(set.contains(0))
    };
    write(1)?;
    let written = bit()?;
    pagemap::clear(own)?;
    let cleared = bit()?;
    // A page that is only read stays clean.
    let _: u64 = slice.read_obj(0).map_err(|error| text(&error))?;
    let read = bit()?;
    write(2)?;
    let again = bit()?;
    match (written, cleared, read, again) {
        (true, false, false, true) => Ok(()),
        (false, ..) => Err("the kernel keeps no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)".to_owned()),
        seen => Err(format!("the kernel's soft-dirty bits are wrong on a page of our own: {seen:?}")),
    }
}

/// Huge pages on tmpfs come and go behind the page table's back. A system without the setting has none.
fn huge_pages() -> Option<String> {
    let mut settings = vec![Path::new(HUGE).join("shmem_enabled")];
    for entry in fs::read_dir(HUGE).ok()?.flatten() {
        settings.push(entry.path().join("shmem_enabled"));
    }
    settings.into_iter().find_map(|path| {
        let setting = fs::read_to_string(&path).ok()?;
        let chosen = setting.split_once('[')?.1.split_once(']')?.0;
        let off = matches!(chosen, "never" | "deny" | "inherit");
        (!off).then(|| format!("{} is {chosen:?}; soft-dirty needs \"never\"", path.display()))
    })
}

/// The file system's own setting for huge pages.
fn mount(ram: &GuestRam) -> Option<String> {
    let device = format!("{}:{}", major(ram.identity().0), minor(ram.identity().0));
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&device))?;
    let huge = line.split([' ', ',']).find_map(|word| word.strip_prefix("huge="))?;
    (huge != "never").then(|| format!("{} is mounted with huge={huge}", ram.path().display()))
}

/// What the kernel swaps out it drops from the page table, and the bit with it.
fn swap(qemu: i32, ram: &GuestRam) -> Option<String> {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() <= 1 {
        return None;
    }
    let smaps = fs::read_to_string(format!("/proc/{qemu}/smaps")).unwrap_or_default();
    (!locked(&smaps, ram.identity().1)).then(|| {
        "the host has swap and the VM's RAM is not locked (-overcommit mem-lock=on, or swapoff)".to_owned()
    })
}

/// Each mapping of this inode is locked, and there is one.
fn locked(smaps: &str, inode: u64) -> bool {
    let (mut seen, mut current, mut all) = (false, false, true);
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.first().is_some_and(|word| word.contains('-')) {
            current = words.get(4).and_then(|word| word.parse().ok()) == Some(inode);
            seen |= current;
        } else if current && words.first() == Some(&"VmFlags:") {
            all &= words.contains(&"lo");
        }
    }
    seen && all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ram_that_is_locked_everywhere_is_locked() {
        let part = |flags: &str| {
            format!("7f00-7f80 rw-s 00000000 00:1b 4711  /dev/shm/ram\nSize: 4 kB\nVmFlags: rd wr {flags}\n")
        };
        assert!(locked(&part("lo sd"), 4711));
        assert!(!locked(&part("sd"), 4711));
        assert!(!locked(&(part("lo") + &part("sd")), 4711));
        assert!(!locked(&part("lo"), 4712), "not mapped at all");
    }

    #[test]
    fn the_probe_comes_to_a_result() {
        match kernel() {
            Ok(()) => println!("this kernel keeps soft-dirty bits"),
            Err(why) => println!("SKIPPED soft-dirty: {why}"),
        }
    }
}
