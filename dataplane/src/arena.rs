//! Memory that a lane takes once, at start: hold rings, histograms, stream tables.
//!
//! One arena per lcore, in huge pages where there are any (`dpdk::hugearena`), else on the heap.

use std::ops::{Deref, DerefMut};

/// A slice of the arena, or of the heap. Lives as long as its owner; an arena's pages stay mapped
/// until the process ends.
#[derive(Debug)]
pub enum Slice<T: 'static> {
    /// On the heap.
    Heap(Box<[T]>),
    /// In an arena that outlives everything.
    Arena(&'static mut [T]),
}

impl<T> Deref for Slice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Slice::Heap(slice) => slice,
            Slice::Arena(slice) => slice,
        }
    }
}

impl<T> DerefMut for Slice<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Slice::Heap(slice) => slice,
            Slice::Arena(slice) => slice,
        }
    }
}

/// Hands out [`Slice`]s. Only used while a lane is built, never on the running path.
pub trait Arena {
    /// `n` values made by `make`, contiguous, touched (so that no page fault waits for the lcore).
    fn slice<T: Send + 'static>(&mut self, n: usize, make: impl FnMut() -> T) -> Slice<T>;
}

/// The fallback: plain heap.
#[derive(Debug, Default)]
pub struct Heap;

impl Arena for Heap {
    fn slice<T: Send + 'static>(&mut self, n: usize, make: impl FnMut() -> T) -> Slice<T> {
        Slice::Heap(std::iter::repeat_with(make).take(n).collect())
    }
}
