//! `/proc/PID/maps`, `pagemap` and `clear_refs`, see proc(5) and the kernel's `admin-guide/mm/pagemap.rst`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use nix::sys::stat::{major, minor};

use super::super::{PAGE, PageSet};

/// The process has written to the page since the bits were cleared.
const SOFT_DIRTY: u64 = 1 << 55;
/// The page is in swap.
const SWAPPED: u64 = 1 << 62;
/// The process's page table has it.
const PRESENT: u64 = 1 << 63;
/// Entries read at once.
const ENTRIES: usize = 64 << 10;

/// A part of the RAM file in a process's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    start: u64,
    end: u64,
    /// Where in the file it begins, bytes.
    offset: u64,
}

/// The process's mappings of the file with this device and inode.
pub(super) fn mappings(pid: i32, identity: (u64, u64)) -> Result<Vec<Mapping>, String> {
    let path = format!("/proc/{pid}/maps");
    let maps = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok(maps.lines().filter_map(|line| mapping(line, identity)).collect())
}

/// A line as `7f00-7f80 rw-s 00001000 00:1b 4711  /dev/shm/ram`.
fn mapping(line: &str, (device, inode): (u64, u64)) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let _permissions = words.next()?;
    let offset = words.next()?;
    let (major_hex, minor_hex) = words.next()?.split_once(':')?;
    let hex = |word: &str| u64::from_str_radix(word, 16).ok();
    let same = hex(major_hex)? == major(device)
        && hex(minor_hex)? == minor(device)
        && words.next()?.parse::<u64>().ok()? == inode;
    let found = Mapping { start: hex(start)?, end: hex(end)?, offset: hex(offset)? };
    (same && found.start < found.end).then_some(found)
}

/// How many bytes of the file they hold together, from its beginning on without a gap.
pub(super) fn covered(mappings: &[Mapping]) -> u64 {
    let mut parts: Vec<(u64, u64)> = mappings
        .iter()
        .map(|mapping| (mapping.offset, mapping.offset + (mapping.end - mapping.start)))
        .collect();
    parts.sort_unstable();
    parts.into_iter().fold(0, |reached, (from, to)| if from <= reached { reached.max(to) } else { reached })
}

/// May have been written to: by the bit, or because there is no entry that could hold one.
pub(super) fn dirty(entry: u64) -> bool {
    entry & SOFT_DIRTY != 0 || entry & PRESENT == 0
}

/// May ever have been touched.
pub(super) fn present(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0
}

/// Puts the pages into `set` whose entries in the process's page table are `wanted`.
pub(super) fn gather(
    pid: i32,
    mappings: &[Mapping],
    wanted: fn(u64) -> bool,
    set: &mut PageSet,
) -> Result<(), String> {
    let path = format!("/proc/{pid}/pagemap");
    let fault = |error: std::io::Error| format!("{path}: {error}");
    let pagemap = File::open(&path).map_err(fault)?;
    let mut bytes = vec![0; ENTRIES * 8];
    for mapping in mappings {
        let first = mapping.start / PAGE as u64;
        let count = ((mapping.end - mapping.start) / PAGE as u64) as usize;
        let page = (mapping.offset / PAGE as u64) as usize;
        for from in (0..count).step_by(ENTRIES) {
            let part = &mut bytes[..(count - from).min(ENTRIES) * 8];
            pagemap.read_exact_at(part, (first + from as u64) * 8).map_err(fault)?;
            let entries = part.chunks_exact(8).map(|entry| {
                let mut word = [0; 8];
                word.copy_from_slice(entry);
                u64::from_ne_bytes(word)
            });
            set.extend(
                entries.enumerate().filter(|(_, entry)| wanted(*entry)).map(|(at, _)| page + from + at),
            );
        }
    }
    Ok(())
}

/// Clears the bits of the process.
pub(super) fn clear(pid: i32) -> Result<(), String> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "4").map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_known_by_device_and_inode_and_not_by_name() {
        let device = nix::sys::stat::makedev(0, 0x1b);
        let line =
            "7f0000000000-7f0000004000 rw-s 00002000 00:1b 4711                       /dev/shm/ram (deleted)";
        let found = mapping(line, (device, 4711));
        assert_eq!(found, Some(Mapping { start: 0x7f00_0000_0000, end: 0x7f00_0000_4000, offset: 0x2000 }));
        assert_eq!(mapping(line, (device, 4712)), None);
        assert_eq!(mapping(line, (nix::sys::stat::makedev(0, 0x1c), 4711)), None);
        assert_eq!(mapping("nonsense", (device, 4711)), None);
    }

    #[test]
    fn a_gap_ends_what_is_covered() {
        let part = |offset: u64, length: u64| Mapping { start: 0x1000, end: 0x1000 + length, offset };
        assert_eq!(covered(&[part(0x2000, 0x2000), part(0, 0x2000)]), 0x4000);
        assert_eq!(covered(&[part(0, 0x1000), part(0x2000, 0x2000)]), 0x1000);
        assert_eq!(covered(&[]), 0);
    }

    #[test]
    fn what_the_kernel_does_not_know_counts_as_changed() {
        assert!(dirty(0) && dirty(SWAPPED) && dirty(PRESENT | SOFT_DIRTY) && !dirty(PRESENT));
        assert!(present(PRESENT) && present(SWAPPED) && !present(0));
    }
}
