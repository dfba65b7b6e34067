//! A panel drawn: RFC 3550 jitter and the time between packets over time, on axes that are the same in every panel.
//!
//! Both vertical axes are logarithmic, so that half a millisecond (the line of a service-level agreement) and 400 ms
//! can be seen in one picture. Colours come from classes, for light and for dark.

use super::panel::Voice;
use std::fmt::Write;
use svg::Document;
use svg::node::element::{Group, Line, Path, Rectangle, Style, Text, Title};

/// The jitter that a service-level agreement for telephony allows, milliseconds.
pub const SLA_MS: f64 = 0.5;
/// From one packet to the next where all is well, milliseconds.
const PACKET_MS: f64 = 20.0;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 744.0;
/// The lower edge and the height of both plots.
const JITTER: Area = Area { top: 44.0, bottom: 172.0 };
const DELTA: Area = Area { top: 204.0, bottom: 332.0 };
/// Decades that the axes cover, as powers of ten of a millisecond.
const DECADES: std::ops::RangeInclusive<i32> = -2..=3;

/// Light, and dark where the reader's system is. The report has the same names.
pub(crate) const CLASSES: &str = "
.tg{--ink:#1c2430;--soft:#657083;--line:#dfe4ea;--paper:#ffffff;--jitter:#2563b8;--delta:#0f8a6a;--bad:#c8322b;--sla:#b26b00}
@media (prefers-color-scheme:dark){.tg{--ink:#e8ecf1;--soft:#98a3b3;--line:#2d3744;--paper:#161c24;--jitter:#76aef5;--delta:#4fd0a8;--bad:#ff7b72;--sla:#f0b04c}}
.tg text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:var(--soft)}
.tg .head{font-weight:600;fill:var(--ink)}.tg .paper{fill:var(--paper)}
.tg .grid{stroke:var(--line);stroke-width:1}.tg .edge{stroke:var(--soft);stroke-width:1}
.tg .jitter{stroke:var(--jitter);stroke-width:1.4;fill:none;stroke-linejoin:round}
.tg .delta{stroke:var(--delta);stroke-width:3;stroke-linecap:round;fill:none;stroke-opacity:.6}
.tg .sla{stroke:var(--sla);stroke-width:1.4;stroke-dasharray:6 4}.tg .slaword{fill:var(--sla)}
.tg .even{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 4}
.tg .lost{stroke:var(--bad);stroke-width:1.6}.tg .lostword,.tg .deadword{fill:var(--bad)}
.tg .slaword,.tg .deadword{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.tg .dead{stroke:var(--bad);stroke-width:1.4;stroke-dasharray:3 3}";

#[derive(Clone, Copy)]
struct Area {
    top: f64,
    bottom: f64,
}

impl Area {
    /// Where a number of milliseconds is; what is beyond an end is at it.
    fn y(self, ms: f64) -> f64 {
        let (low, high) = (f64::from(*DECADES.start()), f64::from(*DECADES.end()));
        let power = if ms > 0.0 { ms.log10().clamp(low, high) } else { low };
        self.bottom - (power - low) / (high - low) * (self.bottom - self.top)
    }
}

/// What stands beside the curve.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// The panel's title.
    pub title: &'a str,
    /// Seconds that the axis covers.
    pub seconds: f64,
    /// When the primary died.
    pub killed_s: Option<f64>,
}

/// The drawing of one voice, as a document of its own.
pub fn draw(voice: &Voice, labels: Labels<'_>) -> String {
    let x = |s: f64| LEFT + (s / labels.seconds.max(0.001)).clamp(0.0, 1.0) * (RIGHT - LEFT);
    let name = format!("{}: jitter and time between packets, {}", labels.title, voice.way);
    let mut group = Group::new()
        .set("class", "tg")
        .add(Title::new(name))
        .add(Rectangle::new().set("class", "paper").set("width", WIDTH).set("height", HEIGHT))
        .add(word(LEFT, 18.0, "start", "head", labels.title));
    group = axes(group, JITTER, "jitter, ms");
    group = axes(group, DELTA, "between packets, ms");
    group = seconds_axis(group, labels.seconds, x);
    group = group
        .add(line("sla", (LEFT, JITTER.y(SLA_MS)), (RIGHT, JITTER.y(SLA_MS))))
        .add(word(RIGHT, JITTER.y(SLA_MS) - 4.0, "end", "slaword", "SLA 500 \u{b5}s"))
        .add(line("even", (LEFT, DELTA.y(PACKET_MS)), (RIGHT, DELTA.y(PACKET_MS))))
        .add(Path::new().set("class", "jitter").set("d", curve(voice, x)))
        .add(Path::new().set("class", "delta").set("d", dots(voice, x)));
    for (s, _) in &voice.losses {
        group = group.add(line("lost", (x(*s), DELTA.top - 9.0), (x(*s), DELTA.top + 3.0)));
    }
    let lost = voice.whole().quality.lost;
    if lost > 0 {
        group = group.add(word(RIGHT, DELTA.top - 12.0, "end", "lostword", &format!("| {lost} lost")));
    }
    if let Some(s) = labels.killed_s {
        let note = word(x(s) + 5.0, JITTER.top + 12.0, "start", "deadword", "the primary dies");
        group = group.add(line("dead", (x(s), JITTER.top), (x(s), DELTA.bottom))).add(note);
    }
    Document::new()
        .set("viewBox", format!("0 0 {WIDTH} {HEIGHT}"))
        .set("role", "img")
        .add(Style::new(CLASSES))
        .add(group)
        .to_string()
}

/// A straight line of a class.
pub fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> Line {
    let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(|at| format!("{at:.1}"));
    Line::new().set("class", class).set("x1", x1).set("y1", y1).set("x2", x2).set("y2", y2)
}

/// A text of a class.
pub fn word(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> Text {
    let (x, y) = (format!("{x:.1}"), format!("{y:.1}"));
    Text::new(text).set("class", class).set("x", x).set("y", y).set("text-anchor", anchor)
}

fn axes(mut group: Group, area: Area, what: &str) -> Group {
    for power in DECADES {
        let (ms, y) = (10f64.powi(power), area.y(10f64.powi(power)));
        let class = if power == *DECADES.start() { "edge" } else { "grid" };
        group = group.add(line(class, (LEFT, y), (RIGHT, y)));
        group = group.add(word(LEFT - 8.0, y + 4.0, "end", "tick", &ms.to_string()));
    }
    group.add(word(LEFT, area.top - 8.0, "start", "axis", what))
}

fn seconds_axis(mut group: Group, seconds: f64, x: impl Fn(f64) -> f64) -> Group {
    // 1, 2 or 5 of a power of ten: at most ten marks.
    let rough = (seconds / 10.0).max(0.001);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let marks = (seconds / step + 1e-9).floor() as u32;
    for mark in 0..=marks {
        let s = f64::from(mark) * step;
        for area in [JITTER, DELTA] {
            group = group.add(line("grid", (x(s), area.top), (x(s), area.bottom)));
        }
        let text = format!("{}{}", (s * 1000.0).round() / 1000.0, if mark == marks { " s" } else { "" });
        group = group.add(word(x(s), DELTA.bottom + 18.0, "middle", "tick", &text));
    }
    group
}

fn curve(voice: &Voice, x: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    for (n, point) in voice.points.iter().enumerate() {
        let verb = if n == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{verb}{:.1} {:.1}", x(point.s), JITTER.y(point.jitter_ms));
    }
    path
}

fn dots(voice: &Voice, x: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    for point in &voice.points {
        if let Some(delta_ms) = point.delta_ms {
            let _ = write!(path, "M{:.1} {:.1}h0", x(point.s), DELTA.y(delta_ms));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::super::panel::Point;
    use super::super::{hiccups::Noise, panel::Part};
    use super::*;

    fn voice(title_ssrc: &str) -> Voice {
        let points = (0..500).map(|n| Point {
            s: f64::from(n) * 0.02,
            jitter_ms: 0.3,
            delta_ms: (n > 0).then_some(20.0),
        });
        Voice {
            name: "what the caller hears",
            way: "10.9.0.2:6400 to 10.9.0.1:6300".into(),
            ssrc: title_ssrc.into(),
            parts: vec![Part::of("all of it", &[], &Noise::default())],
            losses: vec![(4.0, 2)],
            points: points.collect(),
        }
    }

    #[test]
    fn the_axes_are_logarithmic_and_have_ends() {
        assert_eq!((JITTER.y(0.01), JITTER.y(1000.0)), (JITTER.bottom, JITTER.top));
        assert_eq!((JITTER.y(0.0), JITTER.y(1e9)), (JITTER.bottom, JITTER.top));
        let decade = (JITTER.bottom - JITTER.top) / 5.0;
        assert!((JITTER.y(1.0) - JITTER.y(10.0) - decade).abs() < 1e-9);
    }

    #[test]
    fn a_drawing_has_all_that_belongs_to_it_and_is_well_formed() {
        let labels = Labels { title: "<held> & \"late\"", seconds: 10.0, killed_s: Some(5.0) };
        let drawn = draw(&voice("0x1"), labels);
        for word in
            ["SLA 500", "the primary dies", "class=\"lost\"", "prefers-color-scheme", "10 s", "jitter, ms"]
        {
            assert!(drawn.contains(word), "{word}");
        }
        assert!(drawn.contains("&lt;held") && !drawn.contains("<held>"), "titles are text");
        assert_eq!(drawn.matches("h0").count(), 499);
        // One tag closes for each that opens.
        let opened =
            drawn.matches('<').count() - 2 * drawn.matches("</").count() - drawn.matches("/>").count();
        assert_eq!(opened, 0, "{drawn}");
        let living = draw(&voice("0x1"), Labels { killed_s: None, ..labels });
        assert!(!living.contains("the primary dies"));
    }

    #[test]
    fn short_and_long_axes_have_at_most_ten_marks() {
        for seconds in [2.0, 5.0, 7.5, 20.0, 60.0, 3600.0] {
            let drawn = draw(&voice("0x1"), Labels { title: "t", seconds, killed_s: None });
            let marks = drawn.matches("text-anchor=\"middle\"").count();
            assert!((4..=11).contains(&marks), "{seconds}: {marks}");
        }
    }
}
