//! sch_plug on an IFB in a router VM, told of closes and commits at the rhythm of the others. The VM runs under software
//! emulation: what it adds beside the hold is emulation's, not sch_plug's.

use super::device::{Device, Rhythm};
use super::wires::{IN, OUT, Wires};
use crate::failure::{Failure, Result};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use tidegate_tests::guest_image::{GuestImage, Service};
use tidegate_tests::plug::Plug;
use tidegate_tests::router::{Router, Takes};

const BRIDGE: &str = "br0";

/// See the module's head. The VM boots once and sleeps between the turns.
pub struct PlugRouter {
    router: Router,
    kernel: String,
    rhythm: Rhythm,
    driver: Option<Driver>,
    account: Value,
}

struct Driver {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Result<Plug>>,
}

impl PlugRouter {
    /// Boots it between these wires.
    pub fn new(plugger: &Path, takes: Takes, rhythm: Rhythm, wires: &Wires) -> Result<PlugRouter> {
        let image = GuestImage::build(plugger, Service::Router)?;
        wires.bridge(BRIDGE)?;
        wires.join(BRIDGE, OUT)?;
        let mut router = Router::between(&image, takes, &wires.middle, IN, BRIDGE)?;
        let kernel = router.kernel()?;
        router.sleep()?;
        Ok(PlugRouter { router, kernel, rhythm, driver: None, account: Value::Null })
    }

    fn end(&mut self) -> Result<()> {
        let Some(driver) = self.driver.take() else { return Ok(()) };
        driver.end.store(true, Ordering::SeqCst);
        let mut plug =
            driver.thread.join().map_err(|_| Failure::new("the thread that drives sch_plug panicked"))??;
        let longest = plug.done.iter().map(|done| done.done_ns.saturating_sub(done.told_ns)).max();
        self.account = json!({
            "kernel": self.kernel, "orders": plug.done.len(), "merged": plug.merged,
            "order_ms_max": longest.map(|ns| ns as f64 / 1e6),
        });
        Ok(plug.pass()?)
    }
}

/// Closes and commits until it is told to end.
fn drive(mut plug: Plug, rhythm: Rhythm, end: &AtomicBool) -> Result<Plug> {
    let begin = Instant::now();
    for epoch in 1.. {
        let closes = begin + rhythm.interval * epoch;
        std::thread::sleep(closes.saturating_duration_since(Instant::now()));
        if end.load(Ordering::SeqCst) {
            break;
        }
        plug.close(u64::from(epoch))?;
        std::thread::sleep((closes + rhythm.commit_delay).saturating_duration_since(Instant::now()));
        plug.commit(u64::from(epoch))?;
    }
    Ok(plug)
}

impl Device for PlugRouter {
    fn start(&mut self, _: &Wires) -> Result<()> {
        self.router.wake()?;
        let (plug, rhythm, end) = (self.router.plug()?, self.rhythm, Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&end);
        let thread = std::thread::spawn(move || drive(plug, rhythm, &ends));
        self.driver = Some(Driver { end, thread });
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        match self.driver.as_ref().is_some_and(|driver| driver.thread.is_finished()) {
            true => self.end(),
            false => Ok(()),
        }
    }

    fn told(&mut self) -> Value {
        if let Err(failure) = self.end() {
            self.account = json!({ "failure": failure.to_string() });
        }
        self.account.clone()
    }

    fn stop(&mut self, _: &Wires) {
        let _ = self.end();
        let _ = self.router.sleep();
    }
}

impl Drop for PlugRouter {
    fn drop(&mut self) {
        self.router.passed();
    }
}
