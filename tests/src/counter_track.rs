//! For sources that pause nothing (the plane's own timer): the guest's counter is sampled all the time.
//!
//! When the counter was still below `n` at a time `t`, frame `n` was made after `t`. Its epoch ended later
//! than that, and the commit came a known delay after the end: so the frame cannot be on the wire before
//! `t` plus that delay, whatever the plane says of its epochs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::beacon_record::{Carrier, Record};
use crate::capture::Frame;
use crate::commit_log::{Early, Verdict};
use crate::failure::{Failure, Result};
use crate::qemu::CounterPage;
use crate::wall_clock::now_ns;

const SAMPLE_EVERY: Duration = Duration::from_millis(1);

/// Samples of one counter while the guest ran.
pub struct CounterTrack {
    boot: u64,
    /// (ns since 1970 before the counter was read, the counter), each later and larger than the last.
    samples: Vec<(u64, u64)>,
}

/// A thread that takes the samples.
pub struct Sampling {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Result<(CounterTrack, CounterPage)>>,
}

impl Sampling {
    /// Begins to sample.
    pub fn start(page: CounterPage) -> Sampling {
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut track = CounterTrack { boot: page.boot(), samples: Vec::new() };
            while !told.load(Ordering::SeqCst) {
                // The clock first: the frame with the next number is made later than this.
                let at_ns = now_ns();
                let counter = page.read_running()?;
                match track.samples.last_mut() {
                    // Still the same number: a later time is the better bound for the next one.
                    Some(last) if last.1 == counter => last.0 = at_ns,
                    _ => track.samples.push((at_ns, counter)),
                }
                std::thread::sleep(SAMPLE_EVERY);
            }
            Ok((track, page))
        });
        Sampling { end, thread }
    }

    /// Ends it; the samples, and the page for the next time.
    pub fn stop(self) -> Result<(CounterTrack, CounterPage)> {
        self.end.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| Failure::new("the sampling thread panicked"))?
    }
}

impl CounterTrack {
    /// Judges the numbered frames of the `held` carriers: each must come at least `delay` after the last
    /// moment at which it had not been made. Frames from before the first sample are left out.
    pub fn judge(&self, frames: &[Frame], held: &[Carrier], delay: Duration) -> Verdict {
        let mut verdict = Verdict::default();
        for frame in frames {
            for record in Record::all_in(&frame.payload) {
                let before = self.samples.partition_point(|&(_, counter)| counter < record.number);
                if record.boot != self.boot || before == 0 || !held.contains(&record.carrier) {
                    continue;
                }
                *verdict.seen.entry(record.carrier).or_default() += 1;
                let earliest = self.samples[before - 1].0 + delay.as_nanos() as u64;
                if frame.at_ns < earliest {
                    verdict.early.push(Early {
                        record,
                        at_ns: frame.at_ns,
                        covered_by: Some((0, Some(earliest))),
                    });
                }
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Kind;

    #[test]
    fn a_frame_is_early_when_it_comes_within_the_delay_after_it_did_not_exist() {
        let track = CounterTrack { boot: 7, samples: vec![(1000, 5), (2000, 8)] };
        let early = |number, at_ns| {
            let record = Record { boot: 7, carrier: Carrier::Udp4, number, sequence: 0 };
            let payload = record.to_bytes().to_vec();
            let frame =
                Frame { at_ns, source_mac: [0; 6], vlan: None, kind: Kind::Other, payload, checksums: None };
            !track.judge(&[frame], &[Carrier::Udp4], Duration::from_nanos(100)).early.is_empty()
        };
        assert!(early(6, 1099) && !early(6, 1100));
        assert!(early(8, 1099) && !early(8, 1100));
        assert!(early(9, 2099) && !early(9, 2100));
        assert!(!early(5, 0), "it existed before the first sample: nothing is known of it");
    }
}
