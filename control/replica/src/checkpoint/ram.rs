//! The guest's RAM: a file that QEMU maps, found by asking QEMU, and mapped here too.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::PAGE;
use crate::qmp::{Qmp, QmpError};

/// Why the guest's RAM cannot be used.
#[derive(Debug)]
pub enum RamError {
    /// The monitor failed.
    Qmp(QmpError),
    /// It is nowhere where another process can see it, or not in one piece.
    NotShared {
        /// What it is.
        what: String,
    },
    /// The file cannot be opened, mapped, read or written.
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

impl fmt::Display for RamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RamError::Qmp(error) => error.fmt(f),
            RamError::NotShared { what } => write!(
                f,
                "{what}; start QEMU with -object memory-backend-file,id=mem,size=SIZE,share=on,\
                 mem-path=/dev/shm/NAME -machine memory-backend=mem (libvirt: <memoryBacking><source \
                 type='file'/><access mode='shared'/></memoryBacking>), or take whole states with --full"
            ),
            RamError::File { path, what } => write!(f, "the guest's RAM in {}: {what}", path.display()),
        }
    }
}

impl std::error::Error for RamError {}

impl From<QmpError> for RamError {
    fn from(error: QmpError) -> RamError {
        RamError::Qmp(error)
    }
}

/// Where the file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// tmpfs or a memfd.
    Tmpfs,
    /// Huge pages.
    Hugetlbfs,
    /// A file system on a disk: it works, and the kernel writes the guest's pages back to the disk.
    Disk,
}

/// The guest's RAM, mapped. Somebody else writes to it at any time: whatever is read is a copy.
pub struct GuestRam {
    region: MmapRegion,
    file: File,
    path: PathBuf,
    kind: FileKind,
    identity: (u64, u64),
}

impl GuestRam {
    /// Asks QEMU where the RAM is, and maps it. A refusal says what is in the way.
    pub fn of(qmp: &mut Qmp) -> Result<GuestRam, RamError> {
        let (path, size) = super::find::find(qmp)?;
        let ram = GuestRam::open(&path)?;
        if ram.len() as u64 != size {
            return Err(ram.fault(format!("the file has {} bytes, the guest {size}", ram.len())));
        }
        Ok(ram)
    }

    /// Maps a file of RAM.
    pub fn open(path: &Path) -> Result<GuestRam, RamError> {
        let fault = |what: String| RamError::File { path: path.to_owned(), what };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| fault(format!("{error} (run as root or as QEMU's user)")))?;
        let metadata = file.metadata().map_err(|error| fault(error.to_string()))?;
        let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        if length == 0 || !length.is_multiple_of(PAGE) || u32::try_from(length / PAGE).is_err() {
            return Err(fault(format!("{length} bytes are no whole number of pages")));
        }
        let kind = match fstatfs(&file).map_err(|error| fault(error.to_string()))?.filesystem_type() {
            TMPFS_MAGIC => FileKind::Tmpfs,
            HUGETLBFS_MAGIC => FileKind::Hugetlbfs,
            _ => FileKind::Disk,
        };
        let mapped = file.try_clone().map_err(|error| fault(error.to_string()))?;
        let region = MmapRegion::from_file(FileOffset::new(mapped, 0), length)
            .map_err(|error| fault(format!("cannot be mapped: {error}")))?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(GuestRam { region, file, path: path.to_owned(), kind, identity })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.region.size()
    }

    /// Never: a file without a byte is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many pages.
    pub fn pages(&self) -> usize {
        self.len() / PAGE
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it lies.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Device and inode: the same file, whatever its name.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Copies what lies at `offset` now. Beyond the end nothing is copied.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        if let Ok(slice) = self.region.get_slice(offset, into.len()) {
            slice.copy_to(into);
        }
    }

    /// Pages among the `count` from `first` on that may hold anything but zeros, rising: the file has no room for the
    /// others. They are not even looked at, for a look at a page of a file in memory makes one.
    pub fn data(&self, first: usize, count: usize) -> Vec<Range<usize>> {
        let all = first..first + count;
        if self.kind == FileKind::Hugetlbfs {
            return vec![all];
        }
        let offset = |page: usize| i64::try_from(page * PAGE).unwrap_or(i64::MAX);
        let (mut at, end) = (offset(all.start), offset(all.end));
        let mut found = Vec::new();
        while at < end {
            let data = match lseek(&self.file, at, Whence::SeekData) {
                Ok(data) if data < end => data,
                Ok(_) | Err(Errno::ENXIO) => break,
                Err(_) => return vec![all],
            };
            let Ok(hole) = lseek(&self.file, data, Whence::SeekHole) else { return vec![all] };
            let page = |offset: i64| usize::try_from(offset).unwrap_or(usize::MAX);
            found.push(page(data) / PAGE..page(hole.min(end)).div_ceil(PAGE));
            at = hole;
        }
        found
    }

    /// Writes whole pages from page `first` on. It goes through the file and not through the mapping, where a full or
    /// shortened file would be this process's death (SIGBUS) instead of an error; huge pages know only the mapping.
    pub fn write(&self, first: usize, bytes: &[u8]) -> Result<(), RamError> {
        let offset = first * PAGE;
        if self.kind == FileKind::Hugetlbfs {
            let slice =
                self.region.get_slice(offset, bytes.len()).map_err(|error| self.fault(error.to_string()))?;
            slice.copy_from(bytes);
            return Ok(());
        }
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.len()) {
            return Err(self.fault(format!("there is no page {}", (offset + bytes.len()) / PAGE)));
        }
        self.file.write_all_at(bytes, offset as u64).map_err(|error| self.fault(error.to_string()))
    }

    /// Makes every byte zero, and has the file system set aside room for every page: later writes cannot fail for
    /// want of it.
    pub fn clear(&self) -> Result<(), RamError> {
        if self.kind == FileKind::Hugetlbfs {
            // A hole would give its reservation back.
            let zeros = vec![0; 1 << 20];
            for offset in (0..self.len()).step_by(zeros.len()) {
                let count = zeros.len().min(self.len() - offset);
                self.write(offset / PAGE, &zeros[..count])?;
            }
            return Ok(());
        }
        let length = self.len() as i64;
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, hole, 0, length)
            .and_then(|()| fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length))
            .map_err(|error| {
                self.fault(format!("no room for {} MiB there: {}", self.len() >> 20, io::Error::from(error)))
            })
    }

    /// The file's length has not changed since it was mapped.
    pub fn check(&self) -> Result<(), RamError> {
        let length = self.file.metadata().map_err(|error| self.fault(error.to_string()))?.len();
        if length == self.len() as u64 {
            return Ok(());
        }
        Err(self.fault(format!("it was {} bytes long and is {length} now", self.len())))
    }

    pub(super) fn fault(&self, what: String) -> RamError {
        RamError::File { path: self.path.clone(), what }
    }
}
