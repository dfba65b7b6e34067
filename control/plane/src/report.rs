//! Collects the numbers of the running plane into the protocol's reports. Reading stops no lcore.

use crate::guest::GuestPlane;
use crate::plane::Plane;
use std::net::SocketAddr;
use std::sync::PoisonError;
use tidegate_control::classify::{mos, r_factor};
use tidegate_control::config::Source;
use tidegate_control::explain::stream::explain as explain_stream;
use tidegate_control::protocol::*;
use tidegate_dataplane::class::{Class, DropReason};
use tidegate_dataplane::counters::ClassTotals;
use tidegate_dataplane::gate::{FENCE, NO_LEASE};
use tidegate_dataplane::guest::{ClosedEpoch, Rings, Tally};
use tidegate_dataplane::histogram::{Histogram, Snapshot};
use tidegate_dataplane::lane::LaneShared;
use tidegate_dataplane::streams;
use tidegate_dataplane::tsc::TscRate;

/// An epoch as the protocol tells it.
pub fn closed(guest: &str, epoch: &ClosedEpoch) -> ClosedReport {
    ClosedReport {
        guest: guest.into(),
        epoch: epoch.epoch,
        generation: epoch.generation,
        frames: epoch.frames,
        bytes: epoch.bytes,
        pause: epoch.pause,
    }
}

fn tally(tally: Tally) -> EpochTally {
    EpochTally {
        closed: tally.closed,
        committed: tally.committed,
        merged: tally.merged,
        commits_refused: tally.commits_refused,
        void: tally.void,
    }
}

/// One guest as it stands.
pub fn guest(guest: &GuestPlane, rate: TscRate, controller: Option<Peer>) -> GuestReport {
    let now = guest.now_tsc();
    let lease = guest.lanes.iter().map(|lane| lane.shared.gate.lease()).min();
    let lease = lease.filter(|deadline| ![FENCE, NO_LEASE].contains(deadline));
    let lanes = (0..guest.lanes.len()).map(|n| lane(guest, n)).collect();
    let policy = guest.policy.lock().unwrap_or_else(PoisonError::into_inner).name;
    guest.with(|ledger| GuestReport {
        guest: guest.name().into(),
        mode: ledger.mode().name().into(),
        fenced: ledger.is_fenced(now),
        leased: ledger.is_leased(),
        lease_left_ms: lease.map(|deadline| rate.ns(deadline.saturating_sub(now)) / 1_000_000),
        generation: ledger.generation(),
        open_epoch: ledger.open_epoch(),
        committed_epoch: ledger.committed_epoch(),
        in_flight: ledger.epochs_in_flight().map(|epoch| closed(guest.name(), &epoch)).collect(),
        max_epochs_in_flight: guest.config.max_epochs_in_flight,
        policy: policy.name().into(),
        source: match guest.config.source {
            Source::Socket => "socket".into(),
            Source::Timer => "timer".into(),
        },
        source_pauses: guest.config.source != Source::Timer,
        controller,
        epochs: tally(ledger.tally()),
        lanes,
    })
}

fn lane(guest: &GuestPlane, n: usize) -> LaneReport {
    let seat = &guest.lanes[n];
    let (gate, counters) = (&seat.shared.gate, &seat.shared.counters);
    let rings = match guest.with(|ledger| ledger.rings(n)) {
        Some(Rings::Running) => "running",
        Some(Rings::Stopped) => "stopped",
        Some(Rings::Untold) | None => "untold",
    };
    LaneReport {
        guest_port: seat.config.guest_port.clone(),
        wire_port: seat.config.wire_port.clone(),
        lcore: seat.config.lcore,
        rings: rings.into(),
        fenced: gate.is_fenced(),
        held_mbufs: counters.held_mbufs.get(),
        held_bytes: counters.held_bytes.get(),
        held_bytes_peak: counters.held_bytes_peak.get(),
        held_oldest_epoch: counters.held_oldest_epoch.get(),
        hold_frames: seat.config.hold_frames.into(),
        hold_bytes: seat.config.hold_bytes.0,
        polls: gate.polls(),
    }
}

fn frames(totals: &ClassTotals) -> FrameCounts {
    let by = DropReason::ALL.iter().zip(totals.dropped).filter(|(_, count)| *count > 0);
    FrameCounts {
        received: totals.received,
        received_bytes: totals.received_bytes,
        bypassed: totals.bypassed,
        released: totals.released,
        held: totals.held,
        dropped: totals.dropped_all(),
        dropped_by: by.map(|(reason, count)| (reason.name().into(), count)).collect(),
    }
}

fn lane_stats(shared: &LaneShared) -> LaneStats {
    let (counters, ear, inbox) = (&shared.counters, &shared.ear, &shared.inbox);
    let class = |class: &Class| (class.name().into(), frames(&counters.totals(*class)));
    LaneStats {
        frames: frames(&counters.total()),
        classes: Class::ALL.iter().map(class).collect(),
        promotions: counters.promotions.get(),
        signalling: SignallingCounts {
            copied: ear.copied.get(),
            skipped: ear.skipped.get(),
            lessons: ear.learned.get(),
        },
        handover: HandoverCounts {
            inherited: inbox.inherited.get(),
            not_inherited: inbox.not_inherited.get(),
            announced: inbox.announced.get(),
            not_announced: inbox.not_announced.get(),
        },
        held_mbufs: counters.held_mbufs.get(),
        held_bytes: counters.held_bytes.get(),
        held_bytes_peak: counters.held_bytes_peak.get(),
        guestward: GuestwardCounts {
            received: counters.guestward_received.get(),
            sent: counters.guestward_sent.get(),
            queued: counters.guestward_queued.get(),
            dropped: counters.guestward_dropped.get(),
        },
        polls: shared.gate.polls(),
    }
}

/// The counters of a guest.
pub fn guest_stats(guest: &GuestPlane) -> GuestStats {
    let mut sum = ClassTotals::default();
    guest.lanes.iter().for_each(|lane| sum += lane.shared.counters.total());
    GuestStats {
        guest: guest.name().into(),
        epochs: guest.with(|ledger| tally(ledger.tally())),
        frames: frames(&sum),
        lanes: guest.lanes.iter().map(|lane| lane_stats(&lane.shared)).collect(),
    }
}

/// The streams of a guest.
pub fn streams(guest: &GuestPlane, rate: TscRate) -> Vec<StreamReport> {
    let now = guest.now_tsc();
    let lanes = guest.lanes.iter().enumerate();
    let all =
        lanes.flat_map(|(lane, seat)| seat.shared.streams.snapshot(rate).into_iter().map(move |s| (lane, s)));
    all.map(|(lane, s)| stream(guest.name(), lane, &s, now, rate)).collect()
}

/// Answer to `explain`.
pub fn explain(guest: &GuestPlane, rate: TscRate, asked: &Explain) -> Result<Explanations, Failure> {
    let from: SocketAddr = asked.stream.parse().map_err(|_| {
        let desc = format!("explain: `{}` is no address with a port, such as 10.0.0.5:40000", asked.stream);
        Failure::new("bad-arguments", desc)
    })?;
    let ssrc = asked.ssrc.map(|ssrc| format!("{ssrc:#010x}"));
    let mut meant = streams(guest, rate);
    meant.retain(|s| s.source == from.to_string() && ssrc.as_ref().is_none_or(|ssrc| s.ssrc == *ssrc));
    let policy = guest.policy.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if meant.is_empty() {
        let desc = format!(
            "guest {} has sent no RTP from there; what is not RTP goes by rules and the policy {}: ask with \
             `tidegate explain --frame`, and see `tidegate streams` for what there is",
            guest.name(),
            policy.name.name()
        );
        return Err(Failure::new("no-stream", desc));
    }
    let now = guest.now_tsc();
    let (mode, fenced) = guest.with(|ledger| (ledger.mode().name(), ledger.is_fenced(now)));
    Ok(Explanations {
        guest: guest.name().into(),
        mode: mode.into(),
        fenced,
        policy: policy.name.name().into(),
        streams: meant.into_iter().map(|s| explain_stream(&policy, s)).collect(),
    })
}

fn stream(guest: &str, lane: usize, s: &streams::StreamReport, now: u64, rate: TscRate) -> StreamReport {
    let ms = |ns: u64| ns as f64 / 1e6;
    let q = &s.quality;
    let (lost, delay) = (q.lost as f64, ms(q.delay_variation_ns()));
    let lost_percent = 100.0 * lost / (lost + q.departed.max(1) as f64);
    let r = r_factor(delay, lost_percent);
    // A buffer that is deeper than the whole spread of delays loses nothing of what came.
    let unplayed = |buffer_ms: f64| (delay <= buffer_ms).then_some(lost_percent);
    StreamReport {
        guest: guest.into(),
        lane,
        ssrc: format!("{:#010x}", s.ssrc),
        source: SocketAddr::new(s.src, s.sport).to_string(),
        destination: SocketAddr::new(s.dst, s.dport).to_string(),
        channel: s.channel.map(tidegate_control::protocol::channel),
        payload_type: s.payload_type,
        clock_rate: s.clock_rate,
        state: s.state.name().into(),
        promoted_at: s.promoted_at,
        named_by_sip: s.named,
        packets: s.packets,
        bypassed: s.bypassed,
        held: s.held,
        silent_ms: rate.ns(now.saturating_sub(s.last_seen_tsc)) / 1_000_000,
        departed: q.departed,
        lost: q.lost,
        reordered: q.reordered,
        duplicates: q.duplicates,
        jitter_ms: ms(q.jitter_ns),
        delta_mean_ms: ms(q.delta_mean_ns),
        delta_max_ms: ms(q.delta_max_ns),
        delay_variation_ms: delay,
        unplayed_percent_60: unplayed(60.0),
        unplayed_percent_200: unplayed(200.0),
        r,
        mos: mos(r),
    }
}

/// A histogram and whose it is: guest (empty for an lcore's own) and lane (or CPU).
pub struct Owned {
    /// See above.
    pub guest: String,
    /// See above.
    pub lane: usize,
    /// The word for it.
    pub name: &'static str,
    /// What was recorded since the process started.
    pub snapshot: Snapshot,
}

/// All histograms; those of one guest and all lcores' when `guest` names one.
pub fn snapshots(plane: &Plane, guest: Option<&str>) -> Result<Vec<Owned>, Failure> {
    let mut all = Vec::new();
    for guest in plane.guests(guest)? {
        for (lane, seat) in guest.lanes.iter().enumerate() {
            let guest = || guest.name().to_owned();
            let named = seat.shared.latency.named();
            let own =
                |(name, h): (_, &Histogram)| Owned { guest: guest(), lane, name, snapshot: h.snapshot() };
            all.extend(named.into_iter().map(own));
        }
        let snapshot = guest.pauses.histogram.snapshot();
        all.push(Owned { guest: guest.name().to_owned(), lane: 0, name: "guest_pause", snapshot });
    }
    for (cpu, lcore) in &plane.lcores {
        let snapshot = lcore.poll_gap.snapshot();
        all.push(Owned { guest: String::new(), lane: *cpu, name: "poll_gap", snapshot });
    }
    Ok(all)
}

/// One histogram in the protocol's units; `counts` may be a part of what was recorded.
pub fn histogram(owned: &Owned, counts: &Snapshot, rate: TscRate, buckets: bool) -> HistogramEntry {
    // Bursts are counted in frames, everything else in ticks.
    let ticks = owned.name != "burst";
    let unit = |value: u64| if ticks { rate.ns(value) } else { value };
    let quantile = |share: f64| counts.quantile(share).map(unit);
    HistogramEntry {
        guest: owned.guest.clone(),
        lane: owned.lane,
        name: owned.name.into(),
        unit: if ticks { "ns" } else { "frames" }.into(),
        count: counts.count(),
        quantiles: Quantiles {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: quantile(1.0),
        },
        buckets: match buckets {
            true => counts.buckets().map(|(value, count)| (unit(value), count)).collect(),
            false => Vec::new(),
        },
    }
}

/// Answer to `histograms`.
pub fn histograms(plane: &Plane, asked: &Histograms) -> Result<HistogramReport, Failure> {
    let all = snapshots(plane, asked.guest.as_deref())?;
    let entry = |owned: &Owned| histogram(owned, &owned.snapshot, plane.rate, asked.buckets);
    Ok(HistogramReport {
        recorded_ms: u64::try_from(plane.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        histograms: all.iter().map(entry).collect(),
    })
}
