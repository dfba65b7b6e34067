//! The loop of one lcore. This is what happens to a frame:
//!
//! 1. `obey`: what the control side asked for (close an epoch, an order, the lease);
//! 2. `receive`: a burst from the guest; each frame is classified and bypasses or is held;
//! 3. `send_bypass`: what bypasses goes to the wire, before anything else;
//! 4. `release`: at most 32 committed frames follow, at the configured pace;
//! 5. `guestward`: a burst from the wire goes to the guest.
//!
//! The lcore waits for nobody. With nothing to do it spins, or backs off if told to.

use crate::arena::Arena;
use crate::histogram::Histogram;
use crate::lane::Lane;
use crate::port::Port;
use crate::tsc::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What an lcore does with nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the core is its own.
    Spin,
    /// After 2^6 empty polls pauses, after 2^12 sleeps for at most this long, so that a core can be
    /// shared. The sleep bounds how late a frame, a close or the fence is noticed.
    BackOff {
        /// The longest sleep.
        max_sleep: Duration,
    },
}

const PAUSE_AFTER: u64 = 1 << 6;
const SLEEP_AFTER: u64 = 1 << 12;

/// What an lcore shares with the control side.
#[derive(Debug)]
pub struct LcoreShared {
    stop: AtomicBool,
    polls: AtomicU64,
    sleeps: AtomicU64,
    /// From the begin of one poll to the next, ticks: what a frame may wait before it is seen.
    pub poll_gap: Histogram,
}

impl LcoreShared {
    /// For an lcore that has not started.
    pub fn new(arena: &mut impl Arena) -> Arc<Self> {
        Arc::new(Self {
            stop: AtomicBool::new(false),
            polls: AtomicU64::new(0),
            sleeps: AtomicU64::new(0),
            poll_gap: Histogram::new(arena),
        })
    }

    /// Asks the lcore to end; it drops what it holds (I4) and returns.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Polls since it started: a sign of life.
    pub fn polls(&self) -> u64 {
        self.polls.load(Relaxed)
    }

    /// Sleeps since it started.
    pub fn sleeps(&self) -> u64 {
        self.sleeps.load(Relaxed)
    }
}

/// One lcore and the lanes it owns.
pub struct Lcore<G: Port, W: Port<Frame = G::Frame>, C: Clock>
where
    G::Frame: Send + 'static,
{
    lanes: Vec<Lane<G, W, C>>,
    clock: C,
    idle: Idle,
    shared: Arc<LcoreShared>,
}

impl<G: Port, W: Port<Frame = G::Frame>, C: Clock> Lcore<G, W, C>
where
    G::Frame: Send + 'static,
{
    /// An lcore over these lanes.
    pub fn new(lanes: Vec<Lane<G, W, C>>, clock: C, idle: Idle, shared: Arc<LcoreShared>) -> Self {
        Self { lanes, clock, idle, shared }
    }

    /// Polls until told to stop, then drops what is held.
    pub fn run(&mut self) {
        let (mut empty, mut before) = (0u64, self.clock.now());
        while !self.shared.stop.load(Relaxed) {
            let now = self.clock.now();
            self.shared.poll_gap.record(now.saturating_sub(before));
            before = now;
            if self.poll(now) {
                empty = 0;
            } else {
                empty += 1;
                self.rest(empty);
            }
        }
        self.lanes.iter_mut().for_each(Lane::stop);
    }

    /// One round over all lanes. True when any of them had anything to do.
    #[inline]
    pub fn poll(&mut self, now: u64) -> bool {
        let mut busy = false;
        for lane in &mut self.lanes {
            lane.obey(now);
            busy |= lane.receive();
            busy |= lane.send_bypass();
            busy |= lane.release();
            busy |= lane.guestward();
            lane.publish();
        }
        self.shared.polls.store(self.shared.polls.load(Relaxed) + 1, Relaxed);
        busy
    }

    #[inline]
    fn rest(&self, empty: u64) {
        let Idle::BackOff { max_sleep } = self.idle else { return };
        if empty >= SLEEP_AFTER {
            self.shared.sleeps.store(self.shared.sleeps.load(Relaxed) + 1, Relaxed);
            std::thread::sleep(max_sleep);
        } else if empty >= PAUSE_AFTER {
            std::hint::spin_loop();
        }
    }
}
