//! The arena of an lcore in huge pages: one mapping, taken and touched at start.
//!
//! hugepage-rs maps at least one huge page per allocation and says null when there are none, so a lane's
//! rings and histograms share one allocation, and the heap takes what does not fit.

use crate::arena::{Arena, Heap, Slice};
use std::alloc::Layout;
use std::ptr::NonNull;

/// Huge pages are aligned to at least this, whatever their size.
const ALIGN: usize = 4096;

/// Hands out slices of one mapping of huge pages. Their pages stay mapped until the process ends, and
/// values in them are never dropped.
#[derive(Debug)]
pub struct HugeArena {
    /// First free byte and bytes left; `None` without huge pages.
    free: Option<(NonNull<u8>, usize)>,
}

// SAFETY: the free bytes belong to this arena alone; nothing in it depends on a thread.
unsafe impl Send for HugeArena {}

impl HugeArena {
    /// An arena of `bytes`, zeroed, so that each page is there before an lcore needs it. Without huge
    /// pages, or with 0 bytes, every slice comes from the heap.
    pub fn new(bytes: usize) -> HugeArena {
        HugeArena { free: map(bytes).map(|start| (start, bytes)) }
    }

    /// True when there were huge pages.
    pub fn is_huge(&self) -> bool {
        self.free.is_some()
    }

    /// Bytes left, alignment aside.
    pub fn left(&self) -> usize {
        self.free.map_or(0, |(_, left)| left)
    }

    fn take(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let (start, left) = self.free?;
        let pad = start.align_offset(layout.align());
        let used = pad.checked_add(layout.size())?;
        if layout.size() == 0 || used > left {
            return None;
        }
        // SAFETY: `used` bytes are left from `start`, in one mapping.
        let (slice, start) = unsafe { (start.add(pad), start.add(used)) };
        self.free = Some((start, left - used));
        Some(slice)
    }
}

impl Arena for HugeArena {
    fn slice<T: Send + 'static>(&mut self, n: usize, mut make: impl FnMut() -> T) -> Slice<T> {
        let Some(place) = Layout::array::<T>(n).ok().and_then(|layout| self.take(layout)) else {
            return Heap.slice(n, make);
        };
        let first = place.cast::<T>();
        for at in 0..n {
            // SAFETY: `take` gave room for `n` values, aligned, to us alone.
            unsafe { first.add(at).write(make()) };
        }
        // SAFETY: all `n` values are written; the mapping is never unmapped and never handed out again.
        Slice::Arena(unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), n) })
    }
}

fn map(bytes: usize) -> Option<NonNull<u8>> {
    // hugepage-rs panics where the kernel knows no huge pages at all.
    let known = std::fs::read_to_string("/proc/meminfo").is_ok_and(|text| text.contains("\nHugepagesize:"));
    let layout = Layout::from_size_align(bytes, ALIGN).ok()?;
    if !known || bytes == 0 {
        return None;
    }
    // SAFETY: the layout is not empty. The pages are reserved with the mapping, so touching them
    // below cannot fail for want of pages.
    let start = NonNull::new(unsafe { hugepage_rs::alloc(layout) })?;
    // SAFETY: `bytes` bytes were mapped for us, writable.
    unsafe { start.write_bytes(0, bytes) };
    Some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_do_not_overlap_and_the_heap_takes_what_does_not_fit() {
        // Any memory will do for the arithmetic: this machine may have no huge pages.
        let memory: &'static mut [u64] = Box::leak(vec![0u64; 64].into_boxed_slice());
        let mut arena =
            HugeArena { free: NonNull::new(memory.as_mut_ptr().cast()).map(|start| (start, 512)) };
        let mut bytes = arena.slice(3, || 7u8);
        let mut words = arena.slice(20, || 9u64);
        let too_many = arena.slice(64, || 1u64);
        assert!(matches!(bytes, Slice::Arena(_)) && matches!(words, Slice::Arena(_)));
        assert!(matches!(too_many, Slice::Heap(_)), "512 bytes cannot hold them");
        assert_eq!(words.as_ptr() as usize % align_of::<u64>(), 0);
        bytes.fill(1);
        words.fill(2);
        assert!(bytes.iter().all(|&b| b == 1) && words.iter().all(|&w| w == 2));
        assert_eq!(arena.left(), 512 - 8 - 160);
    }

    #[test]
    fn without_huge_pages_there_is_the_heap() {
        let mut arena = HugeArena::new(0);
        assert!(!arena.is_huge());
        assert_eq!(&arena.slice(2, || 5u32)[..], &[5, 5]);
    }
}
