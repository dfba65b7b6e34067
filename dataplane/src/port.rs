//! What a lane needs of a frame and of a port. DPDK's own implement it (`dpdk::Mbuf`, `dpdk::Port`),
//! and so do the simulator's: nothing above this line knows which one it drives.

use crate::burst::Burst;

/// Frames a burst holds, and the most a lane releases in one poll.
pub const BURST: usize = 32;

/// One Ethernet frame that we own. Dropping it gives its buffers back.
pub trait Frame: Sized {
    /// The bytes of the first segment, from the first byte of the Ethernet header.
    fn head(&self) -> &[u8];

    /// Bytes of the whole frame, all segments, without FCS.
    fn len(&self) -> u32;

    /// True for a frame without a byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Buffers this frame pins (the segments of an mbuf chain).
    fn segments(&self) -> u16;

    /// Calls `see` with each segment's bytes, in order. Needed for checksums over chains only.
    fn each_segment(&self, see: &mut dyn FnMut(&[u8]));

    /// Asks the CPU for the head's first line; a hint.
    fn prefetch(&self) {}

    /// Asks the CPU for what a driver that sends the frame, or whoever frees it, looks at; a hint. A frame that was
    /// held has left the caches long ago.
    fn prefetch_held(&self) {}

    /// True when the driver left segmentation to us, or found the checksum wrong.
    fn unfinished(&self) -> bool {
        false
    }

    /// True when the checksum of UDP or TCP is left to us: the guest asked its device for it, and the field holds
    /// the sum of the pseudo header.
    fn owes_checksum(&self) -> bool {
        false
    }

    /// Writes two bytes at `at` of the first segment, which has them.
    fn put(&mut self, at: usize, bytes: [u8; 2]) {
        let _ = (at, bytes);
    }
}

/// One end of a lane: a DPDK port, or the simulator's. Used by one lcore only.
pub trait Port {
    /// The frames this port takes and gives.
    type Frame: Frame;

    /// Queue pairs; receive from each, queues are numbered from 0.
    fn queues(&self) -> u16;

    /// Appends what the queue has to `burst`, up to its free room; returns how many.
    fn receive(&mut self, queue: u16, burst: &mut Burst<Self::Frame>) -> usize;

    /// Sends from the front of `burst`; returns how many left. What is not sent stays in `burst`.
    fn transmit(&mut self, queue: u16, burst: &mut Burst<Self::Frame>) -> usize;

    /// A frame of the plane's own with these bytes, for this port to send. `None` when there is no buffer for it, or
    /// it cannot make any.
    fn compose(&mut self, bytes: &[u8]) -> Option<Self::Frame> {
        let _ = bytes;
        None
    }
}
