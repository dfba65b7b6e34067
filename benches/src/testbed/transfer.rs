//! What iperf3 moved, by its own log: a line each tenth of a second.

use std::path::Path;

/// Mbit/s over all its lines; `None` where there is no log, or nothing in it.
pub fn mbit_per_second(log: &Path) -> Option<f64> {
    rate(&std::fs::read_to_string(log).ok()?)
}

/// Lines such as `[  5]   0.10-0.20   sec  64.0 KBytes  5.24 Mbits/sec ...`.
fn rate(text: &str) -> Option<f64> {
    let (mut bytes, mut seconds) = (0.0, 0.0);
    for line in text.lines() {
        let Some((moved, took)) = interval(line) else { continue };
        bytes += moved;
        seconds += took;
    }
    (seconds > 0.0).then(|| bytes * 8.0 / seconds / 1e6)
}

/// Bytes and seconds of a line.
fn interval(line: &str) -> Option<(f64, f64)> {
    let mut words = line.strip_prefix('[')?.split_once(']')?.1.split_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let took = to.parse::<f64>().ok()? - from.parse::<f64>().ok()?;
    (words.next()? == "sec").then_some(())?;
    let amount: f64 = words.next()?.parse().ok()?;
    let unit = match words.next()? {
        "Bytes" => 1.0,
        "KBytes" => 1024.0,
        "MBytes" => 1024.0 * 1024.0,
        "GBytes" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some((amount * unit, took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_time_are_summed_whatever_their_unit() {
        let text = "Connecting to host 10.9.0.2, port 5201\n\
            [ ID] Interval           Transfer     Bitrate         Retr  Cwnd\n\
            [  5]   0.00-0.10   sec  48.0 KBytes  3.93 Mbits/sec    0   33.9 KBytes       \n\
            [  5]   0.10-0.20   sec  0.00 Bytes  0.00 bits/sec    0   33.9 KBytes       \n\
            [  5]   0.20-0.30   sec  1.00 MBytes  83.9 Mbits/sec\n";
        let expected = (48.0 + 1024.0) * 1024.0 * 8.0 / 0.3 / 1e6;
        assert!((rate(text).unwrap() - expected).abs() < 1e-6);
        assert_eq!(rate("iperf3: error\n"), None);
        assert_eq!(mbit_per_second(Path::new("/no/such/log")), None);
    }
}
