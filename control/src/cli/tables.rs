//! Answers for people.

use crate::protocol::*;
use crate::quantity::Bytes;
use serde_json::Value;
use std::fmt::Write;

/// Rows as columns: the first row is the head; numbers stand right.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|n| width(n).unwrap_or(0)).collect();
    let right = |n: usize| {
        let body = rows.iter().skip(1).filter_map(|row| row.get(n));
        let mut body = body.filter(|cell| !cell.is_empty() && *cell != "-").peekable();
        body.peek().is_some() && body.all(|cell| cell.starts_with(|c: char| c.is_ascii_digit()))
    };
    let rights: Vec<bool> = (0..count).map(right).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (n, cell) in row.iter().enumerate() {
            let _ = match rights[n] {
                true => write!(line, "{cell:>width$}  ", width = widths[n]),
                false => write!(line, "{cell:<width$}  ", width = widths[n]),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).into()
}

/// Nanoseconds as people read them.
fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

pub(super) fn about(about: &About) -> String {
    format!("tidegate {}, process {}: {}\n", about.version, about.pid, about.capabilities.join(", "))
}

pub(super) fn guests<'a>(guests: impl Iterator<Item = &'a GuestReport>) -> String {
    let mut text = String::new();
    for g in guests {
        let fenced = if g.fenced { ", FENCED" } else { "" };
        let lease = match (g.leased, g.lease_left_ms) {
            (true, Some(left)) => format!(", lease {left} ms"),
            (true, None) => ", leased".into(),
            _ => String::new(),
        };
        let _ = writeln!(text, "{}: {}{fenced}{lease}, policy {}", g.guest, g.mode, g.policy);
        let pauses = if g.source_pauses { "" } else { " (PAUSES NOTHING: no consistent cut)" };
        let controller = match g.controller {
            Some(peer) => format!("session {} (process {}, user {})", peer.session, peer.pid, peer.uid),
            None => "nobody".into(),
        };
        let _ = writeln!(text, "  source      {}{pauses}, controlled by {controller}", g.source);
        let _ = writeln!(
            text,
            "  epochs      {} open, {} committed, {}/{} in flight; generation {}",
            g.open_epoch,
            g.committed_epoch,
            g.in_flight.len(),
            g.max_epochs_in_flight,
            g.generation
        );
        let e = &g.epochs;
        let _ = writeln!(
            text,
            "  since start {} closed, {} committed, {} merged, {} void, {} commits refused",
            e.closed, e.committed, e.merged, e.void, e.commits_refused
        );
        let mut rows = vec![row(["  LANE", "RINGS", "LCORE", "HELD", "OF", "FRAMES", "OF", "PORTS"])];
        for (n, lane) in g.lanes.iter().enumerate() {
            rows.push(vec![
                format!("  {n}{}", if lane.fenced { " FENCED" } else { "" }),
                lane.rings.clone(),
                lane.lcore.to_string(),
                Bytes(lane.held_bytes).to_string(),
                Bytes(lane.hold_bytes).to_string(),
                lane.held_mbufs.to_string(),
                lane.hold_frames.to_string(),
                format!("{} -> {}", lane.guest_port, lane.wire_port),
            ]);
        }
        text.push_str(&columns(&rows));
    }
    if text.is_empty() { "no such guest\n".into() } else { text }
}

pub(super) fn stats(stats: &Stats) -> String {
    let mut text = String::new();
    let head = ["CLASS", "RECEIVED", "BYPASSED", "RELEASED", "HELD", "DROPPED", "WHY"];
    for guest in &stats.guests {
        for (n, lane) in guest.lanes.iter().enumerate() {
            let _ = writeln!(text, "{} lane {n}", guest.guest);
            let mut rows = vec![row(head)];
            let all = std::iter::once(("all", &lane.frames));
            let classes = lane.classes.iter().map(|(class, frames)| (class.as_str(), frames));
            for (class, f) in classes.filter(|(_, f)| f.received > 0).chain(all) {
                let why: Vec<String> = f.dropped_by.iter().map(|(why, n)| format!("{why} {n}")).collect();
                let numbers = [f.received, f.bypassed, f.released, f.held, f.dropped].map(|n| n.to_string());
                rows.push([vec![class.into()], numbers.into(), vec![why.join(", ")]].concat());
            }
            text.push_str(&columns(&rows));
            let g = &lane.guestward;
            let _ = writeln!(
                text,
                "to the guest: {} received, {} sent, {} queued, {} dropped; {} promotions; {} polls",
                g.received, g.sent, g.queued, g.dropped, lane.promotions, lane.polls
            );
        }
    }
    let c = &stats.control;
    let _ = writeln!(
        text,
        "control: {} sessions, {} refused; {} requests refused; {} events lost",
        c.sessions, c.sessions_refused, c.requests_refused, c.events_lost
    );
    text
}

/// Per cent, or `?` where the record does not tell.
fn percent(share: Option<f64>) -> String {
    share.map_or("?".into(), |share| format!("{share:.1}"))
}

pub(super) fn streams(streams: &Streams) -> String {
    if streams.streams.is_empty() {
        return "no streams\n".into();
    }
    let head = [
        "GUEST",
        "SSRC",
        "FROM",
        "TO",
        "PT",
        "STATE",
        "PACKETS",
        "LOST",
        "REORDERED",
        "JITTER ms",
        "DELTA ms",
        "PDV ms",
        "LATE % 60/200",
        "R",
        "MOS",
    ];
    let mut rows = vec![row(head)];
    for s in &streams.streams {
        rows.push(vec![
            s.guest.clone(),
            s.ssrc.clone(),
            s.source.clone(),
            match &s.channel {
                Some(channel) => format!("{} ({channel})", s.destination),
                None => s.destination.clone(),
            },
            s.payload_type.to_string(),
            s.state.clone(),
            s.departed.to_string(),
            s.lost.to_string(),
            s.reordered.to_string(),
            format!("{:.2}", s.jitter_ms),
            format!("{:.2}", s.delta_max_ms),
            format!("{:.2}", s.delay_variation_ms),
            format!("{}/{}", percent(s.unplayed_percent_60), percent(s.unplayed_percent_200)),
            format!("{:.1}", s.r),
            format!("{:.2}", s.mos),
        ]);
    }
    columns(&rows)
}

pub(super) fn histograms(report: &HistogramReport) -> String {
    let mut rows = vec![row(["WHERE", "WHAT", "COUNT", "P50", "P90", "P99", "P99.9", "MAX"])];
    for h in &report.histograms {
        let owner = match h.guest.as_str() {
            "" => format!("lcore {}", h.lane),
            guest => format!("{guest} lane {}", h.lane),
        };
        let q = &h.quantiles;
        let mut cells = vec![owner, h.name.clone(), h.count.to_string()];
        cells.extend([q.p50, q.p90, q.p99, q.p999, q.max].map(|value| match (value, h.unit.as_str()) {
            (None, _) => "-".into(),
            (Some(value), "ns") => time(value),
            (Some(value), _) => value.to_string(),
        }));
        rows.push(cells);
    }
    columns(&rows)
}

/// One line for the answer of a verb that changes something.
pub(super) fn answer(verb: &str, answer: &Value) -> String {
    let Some(fields) = answer.as_object() else { return format!("{verb}: {answer}\n") };
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect();
    match fields.is_empty() {
        true => format!("{verb}: done\n"),
        false => format!("{verb}: {}\n", fields.join(", ")),
    }
}

pub(super) fn guard(report: &GuardReport) -> String {
    let mut rows = vec![row(["LANE", "SOURCE", "SSRC", "HIGHEST", "INTERVAL", "SRTP"])];
    for s in &report.streams {
        let secure = s.secure.map_or("-", |secure| if secure { "yes" } else { "no" });
        let source = std::net::SocketAddr::new(s.address, s.port).to_string();
        let (ssrc, interval) = (format!("{:#010x}", s.ssrc), time(s.interval_us * 1000));
        rows.push(row([&s.lane.to_string(), &source, &ssrc, &s.highest.to_string(), &interval, secure]));
    }
    let mut who = vec![row(["LANE", "MAC", "VLAN", "ADDRESS", "KNOWN BY"])];
    for i in &report.identities {
        let vlans: Vec<String> = i.vlans.iter().map(|(_, id)| id.to_string()).collect();
        let address = i.address.map_or("-".into(), |address| address.to_string());
        let by = if i.confirmed { "its own word" } else { "its frames" };
        who.push(row([&i.lane.to_string(), &i.mac, &vlans.join("."), &address, by]));
    }
    format!("{}\n{}", columns(&rows), columns(&who))
}

pub(super) fn event(event: &Value) -> String {
    let at = &event["timestamp"];
    let seconds = at["seconds"].as_u64().unwrap_or(0);
    let millis = at["microseconds"].as_u64().unwrap_or(0) / 1000;
    format!("{seconds}.{millis:03} {}", answer(event["event"].as_str().unwrap_or("?"), &event["data"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_timer_and_a_fence_cannot_be_overlooked() {
        let guest =
            GuestReport { guest: "pbx".into(), fenced: true, source: "timer".into(), ..Default::default() };
        let text = guests([&guest].into_iter());
        assert!(text.contains("FENCED") && text.contains("PAUSES NOTHING"), "{text}");
        assert_eq!(guests(std::iter::empty()), "no such guest\n");
    }

    #[test]
    fn columns_align_and_numbers_stand_right() {
        let text = columns(&[row(["A", "N"]), row(["long", "5"]), row(["b", "123"])]);
        assert_eq!(text, "A       N\nlong    5\nb     123\n");
    }

    #[test]
    fn answers_and_times_read_well() {
        assert_eq!(answer("close", &json!({"epoch": 7, "guest": "pbx"})), "close: epoch 7, guest pbx\n");
        assert_eq!(answer("fence", &json!({})), "fence: done\n");
        assert_eq!(
            [time(12), time(1_500), time(2_500_000), time(3_000_000_000)],
            ["12 ns", "1.5 us", "2.5 ms", "3.00 s"]
        );
    }
}
