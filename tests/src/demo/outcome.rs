//! What one policy came to: the plane's own numbers, the judge's verdict, what guest and sink measured.

use super::reports::{GuestReport, SinkReport, number};
use super::rtp_meter::StreamSeen;
use super::verdict::Verdict;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Epochs, as the plane counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epochs {
    /// Closed, the guest standing still.
    pub closed: u64,
    /// Committed.
    pub committed: u64,
    /// Not closed in time on a machine that was too busy: they went on.
    pub merged: u64,
}

/// Frames, as the plane counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    /// From the guest.
    pub received: u64,
    /// To the wire at once.
    pub bypassed: u64,
    /// To the wire after their commit.
    pub released: u64,
    /// Discarded.
    pub dropped: u64,
    /// Still waiting.
    pub held: u64,
}

/// One of the plane's histograms, nanoseconds; all 0 when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Latency {
    /// Values recorded.
    pub count: u64,
    /// p50, p99, p999, max.
    pub quantiles: [u64; 4],
}

/// The names of [`Latency::quantiles`].
const QUANTILES: [&str; 4] = ["p50", "p99", "p999", "max"];
/// The histograms that are shown, as the plane calls them.
pub(super) const LATENCIES: [&str; 4] = ["bypass", "hold", "commit_to_first", "commit_to_last"];

/// The calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rtp {
    /// Calls that the sink heard.
    pub streams: u64,
    /// Packets sent in all calls.
    pub sent: u64,
    /// Packets that the guest sent and the sink never heard.
    pub lost: u64,
    /// Packets heard after a later one.
    pub reordered: u64,
    /// Mean over the calls of their mean jitter (RFC 3550), milliseconds.
    pub jitter_ms_mean: f64,
    /// Largest gap in any call, milliseconds.
    pub delta_ms_max: f64,
}

impl Rtp {
    /// `calls`: SSRC and packets sent.
    pub(super) fn of(calls: &[(u32, u64)], heard: &[StreamSeen]) -> Rtp {
        let heard: BTreeMap<u32, &StreamSeen> = heard.iter().map(|stream| (stream.ssrc, stream)).collect();
        let packets = |ssrc: &u32| heard.get(ssrc).map_or(0, |stream| stream.packets);
        let jitter: f64 = heard.values().map(|stream| stream.jitter_ms_mean).sum();
        Rtp {
            streams: heard.len() as u64,
            sent: calls.iter().map(|(_, sent)| sent).sum(),
            lost: calls.iter().map(|(ssrc, sent)| sent.saturating_sub(packets(ssrc))).sum(),
            reordered: heard.values().map(|stream| stream.reordered).sum(),
            jitter_ms_mean: jitter / heard.len().max(1) as f64,
            delta_ms_max: heard.values().map(|stream| stream.delta_ms_max).fold(0.0, f64::max),
        }
    }
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// The policy.
    pub policy: String,
    /// As the plane counts them.
    pub epochs: Epochs,
    /// See [`Frames`].
    pub frames: Frames,
    /// By [`LATENCIES`].
    pub latencies: [Latency; LATENCIES.len()],
    /// See [`Verdict`].
    pub verdict: Verdict,
    /// See [`Rtp`].
    pub rtp: Rtp,
    /// What the guest said.
    pub guest: GuestReport,
    /// What the sink said.
    pub sink: SinkReport,
}

impl Outcome {
    /// Reads the plane's answers to `stats` and `histograms`.
    pub(super) fn read_plane(&mut self, stats: &Value, histograms: &Value) -> Result<(), String> {
        let guest = &stats["guests"][0];
        let frames = &guest["frames"];
        let epochs = &guest["epochs"];
        self.epochs = Epochs {
            closed: number(epochs, "closed")?,
            committed: number(epochs, "committed")?,
            merged: number(epochs, "merged")?,
        };
        self.frames = Frames {
            received: number(frames, "received")?,
            bypassed: number(frames, "bypassed")?,
            released: number(frames, "released")?,
            dropped: number(frames, "dropped")?,
            held: number(frames, "held")?,
        };
        for (name, latency) in LATENCIES.iter().zip(&mut self.latencies) {
            let all = histograms["histograms"].as_array().into_iter().flatten();
            let entry = all.into_iter().find(|entry| entry["name"] == *name);
            let entry = entry.ok_or_else(|| format!("the plane has no histogram {name}"))?;
            latency.count = number(entry, "count")?;
            latency.quantiles = QUANTILES.map(|quantile| entry["quantiles"][quantile].as_u64().unwrap_or(0));
        }
        Ok(())
    }

    /// The promises that were broken, in words.
    pub(super) fn faults(&self) -> Vec<String> {
        let Frames { received, bypassed, released, dropped, held } = self.frames;
        let (seen, sent) = (self.verdict.seen, bypassed + released);
        let checks = [
            (self.verdict.early == 0, format!("{} frames left before their commit (I1)", self.verdict.early)),
            (
                self.verdict.disordered == 0,
                format!("{} held frames left out of order (I3)", self.verdict.disordered),
            ),
            (
                received == sent + dropped + held,
                format!("the plane's books do not balance: {:?} (I6)", self.frames),
            ),
            (self.verdict.judged > 0, "the sink saw no frame that could be judged".into()),
            (
                seen == sent,
                format!("the plane sent {sent} frames and the sink saw {seen}: the verdict is not whole"),
            ),
            (self.verdict.unknown == 0, format!("{} frames the guest never made", self.verdict.unknown)),
            (self.sink.uploaded_wrong == 0, "the upload arrived changed".into()),
            (self.guest.transfers.downloaded_wrong == 0, "the download arrived changed".into()),
        ];
        let broken = checks.into_iter().filter(|(kept, _)| !kept);
        broken.map(|(_, what)| format!("{}: {what}", self.policy)).collect()
    }

    /// Longest and median pause of the guest, ns.
    pub(super) fn pauses(&self) -> (u64, u64) {
        let mut pauses: Vec<u64> = self.guest.closes.iter().map(|close| close.pause_ns).collect();
        pauses.sort_unstable();
        (pauses.last().copied().unwrap_or(0), pauses.get(pauses.len() / 2).copied().unwrap_or(0))
    }

    /// Bytes a second of upload and download.
    pub(super) fn rates(&self) -> (f64, f64) {
        let seconds = (self.guest.traffic_ns as f64 / 1e9).max(1e-9);
        (self.guest.transfers.uploaded as f64 / seconds, self.guest.transfers.downloaded as f64 / seconds)
    }

    /// The machine's view of all this.
    pub(super) fn json(&self) -> Value {
        let Frames { received, bypassed, released, dropped, held } = self.frames;
        let latency = |latency: &Latency| {
            let mut entry = json!({ "count": latency.count });
            for (name, value) in QUANTILES.iter().zip(latency.quantiles) {
                entry[*name] = value.into();
            }
            entry
        };
        let latencies: serde_json::Map<String, Value> = LATENCIES
            .iter()
            .zip(&self.latencies)
            .map(|(name, of)| ((*name).to_owned(), latency(of)))
            .collect();
        let (upload, download) = self.rates();
        let transfers = &self.guest.transfers;
        let (pause_max, pause_p50) = self.pauses();
        json!({
            "epochs": {
                "closed": self.epochs.closed, "committed": self.epochs.committed, "merged": self.epochs.merged,
            },
            "frames": {
                "received": received, "bypassed": bypassed, "released": released, "dropped": dropped, "held": held,
            },
            "early_releases": self.verdict.early,
            "verdict": self.verdict,
            "latency_ns": latencies,
            "rtp": {
                "streams": self.rtp.streams,
                "sent": self.rtp.sent,
                "lost": self.rtp.lost,
                "reordered": self.rtp.reordered,
                "jitter_ms_mean": self.rtp.jitter_ms_mean,
                "delta_ms_max": self.rtp.delta_ms_max,
                "sent_delta_ms_max": super::clock::ms(self.guest.gap_ns_max),
            },
            "tcp": {
                "upload_bytes_per_s": upload as u64,
                "download_bytes_per_s": download as u64,
                "transactions": transfers.transactions,
                "transaction_ms_mean": transfers.transaction_ms_mean,
            },
            "udp": {
                "lookups": transfers.lookups,
                "answered": transfers.lookups_answered,
                "lookup_ms_mean": transfers.lookup_ms_mean,
            },
            "pause_ns": { "p50": pause_p50, "max": pause_max },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            policy: "realtime".into(),
            epochs: Epochs::default(),
            frames: Frames::default(),
            latencies: Default::default(),
            verdict: Verdict { seen: 7, judged: 3, ..Verdict::default() },
            rtp: Rtp::default(),
            guest: GuestReport::default(),
            sink: SinkReport::default(),
        }
    }

    fn stats(received: u64) -> Value {
        let frames = json!({ "received": received, "bypassed": 4, "released": 3, "dropped": 1, "held": 2 });
        json!({ "guests": [{ "epochs": { "closed": 6, "committed": 5, "merged": 0 }, "frames": frames }] })
    }

    fn histograms() -> Value {
        let entry = |name: &&str| json!({ "name": name, "count": 0, "quantiles": { "p50": null } });
        json!({ "histograms": LATENCIES.iter().map(entry).collect::<Vec<_>>() })
    }

    #[test]
    fn books_that_balance_and_a_whole_verdict_are_no_fault() {
        let mut fine = outcome();
        fine.read_plane(&stats(10), &histograms()).unwrap();
        assert_eq!(fine.faults(), Vec::<String>::new());
        assert_eq!(
            fine.json()["latency_ns"]["bypass"],
            json!({"count": 0, "p50": 0, "p99": 0, "p999": 0, "max": 0})
        );
    }

    #[test]
    fn each_broken_promise_is_a_fault() {
        let fault = |break_: fn(&mut Outcome)| {
            let mut outcome = outcome();
            outcome.read_plane(&stats(10), &histograms()).unwrap();
            break_(&mut outcome);
            outcome.faults().concat()
        };
        assert!(fault(|it| it.frames.received += 1).contains("balance"));
        assert!(fault(|it| it.verdict.early = 1).contains("before their commit"));
        assert!(fault(|it| it.verdict.judged = 0).contains("judged"));
        assert!(fault(|it| it.verdict.seen = 6).contains("not whole"));
        assert!(fault(|it| it.sink.uploaded_wrong = 1).contains("upload"));
    }

    #[test]
    fn what_was_sent_and_never_heard_is_lost_even_a_whole_call() {
        let heard = [StreamSeen {
            ssrc: 1,
            packets: 9,
            jitter_ms_mean: 2.0,
            delta_ms_max: 21.0,
            ..Default::default()
        }];
        let rtp = Rtp::of(&[(1, 10), (2, 5)], &heard);
        assert_eq!((rtp.streams, rtp.sent, rtp.lost), (1, 15, 6));
    }
}
