//! The lcore's end of a port: bursts in, bursts out, nothing else.

use super::courier::Courier;
use super::mbuf::Mbuf;
use super::mempool::Mempool;
use crate::burst::Burst;
use crate::port::Port;
use dpdk_sys::rte_mbuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Receives and transmits on all queues of one port. There is one of each port at a time, so no queue is
/// ever polled from two threads; dropping it lets the port make another, or be closed.
#[derive(Debug)]
pub struct PortBurst {
    port: u16,
    queues: u16,
    /// Guest ports whose driver may block in transmit: one for each queue.
    couriers: Vec<Courier>,
    /// The port's own pool, for frames of the plane's.
    pool: Mempool,
    /// Shared with the control handle: set while this exists.
    lent: Arc<AtomicBool>,
}

impl PortBurst {
    pub(super) fn new(
        port: u16,
        queues: u16,
        couriers: Vec<Courier>,
        pool: Mempool,
        lent: Arc<AtomicBool>,
    ) -> PortBurst {
        PortBurst { port, queues, couriers, pool, lent }
    }

    /// The port's number in DPDK.
    pub fn id(&self) -> u16 {
        self.port
    }
}

impl Drop for PortBurst {
    fn drop(&mut self) {
        self.lent.store(false, Ordering::Release);
    }
}

impl Port for PortBurst {
    type Frame = Mbuf;

    fn queues(&self) -> u16 {
        self.queues
    }

    #[inline]
    fn receive(&mut self, queue: u16, burst: &mut Burst<Mbuf>) -> usize {
        if queue >= self.queues {
            return 0; // DPDK's release build would index its queue table with it.
        }
        let room = burst.room();
        // SAFETY: `Option<Mbuf>` is a pointer, NULL for `None` (asserted in mbuf.rs); the driver fills from the
        // front as many slots as it says, each with an mbuf that is ours from then on. The port is started
        // for as long as `lent` is set.
        let n = unsafe {
            dpdk_sys::shim_rx_burst(
                self.port,
                queue,
                room.as_mut_ptr().cast::<*mut rte_mbuf>(),
                room.len() as u16,
            )
        };
        let n = usize::from(n).min(room.len());
        for slot in &mut room[n..] {
            // SAFETY: a plain store. A driver may leave pointers behind what it says (net_vhost on packed rings does, to
            // mbufs that are back in their pool); assigning would drop, that is free, those a second time.
            unsafe { std::ptr::write(slot, None) };
        }
        burst.received(n);
        n
    }

    #[inline]
    fn transmit(&mut self, queue: u16, burst: &mut Burst<Mbuf>) -> usize {
        if queue >= self.queues {
            return 0;
        }
        let queued = burst.queued();
        let sent = match self.couriers.get(usize::from(queue)) {
            None => transmit_now(self.port, queue, queued),
            Some(courier) => courier.accept(queued),
        };
        burst.sent(sent);
        sent
    }

    fn compose(&mut self, bytes: &[u8]) -> Option<Mbuf> {
        Mbuf::segment(&self.pool, bytes)
    }
}

/// Hands frames to the driver, from the front; leaves `None` in the slots it took and says how many.
#[inline]
pub(super) fn transmit_now(port: u16, queue: u16, queued: &mut [Option<Mbuf>]) -> usize {
    if queued.is_empty() {
        return 0;
    }
    debug_assert!(queued.iter().all(Option::is_some));
    // SAFETY: as in `receive`; every slot holds an mbuf. The driver owns as many as it says it took.
    let n = unsafe {
        dpdk_sys::shim_tx_burst(port, queue, queued.as_mut_ptr().cast::<*mut rte_mbuf>(), queued.len() as u16)
    };
    let n = usize::from(n).min(queued.len());
    for slot in &mut queued[..n] {
        // SAFETY: a plain store. Assigning would drop, that is free, an mbuf that is the driver's now.
        unsafe { std::ptr::write(slot, None) };
    }
    n
}
