//! The report: one HTML file without anything outside itself.

use super::cell::Numbers;
use super::verdict::Verdict;
use crate::head::head;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::collections::BTreeSet;

/// Everything that is shown.
#[derive(Debug)]
pub struct Page<'a> {
    /// What was measured.
    pub cells: &'a [Numbers],
    /// What follows from it.
    pub verdict: &'a Verdict,
    /// The charts.
    pub charts: &'a [String],
    /// What could not be measured, and why.
    pub missing: &'a [(String, String)],
    /// The command line that makes it.
    pub command: &'a str,
}

impl Page<'_> {
    /// The file.
    pub fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                (head("tidegate: the best checkpoint interval"))
                body {
                    main {
                        h1 { "How often shall a telephone server be checkpointed?" }
                        p class="soft" {
                            "Often: what waits for a checkpoint waits for less, and a successor knows more. Rarely: the server stands \
                             still for each of them. Every line is a virtual machine that was really replicated, under calls, \
                             signalling and TCP; rings are " code { "--interval auto" } ", at the interval that it chose."
                        }
                        (self.advice())
                        h2 { "Over the interval" }
                        @for chart in self.charts { div class="card" { (PreEscaped(chart)) } }
                        (self.table())
                        (self.reading())
                        (self.conditions())
                    }
                }
            }
        };
        page.into_string()
    }

    fn advice(&self) -> Markup {
        let verdict = self.verdict;
        html! {
            h2 { "The recommendation" }
            div class="card scroll" {
                @if let (Some(come), Some(last)) = (verdict.calls_come_ms, verdict.calls_last_ms) {
                    p {
                        "On this machine: " strong { (ms(come.median)) } " while calls are set up (" (ms(come.min)) " to " (ms(come.max))
                        "), " strong { (ms(last.median)) } " while they only last (" (ms(last.min)) " to " (ms(last.max)) "). "
                        code { "tidegate replicate --interval auto" } " follows the same rule with what it measures itself."
                    }
                }
                table {
                    thead { tr {
                        th { "calls" } th style="text-align:left" { "TCP" } th { "rule: calls" br; "are set up" } th style="text-align:left" { "because of" }
                        th { "rule: they" br; "only last" } th style="text-align:left" { "because of" } th { "cost least" br; "as measured" }
                        th { "its" br; "cost" } th { "cost of" br; "the rule's" } th { "auto" br; "chose" } th { "its" br; "cost" }
                    } }
                    tbody {
                        @for advice in &verdict.advice {
                            tr {
                                td { (advice.calls) } td style="text-align:left" { (advice.load) }
                                td { (ms(advice.calls_come_ms)) } td style="text-align:left" { (word(&advice.calls_come_why)) }
                                td { (ms(advice.calls_last_ms)) } td style="text-align:left" { (word(&advice.calls_last_why)) }
                                td { (advice.measured_best) } td { (cost(Some(advice.measured_cost))) } td { (cost(Some(advice.rule_cost))) }
                                td { (advice.auto_ms.map(ms).unwrap_or_default()) } td { (cost(advice.auto_cost)) }
                            }
                        }
                    }
                }
            }
        }
    }

    fn table(&self) -> Markup {
        let optional = |value: Option<f64>| value.map(number).unwrap_or_default();
        html! {
            h2 { "All numbers" }
            div class="card scroll" {
                table {
                    thead { tr {
                        th style="text-align:left" { "pace" } th { "calls" } th style="text-align:left" { "TCP" } th { "interval" } th { "pause" br; "median / max" }
                        th { "stands" br; "still" } th { "commit" br; "after" } th { "KiB" } th { "TCP out" br; "Mbit/s" } th { "TCP in" br; "Mbit/s" }
                        th { "transaction" br; "p50 / p99" } th { "INVITE" br; "p50 / p99" } th { "held, KiB" br; "mean / max" }
                        th { "MOS" br; "median / worst" } th { "jitter" br; "worst" } th { "gap" br; "worst" } th { "late at" br; "60 ms" }
                    } }
                    tbody {
                        @for cell in self.cells {
                            tr {
                                td style="text-align:left" { (cell.pace) } td { (cell.calls) } td style="text-align:left" { (cell.load) }
                                td { (number(cell.interval_ms)) } td { (number(cell.pause_ms.median)) " / " (number(cell.pause_ms.max)) }
                                td { (format!("{:.1} %", cell.stands_still_percent)) }
                                td { (optional(cell.committed_after_ms.map(|spread| spread.median))) }
                                td { (number(cell.checkpoint_bytes.median / 1024.0)) }
                                td { (optional(cell.tcp_outward_mbit)) } td { (optional(cell.tcp_inward_mbit)) }
                                td { (number(cell.transaction.p50_ms)) " / " (number(cell.transaction.p99_ms)) }
                                td { (number(cell.signalling.p50_ms)) " / " (number(cell.signalling.p99_ms))
                                     @if cell.signalling.unanswered > 0 { small { " (" (cell.signalling.unanswered) " without an answer)" } } }
                                td { (number(cell.held.mean_bytes / 1024.0)) " / " (number(cell.held.max_bytes as f64 / 1024.0)) }
                                td { (number(cell.voice.mos_60.median)) " / " (number(cell.voice.mos_60.min)) }
                                td { (number(cell.voice.jitter_ms.max)) } td { (number(cell.voice.gap_ms.max)) }
                                td { (format!("{:.1} %", cell.voice.late_60_percent.max)) }
                            }
                        }
                    }
                }
            }
            @if !self.missing.is_empty() {
                h2 { "Not measured" }
                div class="card" { @for (pace, why) in self.missing { p { strong { (pace) } " " span class="soft" { (why) } } } }
            }
        }
    }

    fn reading(&self) -> Markup {
        let [floor, ceiling] = self.verdict.bounds_ms;
        html! {
            h2 { "How to read it" }
            div class="card" {
                p { "The rule: a pause p and an interval i cost p/i of the server's time, and what it says waits for i/2 in the mean. A wait of T \
                     counts as much as a server that stands still; 250 ms while calls are set up, a second otherwise. That is least at \
                     sqrt(2 p T). Not so long that an answer to signalling takes more than 250 ms (SIP says its request again after 500); not so short \
                     that acknowledgements are late, or that the server stands still for more than 5 % while it speaks, 10 % otherwise. From \
                     " (ms(floor)) " to " (ms(ceiling)) "." }
                p { "Cost, as measured: the share in which the VM stood still, and the mean time from INVITE to 200 OK against 250 ms. It knows \
                     nothing of calls that suffer: that is what the limit of 5 % is for, so the rule's interval may cost more than the least." }
                p { "Fixed intervals are kept whatever waits; " code { "auto" } " is also urged by signalling, as it is in operation. Transactions and \
                     INVITEs come at intended moments (25 and 200 ms apart) and count from there. MOS: the E-model for G.711 with concealment behind a \
                     playout buffer of 60 ms that follows its sender's clock: a VM's voice runs slow by the share in which it stands still. Where a \
                     receiver does not stretch it, that share is concealed: the other MOS, which the limit of 5 % is for." }
            }
        }
    }

    fn conditions(&self) -> Markup {
        let told = |of: &dyn Fn(&Numbers) -> String| {
            let all: BTreeSet<String> = self.cells.iter().map(of).filter(|text| !text.is_empty()).collect();
            all.into_iter().collect::<Vec<_>>().join("; ")
        };
        let noise = |of: &dyn Fn(&Numbers) -> f64| self.cells.iter().map(of).fold(0.0, f64::max);
        html! {
            h2 { "Under which conditions" }
            div class="card" {
                p { (told(&|n| n.meta.conditions.machine())) }
                p { (told(&|n| n.meta.conditions.path.clone())) "; " (told(&|n| n.meta.conditions.accelerator.clone())) "; "
                    (told(&|n| n.meta.conditions.qemu.clone())) "; DPDK " (told(&|n| n.meta.conditions.dpdk.clone())) "; "
                    (told(&|n| n.meta.conditions.tidegate.clone())) "; " (told(&|n| n.meta.conditions.stamps.clone())) }
                p { "One measurement of " (self.cells.first().map_or(0.0, |n| n.meta.length_ms as f64 / 1e3)) " s a cell. The machine's CPUs were busy for up \
                     to " (format!("{:.0} %", noise(&|n| n.meta.noise.busy_percent))) " of the time, up to "
                    (format!("{:.1} %", noise(&|n| n.meta.noise.stolen_percent))) " were stolen, a thread waited for "
                    (ms(noise(&|n| n.meta.noise.worst_ms))) " at most." }
                p { code { (self.command) } }
            }
        }
    }
}

/// As in JSON.
fn word(why: &tidegate_replica::cadence::Why) -> String {
    serde_json::to_value(why).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn ms(value: f64) -> String {
    format!("{value:.0} ms")
}

fn cost(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.2}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::{fixed, numbers};
    use super::*;
    use std::time::Duration;
    use tidegate_replica::cadence::Bounds;

    #[test]
    fn the_page_needs_nothing_from_outside_and_says_what_follows() {
        let cells = [numbers(fixed(100), 100.0, 5.0, 4)];
        let bounds = Bounds { floor: Duration::from_millis(25), ceiling: Duration::from_millis(400) };
        let verdict = Verdict::of(&cells, bounds);
        let missing = [("auto".to_owned(), "no <QEMU>".to_owned())];
        let charts = ["<svg></svg>".to_owned()];
        let page = Page {
            cells: &cells,
            verdict: &verdict,
            charts: &charts,
            missing: &missing,
            command: "scripts/bench sweep",
        };
        let page = page.html();
        for outside in ["http:", "https:", "src=", "url(", "@import", "<link", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        for said in ["<svg></svg>", "no &lt;QEMU&gt;", "stand-still", "95 ms", "scripts/bench sweep"] {
            assert!(page.contains(said), "{said}");
        }
    }
}
