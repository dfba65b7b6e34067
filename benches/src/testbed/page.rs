//! The report: one HTML file without anything outside itself, for light and for dark.

use super::panel::{Panel, Part};
use super::scenario::{Gate, Scenario};
use crate::head::head;
use crate::stats::Spread;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::collections::BTreeSet;

/// Everything that is shown.
#[derive(Debug)]
pub struct Page<'a> {
    /// What was measured, in the order of the scenarios, each with a drawing a voice.
    pub panels: &'a [(Panel, Vec<String>)],
    /// What could not be, and why.
    pub missing: &'a [(Scenario, String)],
    /// The command line that makes it.
    pub command: &'a str,
}

impl Page<'_> {
    /// The file.
    pub fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                (head("tidegate: what a call hears"))
                body {
                    main {
                        h1 { "What a call hears while its server is replicated" }
                        p class="soft" {
                            "A virtual machine under continuous replication may not let out anything that its backup does not know \
                             yet. Held back like everything else, a telephone call comes out in bursts; let go, it does not. \
                             Each panel is one real call, as the far end heard it."
                        }
                        (self.glance())
                        (self.figures())
                        (self.reading())
                        (self.conditions())
                    }
                }
            }
        };
        page.into_string()
    }

    fn glance(&self) -> Markup {
        html! {
            h2 { "At a glance" }
            div class="card scroll" {
                table {
                    thead { tr {
                        th { "Figure" } th class="left" { "Panel" } th class="left" { "MOS, buffer of 60 ms" }
                        th { "late at 60 ms" } th { "lost" } th { "longest gap" } th { "jitter, mean" } th { "PDV p99" }
                    } }
                    tbody {
                        @for (panel, _) in self.panels {
                            @for voice in &panel.voices {
                                // After a failover a buffer begins anew: the worse of both parts.
                                @let heard = worst(&voice.parts);
                                @let playout = &heard.playout;
                                tr {
                                    td { (panel.scenario.figure) }
                                    td class="left" {
                                        a href={ "#" (panel.scenario.name) } { (panel.scenario.title) }
                                        @if panel.voices.len() > 1 { br; small { (voice.name) } }
                                    }
                                    td class={ "left " (grade(playout.mos_60)) } {
                                        span class="bar" { i style={ "width:" (format!("{:.0}%", (playout.mos_60 - 1.0) / 3.5 * 100.0)) } {} }
                                        (number(playout.mos_60))
                                    }
                                    td { (percent(playout.late_60, heard.packets)) }
                                    td { (voice.whole().quality.lost) }
                                    td { (ms(voice.whole().quality.delta_ms_max)) }
                                    td { (ms(heard.quality.jitter_ms)) }
                                    td { (ms(playout.pdv_ms_p99)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn figures(&self) -> Markup {
        let mut seen = BTreeSet::new();
        html! {
            @for (panel, drawings) in self.panels {
                @if seen.insert(&panel.scenario.figure) { h2 { "Figure " (panel.scenario.figure) } }
                section class="card" id=(panel.scenario.name) {
                    h3 { (panel.scenario.title) }
                    @if !panel.scenario.about.is_empty() { p class="soft" { (panel.scenario.about) } }
                    (chips(panel))
                    @for drawing in drawings { (PreEscaped(drawing)) }
                    (numbers(panel))
                }
            }
            @if !self.missing.is_empty() {
                h2 { "Not measured" }
                div class="card" {
                    @for (scenario, why) in self.missing {
                        p { strong { (scenario.title) } " " span class="soft" { (why) } }
                    }
                }
            }
        }
    }

    fn reading(&self) -> Markup {
        html! {
            h2 { "How to read it" }
            div class="card" {
                p { "Blue: the interarrival jitter of RFC 3550 after each packet. It is a smoothed mean and saturates: bursts every \
                     400 ms give 29 to 51 ms, 38 in the mean, though single gaps are 400 ms. So it never stands alone." }
                p { "Green: the time since the packet before, a dot a packet; 20 ms where all is well. Red ticks: packets that never \
                     came. Dashed: the 500 \u{b5}s that a service-level agreement allows as jitter. Both axes are logarithmic and the \
                     same everywhere." }
                p { "Late: behind the quickest packet of the stream by more than a playout buffer of 60 or 200 ms. PDV: that delay \
                     (RFC 5481). MOS: the E-model (ITU-T G.107) for G.711 with concealment behind that buffer, with nothing else on \
                     the way. In a row: most packets one behind the other that the buffer of 60 ms could not play. At once: most \
                     packets that came within 2 ms of the one before." }
                p { "A VM's clock stands still in each pause of a checkpoint, so its voice runs more slowly than the clock on the wall, \
                     by the share of the pauses. A receiver follows its sender's clock: late, PDV and MOS are those of one that does. \
                     Jitter and gaps are against the clock on the wall. Both sets are in figures.json." }
                p { "Calm PDV: the same without the packets that came while, or just after, the machine itself let a thread wait for \
                     more than 2 ms; the share that is left out stands beside it." }
            }
        }
    }

    fn conditions(&self) -> Markup {
        let told = |of: fn(&Panel) -> String| {
            let all: BTreeSet<String> =
                self.panels.iter().map(|(panel, _)| of(panel)).filter(|text| !text.is_empty()).collect();
            all.into_iter().collect::<Vec<_>>().join("; ")
        };
        let rows = [
            ("Machine", told(|panel| panel.meta.conditions.machine())),
            ("VM", told(|panel| panel.meta.conditions.accelerator.clone())),
            ("QEMU", told(|panel| panel.meta.conditions.qemu.clone())),
            ("tidegate", told(|panel| panel.meta.conditions.tidegate.clone())),
            ("DPDK", told(|panel| panel.meta.conditions.dpdk.clone())),
            ("Way of a packet", told(|panel| panel.meta.conditions.path.clone())),
            ("Stamps", told(|panel| panel.meta.conditions.stamps.clone())),
            ("Repeats", "one run a panel".to_owned()),
            ("Command", self.command.to_owned()),
        ];
        html! {
            h2 { "How it was measured" }
            div class="card" {
                p class="soft" {
                    "Two hosts in network namespaces of one machine, a bridge, and the peers behind it. To the server: sipp calls it by \
                     SIP, and it talks itself. Through it: two baresip phones outside call each other by way of kamailio, and \
                     rtpengine relays what they say. All send G.711 A-law, a packet every 20 ms. Checkpoints are real: tidegate \
                     replicate and tidegate standby, each with a QEMU. Where the VM is not replicated, its plane is there and \
                     holds nothing. Where sch_plug holds, so does the plane, and behind it a router VM with Debian's kernel is \
                     told of each close and each commit as the plane is; sch_plug gives nobody an answer to wait for, so a VM \
                     may run again before its epoch has begun there. The server has 128 MiB, the relay 512 (its libraries lie in \
                     its memory): where the kernel does not tell which pages changed, a checkpoint compares all of them while \
                     the VM stands still, so the relay's pauses are longer, whatever holds."
                }
                dl {
                    @for (name, value) in &rows {
                        @if !value.is_empty() { dt { (name) } dd { (value) } }
                    }
                }
            }
            div class="card scroll" {
                table {
                    thead { tr {
                        th { "How noisy the machine was" } th { "CPUs busy" } th { "stolen" } th { "hiccups > 2 ms" } th { "longest" } th { "load before" }
                    } }
                    tbody {
                        @for (panel, _) in self.panels {
                            @let noise = &panel.meta.noise;
                            tr {
                                td { (panel.scenario.title) }
                                td { (format!("{:.0} %", noise.busy_percent)) } td { (format!("{:.1} %", noise.stolen_percent)) }
                                td { (noise.count) } td { (ms(noise.worst_ms)) } td { (panel.meta.conditions.load) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What a panel was run with, and what else came of it.
fn chips(panel: &Panel) -> Markup {
    let mut chips = Vec::new();
    if let Some(replicate) = &panel.scenario.replicate {
        match replicate.gate {
            Gate::Tidegate => chips.push(format!("tidegate, policy {}", replicate.policy)),
            Gate::SchPlug => chips.push("a bridge in Linux, all IPv4 by way of an IFB".to_owned()),
        }
        chips.push(format!("a checkpoint {} ms after the other", replicate.interval.as_millis()));
    }
    if let Some(plug) = &panel.meta.plug {
        let took =
            plug.order_ms.map(|(median, most)| format!(", {median:.1} ms an order, {most:.1} at most"));
        chips.push(format!("sch_plug of Linux {} in a router VM{}", plug.kernel, took.unwrap_or_default()));
        chips.push(format!("{} of its {} epochs began before the VM ran again", plug.in_time, plug.buffered));
    }
    if let Some(interval) = panel.checkpoint_interval_ms {
        chips.push(format!("{} checkpoints, one every {interval:.0} ms in the mean", panel.checkpoints));
    }
    if let Some(Spread { median, max, .. }) = panel.pause_ms {
        chips.push(format!("the VM stands still for {median:.1} ms (median), {max:.1} at most"));
    }
    let tcp = [("in", panel.tcp_inward_mbit), ("out", panel.tcp_outward_mbit)];
    chips.extend(tcp.iter().filter_map(|(way, rate)| rate.map(|rate| format!("TCP {way} {rate:.2} Mbit/s"))));
    let slow = panel.voices[0].parts[0].playout.slow_percent;
    if panel.pause_ms.is_some() && panel.killed_s.is_none() {
        chips.push(format!("the voice runs {slow:.1} % slow"));
    }
    if let Some(outage) = panel.outage_ms {
        chips.push(format!("silent for {outage:.0} ms"));
    }
    html! {
        ul class="chips" {
            @for chip in &chips { li { (chip) } }
            @if let Some(why) = &panel.meta.call_broken {
                li class="bad" title=(why) { "the call did not end as a call does" }
            }
        }
    }
}

fn numbers(panel: &Panel) -> Markup {
    let rows = |part: &Part, what: &str| {
        let (quality, playout) = (&part.quality, &part.playout);
        html! {
            tr {
                td { (what) }
                td { (part.packets) } td { (quality.lost) }
                td { (playout.late_60) (share(playout.late_60, part.packets)) } td { (playout.late_200) (share(playout.late_200, part.packets)) }
                td { (number(quality.jitter_ms)) " / " (number(quality.jitter_ms_max)) }
                td { (number(quality.delta_ms_mean)) " / " (number(quality.delta_ms_max)) }
                td { (number(playout.pdv_ms_p99)) " / " (number(playout.pdv_ms_p999)) }
                td { (number(playout.calm_pdv_ms_p99)) " / " (number(playout.calm_pdv_ms_p999)) @if playout.calm_excluded_percent >= 0.5 { br; small { "without " (format!("{:.0}", playout.calm_excluded_percent)) " %" } } }
                td class=(grade(playout.mos_60)) { (number(playout.mos_60)) " / " (number(playout.mos_200)) }
                td { (playout.burst_60) } td { (part.most_at_once) }
            }
        }
    };
    html! {
        div class="scroll" {
            table {
                thead { tr {
                    th { "ms, unless named otherwise" } th { "packets" } th { "lost" } th { "late" br; "at 60" } th { "late" br; "at 200" }
                    th { "jitter" br; "mean / max" } th { "between" br; "mean / max" } th { "PDV" br; "p99 / p99.9" }
                    th { "calm PDV" br; "p99 / p99.9" } th { "MOS" br; "60 / 200 ms" } th { "in a" br; "row" } th { "at" br; "once" }
                } }
                tbody {
                    @for voice in &panel.voices {
                        @for (n, part) in voice.parts.iter().enumerate() {
                            (rows(part, if n == 0 { voice.name } else { part.what }))
                        }
                    }
                    @for part in &panel.sent { (rows(part, part.what)) }
                }
            }
        }
    }
}

/// Of the parts on either side of a failover the one that sounds worse; the whole where there was none.
fn worst(parts: &[Part]) -> &Part {
    let apart = if parts.len() > 1 { &parts[1..] } else { parts };
    apart.iter().min_by(|a, b| a.playout.mos_60.total_cmp(&b.playout.mos_60)).unwrap_or(&parts[0])
}

/// G.107, annex B: users are satisfied from 4.03 on (R 80), most are not below 3.10 (R 60).
fn grade(mos: f64) -> &'static str {
    match mos {
        4.03.. => "good",
        3.10.. => "fair",
        _ => "bad",
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn ms(value: f64) -> String {
    format!("{} ms", number(value))
}

/// Below a count, so that a column stays narrow.
fn share(count: u64, of: usize) -> Markup {
    html! { @if count > 0 { br; small { (format!("{:.0} %", 100.0 * count as f64 / of.max(1) as f64)) } } }
}

fn percent(count: u64, of: usize) -> String {
    match count {
        0 => "0".to_owned(),
        _ => format!("{count} ({:.1} %)", 100.0 * count as f64 / of.max(1) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::conditions::Conditions;
    use super::super::hiccups::Noise;
    use super::super::panel::Voice;
    use super::super::samples::Meta;
    use super::*;

    fn panel(title: &str) -> Panel {
        let scenario = Scenario { title: title.to_owned(), ..Scenario::paper().unwrap().remove(0) };
        let part = Part::of("all of it", &[], &Noise::default());
        let voice = Voice {
            name: "what the caller hears",
            way: "a to b".into(),
            ssrc: "0x1".into(),
            parts: vec![part.clone()],
            losses: Vec::new(),
            points: Vec::new(),
        };
        Panel {
            meta: Meta::new(&scenario, Conditions::default()),
            scenario,
            voices: vec![voice],
            sent: vec![part],
            checkpoints: 0,
            checkpoint_interval_ms: None,
            pause_ms: None,
            checkpoint_bytes: None,
            tcp_inward_mbit: Some(2.5),
            tcp_outward_mbit: None,
            killed_s: None,
            outage_ms: None,
        }
    }

    #[test]
    fn the_page_needs_nothing_from_outside_and_says_what_is_missing() {
        let missing = (Scenario::paper().unwrap().remove(1), "no QEMU here".to_owned());
        let panels = [(panel("A & <b>"), vec!["<svg></svg>".to_owned()])];
        let page =
            Page { panels: &panels, missing: &[missing], command: "scripts/bench figures --out x" }.html();
        for outside in ["http:", "https:", "src=", "url(", "@import", "<link", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        for said in
            ["A &amp; &lt;b&gt;", "no QEMU here", "<svg></svg>", "TCP in 2.50 Mbit/s", "prefers-color-scheme"]
        {
            assert!(page.contains(said), "{said}");
        }
    }

    #[test]
    fn what_sounds_worse_is_at_a_glance() {
        let part = |what, mos_60| {
            let mut part = Part::of(what, &[], &Noise::default());
            part.playout.mos_60 = mos_60;
            part
        };
        let parts = [part("all", 1.0), part("before", 4.4), part("after", 4.1)];
        assert_eq!((worst(&parts).what, worst(&parts[..1]).what), ("after", "all"));
        assert_eq!([4.4, 4.03, 3.5, 1.0].map(grade), ["good", "good", "fair", "bad"]);
        assert_eq!((percent(0, 10), percent(5, 10)), ("0".into(), "5 (50.0 %)".into()));
    }
}
