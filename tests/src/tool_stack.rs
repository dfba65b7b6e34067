//! The test as the tool stack of a replicated VM: it pauses the guest, closes the epoch on the control
//! socket, reads the guest's counter, lets it run on, and commits later, as a backup would.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::commit_log::{Closed, CommitLog};
use crate::control_client::ControlClient;
use crate::failure::{Failure, Result};
use crate::plane::GUEST;
use crate::qemu::CounterPage;
use crate::qmp::Qmp;
use crate::wall_clock::{now_ns, wait_until};

/// What a tool stack works with, and hands back when it ends.
pub struct Parts {
    /// The guest's monitor.
    pub qmp: Qmp,
    /// The plane's control socket.
    pub control: ControlClient,
    /// The guest's counter.
    pub page: CounterPage,
    /// The epochs so far.
    pub log: CommitLog,
}

/// When epochs end and when they are committed.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// From one pause to the next.
    pub interval: Duration,
    /// From a close to its commit: how long the checkpoint travels.
    pub delay: Duration,
}

#[derive(Default)]
struct Orders {
    end: AtomicBool,
    withhold: AtomicBool,
    next_page: Mutex<Option<CounterPage>>,
}

/// A tool stack at work in a thread of its own.
pub struct ToolStack {
    orders: Arc<Orders>,
    thread: JoinHandle<Result<Parts>>,
}

impl ToolStack {
    /// Begins with a pause.
    pub fn start(parts: Parts, rhythm: Rhythm) -> ToolStack {
        let orders = Arc::new(Orders::default());
        let given = Arc::clone(&orders);
        let thread = std::thread::spawn(move || {
            let mut work = Work { parts, orders: given, travelling: VecDeque::new(), merged: 0 };
            let outcome = work.run(rhythm);
            // Said at once: the guest stands still now, and what the test sees first is that.
            if let Err(failure) = &outcome {
                eprintln!("the tool stack ends: {failure}");
            }
            if work.merged > 0 {
                eprintln!("{} closes were not answered in time and merged", work.merged);
            }
            outcome.map(|()| work.parts)
        });
        ToolStack { orders, thread }
    }

    /// While `true`, epochs are closed as before but none is committed.
    pub fn withhold(&self, withhold: bool) {
        self.orders.withhold.store(withhold, Ordering::SeqCst);
    }

    /// After a reboot of the guest: turns to its new beacon at the next pause, and waits for that. Until
    /// then the old page stands at its last number, which is right for a beacon that is no more.
    pub fn follow(&self, page: CounterPage) -> Result<()> {
        *self.next_page() = Some(page);
        let taken = wait_until(Duration::from_secs(20), Duration::from_millis(5), || {
            self.next_page().is_none() || self.thread.is_finished()
        });
        crate::ensure!(taken && !self.thread.is_finished(), "the tool stack took no notice of a new beacon");
        Ok(())
    }

    /// Fails when the tool stack has ended early.
    pub fn check(&self) -> Result<()> {
        crate::ensure!(!self.thread.is_finished(), "the tool stack has ended early; its reason stands above");
        Ok(())
    }

    fn next_page(&self) -> MutexGuard<'_, Option<CounterPage>> {
        self.orders.next_page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes a last epoch, commits all (also those that were withheld), and hands the parts back.
    pub fn stop(self) -> Result<Parts> {
        self.orders.end.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| Failure::new("the tool stack's thread panicked"))?
    }
}

struct Work {
    parts: Parts,
    orders: Arc<Orders>,
    /// Closed epochs on their way to the backup: when each arrives, its generation and number.
    travelling: VecDeque<(Instant, u64, u64)>,
    /// Closes that came to nothing.
    merged: u32,
}

impl Work {
    fn run(&mut self, rhythm: Rhythm) -> Result<()> {
        let mut next = Instant::now();
        loop {
            let end = self.orders.end.load(Ordering::SeqCst);
            if end || Instant::now() >= next {
                next = Instant::now() + rhythm.interval;
                let closed = self.checkpoint(rhythm.delay)?;
                if end && !closed {
                    continue;
                }
            }
            if end {
                while let Some(&(arrival, _, _)) = self.travelling.front() {
                    std::thread::sleep(arrival.saturating_duration_since(Instant::now()));
                    self.commit_arrived()?;
                }
                return Ok(());
            }
            if !self.orders.withhold.load(Ordering::SeqCst) {
                self.commit_arrived()?;
            }
            let arrival = self.travelling.front().map_or(next, |travelling| travelling.0);
            let wait = next.min(arrival).saturating_duration_since(Instant::now());
            // In small steps, for the orders.
            std::thread::sleep(wait.clamp(Duration::from_millis(1), Duration::from_millis(5)));
        }
    }

    /// One pause; true when it has closed an epoch.
    fn checkpoint(&mut self, delay: Duration) -> Result<bool> {
        let Parts { qmp, control, page, log } = &mut self.parts;
        qmp.stop()?;
        let answer = match control.request("close", json!({ "guest": GUEST }))? {
            Ok(answer) => answer,
            // The lcore was not on its CPU for a while. The epoch goes on, so does the guest.
            Err(refusal) if refusal.reason == "merged" => {
                self.merged += 1;
                return qmp.resume().map(|()| false);
            }
            Err(refusal) => return Err(Failure::new(format!("tidegate refused a close: {refusal}"))),
        };
        let number = |key: &str| {
            answer[key]
                .as_u64()
                .ok_or_else(|| Failure::new(format!("close was answered without {key:?}: {answer}")))
        };
        let (generation, epoch) = (number("generation")?, number("epoch")?);
        let closed_ns = now_ns();
        if let Some(next) = self.orders.next_page.lock().unwrap_or_else(PoisonError::into_inner).take() {
            *page = next;
        }
        let (boot, counter) = (page.boot(), page.read()?);
        log.close(Closed { generation, epoch, closed_ns, boot, counter, committed_ns: None });
        qmp.resume()?;
        self.travelling.push_back((Instant::now() + delay, generation, epoch));
        Ok(true)
    }

    fn commit_arrived(&mut self) -> Result<()> {
        while let Some(&(arrival, generation, epoch)) = self.travelling.front()
            && arrival <= Instant::now()
        {
            self.parts.log.commit(generation, epoch, now_ns());
            let what = json!({ "guest": GUEST, "generation": generation, "epoch": epoch });
            self.parts.control.execute("commit", what)?;
            self.travelling.pop_front();
        }
        Ok(())
    }
}
