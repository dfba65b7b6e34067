//! Transmit on a thread of its own, for guest ports whose driver may block.
//!
//! DPDK's af_packet driver waits in `poll` without an end when the kernel's ring is full, which it is for
//! as long as the peer does not read: a paused guest. An lcore that waits there serves no lane. So the
//! frames go through a bounded queue to a thread that may wait as long as it likes; when the queue is full
//! they stay with the lane, as with any port that is full.

use super::mbuf::Mbuf;
use super::portburst::transmit_now;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Frames that wait between the lcore and the thread. More would only hide a guest that does not read.
const DEPTH: usize = 512;
const CHUNK: usize = 32;
/// Sleep of a thread with nothing to do. It polls, because waking it would cost the lcore a system call.
const NAP: Duration = Duration::from_micros(50);
const LONG_NAP: Duration = Duration::from_micros(500);
/// Naps before the long ones.
const NAPS: u32 = 200;
/// A thread that is not in the driver leaves its loop well within this.
const PATIENCE: Duration = Duration::from_millis(200);

/// The lcore's end: one for each queue.
#[derive(Clone, Debug)]
pub(super) struct Courier {
    queue: Arc<ArrayQueue<Mbuf>>,
}

impl Courier {
    /// Takes frames from the front of `queued` until the queue is full; says how many.
    pub(super) fn accept(&self, queued: &mut [Option<Mbuf>]) -> usize {
        for (n, slot) in queued.iter_mut().enumerate() {
            let Some(frame) = slot.take() else { return n };
            if let Err(frame) = self.queue.push(frame) {
                *slot = Some(frame);
                return n;
            }
        }
        queued.len()
    }
}

/// The control side's end: the thread of one port, for all its queues.
#[derive(Debug)]
pub(super) struct CourierThread {
    couriers: Vec<Courier>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CourierThread {
    /// Starts the thread for `queues` transmit queues of a started port.
    pub(super) fn start(port: u16, queues: u16) -> std::io::Result<CourierThread> {
        let couriers: Vec<_> =
            (0..queues).map(|_| Courier { queue: Arc::new(ArrayQueue::new(DEPTH)) }).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, told) = (couriers.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(format!("courier-{port}"))
            .spawn(move || carry(port, &theirs, &told))?;
        Ok(CourierThread { couriers, stop, thread: Some(thread) })
    }

    /// The lcore's ends, one for each queue.
    pub(super) fn couriers(&self) -> Vec<Courier> {
        self.couriers.clone()
    }

    /// Stops the thread; frames still queued are dropped. False when it is stuck in the driver: then the port
    /// must not be closed under it, and the thread ends with the process.
    pub(super) fn stop(&mut self) -> bool {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return true };
        let deadline = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            if Instant::now() > deadline {
                self.thread = Some(thread);
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = thread.join(); // It has finished, and a panic would have aborted.
        for courier in &self.couriers {
            while courier.queue.pop().is_some() {}
        }
        true
    }
}

fn carry(port: u16, couriers: &[Courier], stop: &AtomicBool) {
    // A chunk for each queue, so that one queue that is full does not hold back the others.
    let mut chunks: Vec<[Option<Mbuf>; CHUNK]> = couriers.iter().map(|_| [const { None }; CHUNK]).collect();
    let mut naps = 0;
    while !stop.load(Ordering::Acquire) {
        let mut carried = 0;
        for (number, (courier, chunk)) in couriers.iter().zip(&mut chunks).enumerate() {
            let mut filled = chunk.iter().take_while(|slot| slot.is_some()).count();
            while filled < CHUNK {
                let Some(frame) = courier.queue.pop() else { break };
                chunk[filled] = Some(frame);
                filled += 1;
            }
            let sent = transmit_now(port, number as u16, &mut chunk[..filled]);
            chunk[..filled].rotate_left(sent);
            carried += sent;
        }
        if carried > 0 {
            naps = 0;
            continue;
        }
        naps = NAPS.min(naps + 1);
        std::thread::sleep(if naps < NAPS { NAP } else { LONG_NAP });
    }
}
