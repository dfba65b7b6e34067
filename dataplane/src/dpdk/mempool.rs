//! A pool of mbufs: all the frames that a lane can have in hand, taken at start.

use super::eal::{Eal, Memory};
use std::ffi::{CStr, CString};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

/// What a pool is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MempoolConfig {
    /// Unique in the process, at most 25 bytes.
    pub name: String,
    /// Mbufs. Frames that are held stay in here: rate times longest hold, and what the ports' rings pin.
    pub mbufs: u32,
    /// Mbufs that each lcore may keep for itself, at most 512 and at most two thirds of `mbufs`.
    pub cache: u32,
    /// Bytes of a frame that fit one mbuf; longer ones chain.
    pub data_room: u16,
    /// NUMA node; `None`: any.
    pub node: Option<u32>,
    /// One lcore alone takes mbufs and gives them back. Then what was given back last is taken first, while the caches
    /// still have it. A ring, which is for anybody, hands out the mbuf that lay there longest: in a pool with room for
    /// a hundred thousand held frames always a cold one. (A stack has a spinlock: an lcore must never find it taken by
    /// a thread that lost its CPU.)
    pub one_lcore: bool,
}

impl MempoolConfig {
    /// `mbufs` mbufs of 2 KiB on any node.
    pub fn new(name: &str, mbufs: u32) -> Self {
        Self {
            name: name.to_owned(),
            mbufs,
            cache: 256.min(mbufs / 2),
            data_room: 2048,
            node: None,
            one_lcore: false,
        }
    }
}

/// Why there is no pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MempoolError {
    /// The name is too long, empty, or has a NUL byte in it.
    Name(String),
    /// The name is taken.
    Exists(String),
    /// There is not as much memory.
    Memory {
        /// The pool.
        name: String,
        /// MiB that it needs.
        mb: u64,
    },
    /// DPDK refused.
    Refused {
        /// The pool.
        name: String,
        /// DPDK's errno.
        errno: i32,
    },
}

impl fmt::Display for MempoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MempoolError::Name(name) => {
                write!(f, "{name:?} cannot name a mempool: use 1 to 25 plain characters")
            }
            MempoolError::Exists(name) => write!(f, "a mempool {name} exists already: choose another name"),
            MempoolError::Memory { name, mb } => write!(
                f,
                "mempool {name} needs {mb} MiB and DPDK has not as much left: reserve more huge pages (`scripts/hugepages`), raise eal.memory_mb (--memory-mb), or hold fewer frames (hold_frames)"
            ),
            MempoolError::Refused { name, errno } => write!(
                f,
                "DPDK refused mempool {name}: {}; check its number of mbufs and cache",
                std::io::Error::from_raw_os_error(*errno)
            ),
        }
    }
}

impl std::error::Error for MempoolError {}

#[derive(Debug)]
struct Pool(NonNull<dpdk_sys::rte_mempool>);

// SAFETY: a DPDK mempool is made to be used by any number of threads at once.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// A handle on a pool, cheap to clone. The pool lives until the process ends, or until [`Mempool::free`]:
/// mbufs do not count as handles, so dropping the last handle must not free it under them.
#[derive(Clone, Debug)]
pub struct Mempool {
    pool: Arc<Pool>,
    config: Arc<MempoolConfig>,
}

impl Mempool {
    /// Takes the memory for a pool. Control thread only: it may take milliseconds.
    pub fn new(eal: &Eal, config: MempoolConfig) -> Result<Mempool, MempoolError> {
        let bad_name = || MempoolError::Name(config.name.clone());
        if config.name.is_empty() || config.name.len() > 25 {
            return Err(bad_name());
        }
        let name = CString::new(config.name.as_str()).map_err(|_| bad_name())?;
        let room = config.data_room.saturating_add(dpdk_sys::HEADROOM);
        let node = config.node.unwrap_or(dpdk_sys::ANY_SOCKET) as i32;
        let packed = matches!(eal.memory(), Memory::NoHuge { .. });
        let create = |ops: &CStr| {
            // SAFETY: the names are NUL-terminated and copied; the Eal token says that EAL is up.
            let pool = unsafe {
                dpdk_sys::shim_mbuf_pool(
                    name.as_ptr(),
                    config.mbufs,
                    config.cache,
                    room,
                    node,
                    ops.as_ptr(),
                    packed.into(),
                )
            };
            NonNull::new(pool)
        };
        let of_one = if config.one_lcore { create(c"stack") } else { None };
        match of_one.or_else(|| create(c"ring_mp_mc")) {
            Some(pool) => Ok(Mempool { pool: Arc::new(Pool(pool)), config: Arc::new(config) }),
            None => Err(refusal(config, super::last_errno())),
        }
    }

    /// What the pool was made of.
    pub fn config(&self) -> &MempoolConfig {
        &self.config
    }

    /// Mbufs free, those in lcores' caches included. Walks the caches: not for every poll.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as a handle.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.as_ptr()) }
    }

    /// Mbufs in somebody's hand: frames held or queued, and empty ones that wait in a port's ring.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as a handle.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.as_ptr()) }
    }

    /// Gives the memory back, if this is the last handle and every mbuf has come home; else gives the
    /// handle back.
    pub fn free(self) -> Result<(), Mempool> {
        if Arc::strong_count(&self.pool) > 1 || self.in_use() > 0 {
            return Err(self);
        }
        // SAFETY: no other handle, no mbuf and (since ports hold handles) no port is left to use it.
        unsafe { dpdk_sys::rte_mempool_free(self.as_ptr()) };
        Ok(())
    }

    pub(super) fn as_ptr(&self) -> *mut dpdk_sys::rte_mempool {
        self.pool.0.as_ptr()
    }
}

fn refusal(config: MempoolConfig, errno: i32) -> MempoolError {
    const ENOMEM: i32 = 12;
    const EEXIST: i32 = 17;
    let name = config.name;
    match errno {
        ENOMEM => {
            // The mbuf's own two lines and the pool's header go with each buffer.
            let mbuf = u64::from(config.data_room) + u64::from(dpdk_sys::HEADROOM) + 128 + 64;
            MempoolError::Memory { name, mb: (u64::from(config.mbufs) * mbuf).div_ceil(1 << 20) }
        }
        EEXIST => MempoolError::Exists(name),
        errno => MempoolError::Refused { name, errno },
    }
}
