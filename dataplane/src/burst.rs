//! Up to 32 frames on the stack, in order: what one receive or transmit call moves.

use crate::port::BURST;

/// A short FIFO of owned frames. `Option<F>` has the size of a pointer when `F` is an mbuf, so the
/// driver fills and empties [`Burst::room`] and [`Burst::queued`] in place.
#[derive(Debug)]
pub struct Burst<F> {
    slots: [Option<F>; BURST],
    first: usize,
    end: usize,
}

impl<F> Default for Burst<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> Burst<F> {
    /// An empty burst.
    pub const fn new() -> Self {
        Self { slots: [const { None }; BURST], first: 0, end: 0 }
    }

    /// Frames queued.
    pub const fn len(&self) -> usize {
        self.end - self.first
    }

    /// True when nothing is queued.
    pub const fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// True when nothing more can be pushed until the front moves.
    pub const fn is_full(&self) -> bool {
        self.end == BURST && self.first == 0
    }

    /// Adds a frame at the end; gives it back when there is no room.
    pub fn push(&mut self, frame: F) -> Result<(), F> {
        let frame = match self.push_in_place(frame) {
            Ok(_) => return Ok(()),
            Err(frame) if self.first == 0 => return Err(frame),
            Err(frame) => frame,
        };
        self.compact();
        self.push_in_place(frame).map(|_| ())
    }

    /// The same, but never moves the others. Returns its slot.
    #[inline(always)]
    pub(crate) fn push_in_place(&mut self, frame: F) -> Result<usize, F> {
        let at = self.end;
        match self.slots.get_mut(at) {
            // What is not queued is `None`: nothing is dropped here.
            Some(slot) => *slot = Some(frame),
            None => return Err(frame),
        }
        self.end = at + 1;
        Ok(at)
    }

    /// The slot of the oldest frame: for what goes along with the frames.
    #[inline(always)]
    pub(crate) const fn first(&self) -> usize {
        self.first
    }

    /// Takes the oldest frame.
    pub fn pop(&mut self) -> Option<F> {
        if self.is_empty() {
            return None;
        }
        let frame = self.slots[self.first].take();
        self.first += 1;
        if self.first == self.end {
            (self.first, self.end) = (0, 0);
        }
        frame
    }

    /// The queued frames, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &F> {
        self.slots[self.first..self.end].iter().flatten()
    }

    /// For a driver that transmits: the queued slots. It leaves `None` in those it took, from the
    /// front, and then calls [`Burst::sent`].
    pub fn queued(&mut self) -> &mut [Option<F>] {
        &mut self.slots[self.first..self.end]
    }

    /// The front `n` slots have been emptied by the driver.
    pub fn sent(&mut self, n: usize) {
        debug_assert!(self.slots[self.first..self.first + n].iter().all(Option::is_none));
        self.first += n;
        if self.first == self.end {
            (self.first, self.end) = (0, 0);
        }
    }

    /// For a driver that receives: the free slots, all `None`. It fills them from the front and then
    /// calls [`Burst::received`].
    pub fn room(&mut self) -> &mut [Option<F>] {
        if self.first > 0 {
            self.compact();
        }
        &mut self.slots[self.end..]
    }

    /// The front `n` slots of [`Burst::room`] have been filled by the driver.
    pub fn received(&mut self, n: usize) {
        debug_assert!(self.slots[self.end..self.end + n].iter().all(Option::is_some));
        self.end += n;
    }

    /// Moves the queued frames to the front.
    #[cold]
    pub(crate) fn compact(&mut self) {
        let queued = self.len();
        for to in 0..queued {
            self.slots[to] = self.slots[self.first + to].take();
        }
        (self.first, self.end) = (0, queued);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_fifo_that_hands_back_what_does_not_fit() {
        let mut burst = Burst::new();
        for n in 0..BURST {
            burst.push(n).unwrap();
        }
        assert_eq!(burst.push(99), Err(99));
        assert!(burst.is_full());
        assert_eq!(burst.pop(), Some(0));
        burst.push(32).unwrap();
        assert_eq!(burst.iter().copied().collect::<Vec<_>>(), (1..=32).collect::<Vec<_>>());
    }

    #[test]
    fn a_driver_takes_from_the_front_and_fills_the_room() {
        let mut burst = Burst::new();
        burst.room()[0] = Some('a');
        burst.room()[1] = Some('b');
        burst.received(2);
        assert_eq!(burst.queued()[0].take(), Some('a'));
        burst.sent(1);
        assert_eq!(burst.len(), 1);
        assert_eq!(burst.room().len(), BURST - 1, "sent slots come back as room");
        assert_eq!(burst.pop(), Some('b'));
        assert_eq!(burst.pop(), None);
    }
}
