//! A number over the interval, a line for each load and number of calls; `auto` as rings at the interval that it kept.

use super::cell::Numbers;
use crate::testbed::plot::{line, word};
use std::collections::BTreeSet;
use std::fmt::Write;
use svg::Document;
use svg::node::element::{Circle, Group, Path, Rectangle, Style, Title};

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 504.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 262.0;
/// Colours of the loads, dashes of the numbers of calls; more share the last.
const LOADS: [&str; 3] = ["none", "paced", "full"];
const DASHES: [&str; 4] = ["none", "7 4", "2 4", "9 3 2 3"];

const CLASSES: &str = "
.tg{--ink:#1c2430;--soft:#657083;--line:#dfe4ea;--paper:#ffffff;--none:#0f8a6a;--paced:#2563b8;--full:#c8322b}
@media (prefers-color-scheme:dark){.tg{--ink:#e8ecf1;--soft:#98a3b3;--line:#2d3744;--paper:#161c24;--none:#4fd0a8;--paced:#76aef5;--full:#ff7b72}}
.tg text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:var(--soft)}
.tg .head{font-weight:600;fill:var(--ink)}.tg .paper{fill:var(--paper)}
.tg .grid{stroke:var(--line);stroke-width:1}.tg .edge{stroke:var(--soft);stroke-width:1}
.tg .none{stroke:var(--none)}.tg .paced{stroke:var(--paced)}.tg .full{stroke:var(--full)}
.tg path,.tg circle{fill:none;stroke-width:1.8;stroke-linejoin:round}.tg circle{stroke-width:2.2;fill:var(--paper)}";

/// What is drawn.
pub struct Chart {
    /// Its file's name.
    pub name: &'static str,
    /// Its title, with the unit.
    pub title: &'static str,
    /// Which number.
    pub of: fn(&Numbers) -> Option<f64>,
}

/// All charts of a sweep.
pub const CHARTS: [Chart; 11] = [
    Chart { name: "tcp", title: "TCP from the VM, Mbit/s", of: |n| n.tcp_outward_mbit },
    Chart { name: "transaction", title: "transaction, median, ms", of: |n| Some(n.transaction.p50_ms) },
    Chart {
        name: "signalling",
        title: "INVITE to 200 OK over TCP, median, ms",
        of: |n| Some(n.signalling.p50_ms),
    },
    Chart {
        name: "signalling-p99",
        title: "INVITE to 200 OK over TCP, p99, ms",
        of: |n| Some(n.signalling.p99_ms),
    },
    Chart { name: "held", title: "memory held, p99, KiB", of: |n| Some(n.held.p99_bytes / 1024.0) },
    Chart { name: "mos", title: "MOS of the worst call, buffer of 60 ms", of: |n| Some(n.voice.mos_60.min) },
    Chart {
        name: "mos-concealed",
        title: "MOS where pauses are concealed and not stretched",
        of: |n| Some(n.voice.mos_concealed),
    },
    Chart { name: "jitter", title: "jitter of the worst call, ms", of: |n| Some(n.voice.jitter_ms.max) },
    Chart {
        name: "pause",
        title: "the VM stands still for a checkpoint, median, ms",
        of: |n| Some(n.pause_ms.median),
    },
    Chart {
        name: "share",
        title: "share of its time in which it stands still, %",
        of: |n| Some(n.stands_still_percent),
    },
    Chart {
        name: "bytes",
        title: "bytes of a checkpoint, median, KiB",
        of: |n| Some(n.checkpoint_bytes.median / 1024.0),
    },
];

/// Ends of the axes.
#[derive(Clone, Copy, Debug)]
struct Scale {
    x: (f64, f64),
    top: f64,
}

impl Scale {
    fn of(points: &[(f64, f64)]) -> Scale {
        let xs = || points.iter().map(|(x, _)| x.max(1.0));
        let (low, high) = (xs().fold(f64::MAX, f64::min), xs().fold(1.0, f64::max));
        let most = points.iter().map(|(_, y)| *y).fold(0.0, f64::max);
        Scale { x: (low.min(high) * 0.85, high * 1.15), top: round_up(most) }
    }

    /// The interval is on a logarithmic axis.
    fn x(self, ms: f64) -> f64 {
        let (low, high) = (self.x.0.ln(), self.x.1.ln());
        LEFT + ((ms.max(1.0).ln() - low) / (high - low)).clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    fn y(self, value: f64) -> f64 {
        BOTTOM - (value / self.top).clamp(0.0, 1.0) * (BOTTOM - TOP)
    }
}

/// The next of 1, 2 or 5 of a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|step| *step >= value).unwrap_or(10.0 * power)
}

/// The drawing; nothing when there is nothing to draw.
pub fn draw(chart: &Chart, cells: &[Numbers]) -> Option<String> {
    let points: Vec<(&Numbers, f64)> =
        cells.iter().filter_map(|cell| Some((cell, (chart.of)(cell)?))).collect();
    let scale = Scale::of(&points.iter().map(|(cell, y)| (cell.interval_ms, *y)).collect::<Vec<_>>());
    if points.is_empty() {
        return None;
    }
    let calls: Vec<u16> = cells.iter().map(|cell| cell.calls).collect::<BTreeSet<_>>().into_iter().collect();
    let mut group = Group::new()
        .set("class", "tg")
        .add(Title::new(format!("{} over the checkpoint interval", chart.title)))
        .add(Rectangle::new().set("class", "paper").set("width", WIDTH).set("height", HEIGHT))
        .add(word(LEFT, 18.0, "start", "head", chart.title));
    group = axes(group, scale);
    for load in LOADS {
        for (n, count) in calls.iter().enumerate() {
            let of_kind = |cell: &Numbers| cell.load == load && cell.calls == *count;
            let mut fixed: Vec<(f64, f64)> = points
                .iter()
                .filter(|(cell, _)| of_kind(cell) && cell.pace != "auto")
                .map(|(cell, y)| (scale.x(cell.interval_ms), scale.y(*y)))
                .collect();
            fixed.sort_by(|a, b| a.0.total_cmp(&b.0));
            if !fixed.is_empty() {
                let path = Path::new().set("class", load).set("d", curve(&fixed));
                group = group.add(path.set("stroke-dasharray", DASHES[n.min(DASHES.len() - 1)]));
            }
            for (cell, y) in points.iter().filter(|(cell, _)| of_kind(cell) && cell.pace == "auto") {
                let (x, y) = (scale.x(cell.interval_ms), scale.y(*y));
                let ring = Circle::new().set("class", load).set("r", 4.5).set("cx", format!("{x:.1}"));
                group = group.add(ring.set("cy", format!("{y:.1}")));
            }
        }
    }
    group = legend(group, cells, &calls);
    let document = Document::new().set("viewBox", format!("0 0 {WIDTH} {HEIGHT}")).set("role", "img");
    Some(document.add(Style::new(CLASSES)).add(group).to_string())
}

fn curve(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (n, (x, y)) in points.iter().enumerate() {
        let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { 'M' } else { 'L' });
    }
    path
}

fn axes(mut group: Group, scale: Scale) -> Group {
    for step in 0..=4 {
        let value = scale.top * f64::from(step) / 4.0;
        let y = scale.y(value);
        group = group.add(line(if step == 0 { "edge" } else { "grid" }, (LEFT, y), (RIGHT, y)));
        let text = if value >= 100.0 {
            format!("{value:.0}")
        } else {
            format!("{}", (value * 100.0).round() / 100.0)
        };
        group = group.add(word(LEFT - 8.0, y + 4.0, "end", "tick", &text));
    }
    for ms in [10.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0] {
        if (scale.x.0..=scale.x.1).contains(&ms) {
            let text = format!("{ms:.0}");
            group = group.add(word(scale.x(ms), BOTTOM + 17.0, "middle", "tick", &text));
        }
    }
    group.add(word(RIGHT, BOTTOM + 32.0, "end", "axis", "interval, ms"))
}

fn legend(mut group: Group, cells: &[Numbers], calls: &[u16]) -> Group {
    let mut x = LEFT;
    let mut entry = |mut group: Group, class: &str, dash: &str, text: &str| {
        let stroke =
            line(class, (x, 33.0), (x + 20.0, 33.0)).set("stroke-width", 2).set("stroke-dasharray", dash);
        group = group.add(stroke).add(word(x + 25.0, 37.0, "start", "tick", text));
        x += 36.0 + 6.2 * text.len() as f64;
        group
    };
    for load in LOADS.into_iter().filter(|load| cells.iter().any(|cell| cell.load == *load)) {
        group = entry(group, load, "none", &format!("TCP {load}"));
    }
    for (n, count) in calls.iter().enumerate() {
        group = entry(group, "edge", DASHES[n.min(DASHES.len() - 1)], &count.to_string());
    }
    group.add(word(x - 6.0, 37.0, "start", "tick", "calls"))
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::{fixed, numbers};
    use super::*;
    use tidegate_control::cli::Interval;

    #[test]
    fn a_chart_has_a_line_a_kind_and_a_ring_for_auto() {
        let mut cells: Vec<Numbers> =
            [400, 25, 100].iter().map(|&ms| numbers(fixed(ms), ms as f64, 5.0, 1)).collect();
        cells.extend([25, 400].map(|ms| numbers(fixed(ms), ms as f64, 9.0, 16)));
        cells.push(numbers(Interval::Auto, 60.0, 5.0, 1));
        for chart in &CHARTS {
            let drawn = draw(chart, &cells).unwrap();
            assert_eq!(
                (drawn.matches("<path").count(), drawn.matches("<circle").count()),
                (2, 1),
                "{}",
                chart.name
            );
            let opened =
                drawn.matches('<').count() - 2 * drawn.matches("</").count() - drawn.matches("/>").count();
            assert!(
                opened == 0 && drawn.contains("prefers-color-scheme") && !drawn.contains("NaN"),
                "{drawn}"
            );
        }
        assert_eq!(draw(&Chart { of: |_| None, ..CHARTS[0] }, &cells), None);
        assert_eq!(draw(&CHARTS[0], &[]), None);
    }

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!([0.0, 0.7, 1.0, 3.0, 99.0, 450.0].map(round_up), [1.0, 1.0, 1.0, 5.0, 100.0, 500.0]);
        let scale = Scale::of(&[(25.0, 1.0), (400.0, 3.0)]);
        assert!(scale.x(25.0) > LEFT && scale.x(400.0) < RIGHT && scale.y(5.0) == TOP);
    }
}
