//! A curve drawn: how many along a logarithmic axis, nanoseconds a frame up a linear one, the spread as bars.

use super::curve::{Curve, Point};
use crate::testbed::plot::{CLASSES, line, word};
use svg::Document;
use svg::node::element::{Circle, Group, Path, Rectangle, Style, Title};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 728.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 256.0;
/// Beside those of the figures.
const OWN: &str = ".tg .cost{stroke:var(--jitter);stroke-width:1.8;fill:none}.tg .take{stroke:var(--delta);stroke-width:1.8;fill:none}
.tg .dot{fill:var(--jitter)}.tg .takedot{fill:var(--delta)}.tg .bar{stroke:var(--soft);stroke-width:1.2}";

struct Axes {
    decades: (f64, f64),
    top_ns: f64,
}

impl Axes {
    fn of(points: &[Point]) -> Axes {
        let ends = |x: Option<&Point>| x.map_or(0.0, |point| (point.x.max(1) as f64).log10());
        let (first, last) = (ends(points.first()), ends(points.last()));
        let highest = points
            .iter()
            .map(|point| point.cost.median.max(point.take.map_or(0.0, |take| take.median)))
            .fold(1.0, f64::max);
        let step = step(highest);
        Axes { decades: (first, last.max(first + 0.3)), top_ns: (highest / step).ceil() * step }
    }

    fn x(&self, x: u64) -> f64 {
        let (first, last) = self.decades;
        LEFT + ((x.max(1) as f64).log10() - first) / (last - first) * (RIGHT - LEFT)
    }

    fn y(&self, ns: f64) -> f64 {
        BOTTOM - (ns / self.top_ns).clamp(0.0, 1.0) * (BOTTOM - TOP)
    }
}

/// 1, 2 or 5 of a power of ten: five marks or so.
fn step(highest: f64) -> f64 {
    let rough = (highest / 5.0).max(0.01);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

/// The drawing, as a document of its own.
pub fn draw(curve: &Curve) -> String {
    let axes = Axes::of(&curve.points);
    let mut group = Group::new()
        .set("class", "tg")
        .add(Title::new(format!("{}: nanoseconds a frame", curve.title)))
        .add(Rectangle::new().set("class", "paper").set("width", WIDTH).set("height", HEIGHT))
        .add(word(LEFT, 18.0, "start", "head", curve.title))
        .add(word(LEFT, TOP - 10.0, "start", "axis", "ns a frame"))
        .add(word(RIGHT, BOTTOM + 36.0, "end", "axis", curve.of));
    let step = step(axes.top_ns * 0.999);
    for mark in 0..=(axes.top_ns / step).round() as u32 {
        let ns = f64::from(mark) * step;
        let class = if mark == 0 { "edge" } else { "grid" };
        group = group.add(line(class, (LEFT, axes.y(ns)), (RIGHT, axes.y(ns))));
        group = group.add(word(LEFT - 8.0, axes.y(ns) + 4.0, "end", "tick", &ns.to_string()));
    }
    for point in &curve.points {
        let (x, cost) = (axes.x(point.x), point.cost);
        group = group
            .add(line("grid", (x, TOP), (x, BOTTOM)))
            .add(word(x, BOTTOM + 18.0, "middle", "tick", &short(point.x)))
            .add(line("bar", (x, axes.y(cost.min)), (x, axes.y(cost.max))))
            .add(dot("dot", x, axes.y(cost.median)));
        if let Some(take) = point.take {
            group = group.add(dot("takedot", x, axes.y(take.median)));
        }
    }
    let path = |of: fn(&Point) -> Option<f64>| -> String {
        let at = curve.points.iter().filter_map(|point| Some((axes.x(point.x), axes.y(of(point)?))));
        let steps =
            at.enumerate().map(|(n, (x, y))| format!("{}{x:.1} {y:.1}", if n == 0 { 'M' } else { 'L' }));
        steps.collect()
    };
    group = group.add(Path::new().set("class", "cost").set("d", path(|point| Some(point.cost.median))));
    let take = path(|point| point.take.map(|take| take.median));
    if !take.is_empty() {
        group = group.add(Path::new().set("class", "take").set("d", take)).add(word(
            RIGHT,
            18.0,
            "end",
            "axis",
            "blue: released; green: taken in and held",
        ));
    }
    if let Some(bend) = curve.bend {
        let x = axes.x(bend.x);
        group = group.add(line("sla", (x, TOP), (x, BOTTOM))).add(word(
            x - 4.0,
            TOP + 10.0,
            "end",
            "slaword",
            &format!("bends: {:.2} x", bend.factor),
        ));
    }
    Document::new()
        .set("viewBox", format!("0 0 {WIDTH} {HEIGHT}"))
        .set("role", "img")
        .add(Style::new(format!("{CLASSES}{OWN}")))
        .add(group)
        .to_string()
}

fn dot(class: &str, x: f64, y: f64) -> Circle {
    Circle::new().set("class", class).set("cx", format!("{x:.1}")).set("cy", format!("{y:.1}")).set("r", 3)
}

fn short(x: u64) -> String {
    match x {
        1_000_000.. => format!("{} M", x / 1_000_000),
        1_000.. => format!("{} k", x / 1_000),
        _ => x.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::curve::Bend;
    use crate::stats::Spread;

    #[test]
    fn a_drawing_has_its_points_its_marks_and_its_bend() {
        let point = |x: u64, ns: f64| Point {
            x,
            cost: Spread::of([ns, ns * 1.1, ns * 0.9]).unwrap(),
            ticks: None,
            take: None,
            p99_us: None,
            memory_bytes: None,
        };
        let points = vec![point(1, 40.0), point(1_000, 44.0), point(1_000_000, 90.0)];
        let bend = Some(Bend { x: 1_000_000, factor: 2.25 });
        let curve = Curve { name: "x", title: "<T>", of: "things", points, bend, why: "" };
        let drawn = draw(&curve);
        assert_eq!(drawn.matches("<circle").count(), 3);
        for text in ["bends: 2.25 x", "1 k", "1 M", "ns a frame", "things", "&lt;T&gt;"] {
            assert!(drawn.contains(text), "{text}");
        }
        let axes = Axes::of(&curve.points);
        assert_eq!((axes.x(1), axes.x(1_000_000), axes.y(0.0), axes.top_ns), (LEFT, RIGHT, BOTTOM, 100.0));
    }
}
