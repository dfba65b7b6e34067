//! Which pages may have changed, asked of the kernel, so that only those are compared.
//!
//! Writing 4 to `/proc/PID/clear_refs` makes the kernel note each page that the process writes to from then on: bit 55
//! of its entry in `/proc/PID/pagemap` (a KVM guest's writes arrive there through the MMU notifiers). QEMU's bits are
//! read and cleared inside each pause.
//!
//! **The plane writes too** (receive buffers, used rings), through a mapping of its own that QEMU's pagemap knows
//! nothing of. How those pages are found, and why not otherwise:
//! - *by the vrings*: at a pause they show what is posted now. What was posted, filled, consumed and posted anew in
//!   the same epoch left no trace, although its page may still lie in a socket's queue. Unsound.
//! - *by clearing the plane's own soft-dirty bits*: each page an lcore touches would fault once an epoch, its heap and
//!   stack included, and the kernel holds the plane's mmap lock meanwhile. The lcore must not pay that.
//! - *by vhost's dirty log*: QEMU owns it and turns it on for a running migration only.
//! - *by presence, which is taken here*: the plane can only have written where its page table has an entry. Nothing
//!   is cleared, nothing asked of the plane. The set only grows, with reads too and with the neighbours that the
//!   kernel maps along; it is at most all of RAM, and the comparison then costs what it costs without the kernel's
//!   help. (The plane may make it small again with `madvise(MADV_DONTNEED)` on guest memory while its rings are
//!   stopped.)
//!
//! A bit is lost when the kernel drops a page table entry that it can make anew from the file. So soft-dirty is used
//! only where that does not happen: plain tmpfs pages, no huge pages on tmpfs, no swap (or RAM locked), no balloon.
//! A page without an entry counts as changed. A mapping that is not where it was before makes everything count.
//!
//! The comparison is the reference: every [`AUDIT`]-th time all of RAM is compared, and a changed page outside the set
//! ends the use of soft-dirty for good.

mod pagemap;
mod probe;

use std::collections::BTreeMap;

use super::ram::{FileKind, GuestRam};
use super::{PageSet, Pages};
use pagemap::Mapping;

/// How often the comparison checks the kernel's answer.
const AUDIT: u64 = 64;

/// What is known of the processes that write to RAM.
pub struct Tracking {
    qemu: i32,
    writers: Vec<i32>,
    /// Why it cannot be used.
    obstacle: Option<String>,
    /// Each process's mappings of RAM when they were last looked at.
    mappings: BTreeMap<i32, Vec<Mapping>>,
    /// The bits were cleared in the pause of the last comparison.
    began: bool,
    asked: u64,
}

/// What to compare.
pub struct Candidates {
    /// The pages that may have changed.
    pub set: PageSet,
    /// All of RAM is to be compared, to see whether that is true.
    pub audit: bool,
}

impl Tracking {
    /// For a VM whose RAM `ram` is, in the process `qemu`; `writers` are the others that write there.
    pub fn new(qemu: Option<i32>, writers: &[i32], ram: &GuestRam) -> Tracking {
        let mut tracking = Tracking {
            qemu: qemu.unwrap_or(0),
            writers: writers.to_vec(),
            obstacle: None,
            mappings: BTreeMap::new(),
            began: false,
            asked: 0,
        };
        tracking.obstacle = match (qemu, ram.kind()) {
            (None, _) => Some("QEMU's process is not known".to_owned()),
            (_, FileKind::Hugetlbfs) => Some("the kernel keeps no such bit for hugetlbfs".to_owned()),
            (_, FileKind::Disk) => Some("the kernel may drop pages of a file on a disk".to_owned()),
            (Some(qemu), FileKind::Tmpfs) => probe::obstacle(qemu, ram),
        };
        tracking
    }

    /// Whether it is used, and if not, why.
    pub fn usable(&self) -> Result<(), &str> {
        self.obstacle.as_deref().map_or(Ok(()), Err)
    }

    /// Stops using it.
    pub fn give_up(&mut self, why: String) {
        log::warn!("comparing all of RAM from now on: {why}");
        self.obstacle = Some(why);
    }

    /// The processes beside QEMU that write to RAM, from now on.
    pub fn set_writers(&mut self, writers: &[i32]) {
        self.writers = writers.to_vec();
        self.restart();
    }

    /// What was learned is worth nothing any more: the next comparison is one of all of RAM.
    pub fn restart(&mut self) {
        self.began = false;
    }

    /// The pages that may have changed since the last call, in a pause; the bits begin anew. `None`: all.
    pub fn candidates(&mut self, ram: &GuestRam) -> Option<Candidates> {
        if self.obstacle.is_some() {
            return None;
        }
        match self.look(ram) {
            Ok((set, same)) => {
                let known = std::mem::replace(&mut self.began, true) && same;
                self.asked += 1;
                known.then_some(Candidates { set, audit: self.asked.is_multiple_of(AUDIT) })
            }
            Err(why) => {
                self.give_up(why);
                None
            }
        }
    }

    /// After a comparison of all of RAM: was the kernel right? Ends the use of its answer when not.
    pub fn audit(&mut self, candidates: &PageSet, changed: &Pages) {
        let missed = changed.numbers.iter().filter(|&&number| !candidates.contains(number as usize)).count();
        if missed > 0 {
            log::error!(
                "{missed} pages changed of which the kernel's soft-dirty bits and page tables told nothing"
            );
            self.give_up(format!("soft-dirty missed {missed} pages"));
        }
    }

    /// The set, and whether each mapping is where it was before.
    fn look(&mut self, ram: &GuestRam) -> Result<(PageSet, bool), String> {
        let mut set = PageSet::empty(ram.pages());
        let mut now = BTreeMap::new();
        let qemus = pagemap::mappings(self.qemu, ram.identity())?;
        if pagemap::covered(&qemus) < ram.len() as u64 {
            return Err("QEMU does not map all of its RAM".to_owned());
        }
        pagemap::gather(self.qemu, &qemus, pagemap::dirty, &mut set)?;
        pagemap::clear(self.qemu)?;
        now.insert(self.qemu, qemus);
        for &writer in &self.writers {
            let mappings = pagemap::mappings(writer, ram.identity())?;
            pagemap::gather(writer, &mappings, pagemap::present, &mut set)?;
            now.insert(writer, mappings);
        }
        let same = now == self.mappings;
        self.mappings = now;
        Ok((set, same))
    }
}
