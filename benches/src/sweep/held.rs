//! What the plane holds, asked for every few milliseconds.

use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tidegate_tests::control_client::ControlClient;
use tidegate_tests::wall_clock::now_ns;

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(5);

/// One look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// Frames that waited.
    pub frames: u64,
    /// Bytes of the hold queues.
    pub bytes: u64,
}

/// Under way.
pub struct Watch {
    end: Arc<AtomicBool>,
    looks: JoinHandle<Vec<Held>>,
}

impl Watch {
    /// Begins, over a connection of its own.
    pub fn start(mut control: ControlClient, guest: &'static str) -> Watch {
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        let looks = std::thread::spawn(move || {
            let mut held = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let Ok(pulse) = control.execute("pulse", json!({ "guest": guest })) else { break };
                let number = |key: &str| pulse[key].as_u64().unwrap_or(0);
                held.push(Held {
                    at_ns: now_ns(),
                    frames: number("held_frames"),
                    bytes: number("held_bytes"),
                });
                std::thread::sleep(EVERY);
            }
            held
        });
        Watch { end, looks }
    }

    /// Ends; what was seen.
    pub fn finish(self) -> Vec<Held> {
        self.end.store(true, Ordering::Relaxed);
        self.looks.join().unwrap_or_default()
    }
}

/// As it is kept: a line each.
pub fn to_csv(held: &[Held]) -> String {
    let mut text = "at_ns,frames,bytes\n".to_owned();
    for Held { at_ns, frames, bytes } in held {
        let _ = writeln!(text, "{at_ns},{frames},{bytes}");
    }
    text
}

/// What [`to_csv`] wrote; lines that are not whole are left out.
pub fn from_csv(text: &str) -> Vec<Held> {
    let held = |line: &str| {
        let mut words = line.split(',').map(|word| word.parse::<u64>().ok());
        Some(Held { at_ns: words.next()??, frames: words.next()??, bytes: words.next()?? })
    };
    text.lines().filter_map(held).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_read_as_they_were_written() {
        let held = [Held { at_ns: 5, frames: 2, bytes: 3000 }, Held { at_ns: 9, frames: 0, bytes: 0 }];
        assert_eq!(from_csv(&to_csv(&held)), held);
        assert_eq!(from_csv("at_ns,frames,bytes\n1,2\n"), []);
    }
}
