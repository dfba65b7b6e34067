//! A domain under replication: on one host under each policy in turn, or on two of which the first dies.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::host::{Host, SOON};
use super::image::{Image, PLACE};
use super::packages::Packages;
use super::record::{Record, changes, closes, events, frames};
use super::report::{Failover, Phase, Report, UNSAFE};
use super::verdict::{Held, Verdict};
use super::wires::{Wires, link_address};
use crate::capture::Capture;
use crate::failure::{Failure, Result};
use crate::scratch::Scratch;
use crate::survival::call::Call;
use crate::survival::client::{Client, Habit};
use crate::survival::seen::{both_spoke, early_releases};
use crate::wall_clock::{now_ns, wait_until};

/// Where a receiver listens.
const PORT: u16 = 7413;
/// A checkpoint takes seconds on a busy machine.
const CHECKPOINTS_WITHIN: Duration = Duration::from_secs(120);
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);
/// The guest of a host that only receives: its NIC leads nowhere.
const BESIDE: &str = r#"[[guest]]
name = "pbx-b"
mode = "muted"
close_timeout_ms = 1000
[[guest.lane]]
guest_port = "net_null0,no-rx=1"
wire_port = "net_null1,no-rx=1"
lcore = 0
hold_frames = 256
hold_bytes = "1MiB"
rx_desc = 64
tx_desc = 64
"#;
/// Leases and signs of life of an emulated host come late.
const SLOW: &str = "--beat 50ms --dead-after 1500ms";

/// What all trials share.
pub struct World {
    /// Debian's part.
    pub packages: Packages,
    /// The Dom0s'.
    pub image: Image,
    /// Xen's interval.
    pub interval_ms: u32,
    /// Checkpoints under each policy, or before a failover.
    pub checkpoints: usize,
    /// Where the logs go.
    pub scratch: Scratch,
}

/// What is said to be held under a policy.
fn held(policy: &str) -> Held {
    Held { marks: policy != "non-tcp" }
}

fn policy_line(policy: &str) -> String {
    format!("policy = \"{policy}\"")
}

/// The checkpoints that the sending side has told of.
fn sent(host: &mut Host) -> Result<usize> {
    let said = host.command("grep -c '\"event\":\"checkpoint\"' /tmp/remus.log || true", SOON)?;
    said.trim().parse().map_err(|_| Failure::new(format!("{said:?} checkpoints")))
}

/// Waits until there are so many checkpoints; how many there are.
fn wait_for_checkpoints(host: &mut Host, count: usize) -> Result<usize> {
    let deadline = Instant::now() + CHECKPOINTS_WITHIN;
    loop {
        let now = sent(host)?;
        if now >= count {
            return Ok(now);
        }
        let ended = host.command("cat /tmp/remus.rc 2>/dev/null || true", SOON)?;
        if !ended.trim().is_empty() || Instant::now() > deadline {
            let log = host.command(
                "tail -n 25 /tmp/remus.log; tail -n 10 /tmp/receive.log; tail -n 10 /tmp/plane.log",
                SOON,
            )?;
            return Err(host.complaint(&format!("took {now} of {count} checkpoints ({ended:?}):\n{log}")));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A command that prints the processes whose second word this is.
fn pids(word: &str) -> String {
    format!(
        "for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null | cut -d' ' -f2)\" = {word} ] && echo ${{p#/proc/}}; done"
    )
}

fn listen(host: &mut Host, guest: &str, words: &str) -> Result<()> {
    host.background("receive", &format!("exec tidegate xen-receive --guest {guest} --json {words}"))?;
    host.wait_for("grep -q '\"event\":\"waiting\"' /tmp/receive.log", "/tmp/receive.log")
}

impl World {
    fn replicate(&self, host: &mut Host, to: &str, words: &str) -> Result<()> {
        let line = format!(
            "TIDEGATE_STEPS=1 exec tidegate xen-remus pbx {to} --guest pbx --interval {}ms --json {words}",
            self.interval_ms
        );
        host.background("remus", &line)
    }

    fn watch(&self, host: &mut Host) -> Result<()> {
        let domain = host.domain()?;
        host.background("domain", &format!("exec dompoll {domain} 1000"))?;
        for (label, device) in [("inside", PLACE), ("outside", "eth1")] {
            let line = format!(
                "exec tcpdump -i {device} -n -U --immediate-mode --time-stamp-precision nano -s 256 -B 4096 -Z root -w /tmp/{label}.pcap"
            );
            host.background(label, &line)?;
        }
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.file(name)
    }

    fn record(&self, host: &mut Host, wires: &Wires) -> Result<Record> {
        let mut text = |name: &str| -> Result<String> {
            let bytes = host.fetch(wires, &format!("/tmp/{name}"))?;
            let _ = std::fs::write(self.file(name), &bytes);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let told = events(&text("remus.log")?);
        let changed = changes(&text("domain.log")?);
        let _ = (text("receive.log")?, text("plane.log")?);
        let (inside, outside) =
            (host.fetch(wires, "/tmp/inside.pcap")?, host.fetch(wires, "/tmp/outside.pcap")?);
        Ok(Record {
            changes: changed,
            closes: closes(&told),
            inside: frames(&inside, &self.file("inside.pcap"))?,
            outside: frames(&outside, &self.file("outside.pcap"))?,
        })
    }

    /// One host that replicates to itself, under each policy in turn. The domain stays; the plane is another each time and
    /// finds the domain's NIC at its place.
    pub fn one_host(&self, policies: &[&'static str]) -> Result<Report> {
        let wires = Wires::new(1)?;
        let mut host = Host::start(0, &self.packages, &self.image, &wires, &self.scratch)?;
        host.wait_until_up()?;
        host.start_plane(&policy_line(policies.first().copied().unwrap_or(UNSAFE)), BESIDE)?;
        host.create_domain()?;
        let clients = [
            Client::start(&wires.outside, 1, Habit::Keeps)?,
            Client::start(&wires.outside, 2, Habit::Renews)?,
        ];
        let _call = Call::start(&wires.outside, &self.scratch, Duration::from_secs(300))?;
        let mut report = Report { hosts: 1, ..Report::default() };
        for (number, &policy) in policies.iter().enumerate() {
            if number > 0 {
                self.stop(&mut host)?;
                host.start_plane(&policy_line(policy), BESIDE)?;
            }
            listen(&mut host, "pbx-b", &format!("--listen 127.0.0.1:{PORT} --decide manager"))?;
            self.watch(&mut host)?;
            self.replicate(&mut host, &format!("127.0.0.1:{PORT}"), "--decide manager")?;
            wait_for_checkpoints(&mut host, self.checkpoints + 2)?;
            host.command("kill $(pidof tcpdump)", SOON)?;
            let record = self.record(&mut host, &wires)?;
            let verdict = Verdict::of(&record, held(policy), 0, u64::MAX);
            report.phases.push(Phase { policy, verdict });
        }
        for client in clients {
            let met = client.finish();
            report.lost_acks += met.lost;
            report.broken.extend(met.broken);
        }
        report.rescue_ms = Some(self.rescue(&mut host)?.as_secs_f64() * 1e3);
        Ok(report)
    }

    /// Ends everything but the domain.
    fn stop(&self, host: &mut Host) -> Result<()> {
        // xl lets the domain run when nobody reads its pipe, and ends.
        host.command(&format!("kill -KILL $({})", pids("xen-send")), SOON)?;
        host.wait_for("[ -e /tmp/remus.rc ]", "/tmp/remus.log")?;
        host.command(
            &format!("kill -KILL $({}); kill $(pidof dompoll) $(pidof tidegate-plane)", pids("xen-receive")),
            SOON,
        )?;
        // The half domain that the killed receiver leaves is the next one's to remove.
        host.wait_for("! pidof tidegate-plane >/dev/null", "/tmp/plane.log")
    }

    /// Kills xl while the domain is suspended, as nothing else in a run does: the watchdog must let it run again. How long
    /// that took.
    fn rescue(&self, host: &mut Host) -> Result<Duration> {
        // Nobody reads xl's pipe: the domain is suspended at the next checkpoint and stays so.
        let line = format!("kill -STOP $({})", pids("xen-send"));
        host.command(&line, SOON)?;
        let newest = |host: &mut Host, state: &str| {
            host.wait_for(
                &format!("tail -n 1 /tmp/domain.log | grep -q '^{state}'"),
                "/tmp/domain.log /tmp/remus.log",
            )
        };
        std::thread::sleep(Duration::from_secs(2));
        newest(host, "suspended")?;
        let begin = Instant::now();
        host.command(&format!("kill -KILL $({})", pids("remus")), SOON)?;
        newest(host, "running")?;
        let took = begin.elapsed();
        host.command(&format!("timeout 10 tcpdump -i {PLACE} -n -c 5 udp port 9700"), SOON)?;
        host.command(&format!("kill -KILL $({}); true", pids("xen-send")), SOON)?;
        Ok(took)
    }

    /// Two hosts; the first is killed, and the second takes over.
    pub fn failover(&self, policy: &str) -> Result<Failover> {
        let wires = Wires::new(2)?;
        let start = |number| Host::start(number, &self.packages, &self.image, &wires, &self.scratch);
        let (mut primary, mut backup) = (start(0)?, start(1)?);
        primary.wait_until_up()?;
        backup.wait_until_up()?;
        let guest = format!("policy = \"{policy}\"\nreplay_guard = \"all\"");
        primary.start_plane(&guest, "")?;
        backup.start_plane(&format!("{guest}\nmode = \"muted\""), "")?;
        primary.create_domain()?;
        let secured =
            |own: &str, peer: &str| format!("--certs /etc/tidegate/certs --node {own} --peer {peer} {SLOW}");
        let at = format!("{}:{PORT}", link_address(1));
        listen(&mut backup, "pbx", &format!("--listen {at} --term 1200ms {}", secured("host-b", "host-a")))?;
        let client = Client::start(&wires.outside, 1, Habit::Keeps)?;
        let _call = Call::start(&wires.outside, &self.scratch, Duration::from_secs(300))?;
        self.watch(&mut primary)?;
        self.replicate(&mut primary, &at, &secured("host-a", "host-b"))?;
        wait_for_checkpoints(&mut primary, self.checkpoints)?;
        let record = self.record(&mut primary, &wires)?;
        let capture = |side: usize| {
            Capture::start_on(
                &format!("wire{side}"),
                "-Q in",
                &wires.outside,
                &self.scratch,
                &format!("wire{side}"),
            )
        };
        let captures = [capture(0)?, capture(1)?];
        std::thread::sleep(Duration::from_secs(4));
        let (killed, killed_ns) = (Instant::now(), now_ns());
        primary.qemu.kill();
        let before = client.record().acknowledged;
        let goes_on = wait_until(GOES_ON_WITHIN, Duration::from_millis(10), || {
            let record = client.record();
            record.acknowledged > before + 2 && record.last_answer > killed
        });
        let outage = client.record().last_answer.saturating_duration_since(killed);
        std::thread::sleep(Duration::from_secs(4));
        let told = backup.fetch(&wires, "/tmp/receive.log")?;
        let _ = std::fs::write(self.file("backup.log"), &told);
        let [dead, successor] = captures;
        let (dead, successor) = (dead.finish()?, successor.finish()?);
        let met = client.finish();
        let mut broken = met.broken;
        if !goes_on {
            broken.push(format!("no answer within {GOES_ON_WITHIN:?} of the death"));
        }
        let detection =
            events(&String::from_utf8_lossy(&told)).into_iter().find(|event| event["event"] == "promoting");
        let detection_ms = detection.and_then(|event| event["at_ns"].as_u64());
        Ok(Failover {
            policy: policy.to_owned(),
            verdict: Verdict::of(&record, held(policy), 0, u64::MAX),
            early: early_releases(&dead, &successor).len(),
            lost_acks: met.lost,
            broken,
            outage_ms: outage.as_secs_f64() * 1e3,
            detection_ms: detection_ms.map(|at_ns| at_ns.saturating_sub(killed_ns) as f64 / 1e6),
            both_spoke: both_spoke(&dead, &successor),
        })
    }
}
