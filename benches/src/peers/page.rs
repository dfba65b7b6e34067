//! The contest as one HTML file without anything outside itself.

use super::contest::Entry;
use super::report::{Quality, Report, Row};
use crate::head::head;
use crate::stats::Spread;
use crate::testbed::panel::Voice;
use crate::testbed::plot::{Labels, draw};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Everything that is shown.
pub struct Page<'a> {
    /// The numbers.
    pub report: &'a Report,
    /// The turns, for the drawings.
    pub entries: &'a [Entry],
}

impl Page<'_> {
    /// The file.
    pub fn html(&self) -> String {
        let report = self.report;
        html! {
            (DOCTYPE)
            html lang="en" class="wide" {
                (head("tidegate beside its peers"))
                body { main {
                    h1 { "tidegate beside what one would otherwise run" }
                    p class="soft" {
                        "The same wires, the same voice, the same TCP, in turns. What a peer holds is let go every "
                        (format!("{:.0} ms", report.interval_ms)) ", " (format!("{:.0} ms", report.commit_delay_ms))
                        " after the epoch has closed, as if a checkpoint had travelled meanwhile."
                    }
                    (voices("A voice alone", &report.peers, |row| &row.alone))
                    (voices("The same beside TCP as fast as it goes", &report.peers, |row| &row.beside_tcp))
                    (throughput(&report.peers))
                    (self.missing())
                    h2 { "The voice alone, in each one's last turn" }
                    div class="pairs" { @for entry in self.entries { (drawing(entry)) } }
                    (self.reading())
                } }
            }
        }
        .into_string()
    }

    fn missing(&self) -> Markup {
        let failed: Vec<_> = self.report.peers.iter().filter(|row| !row.failures.is_empty()).collect();
        html! {
            @if !self.report.missing.is_empty() || !failed.is_empty() {
                h2 { "What could not run here" }
                div class="card" {
                    @for one in &self.report.missing { p { strong { (one.title) } " " span class="soft" { (one.why) } } }
                    @for row in failed {
                        @for why in &row.failures { p { strong { (row.title) } " " span class="soft" { "a turn failed: " (why) } } }
                    }
                }
            }
        }
    }

    fn reading(&self) -> Markup {
        let conditions = &self.report.conditions;
        let rows = [
            ("Machine", conditions.machine()),
            ("Way of a frame", conditions.path.clone()),
            ("VM", conditions.accelerator.clone()),
            ("QEMU", conditions.qemu.clone()),
            ("DPDK", conditions.dpdk.clone()),
            ("tidegate", conditions.tidegate.clone()),
            ("Stamps", conditions.stamps.clone()),
            ("Load before", conditions.load.clone()),
            (
                "Rounds",
                format!(
                    "{}, of {} s of voice and {0} s of TCP each",
                    self.report.rounds, self.report.seconds
                ),
            ),
        ];
        html! {
            h2 { "How it was measured" }
            div class="card" {
                p class="soft" {
                    "Two network namespaces stand for the guest and the world; the peer is between them. The voice is RTP, G.711, a \
                     packet every 20 ms. PDV: delay beyond the quickest packet's (RFC 5481); calm PDV leaves out the packets beside \
                     a moment in which the machine let a thread wait for more than 2 ms. Medians over the rounds, smallest and \
                     largest below. The flood: RTP of 172 bytes in 64 streams from one thread, and what of it arrived within a \
                     second; sender, peer and receiver share the CPUs, so it compares the peers and is no machine's limit."
                }
                dl { @for (name, value) in &rows { @if !value.is_empty() { dt { (name) } dd { (value) } } } }
            }
            div class="card scroll" {
                table {
                    thead { tr { th { "Peer" } th class="left" { "what waits may leave by" } th class="left" { "what bounds it" } } }
                    tbody { @for row in &self.report.peers {
                        tr { td { (row.title) } td class="left words" { (row.clock) } td class="left words" { (row.limit) } }
                    } }
                }
            }
        }
    }
}

fn voices(title: &str, rows: &[Row], of: fn(&Row) -> &Quality) -> Markup {
    html! {
        h2 { (title) }
        div class="card scroll" {
            table {
                thead { tr {
                    th { "ms, unless named otherwise" } th class="left" { "waits" } th class="left" { "MOS, 60 ms" }
                    th { "longest" br; "gap" } th { "jitter" br; "mean" } th { "jitter" br; "max" } th { "PDV" br; "p99" } th { "PDV" br; "p99.9" }
                    th { "calm" br; "p99" } th { "% late" br; "at 60" } th { "% late" br; "at 200" } th { "lost" } th { "at" br; "once" }
                } }
                tbody { @for row in rows {
                    @let quality = of(row);
                    @let mos = quality.mos_60.map_or(1.0, |mos| mos.median);
                    tr {
                        td { (row.title) } td class="left soft" { (row.holds) }
                        td class={ "left " (grade(mos)) } {
                            span class="bar" { i style={ "width:" (format!("{:.0}%", (mos - 1.0) / 3.5 * 100.0)) } {} }
                            (format!("{mos:.2}"))
                        }
                        (cell(quality.gap_ms_max)) (cell(quality.jitter_ms)) (cell(quality.jitter_ms_max))
                        (cell(quality.pdv_ms_p99)) (cell(quality.pdv_ms_p999)) (cell(quality.calm_pdv_ms_p99))
                        (whole(quality.late_60_percent)) (whole(quality.late_200_percent)) (whole(quality.lost)) (whole(quality.most_at_once))
                    }
                } }
            }
        }
    }
}

fn throughput(rows: &[Row]) -> Markup {
    html! {
        h2 { "How much goes through" }
        div class="card scroll" {
            table {
                thead { tr { th { "Peer" } th class="left" { "waits" } th { "TCP, Mbit/s" } th { "frames/s" br; "came through" } th { "frames/s" br; "sent" } th class="left" { "" } } }
                tbody { @for row in rows {
                    tr {
                        td { (row.title) } td class="left soft" { (row.holds) } (cell(row.tcp_mbit))
                        (cell(row.frames_per_second)) (cell(row.offered_per_second))
                        td class="left soft words" { (row.no_rate.or(row.note()).unwrap_or_default()) }
                    }
                } }
            }
        }
    }
}

fn cell(spread: Option<Spread>) -> Markup {
    shown(spread, number)
}

fn whole(spread: Option<Spread>) -> Markup {
    shown(spread, |value| format!("{value:.0}"))
}

fn shown(spread: Option<Spread>, number: fn(f64) -> String) -> Markup {
    html! {
        td {
            @match spread {
                None => "-",
                Some(Spread { median, min, max, .. }) => {
                    (number(median))
                    @if min != max { br; small { (number(min)) " .. " (number(max)) } }
                }
            }
        }
    }
}

fn drawing(entry: &Entry) -> Markup {
    let Some(turn) = entry.turns.last() else { return html! {} };
    let alone = &turn.alone;
    let voice = Voice::over(&alone.arrivals, alone.begin_ns, &alone.noise);
    let seconds = alone.end_ns.saturating_sub(alone.begin_ns) as f64 / 1e9;
    html! {
        section class="card" id=(entry.peer.name) {
            (PreEscaped(draw(&voice, Labels { title: entry.peer.title, seconds, killed_s: None })))
        }
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        1e4.. => format!("{:.0} k", value / 1e3),
        100.0.. => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

/// G.107, annex B.
fn grade(mos: f64) -> &'static str {
    match mos {
        4.03.. => "good",
        3.10.. => "fair",
        _ => "bad",
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_outside_and_says_who_could_not_run() {
        let report = report();
        let page = Page { report: &report, entries: &[] }.html();
        for outside in ["http:", "https:", "src=", "url(", "@import", "<link", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        for said in
            ["ovs-vswitchd-dpdk is missing", "a turn failed: one turn &lt;failed&gt;", "holds every frame"]
        {
            assert!(page.contains(said), "{said}");
        }
        assert_eq!([3.456, 123.4, 250_000.0].map(number), ["3.46", "123", "250 k"]);
    }
}
