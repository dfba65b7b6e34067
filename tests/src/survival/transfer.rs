//! A long-lived TCP transfer: iperf3 into the guest or out of it, and whether it goes on.

use std::time::{Duration, Instant};

use super::client::GOES_ON_WITHIN;
use crate::failure::Result;
use crate::namespace::Namespace;
use crate::process::{Program, Running};
use crate::scratch::Scratch;

/// Into the guest or out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the guest.
    Inward,
    /// From the guest.
    Outward,
}

/// A transfer under way.
pub struct Transfer {
    running: Running,
    way: Way,
    /// Its intervals in which something moved, and when the last of them was seen.
    moved: usize,
    seen: Instant,
}

impl Transfer {
    /// Begins. Slow, with a small buffer: what the buffer takes is not progress, and two CPUs do everything here.
    pub fn start(outside: &Namespace, scratch: &Scratch, way: Way) -> Result<Transfer> {
        let (port, reverse, label) = match way {
            Way::Inward => (5201, "", "iperf3-inward"),
            Way::Outward => (5202, "-R", "iperf3-outward"),
        };
        let running = Program::new("iperf3")
            .args(&format!("-c 10.9.0.2 -p {port} -t 3600 -i 0.1 -b 3M -w 48K -l 4K --forceflush {reverse}"))
            .inside(outside)
            .start(scratch, label)?;
        Ok(Transfer { running, way, moved: 0, seen: Instant::now() })
    }

    /// How often something moved in a tenth of a second.
    pub fn moved(&mut self) -> usize {
        let moved = intervals_that_moved(&self.running.output());
        if moved > self.moved {
            (self.moved, self.seen) = (moved, Instant::now());
        }
        moved
    }

    /// Why it is broken, if it is.
    pub fn broken(&mut self) -> Option<String> {
        self.moved();
        let way = self.way;
        if let Some(status) = self.running.ended() {
            let output = self.running.output();
            let last = output.lines().rev().find(|line| line.contains("error")).unwrap_or("no reason given");
            return Some(format!("{way:?}: iperf3 ended with {status}: {last}"));
        }
        (self.seen.elapsed() >= GOES_ON_WITHIN)
            .then(|| format!("{way:?}: nothing moved within {GOES_ON_WITHIN:?}"))
    }

    /// When something moved last.
    pub fn silent_for(&self) -> Duration {
        self.seen.elapsed()
    }
}

/// Of iperf3's lines (`[  5]   0.10-0.20   sec  64.0 KBytes  5.24 Mbits/sec ...`) those with bytes in them.
fn intervals_that_moved(output: &str) -> usize {
    let moved = |line: &str| {
        let rest = line.strip_prefix('[')?.split_once(']')?.1;
        let mut words = rest.split_whitespace();
        let interval = words.next()?;
        interval.contains('-').then_some(())?;
        (words.next()? == "sec").then_some(())?;
        let amount: f64 = words.next()?.parse().ok()?;
        (amount > 0.0).then_some(())
    };
    output.lines().filter(|line| moved(line).is_some()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_intervals_with_bytes_in_them_count() {
        let output = "Connecting to host 10.9.0.2, port 5201\n\
            [  5] local 10.9.0.1 port 45678 connected to 10.9.0.2 port 5201\n\
            [ ID] Interval           Transfer     Bitrate         Retr  Cwnd\n\
            [  5]   0.00-0.10   sec  48.0 KBytes  3.93 Mbits/sec    0   33.9 KBytes       \n\
            [  5]   0.10-0.20   sec  0.00 Bytes  0.00 bits/sec    0   33.9 KBytes       \n\
            [  5]   0.20-0.30   sec  40.0 KBytes  3.28 Mbits/sec\n";
        assert_eq!(intervals_that_moved(output), 2);
    }
}
