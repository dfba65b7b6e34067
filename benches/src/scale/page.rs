//! The report: curves, where they bend and why, and what follows for a physical machine.

use super::Report;
use super::curve::Curve;
use super::derived::Derived;
use crate::head::head;
use crate::stats::Spread;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// All of it, in one file. `drawings`: one for each curve.
pub fn html(report: &Report, drawings: &[String], command: &str) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("tidegate: scale"))
            body {
                main {
                    h1 { "What a frame costs when there is more of everything" }
                    p class="soft" {
                        "Made by " code { (command) } "." @if report.short { " Short: it proves that all of it runs." }
                    }
                    @for (curve, drawing) in report.curves.iter().zip(drawings) { (section(curve, drawing)) }
                    @if let Some(derived) = &report.derived { (physical(derived)) }
                    (conditions(report))
                }
            }
        }
    }
    .into_string()
}

fn section(curve: &Curve, drawing: &str) -> Markup {
    let memory = curve.points.iter().any(|point| point.memory_bytes.is_some());
    let p99 = curve.points.iter().any(|point| point.p99_us.is_some());
    html! {
        section class="card" id=(curve.name) {
            h3 { (curve.title) }
            (PreEscaped(drawing))
            p { "The line " (curve.bend_in_words()) ". " (curve.why) }
            div class="scroll" {
                table {
                    thead { tr {
                        th { (curve.of) }
                        th { @if memory { "release, ns" } @else { "ns a frame" } }
                        th { "from .. to" }
                        @if memory { th { "take in and hold, ns" } th { "bytes a held frame" } }
                        @else { th { "ticks" } }
                        @if p99 { th { "RTP p99, \u{b5}s" } }
                    } }
                    tbody {
                        @for point in &curve.points {
                            tr {
                                td { (point.x) }
                                td { (number(point.cost.median)) }
                                td { (number(point.cost.min)) " .. " (number(point.cost.max)) }
                                @if memory {
                                    td { (median(point.take)) }
                                    td { (point.memory_bytes.map(|bytes| format!("{bytes:.0}")).unwrap_or_default()) }
                                } @else { td { (median(point.ticks)) } }
                                @if p99 { td { (median(point.p99_us)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn median(spread: Option<Spread>) -> String {
    spread.map(|spread| number(spread.median)).unwrap_or_default()
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn physical(derived: &Derived) -> Markup {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    html! {
        section class="card" id="derived" {
            h3 { "A physical machine: derived, not measured" }
            p {
                "By arithmetic from the curves above: " (number(derived.bypass_ns)) " ns for a frame that bypasses, "
                (number(derived.take_ns)) " ns to take one in and hold it, " (number(derived.release_ns))
                " ns to release it; and, assumed, " (number(derived.driver_ns))
                " ns for a NIC's driver. A machine with other caches, memory and clock gives others: "
                "measure there with the same command. A share above 100 % does not fit one lcore."
            }
            div class="scroll" {
                table {
                    thead { tr {
                        th { "wire" } th { "calls that fill it" } th { "lcore for them" }
                        th { "lcore for full TCP frames, held" } th { "lcore for 60-byte frames, held" }
                        th { "frames of a 400 ms epoch" } th { "MiB for them" } th { "their release, ms" }
                    } }
                    tbody {
                        @for wire in &derived.wires {
                            tr {
                                td { (wire.gbit) " Gbit/s" }
                                td { (wire.calls) }
                                td { (percent(wire.lcore_of_calls)) }
                                td { (percent(wire.lcore_of_tcp)) }
                                td { (percent(wire.lcore_of_shortest)) }
                                td { (wire.held_frames) }
                                td { (number(wire.held_mib)) }
                                td { (number(wire.release_ms)) " (the wire needs " (number(wire.wire_ms)) ")" }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn conditions(report: &Report) -> Markup {
    html! {
        section class="card" id="conditions" {
            h3 { "Under which conditions" }
            ul {
                li { (report.machine.machine()) ", load " (report.machine.load) }
                li { (report.machine.tidegate) ", DPDK " (report.machine.dpdk) ", " (format!("{:?}", report.pages)) " pages" }
                li { "Path: " (report.path) ". Software stamps: the CPU's TSC." }
                li { (report.repeats) " rounds, points in turns; medians, bars from least to most." }
                li {
                    "Noise: " (number(report.machine_hiccups_per_s)) " hiccups a second over 10 \u{b5}s of a thread that only reads the clock; "
                    (report.hiccups_2ms) " over 2 ms meanwhile, the worst " (number(report.hiccup_worst_ms)) " ms; "
                    (number(report.stolen_percent)) " % of the CPUs taken by the machine below."
                }
            }
        }
    }
}
