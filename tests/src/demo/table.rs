//! The two outcomes side by side, for people.

use super::clock::ms;
use super::outcome::{LATENCIES, Outcome};
use std::fmt::Write as _;

/// Width of the first column and of each other.
const COLUMNS: (usize, usize) = (44, 22);

/// A gap between a call's packets that the guest itself made, ns, from which on the figures say more of the machine.
const BUSY_NS: u64 = 60_000_000;

type Cell = fn(&Outcome) -> String;

/// The table and what it says.
pub(super) fn side_by_side(outcomes: &[Outcome], interval_ms: u64, commit_ms: u64) -> String {
    let mut text = String::new();
    let mut row = |name: &str, cells: Vec<String>| {
        let _ = write!(text, "{name:<0$}", COLUMNS.0);
        for cell in cells {
            let _ = write!(text, "{cell:>0$}", COLUMNS.1);
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    };
    row("", outcomes.iter().map(|outcome| outcome.policy.clone()).collect());
    for (name, cell) in ROWS {
        row(name, outcomes.iter().map(cell).collect());
    }
    row("latency inside tidegate, p50 / p99", Vec::new());
    for (n, name) in LATENCIES.iter().enumerate() {
        let cell = |outcome: &Outcome| {
            let latency = outcome.latencies[n];
            if latency.count == 0 {
                return "-".to_owned();
            }
            format!("{} / {}", span(latency.quantiles[0]), span(latency.quantiles[1]))
        };
        row(&format!("  {}", name.replace('_', " ")), outcomes.iter().map(cell).collect());
    }
    text + &meaning(outcomes, interval_ms, commit_ms)
}

const ROWS: [(&str, Cell); 17] = [
    ("calls (G.711 A-law, 20 ms)", |o| o.rtp.streams.to_string()),
    ("  largest gap between two packets, ms", |o| format!("{:.1}", o.rtp.delta_ms_max)),
    ("    the same as the guest sent them", |o| format!("{:.1}", ms(o.guest.gap_ns_max))),
    ("  jitter (RFC 3550), mean, ms", |o| format!("{:.2}", o.rtp.jitter_ms_mean)),
    ("  packets sent / lost", |o| format!("{} / {}", o.rtp.sent, o.rtp.lost)),
    ("TCP upload / download, kB/s", |o| {
        let (upload, download) = o.rates();
        format!("{:.0} / {:.0}", upload / 1e3, download / 1e3)
    }),
    ("  request to answer, mean, ms", |o| format!("{:.0}", o.guest.transfers.transaction_ms_mean)),
    ("UDP lookup (no media), mean, ms", |o| format!("{:.0}", o.guest.transfers.lookup_ms_mean)),
    ("epochs closed / committed", |o| format!("{} / {}", o.epochs.closed, o.epochs.committed)),
    ("  pause of the guest, p50 / max", |o| {
        let (max, p50) = o.pauses();
        format!("{} / {}", span(p50), span(max))
    }),
    ("frames from the guest", |o| o.frames.received.to_string()),
    ("  to the wire at once", |o| o.frames.bypassed.to_string()),
    ("  released after their commit", |o| o.frames.released.to_string()),
    ("  dropped / still held", |o| format!("{} / {}", o.frames.dropped, o.frames.held)),
    ("frames seen before their commit", |o| o.verdict.early.to_string()),
    ("  of frames that have to wait, judged", |o| o.verdict.judged.to_string()),
    ("  out of order / unknown", |o| format!("{} / {}", o.verdict.disordered, o.verdict.unknown)),
];

/// A time as people write it.
fn span(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        _ => format!("{:.1} ms", ms(ns)),
    }
}

fn meaning(outcomes: &[Outcome], interval_ms: u64, commit_ms: u64) -> String {
    let gap = |policy: &str| {
        let outcome = outcomes.iter().find(|outcome| outcome.policy == policy);
        outcome.map_or(0.0, |outcome| outcome.rtp.delta_ms_max)
    };
    let busy = outcomes.iter().any(|outcome| outcome.epochs.merged > 0 || outcome.guest.gap_ns_max > BUSY_NS);
    let busy = if busy {
        "This machine was busy with other things: the guest itself sent late. Try again when it is not.\n"
    } else {
        ""
    };
    let early: u64 = outcomes.iter().map(|outcome| outcome.verdict.early).sum();
    format!(
        "
The guest is checkpointed every {interval_ms} ms; each commit follows {commit_ms} ms later, and until then what the guest
sent must not be seen. hold-all (unmodified Remus) makes calls wait as well: gaps of {:.0} ms, which no jitter
buffer hides. realtime lets them straight out (largest gap {:.0} ms) and holds the rest exactly as before: TCP
and UDP lookups are as slow as under hold-all, because only a commit lets them go.
Frames that left before their commit, by a capture behind the gate and the guest's own records: {early}.
{busy}",
        gap("hold-all"),
        gap("realtime"),
    )
}
