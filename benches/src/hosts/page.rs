//! The report: one HTML file without anything outside itself, with what share of packets took longer than what.

use super::outcome::{Media, Outcome};
use crate::head::head;
use crate::testbed::plot::{line, word};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;
use std::fmt::Write;
use svg::Document;
use svg::node::element::{Group, Path, Rectangle, Style, Title};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 744.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 284.0;
/// Decades of the axes: milliseconds, shares.
const MS: (i32, i32) = (-2, 3);
const SHARES: i32 = 6;
const COLOURS: usize = 5;

const CLASSES: &str = "
.tg{--ink:#1c2430;--soft:#657083;--line:#dfe4ea;--paper:#ffffff;--c0:#2563b8;--c1:#0f8a6a;--c2:#c8322b;--c3:#b26b00;--c4:#7a3fb0}
@media (prefers-color-scheme:dark){.tg{--ink:#e8ecf1;--soft:#98a3b3;--line:#2d3744;--paper:#161c24;--c0:#76aef5;--c1:#4fd0a8;--c2:#ff7b72;--c3:#f0b04c;--c4:#c59bf0}}
.tg text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:var(--soft)}
.tg .paper{fill:var(--paper)}.tg .grid{stroke:var(--line)}.tg path{fill:none;stroke-width:1.8;stroke-linejoin:round}
.tg .c0{stroke:var(--c0)}.tg .c1{stroke:var(--c1)}.tg .c2{stroke:var(--c2)}.tg .c3{stroke:var(--c3)}.tg .c4{stroke:var(--c4)}
.tg text.c0,.tg text.c1,.tg text.c2,.tg text.c3,.tg text.c4{stroke:none}.tg text.c0{fill:var(--c0)}.tg text.c1{fill:var(--c1)}.tg text.c2{fill:var(--c2)}.tg text.c3{fill:var(--c3)}.tg text.c4{fill:var(--c4)}";

/// The drawing; nothing without a call.
pub fn draw(outcomes: &[Outcome]) -> Option<String> {
    let curves: Vec<(&str, &Media)> = outcomes
        .iter()
        .filter_map(|outcome| Some((outcome.kept.run.name.as_str(), outcome.outward.as_ref()?)))
        .collect();
    if curves.is_empty() {
        return None;
    }
    let x = |ms: f64| {
        let power = ms.max(1e-9).log10().clamp(f64::from(MS.0), f64::from(MS.1));
        LEFT + (power - f64::from(MS.0)) / f64::from(MS.1 - MS.0) * (RIGHT - LEFT)
    };
    let y = |share: f64| {
        TOP - share.max(1e-9).log10().clamp(-f64::from(SHARES), 0.0) / f64::from(SHARES) * (BOTTOM - TOP)
    };
    let mut group = Group::new()
        .set("class", "tg")
        .add(Title::new("Share of a call's packets that took longer, over the time they took"))
        .add(Rectangle::new().set("class", "paper").set("width", WIDTH).set("height", HEIGHT))
        .add(word(LEFT, 16.0, "start", "axis", "share of packets that took longer"));
    for power in MS.0..=MS.1 {
        let (ms, at) = (10f64.powi(power), x(10f64.powi(power)));
        group = group.add(line("grid", (at, TOP), (at, BOTTOM)));
        group = group.add(word(at, BOTTOM + 17.0, "middle", "tick", &format!("{ms} ms")));
    }
    for power in 0..=SHARES {
        let at = y(10f64.powi(-power));
        group = group.add(line("grid", (LEFT, at), (RIGHT, at)));
        group = group.add(word(LEFT - 8.0, at + 4.0, "end", "tick", &format!("{}", 10f64.powi(-power))));
    }
    for (n, (name, media)) in curves.iter().enumerate() {
        let class = format!("c{}", n % COLOURS);
        let mut path = String::new();
        for (n, (ms, share)) in media.curve.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if n == 0 { 'M' } else { 'L' }, x(*ms), y(*share));
        }
        group = group.add(Path::new().set("class", class.as_str()).set("d", path));
        group = group.add(word(RIGHT - 6.0, TOP + 16.0 + 16.0 * n as f64, "end", &class, name));
    }
    let document = Document::new().set("viewBox", format!("0 0 {WIDTH} {HEIGHT}")).set("role", "img");
    Some(document.add(Style::new(CLASSES)).add(group).to_string())
}

/// The file. `command` is the command line that makes it.
pub fn html(outcomes: &[Outcome], missing: &[(String, String)], command: &str) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            (head("tidegate: the testbed"))
            body {
                main {
                    h1 { "The gate between hosts" }
                    p class="soft" {
                        "Calls leave the guest's side at intended moments, whatever becomes of them; the world outside stamps each packet at its \
                         port. Beside them TCP in bulk, transactions and SIP."
                    }
                    div class="card" { @if let Some(drawing) = draw(outcomes) { (PreEscaped(drawing)) } }
                    (table(outcomes))
                    @if !missing.is_empty() {
                        h2 { "Not measured" }
                        div class="card" { @for (name, why) in missing { p { strong { (name) } " " span class="soft" { (why) } } } }
                    }
                    (conditions(outcomes, command))
                }
            }
        }
    };
    page.into_string()
}

fn table(outcomes: &[Outcome]) -> Markup {
    let number = |value: Option<f64>| value.map(|value| format!("{value:.2}")).unwrap_or_default();
    html! {
        h2 { "In numbers" }
        div class="card scroll" {
            table {
                thead { tr {
                    th { "run, and which way" } th { "calls" } th { "sent" } th { "lost" } th { "twice" } th { "latency, ms" br; "p50 / p99 / p99.9 / max" }
                    th { "jitter, ms" br; "median / worst" } th { "sender late" br; "p99 / max" } th { "TCP" br; "Mbit/s" }
                    th { "transaction" br; "p50 / p99" } th { "SIP by TCP" br; "p50 / p99" } th { "SIP by UDP" br; "p50 / p99" }
                } }
                tbody {
                    @for outcome in outcomes {
                        @for (n, (way, media)) in [("out", &outcome.outward), ("in", &outcome.inward)].into_iter().enumerate() {
                            tr {
                                td { (outcome.kept.run.name) " " span class="soft" { (way) } }
                                @if let Some(m) = media {
                                    td { (m.calls) } td { (m.sent) } td { (m.lost) } td { (m.again) }
                                    td { (format!("{:.2} / {:.2} / {:.2} / {:.2}", m.latency.p50_ms, m.latency.p99_ms, m.latency.p999_ms, m.latency.max_ms)) }
                                    td { (format!("{:.2} / {:.2}", m.jitter_ms.median, m.jitter_ms.max)) }
                                    td { (format!("{:.2} / {:.2}", m.sender_late.p99_ms, m.sender_late.max_ms)) }
                                } @else { @for _ in 0..7 { td {} } }
                                @if n == 0 {
                                    td { (number(outcome.tcp_mbit)) }
                                    td { (outcome.transactions.as_ref().map(|t| format!("{:.1} / {:.1}", t.p50_ms, t.p99_ms)).unwrap_or_default()) }
                                    @for times in [&outcome.sip_tcp, &outcome.sip_udp] {
                                        td { (times.map(|t| format!("{:.1} / {:.1}", t.p50_ms, t.p99_ms)).unwrap_or_default()) }
                                    }
                                } @else { @for _ in 0..4 { td {} } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn conditions(outcomes: &[Outcome], command: &str) -> Markup {
    let said = |host: &Value| {
        let words =
            ["cpus", "cpu", "kernel", "port", "driver", "stamps"].map(|key| match &host["conditions"][key] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
        words.join(", ")
    };
    html! {
        h2 { "Under which conditions" }
        div class="card" {
            @if let Some(outcome) = outcomes.first() {
                @for (name, host) in &outcome.kept.hosts { p { strong { (name) } " " (said(host)) } }
            }
            @for outcome in outcomes {
                @let kept = &outcome.kept;
                p { (kept.run.name) ": policy " (kept.run.policy) ", an epoch every " (kept.run.interval) ", committed after " (kept.run.commit_delay)
                    ", " (kept.run.length) " long. Clocks compared to within " (format!("{:.0}", kept.unsure_ns as f64 / 1e3)) " \u{b5}s"
                    @if kept.unsure_ns == 0 { " (one machine)" } "; the receiving kernel had no room for "
                    (kept.hosts.values().filter_map(|host| host["overflows"].as_u64()).sum::<u64>()) " packets." }
            }
            p { "The first second of a run is not in the figures. Epochs come from a timer: between hosts nothing is paused." }
            p { code { (command) } }
        }
    }
}
