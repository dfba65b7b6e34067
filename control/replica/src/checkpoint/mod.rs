//! A checkpoint: a state of the VM, as it travels; how it is taken, and how it comes back to life.

mod carry;
mod digest;
mod find;
pub mod image;
mod page_set;
pub mod ram;
pub mod shadow;
pub mod soft_dirty;
mod stream;
pub mod take;

pub use carry::Carry;
pub use digest::{PageHashes, page_hash};
pub use image::{Image, ImageError, ImageState, LoadTimings};
pub use page_set::PageSet;
pub use ram::{GuestRam, RamError};
pub use shadow::Shadow;
pub use soft_dirty::Tracking;
pub use take::{TakeError, TakeOptions, TakeTimings, Taken, Taker};

/// Bytes of a page, the unit in which RAM is compared and sent.
pub const PAGE: usize = 4096;

/// Names a checkpoint: the epoch that its pause closed, and the generation it was closed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct CheckpointId {
    /// The generation that the plane told.
    pub generation: u64,
    /// The epoch.
    pub epoch: u64,
}

/// What all of RAM holds, as a number that changes with every page: the wrapping sum over its pages of a 128-bit hash
/// of page number and content. So a difference is verified at the cost of the pages in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct RamDigest(pub u128);

/// Pages of RAM: numbers, rising, and their contents one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Page numbers (offset in the RAM file by [`PAGE`]), strictly rising.
    pub numbers: Vec<u32>,
    /// `numbers.len() * PAGE` bytes.
    pub bytes: Vec<u8>,
}

/// How RAM is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ram {
    /// Inside the device stream: a whole `migrate` (`--full`).
    Streamed,
    /// As what changed.
    Difference {
        /// What the standby's RAM must hold before.
        base: RamDigest,
        /// The changed pages.
        pages: Pages,
        /// What it holds afterwards.
        digest: RamDigest,
    },
}

impl Ram {
    /// How many pages travel.
    pub fn pages(&self) -> usize {
        match self {
            Ram::Streamed => 0,
            Ram::Difference { pages, .. } => pages.numbers.len(),
        }
    }
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name.
    pub id: CheckpointId,
    /// QEMU's migration stream: devices, and RAM too when that is [`Ram::Streamed`].
    pub device: Vec<u8>,
    /// RAM.
    pub ram: Ram,
}
