//! Short sleeps on the control thread. The runtime's own timer has a grain of a millisecond; a guest is paused
//! while a close is awaited, so this one sleeps on a thread beside it.

use std::time::Duration;

/// How long a wait spins before it sleeps: most lcores answer within a poll.
pub const SPIN: Duration = Duration::from_micros(30);
/// How long one nap of a wait takes.
pub const NAP: Duration = Duration::from_micros(50);

/// Sleeps for `span`; other tasks run meanwhile.
pub async fn nap(span: Duration) {
    // It fails only while the runtime ends, and then whoever naps ends too.
    let _ = tokio::task::spawn_blocking(move || std::thread::sleep(span)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_nap_lasts_as_long_as_asked_and_much_less_than_a_tick() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut shortest = Duration::MAX;
            for _ in 0..200 {
                let before = Instant::now();
                nap(Duration::from_micros(100)).await;
                let slept = before.elapsed();
                assert!(slept >= Duration::from_micros(100), "{slept:?}");
                shortest = shortest.min(slept);
            }
            assert!(shortest < Duration::from_micros(900), "{shortest:?}");
        });
    }
}
