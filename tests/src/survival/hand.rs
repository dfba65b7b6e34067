//! Replication by hand: full copies every 100 ms, a promotion of the newest whole one. It knows nothing of `tidegate
//! replicate`, so it shows that the harness finds what a plane lets out, and that a plane that holds loses nothing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::host::{Host, copy_memory, load, save};
use crate::control_client::ControlClient;
use crate::failure::{Context, Failure, Result};
use crate::plane::GUEST;
use crate::qmp::Qmp;
use crate::scratch::Scratch;
use crate::wall_clock::wait_until;

/// From one checkpoint to the next.
pub const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    /// The slot with the newest whole checkpoint.
    newest: Mutex<Option<usize>>,
    events: Mutex<Vec<Value>>,
}

/// See the module's head.
pub struct Hand {
    shared: Arc<Shared>,
    backup: Qmp,
    control: ControlClient,
    memory: PathBuf,
    slots: Arc<Scratch>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hand {
    /// Begins.
    pub fn start(hosts: &[Host; 2]) -> Result<Hand> {
        let [a, b] = hosts;
        let shared = Arc::new(Shared::default());
        let slots = Arc::new(Scratch::under(std::path::Path::new("/dev/shm"))?);
        for slot in 0..2 {
            let file = slots.file(&format!("memory-{slot}"));
            std::fs::File::create(&file).context(|| format!("cannot write {}", file.display()))?;
        }
        let mut work = Work {
            qmp: a.guest.monitor()?,
            control: a.plane.control()?,
            memory: a.guest.memory().to_owned(),
            slots: Arc::clone(&slots),
            shared: Arc::clone(&shared),
        };
        std::thread::spawn(move || {
            // Its victims end it: no wonder.
            let _ = work.run();
        });
        // It greets when its machine is made.
        let (backup, control) = (b.guest.monitor()?, b.plane.control()?);
        Ok(Hand { shared, backup, control, memory: b.guest.memory().to_owned(), slots })
    }

    /// Waits for the first checkpoint.
    pub fn protects(&self, timeout: Duration) -> Result<()> {
        let there = wait_until(timeout, Duration::from_millis(5), || lock(&self.shared.newest).is_some());
        there.then_some(()).ok_or_else(|| Failure::new("no checkpoint was taken by hand"))
    }

    /// A line for each checkpoint.
    pub fn events(&self) -> Vec<Value> {
        lock(&self.shared.events).clone()
    }

    /// Lets host B go on from the newest whole checkpoint.
    pub fn promote(&mut self) -> Result<Value> {
        self.shared.end.store(true, Ordering::SeqCst);
        let begin = Instant::now();
        let slot = lock(&self.shared.newest).ok_or_else(|| Failure::new("there is no checkpoint"))?;
        copy_memory(&self.slots.file(&format!("memory-{slot}")), &self.memory)?;
        load(&mut self.backup, &self.slots.file(&format!("devices-{slot}")))?;
        let load_ms = begin.elapsed().as_secs_f64() * 1e3;
        self.control.execute("unmute", json!({ "guest": GUEST }))?;
        self.backup.resume()?;
        Ok(json!({ "event": "promoted", "load_ms": load_ms }))
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
    }
}

struct Work {
    qmp: Qmp,
    control: ControlClient,
    memory: PathBuf,
    slots: Arc<Scratch>,
    shared: Arc<Shared>,
}

impl Work {
    fn run(&mut self) -> Result<()> {
        let mut count = 0usize;
        while !self.shared.end.load(Ordering::SeqCst) {
            self.checkpoint(count)?;
            count += 1;
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }

    fn checkpoint(&mut self, count: usize) -> Result<()> {
        let begin = Instant::now();
        self.qmp.stop()?;
        let verb = if count == 0 { "protect" } else { "close" };
        let closed = self.control.request(verb, json!({ "guest": GUEST }))?;
        let slot = count % 2;
        let memory = self.slots.file(&format!("memory-{slot}"));
        copy_memory(&self.memory, &memory)?;
        save(&mut self.qmp, &self.slots.file(&format!("devices-{slot}")))?;
        self.qmp.resume()?;
        let pause_ms = begin.elapsed().as_secs_f64() * 1e3;
        let mut newest = lock(&self.shared.newest);
        if self.shared.end.load(Ordering::SeqCst) {
            return Ok(());
        }
        *newest = Some(slot);
        if let (Ok(closed), true) = (closed, count > 0) {
            let what =
                json!({ "guest": GUEST, "generation": closed["generation"], "epoch": closed["epoch"] });
            self.control.execute("commit", what)?;
        }
        lock(&self.shared.events).push(json!({ "event": "checkpoint", "pause_ms": pause_ms, "bytes": 0 }));
        Ok(())
    }
}
