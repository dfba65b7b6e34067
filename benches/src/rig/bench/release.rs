//! A pile of frames, held and released at once; and the same pile sent by a loop that only sends.

use super::{PATIENCE_NS, Stand};
use crate::failure::{Failure, Result};
use crate::rig::delays::Delays;
use crate::rig::gaps::Gaps;
use crate::rig::{Seen, Speed};
use std::rc::Rc;
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{Mbuf, Tsc};
use tidegate_dataplane::port::{BURST, Port};
use tidegate_dataplane::tsc::{Clock, TscRate};

/// From what made the caches forget to the commit: an lcore polls on while its guest runs, so its code and the streams
/// are in the caches again, and what is held is not.
const POLLED_ON_NS: u64 = 3_000_000;

impl Stand {
    /// See [`crate::rig::Ask::Release`].
    pub(super) fn releases(&mut self, frames: u64, times: u32, pollution: &mut [u64]) -> Result<Seen> {
        if frames > self.load.hold_frames {
            return Err(Failure::new("the rig is to hold more frames than there is room for"));
        }
        let (mut releases, mut takes, mut rtp) = (Vec::new(), Vec::new(), Vec::new());
        let (mut dropped, mut ticks, mut hiccups) = (0, 0, (0, 0, 0));
        let in_ns = |ticks: u64, rate: TscRate| ticks as f64 * 1e9 / rate.hz() as f64;
        for _ in 0..times {
            let before = self.dropped();
            let mut pile: Vec<Mbuf> = Vec::with_capacity(frames as usize);
            let start = Tsc.now();
            self.ledger.borrow_mut().begin(start);
            self.take(frames, &mut pile)?;
            takes.push(in_ns(Tsc.now() - start, self.rate));
            forget(pollution);
            let rtp_speed = self.load.rtp;
            self.set(rtp_speed, Speed::None);
            self.until(Tsc.now() + self.rate.ticks(POLLED_ON_NS));
            if self.load.bare {
                self.send_hot()?;
            }
            let commit = Tsc.now();
            self.ledger.borrow_mut().begin(commit);
            if self.load.bare {
                self.send_pile(pile);
            } else {
                self.commit(self.epoch - 1, commit);
                let deadline = commit + self.rate.ticks(PATIENCE_NS);
                while self.ledger.borrow().sent.1 < frames {
                    self.poll();
                    if Tsc.now() > deadline {
                        return Err(Failure::new("the rig's lane did not release what it held"));
                    }
                }
            }
            let mut ledger = self.ledger.borrow_mut();
            let took = ledger.last_sent - commit;
            releases.push((in_ns(took, self.rate), ledger.gaps.count > 0));
            rtp.extend(ledger.rtp.iter().map(|(ticks, touched)| (in_ns(*ticks, self.rate), *touched)));
            ticks += took;
            let Gaps { count, all, worst, .. } = ledger.gaps;
            hiccups = (hiccups.0 + count, hiccups.1 + all, u64::max(hiccups.2, worst));
            let starved = ledger.starved;
            ledger.forget();
            drop(ledger);
            dropped += self.dropped() - before + starved;
            self.settle()?;
        }
        Ok(Seen {
            rtp: Delays::of(&rtp),
            frames: frames * u64::from(times),
            dropped,
            held_peak: frames,
            releases,
            takes,
            hiccups: hiccups.0,
            hiccup_share: hiccups.1 as f64 / ticks.max(1) as f64,
            hiccup_worst_us: in_ns(hiccups.2, self.rate) / 1e3,
            seconds: in_ns(ticks, self.rate) / 1e9,
            ..Seen::default()
        })
    }

    /// Holds so many frames of an epoch that ends with them; bare: keeps them in `pile`.
    fn take(&mut self, frames: u64, pile: &mut Vec<Mbuf>) -> Result<()> {
        let feed = Rc::clone(&self.feeds[0]);
        feed.borrow_mut().pile(frames);
        if self.load.bare {
            loop {
                let mut burst = Burst::new();
                if feed.borrow_mut().receive(0, &mut burst) == 0 {
                    break;
                }
                while let Some(mbuf) = burst.pop() {
                    pile.push(mbuf);
                }
            }
        } else {
            while self.ledger.borrow().given.1 < frames && self.ledger.borrow().starved == 0 {
                self.poll();
            }
            self.close(None);
        }
        if self.ledger.borrow().starved > 0 {
            return Err(Failure::new(format!("the rig's pool has less than {frames} mbufs left")));
        }
        Ok(())
    }

    /// A forwarder that polls on has sent something a moment ago.
    fn send_hot(&mut self) -> Result<()> {
        for _ in 0..4 {
            let mut few = Vec::with_capacity(BURST);
            self.take(BURST as u64, &mut few)?;
            self.send_pile(few);
        }
        Ok(())
    }

    /// What any forwarder does: bursts of pointers to the driver.
    fn send_pile(&mut self, pile: Vec<Mbuf>) {
        let mut sink = self.sinks[0].0.borrow_mut();
        let mut pile = pile.into_iter();
        let mut burst = Burst::new();
        loop {
            while burst.len() < BURST
                && let Some(mbuf) = pile.next()
            {
                let _ = burst.push(mbuf); // There is room.
            }
            if burst.is_empty() {
                break;
            }
            sink.transmit(0, &mut burst);
        }
    }
}

/// Goes through more memory than the caches have.
fn forget(pollution: &mut [u64]) {
    // A word of each line, written: lines that are only read may stay where they are.
    pollution.iter_mut().step_by(8).for_each(|word| *word = word.wrapping_mul(3));
}
