//! One frame in DPDK's hands and ours: an mbuf, or a chain of them.

use super::mempool::Mempool;
use crate::port::Frame;
use dpdk_sys::rte_mbuf;
use std::fmt;
use std::ptr::NonNull;

/// An owned frame. Dropping it gives its buffers back to their pool; nothing else can refer to them, which
/// is why there is no `Clone`.
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// Bursts hand `Option<Mbuf>` to DPDK as its arrays of pointers.
const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<*mut rte_mbuf>());
const _: () = assert!(align_of::<Option<Mbuf>>() == align_of::<*mut rte_mbuf>());

// SAFETY: we are the one owner of the chain, and pools take mbufs back from any thread.
unsafe impl Send for Mbuf {}

/// A transport protocol whose checksum a port can put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Mbuf {
    /// A frame with these bytes, chained over as many mbufs as it needs. `None` when the pool has not as
    /// many left, or for more bytes than a chain can have.
    pub fn from_bytes(pool: &Mempool, bytes: &[u8]) -> Option<Mbuf> {
        let room = usize::from(pool.config().data_room).max(1);
        let parts: Vec<&[u8]> = if bytes.is_empty() { vec![bytes] } else { bytes.chunks(room).collect() };
        Mbuf::from_parts(pool, &parts)
    }

    /// A frame of one segment of `len` bytes, which are whatever a frame before it left in that buffer. `None` when
    /// the pool has none left, or none so large. For generators of load, where writing each byte would be the limit.
    pub fn recycled(pool: &Mempool, len: u16) -> Option<Mbuf> {
        // SAFETY: the handle keeps the pool alive; the mbuf that comes out is ours.
        let mbuf = Mbuf(NonNull::new(unsafe { dpdk_sys::shim_mbuf_alloc(pool.as_ptr()) })?);
        // SAFETY: the mbuf is ours and has one segment; NULL, or room within its buffer, which is memory that the
        // kernel gave and somebody wrote to since, so there are bytes to be read.
        NonNull::new(unsafe { dpdk_sys::shim_mbuf_append(mbuf.0.as_ptr(), len) })?;
        Some(mbuf)
    }

    /// A frame of one segment for each of `parts`, which must not be longer than the pool's data room.
    /// `None` when it cannot be built.
    pub fn from_parts(pool: &Mempool, parts: &[&[u8]]) -> Option<Mbuf> {
        let (first, rest) = parts.split_first()?;
        let head = Mbuf::segment(pool, first)?;
        for part in rest {
            let tail = Mbuf::segment(pool, part)?;
            // SAFETY: both chains are ours alone.
            if unsafe { dpdk_sys::shim_mbuf_chain(head.0.as_ptr(), tail.0.as_ptr()) } != 0 {
                return None;
            }
            tail.into_raw(); // It is part of `head` now.
        }
        Some(head)
    }

    /// A frame of one segment with these bytes; allocates nothing but the mbuf.
    pub(super) fn segment(pool: &Mempool, bytes: &[u8]) -> Option<Mbuf> {
        let len = u16::try_from(bytes.len()).ok()?;
        // SAFETY: the handle keeps the pool alive; the mbuf that comes out is ours.
        let mbuf = Mbuf(NonNull::new(unsafe { dpdk_sys::shim_mbuf_alloc(pool.as_ptr()) })?);
        // SAFETY: the mbuf is ours and has one segment; the result is NULL or `len` bytes of room in it.
        let room = NonNull::new(unsafe { dpdk_sys::shim_mbuf_append(mbuf.0.as_ptr(), len) })?;
        // SAFETY: `room` has `len` bytes, and a fresh buffer overlaps nothing.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), room.as_ptr().cast(), bytes.len()) };
        Some(mbuf)
    }

    /// The first segment's bytes, to change them.
    pub fn head_mut(&mut self) -> &mut [u8] {
        let (data, len) = segment_of(self.0);
        // SAFETY: the segment has `len` bytes at `data`, and we are its only owner.
        unsafe { std::slice::from_raw_parts_mut(data, len) }
    }

    /// Asks the port that transmits this frame to put its TCP or UDP checksum in, as a guest's driver does
    /// towards virtio. `l2`, `l3`: bytes of those headers. The pseudo-header's sum must be in place.
    pub fn ask_checksum(&mut self, l2: u8, l3: u16, ipv6: bool, l4: L4) {
        // SAFETY: the mbuf is ours.
        unsafe {
            dpdk_sys::shim_mbuf_ask_checksum(self.0.as_ptr(), l2, l3, ipv6.into(), (l4 == L4::Udp).into())
        };
    }

    /// Gives up ownership: the pointer has to come back through `from_raw` or DPDK.
    pub(super) fn into_raw(self) -> *mut rte_mbuf {
        let mbuf = std::mem::ManuallyDrop::new(self);
        mbuf.0.as_ptr()
    }

    fn flags(&self) -> u64 {
        // SAFETY: the mbuf is ours and the offset is that of the field.
        unsafe { field(self.0, dpdk_sys::MBUF_OL_FLAGS) }
    }
}

/// Reads a field of an mbuf.
///
/// # Safety
/// `mbuf` is a live mbuf that has a `T` at `offset`.
#[inline(always)]
unsafe fn field<T: Copy>(mbuf: NonNull<rte_mbuf>, offset: usize) -> T {
    // SAFETY: as the caller promises; fields are aligned as C aligns them.
    unsafe { mbuf.cast::<u8>().add(offset).cast::<T>().read() }
}

/// Where a segment's bytes are, and how many.
#[inline(always)]
fn segment_of(mbuf: NonNull<rte_mbuf>) -> (*mut u8, usize) {
    // SAFETY: callers pass a segment of a chain that they own; DPDK keeps data_off + data_len within the
    // buffer at buf_addr.
    unsafe {
        let buffer: *mut u8 = field(mbuf, dpdk_sys::MBUF_BUF_ADDR);
        let offset: u16 = field(mbuf, dpdk_sys::MBUF_DATA_OFF);
        let len: u16 = field(mbuf, dpdk_sys::MBUF_DATA_LEN);
        (buffer.add(usize::from(offset)), usize::from(len))
    }
}

impl Frame for Mbuf {
    #[inline]
    fn head(&self) -> &[u8] {
        let (data, len) = segment_of(self.0);
        // SAFETY: the segment has `len` bytes at `data` and changes only through `&mut self`.
        unsafe { std::slice::from_raw_parts(data, len) }
    }

    #[inline]
    fn len(&self) -> u32 {
        // SAFETY: the mbuf is ours and the offset is that of the field.
        unsafe { field(self.0, dpdk_sys::MBUF_PKT_LEN) }
    }

    #[inline]
    fn segments(&self) -> u16 {
        // SAFETY: as above.
        unsafe { field(self.0, dpdk_sys::MBUF_NB_SEGS) }
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        let mut next = Some(self.0);
        // nb_segs bounds the walk, should a chain ever be tied into a ring.
        for _ in 0..self.segments() {
            let Some(mbuf) = next else { break };
            let (data, len) = segment_of(mbuf);
            // SAFETY: as in `head`, for a segment of our chain.
            see(unsafe { std::slice::from_raw_parts(data, len) });
            // SAFETY: `next` is NULL or the next segment of our chain.
            next = NonNull::new(unsafe { field::<*mut rte_mbuf>(mbuf, dpdk_sys::MBUF_NEXT) });
        }
    }

    #[inline]
    fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            let (data, _) = segment_of(self.0);
            // SAFETY: a prefetch reads nothing and cannot fault.
            unsafe { core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(data.cast()) };
        }
    }

    #[inline]
    fn prefetch_held(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let mbuf: *const i8 = self.0.as_ptr().cast();
            // SAFETY: a prefetch reads nothing and cannot fault; an mbuf has two cache lines.
            unsafe {
                (_mm_prefetch::<_MM_HINT_T0>(mbuf), _mm_prefetch::<_MM_HINT_T0>(mbuf.wrapping_add(64)))
            };
        }
    }

    /// A frame that somebody still has to segment, or whose TCP or UDP checksum the driver found wrong.
    #[inline]
    fn unfinished(&self) -> bool {
        unfit(self.flags())
    }

    #[inline]
    fn owes_checksum(&self) -> bool {
        self.flags() & dpdk_sys::MBUF_RX_L4_MASK == dpdk_sys::MBUF_RX_L4_NONE
    }

    #[inline]
    fn put(&mut self, at: usize, bytes: [u8; 2]) {
        if let Some(place) = self.head_mut().get_mut(at..at + 2) {
            place.copy_from_slice(&bytes);
        }
    }
}

/// Whether an mbuf's `ol_flags` say that its frame is not fit for a wire.
#[inline(always)]
fn unfit(flags: u64) -> bool {
    flags & (dpdk_sys::MBUF_SEGMENT_ME | dpdk_sys::MBUF_TX_L4_MASK) != 0
        || flags & dpdk_sys::MBUF_RX_L4_MASK == dpdk_sys::MBUF_RX_L4_BAD
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we own the chain, and this is the end of it.
        unsafe { dpdk_sys::shim_mbuf_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head();
        f.debug_struct("Mbuf")
            .field("bytes", &self.len())
            .field("segments", &self.segments())
            .field("starts", &&head[..head.len().min(14)])
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_unfit_when_it_is_to_be_segmented_or_its_sum_is_missing_or_wrong() {
        // Bits as rte_mbuf_core.h has them: receive 3 (sum bad), 8 (sum good), both (no sum), 16 (LRO);
        // transmit 42 (UDP segmentation), 50 (TCP segmentation), 52 and 53 (sum of TCP, SCTP, UDP).
        let bit = |n: u32| 1u64 << n;
        for bad in [bit(3), bit(16), bit(42), bit(50), bit(52), bit(53), bit(52) | bit(53)] {
            assert!(unfit(bad), "{bad:#x}");
            assert!(unfit(bad | bit(7)), "{bad:#x} with a good IP sum");
        }
        // Receive 3 and 8: the sum is left to us, which `owes_checksum` says.
        for fit in [0, bit(8), bit(7), bit(0) | bit(6), bit(1), bit(3) | bit(8)] {
            assert!(!unfit(fit), "{fit:#x}");
        }
    }
}
