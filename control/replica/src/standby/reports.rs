//! What the primary told last of each of its streams, and when. While reports come, the plane's replay guard allows for a
//! lease that ends soon. Where none has to (a manager fences, a witness lends, somebody says that the primary is off), the
//! primary may have sent on until the promotion: then the plane is told all of it again, with a margin for all that time.

use super::bursts::{Bursts, MARGIN_MAX, Name, STREAMS_MAX, name};
use std::collections::HashMap;
use tidegate_control::protocol::{GuardReport, GuardedStream, GuestIdentity};

/// A stream that was not told of for so long is forgotten: a call that was on hold may go on behind the last report.
const FORGOTTEN_NS: u64 = 600_000_000_000;
/// How long a stream is counted for its rate at least.
const COUNTED_NS: u64 = 1_000_000_000;

#[derive(Debug)]
struct Told {
    stream: GuardedStream,
    at_ns: u64,
    /// Counted from here.
    from: (u64, u32),
    /// The most that it sent in a second; its mean rate includes its silences.
    a_second: u32,
}

impl Told {
    fn count(&mut self, highest: u32, now_ns: u64) {
        let (from_ns, from) = self.from;
        let span_ns = now_ns.saturating_sub(from_ns);
        if span_ns < COUNTED_NS && highest >= from {
            return;
        }
        let sent = u64::from(highest.saturating_sub(from));
        let a_second = sent.saturating_mul(COUNTED_NS).div_ceil(span_ns.max(COUNTED_NS));
        self.a_second = self.a_second.max(u32::try_from(a_second).unwrap_or(u32::MAX));
        self.from = (now_ns, highest);
    }

    /// The margin, if the primary may have sent for so long since.
    fn margin(&self, ms: u64) -> u64 {
        let by_count =
            u64::from(self.a_second).saturating_mul(ms).div_ceil(1000) + u64::from(self.stream.margin);
        by_count.max(self.stream.margin_after(ms).into())
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Reports {
    bursts: Bursts,
    streams: HashMap<Name, Told>,
    identities: Vec<GuestIdentity>,
    /// When the first part of the report came that is coming in.
    begun_ns: Option<u64>,
    /// The same of the last one that came whole: of a stream that it does not name, nothing had gone out since.
    whole_ns: u64,
    /// The last whole one was of a primary behind its fence.
    settled: bool,
    swept_ns: u64,
    /// The plane has not taken all of it yet.
    pub owed: bool,
}

impl Reports {
    /// A part of a report came. Its margins are widened for the bursts that were seen.
    pub fn told(&mut self, report: &mut GuardReport, margin_ms: u64, now_ns: u64) {
        self.bursts.widen(report, margin_ms, now_ns);
        self.keep(report, now_ns, false);
    }

    /// The same of a primary from which nothing leaves any more.
    pub fn settled(&mut self, report: &GuardReport, now_ns: u64) {
        self.keep(report, now_ns, true);
    }

    fn keep(&mut self, report: &GuardReport, now_ns: u64, settled: bool) {
        self.settled &= settled;
        for &stream in &report.streams {
            let name = name(&stream);
            if self.streams.len() >= STREAMS_MAX && !self.streams.contains_key(&name) {
                continue;
            }
            let fresh = Told { stream, at_ns: now_ns, from: (now_ns, stream.highest), a_second: 0 };
            let told = self.streams.entry(name).or_insert(fresh);
            told.count(stream.highest, now_ns);
            (told.stream, told.at_ns) = (stream, now_ns);
        }
        if !report.identities.is_empty() {
            self.identities.clone_from(&report.identities);
        }
        let begun_ns = *self.begun_ns.get_or_insert(now_ns);
        if report.next.is_none() {
            (self.whole_ns, self.begun_ns, self.settled) = (begun_ns, None, settled);
        }
        if self.swept_ns.saturating_add(FORGOTTEN_NS / 10) < now_ns {
            self.swept_ns = now_ns;
            self.streams.retain(|_, told| told.at_ns.saturating_add(FORGOTTEN_NS) > now_ns);
        }
    }

    /// When the last whole report came; none of a primary that told nothing.
    pub fn last_ns(&self) -> Option<u64> {
        (self.whole_ns > 0).then_some(self.whole_ns)
    }

    /// All of it once more, as for a primary that may have sent for `ms` since the last whole report; and of how many
    /// streams no margin covers that.
    pub fn again(&self, guest: &str, ms: u64) -> (GuardReport, usize) {
        let ms = if self.settled { 0 } else { ms };
        let mut all: Vec<&Told> = self.streams.values().collect();
        // Where there is no room for all of them, those that were heard last matter.
        all.sort_unstable_by_key(|told| std::cmp::Reverse(told.at_ns));
        let mut short = 0;
        let streams = all.into_iter().map(|told| {
            let margin = told.margin(ms);
            short += usize::from(margin > MARGIN_MAX.into());
            let margin = u16::try_from(margin).unwrap_or(u16::MAX).min(MARGIN_MAX);
            GuardedStream { margin, ..told.stream }
        });
        let streams = streams.collect();
        let identities = self.identities.clone();
        (GuardReport { guest: guest.to_owned(), token: 0, streams, next: None, identities }, short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn part(ssrc: u32, highest: u32, next: Option<u64>) -> GuardReport {
        let row = serde_json::json!([0, "10.0.0.2", 4000, ssrc, highest, 20_000, null, 8000, 8, 0, null]);
        let stream = serde_json::from_value(row).unwrap();
        GuardReport { guest: "g".into(), token: 0, streams: vec![stream], next, identities: vec![] }
    }

    fn margin(reports: &Reports, ms: u64) -> u16 {
        reports.again("g", ms).0.streams[0].margin
    }

    #[test]
    fn what_is_told_again_allows_for_all_the_time_since() {
        let mut reports = Reports::default();
        assert_eq!(reports.last_ns(), None);
        reports.told(&mut part(7, 100, None), 90, MS);
        assert_eq!((reports.last_ns(), margin(&reports, 0), margin(&reports, 10_000)), (Some(MS), 0, 501));
        let (all, short) = reports.again("g", 1_000_000);
        assert_eq!(
            (all.streams[0].margin, short),
            (MARGIN_MAX, 1),
            "no margin covers that: somebody has to know"
        );
        // Twice as fast as its mean rate says, which has its silences in it.
        (1..200u32).for_each(|n| reports.told(&mut part(7, 100 + 2 * n, None), 90, u64::from(n) * 20 * MS));
        assert!((1000..1100).contains(&margin(&reports, 10_000)), "{}", margin(&reports, 10_000));
    }

    #[test]
    fn behind_a_fence_there_is_no_margin_until_the_primary_speaks_again() {
        let mut reports = Reports::default();
        reports.settled(&part(7, 100, Some(1)), MS);
        assert!(margin(&reports, 10_000) > 0, "half a report");
        reports.settled(&part(8, 100, None), 2 * MS);
        assert_eq!((reports.last_ns(), margin(&reports, 10_000)), (Some(MS), 0));
        reports.told(&mut part(7, 101, Some(1)), 90, 3 * MS);
        assert!(margin(&reports, 10_000) > 0);
    }

    #[test]
    fn half_a_report_makes_nothing_younger_and_the_memory_is_bounded() {
        let mut reports = Reports::default();
        reports.told(&mut part(7, 100, None), 90, MS);
        reports.told(&mut part(7, 200, Some(1)), 90, 500 * MS);
        assert_eq!(reports.last_ns(), Some(MS), "the streams of its other parts were not told");
        reports.told(&mut part(8, 9, None), 90, 600 * MS);
        assert_eq!(reports.last_ns(), Some(500 * MS), "its first part is the oldest");
        reports.told(&mut part(9, 9, None), 90, 2 * FORGOTTEN_NS);
        assert_eq!(reports.streams.len(), 1);
    }
}
