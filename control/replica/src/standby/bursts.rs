//! How many packets a stream may send at once. A guest that was kept from running makes up for it, and then sends faster
//! than its mean rate says: the margin of the replay guard follows the most that was seen in as long a time.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use tidegate_control::protocol::{GuardReport, GuardedStream};

/// How long a burst is remembered.
const REMEMBERED_NS: u64 = 2_000_000_000;
/// Streams that are watched; of more the mean rate has to do.
pub const STREAMS_MAX: usize = 1 << 17;
/// A stream that is not told of for so long is forgotten.
const FORGOTTEN_NS: u64 = 30_000_000_000;

/// Lane, address, port, SSRC.
pub type Name = (usize, IpAddr, u16, u32);

/// A stream's name.
pub fn name(stream: &GuardedStream) -> Name {
    (stream.lane, stream.address, stream.port, stream.ssrc)
}

#[derive(Debug, Default)]
struct Past {
    /// When which number was told. The first is older than the time that counts, if anything is.
    told: VecDeque<(u64, u32)>,
    most: u16,
    most_ns: u64,
}

impl Past {
    /// `highest` is told at `now_ns`; the most that left in `within_ns`, or a little more.
    fn tell(&mut self, highest: u32, now_ns: u64, within_ns: u64) -> u16 {
        self.told.push_back((now_ns, highest));
        while self.told.get(1).is_some_and(|(at, _)| at.saturating_add(within_ns) <= now_ns) {
            self.told.pop_front();
        }
        let since = self.told.front().map_or(highest, |(_, since)| *since);
        // A number that falls is another start of the stream: it says nothing.
        let left = u16::try_from(highest.saturating_sub(since)).unwrap_or(u16::MAX);
        if left >= self.most || self.most_ns.saturating_add(REMEMBERED_NS) < now_ns {
            (self.most, self.most_ns) = (left, now_ns);
        }
        self.most
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Bursts {
    streams: HashMap<Name, Past>,
    swept_ns: u64,
}

impl Bursts {
    /// Widens the margins of a report that came at `now_ns`, if the primary may have sent for `margin_ms` since.
    pub fn widen(&mut self, report: &mut GuardReport, margin_ms: u64, now_ns: u64) {
        if self.swept_ns.saturating_add(FORGOTTEN_NS) < now_ns {
            self.swept_ns = now_ns;
            self.streams.retain(|_, past| past.told.back().is_some_and(|(at, _)| at + FORGOTTEN_NS > now_ns));
        }
        for stream in &mut report.streams {
            let GuardedStream { highest, margin, .. } = *stream;
            let name = name(stream);
            if self.streams.len() >= STREAMS_MAX && !self.streams.contains_key(&name) {
                continue;
            }
            let past = self.streams.entry(name).or_default();
            let most = past.tell(highest, now_ns, margin_ms.saturating_mul(1_000_000));
            let by_rate = stream.margin_after(margin_ms).saturating_sub(margin);
            stream.margin = margin.saturating_add(most.saturating_sub(by_rate)).min(MARGIN_MAX);
        }
    }
}

/// The most that a plane takes.
pub const MARGIN_MAX: u16 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn report(highest: u32) -> GuardReport {
        let row = serde_json::json!([0, "10.0.0.2", 4000, 7, highest, 20_000, null, 8000, 8, 0, null]);
        let stream = serde_json::from_value(row).unwrap();
        GuardReport { guest: "g".into(), token: 0, streams: vec![stream], next: None, identities: vec![] }
    }

    /// Tells a number every 20 ms; the packets that each margin is for in 45 ms.
    fn margins(bursts: &mut Bursts, start_ns: u64, numbers: impl IntoIterator<Item = u32>) -> Vec<u16> {
        let told = numbers.into_iter().zip(0..);
        told.map(|(highest, n)| {
            let mut report = report(highest);
            bursts.widen(&mut report, 45, start_ns + n * 20 * MS);
            report.streams[0].margin_after(45)
        })
        .collect()
    }

    #[test]
    fn a_steady_stream_has_the_margin_of_its_rate_and_one_that_bursts_that_of_its_bursts() {
        let mut bursts = Bursts::default();
        assert_eq!(margins(&mut bursts, 0, 100..110), [4; 10], "ceil(45 / 20) and one");
        // Eleven at once; then it goes on as before.
        let after = margins(&mut bursts, 200 * MS, [109, 120, 121, 122, 123, 124]);
        assert_eq!(after[0], 4);
        assert!(after[1..].iter().all(|margin| (11..=14).contains(margin)), "{after:?}");
        let late = margins(&mut bursts, 3_000 * MS, 125..130);
        assert_eq!(late[4], 4, "it is not remembered for ever: {late:?}");
    }

    #[test]
    fn a_stream_that_starts_anew_says_nothing_and_the_memory_is_bounded() {
        let mut bursts = Bursts::default();
        assert_eq!(margins(&mut bursts, 0, [70_000, 5, 6, 7, 8, 9])[5], 4);
        margins(&mut bursts, 0, std::iter::repeat_n(9, 500));
        assert!(bursts.streams.values().all(|past| past.told.len() < 8));
        bursts.widen(&mut GuardReport { streams: vec![], ..report(0) }, 45, 100_000 * MS);
        assert!(bursts.streams.is_empty(), "nobody told of it");
    }
}
