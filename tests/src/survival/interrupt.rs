//! SIGINT and SIGTERM end a run in order: what it made is taken down first.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

use crate::failure::{Context, Failure, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on the signals are noted and not deadly. To be called before any thread is started; children have them as
/// usual.
pub fn note() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context(|| "cannot block signals".to_owned())?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            eprintln!("survival: {signal}: taking everything down");
            ASKED.store(true, Ordering::SeqCst);
        }
    });
    Ok(())
}

/// A failure when one has come.
pub fn check() -> Result<()> {
    match ASKED.load(Ordering::SeqCst) {
        true => Err(Failure::new("interrupted")),
        false => Ok(()),
    }
}
