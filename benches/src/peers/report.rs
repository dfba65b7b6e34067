//! The numbers of a contest: medians over the turns, with their spread.

use super::Options;
use super::contest::{Entry, first_line};
use super::device::Rhythm;
use super::load::{Heard, Turn};
use crate::stats::Spread;
use crate::testbed::conditions::Conditions;
use serde::Serialize;
use serde_json::Value;

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// From one close to the next, milliseconds.
    pub interval_ms: f64,
    /// From a close to its commit.
    pub commit_delay_ms: f64,
    /// Rounds that were wanted.
    pub rounds: u32,
    /// Of voice, and again of TCP, in each turn.
    pub seconds: f64,
    /// Those that have turns, in their order.
    pub peers: Vec<Row>,
    /// Those that have none.
    pub missing: Vec<Missing>,
    /// The machine.
    pub conditions: Conditions,
}

/// A peer that could not run here.
#[derive(Clone, Debug, Serialize)]
pub struct Missing {
    /// Which.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Why, in one line.
    pub why: String,
}

/// A peer that could.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What waits in it.
    pub holds: &'static str,
    /// Who says when it may leave.
    pub clock: &'static str,
    /// What bounds what waits.
    pub limit: &'static str,
    /// Turns that were whole.
    pub turns: usize,
    /// Why others were not, a line each.
    pub failures: Vec<String>,
    /// The voice alone.
    pub alone: Quality,
    /// The voice beside TCP as fast as it goes.
    pub beside_tcp: Quality,
    /// That TCP, after ten intervals to start in.
    pub tcp_mbit: Option<Spread>,
    /// Frames a second of a flood of RTP that came through, 172 bytes each in 64 streams.
    pub frames_per_second: Option<Spread>,
    /// Those that were sent.
    pub offered_per_second: Option<Spread>,
    /// Why the two are not there.
    pub no_rate: Option<&'static str>,
    /// Its own account of the last turn.
    pub told: Value,
}

/// A voice, over the turns. Milliseconds where nothing else is said.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
    /// RFC 3550, mean.
    pub jitter_ms: Option<Spread>,
    /// RFC 3550, largest.
    pub jitter_ms_max: Option<Spread>,
    /// Longest time between two packets.
    pub gap_ms_max: Option<Spread>,
    /// Delay beyond the quickest packet's, 99th percentile.
    pub pdv_ms_p99: Option<Spread>,
    /// 99.9th.
    pub pdv_ms_p999: Option<Spread>,
    /// Without packets beside a hiccup of the machine, 99th.
    pub calm_pdv_ms_p99: Option<Spread>,
    /// Packets too late for a buffer of 60 ms, per cent.
    pub late_60_percent: Option<Spread>,
    /// The same of 200 ms.
    pub late_200_percent: Option<Spread>,
    /// Packets that never came.
    pub lost: Option<Spread>,
    /// Mean opinion score behind a buffer of 60 ms.
    pub mos_60: Option<Spread>,
    /// Most packets that came one close behind the other.
    pub most_at_once: Option<Spread>,
    /// Hiccups of the machine beyond 2 ms.
    pub hiccups: Option<Spread>,
}

impl Quality {
    fn of<'a>(heard: impl Iterator<Item = &'a Heard> + Clone) -> Quality {
        let over = |number: fn(&Heard) -> f64| Spread::of(heard.clone().map(number));
        let late = |count: u64, heard: &Heard| 100.0 * count as f64 / heard.part.packets.max(1) as f64;
        Quality {
            jitter_ms: over(|heard| heard.part.quality.jitter_ms),
            jitter_ms_max: over(|heard| heard.part.quality.jitter_ms_max),
            gap_ms_max: over(|heard| heard.part.quality.delta_ms_max),
            pdv_ms_p99: over(|heard| heard.part.quality.pdv_ms_p99),
            pdv_ms_p999: over(|heard| heard.part.quality.pdv_ms_p999),
            calm_pdv_ms_p99: over(|heard| heard.part.playout.calm_pdv_ms_p99),
            late_60_percent: Spread::of(heard.clone().map(|one| late(one.part.quality.late_60, one))),
            late_200_percent: Spread::of(heard.clone().map(|one| late(one.part.quality.late_200, one))),
            lost: over(|heard| heard.part.quality.lost as f64),
            mos_60: over(|heard| heard.part.quality.mos_60),
            most_at_once: over(|heard| heard.part.most_at_once as f64),
            hiccups: over(|heard| heard.noise.count as f64),
        }
    }
}

impl Row {
    /// What its reader must know.
    pub fn note(&self) -> Option<&str> {
        self.told["note"].as_str()
    }

    fn of(entry: &Entry) -> Row {
        let turns = &entry.turns;
        let flood = |number: fn(&super::load::Flood) -> f64| {
            Spread::of(turns.iter().filter_map(|turn: &Turn| turn.flood.as_ref()).map(number))
        };
        Row {
            name: entry.peer.name,
            title: entry.peer.title,
            holds: entry.peer.holds.words(),
            clock: entry.peer.clock,
            limit: entry.peer.limit,
            turns: turns.len(),
            failures: entry.failures.iter().map(|failure| first_line(failure).to_owned()).collect(),
            alone: Quality::of(turns.iter().map(|turn| &turn.alone)),
            beside_tcp: Quality::of(turns.iter().map(|turn| &turn.beside_tcp)),
            tcp_mbit: Spread::of(turns.iter().map(|turn| turn.tcp_mbit)),
            frames_per_second: flood(|flood| flood.delivered),
            offered_per_second: flood(|flood| flood.offered),
            no_rate: entry.peer.holds.no_rate(),
            told: entry.told.clone(),
        }
    }
}

impl Report {
    /// Of a contest that is over.
    pub fn of(entries: &[Entry], rhythm: Rhythm, options: &Options, conditions: Conditions) -> Report {
        let (missing, ran): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.missing());
        let why = |entry: &Entry| entry.failures.first().map(|failure| first_line(failure).to_owned());
        Report {
            interval_ms: rhythm.interval.as_secs_f64() * 1e3,
            commit_delay_ms: rhythm.commit_delay.as_secs_f64() * 1e3,
            rounds: options.repeats,
            seconds: options.seconds,
            peers: ran.into_iter().map(Row::of).collect(),
            missing: missing
                .into_iter()
                .map(|entry| Missing {
                    name: entry.peer.name,
                    title: entry.peer.title,
                    why: why(entry).unwrap_or_else(|| "it had no turn".into()),
                })
                .collect(),
            conditions,
        }
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{:<20} {:<14} {:>9} {:>9} {:>9} {:>8} {:>5}   {:>9} {:>9}   {:>9} {:>10}",
            "a voice, ms",
            "holds",
            "jitter",
            "gap",
            "PDV p99",
            "late 60",
            "MOS",
            "gap +TCP",
            "PDV +TCP",
            "TCP Mbit/s",
            "frames/s"
        )];
        let median = |spread: Option<Spread>, digits: usize| {
            spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.digits$}", spread.median))
        };
        for row in &self.peers {
            lines.push(format!(
                "{:<20} {:<14} {:>9} {:>9} {:>9} {:>8} {:>5}   {:>9} {:>9}   {:>9} {:>10}",
                row.name,
                row.holds,
                median(row.alone.jitter_ms, 2),
                median(row.alone.gap_ms_max, 1),
                median(row.alone.pdv_ms_p99, 2),
                format!("{} %", median(row.alone.late_60_percent, 0)),
                median(row.alone.mos_60, 2),
                median(row.beside_tcp.gap_ms_max, 1),
                median(row.beside_tcp.pdv_ms_p99, 2),
                median(row.tcp_mbit, 0),
                median(row.frames_per_second, 0),
            ));
            lines.extend(row.note().map(|note| format!("  {}: {note}", row.name)));
            lines.extend(row.failures.iter().map(|why| format!("  a turn of {} failed: {why}", row.name)));
        }
        lines.extend(self.missing.iter().map(|one| format!("{:<20} could not run: {}", one.name, one.why)));
        lines.push(format!("medians of {} rounds, interval {:.0} ms", self.rounds, self.interval_ms));
        lines.push(self.conditions.machine());
        lines
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::contest::{Entry, Peer};
    use super::super::device::Holds;
    use super::super::load::{Flood, Heard, Turn};
    use super::super::roster;
    use super::*;
    use crate::failure::Failure;
    use crate::testbed::hiccups::Noise;
    use crate::testbed::panel::Part;
    use std::path::PathBuf;
    use std::time::Duration;

    fn options() -> Options {
        Options {
            out: None,
            json: true,
            only: Vec::new(),
            list: false,
            repeats: 3,
            seconds: 4.0,
            interval: Duration::from_millis(400),
            commit_delay: Duration::from_millis(20),
            vswitchd: PathBuf::new(),
            tidegate: PathBuf::new(),
        }
    }

    fn heard() -> Heard {
        let part = Part::of("from the guest", &[], &Noise::default());
        Heard { arrivals: Vec::new(), part, sent: 200, noise: Noise::default(), begin_ns: 0, end_ns: 1 }
    }

    fn entry(peer: Peer, rates: &[f64], failure: Option<&str>) -> Entry {
        let failed = Failure::new(failure.unwrap_or("no wires in this test"));
        let mut entry = Entry::new(peer, Err(failed));
        entry.turns = rates
            .iter()
            .map(|&rate| Turn {
                alone: heard(),
                beside_tcp: heard(),
                tcp_mbit: rate,
                flood: (peer.holds != Holds::All).then_some(Flood { offered: 2.0 * rate, delivered: rate }),
            })
            .collect();
        if failure.is_none() {
            entry.failures.clear();
        }
        entry
    }

    /// Shared with the page's test.
    pub fn report() -> Report {
        let [io, held, ovs] = ["testpmd-io", "tidegate-hold-all", "ovs-dpdk"]
            .map(|name| roster::chosen(&[name.into()]).unwrap()[0]);
        let entries = [
            entry(io, &[100.0, 300.0, 200.0], Some("one turn <failed>\n  with a log")),
            entry(held, &[50.0], None),
            entry(ovs, &[], Some("ovs-vswitchd-dpdk is missing\n  more")),
        ];
        let rhythm = Rhythm { interval: options().interval, commit_delay: options().commit_delay };
        Report::of(&entries, rhythm, &options(), Conditions::default())
    }

    #[test]
    fn who_could_not_run_and_which_turn_failed_stays_in_the_report() {
        let report = report();
        assert_eq!(report.peers.len(), 2);
        let missing = &report.missing[0];
        assert_eq!((missing.name, missing.why.as_str()), ("ovs-dpdk", "ovs-vswitchd-dpdk is missing"));
        assert_eq!(
            (report.peers[0].turns, report.peers[0].failures.as_slice()),
            (3, &["one turn <failed>".to_owned()][..])
        );
        let lines = report.lines().join("\n");
        for said in [
            "ovs-dpdk             could not run: ovs-vswitchd-dpdk is missing",
            "a turn of testpmd-io failed",
        ] {
            assert!(lines.contains(said), "{lines}");
        }
    }

    #[test]
    fn medians_are_over_turns_and_a_rate_that_says_nothing_is_not_there() {
        let report = report();
        assert_eq!(report.peers[0].tcp_mbit.unwrap().median, 200.0);
        assert_eq!(report.peers[0].frames_per_second.unwrap().median, 200.0);
        let held = &report.peers[1];
        assert!(
            held.frames_per_second.is_none() && held.no_rate.is_some_and(|why| why.contains("holds every"))
        );
    }
}
