//! SIGTERM and SIGINT: a thread waits for them, so that whoever is told runs outside a signal handler.

use nix::sys::signal::{SigSet, Signal};
use std::sync::{Arc, Mutex, PoisonError};

type Told = Box<dyn Fn() + Send>;

/// See the module's head.
#[derive(Clone, Default)]
pub struct Orders {
    told: Arc<Mutex<Vec<Told>>>,
}

impl Orders {
    /// Blocks both signals in this thread and all it starts, and waits for them in another. Call it first of all.
    pub fn listen() -> Result<Orders, String> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.thread_block().map_err(|e| format!("cannot block signals: {e}"))?;
        let orders = Orders::default();
        let told = Arc::clone(&orders.told);
        let wait = move || {
            while set.wait().is_ok() {
                told.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|tell| tell());
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
        thread.map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(orders)
    }

    /// Calls this at each signal.
    pub fn on_stop(&self, told: impl Fn() + Send + 'static) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(told));
    }
}
