//! `scripts/demo` as a user runs it: twice in a row, on both kinds of wire that it knows.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Both tests need the whole machine for their time, so they are one.
#[test]
fn the_demo_runs_twice_keeps_its_books_and_shows_the_difference() {
    for extra in [&[][..], &["--user"][..]] {
        let answer = demo(extra);
        for policy in ["hold-all", "realtime"] {
            books_balance(policy, &answer["policies"][policy]);
        }
        difference_shows(&answer["policies"]["hold-all"], &answer["policies"]["realtime"]);
    }
}

#[test]
fn wrong_use_is_refused_with_2_and_a_hint() {
    for wrong in
        [&["--seconds", "0"][..], &["--seconds", "ten"], &["--calls"], &["--fast"], &["--calls", "201"]]
    {
        let output = Command::new(script()).args(wrong).output().expect("bash runs");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--help"), "{wrong:?}");
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("scripts/demo")
}

/// Runs it for three seconds a policy; its JSON.
fn demo(extra: &[&str]) -> Value {
    let child = Command::new(script())
        .args(["--seconds", "3", "--json"])
        .args(extra)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("bash runs");
    let pid = child.id();
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    for policy in ["hold-all", "realtime"] {
        assert!(said.contains(&format!("{policy}   1 s   epoch")), "no progress under {policy}:\n{said}");
    }
    let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
    let left = left_behind(pid);
    assert!(left.is_empty(), "left behind: {left:?}");
    serde_json::from_str(&last).unwrap_or_else(|e| panic!("{e}: {last}"))
}

/// Namespaces and directories of the demo with this process id.
fn left_behind(pid: u32) -> Vec<PathBuf> {
    let names = [format!("tgdemo-{pid}-"), format!("tidegate-demo.{pid}.")];
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        names.iter().any(|ours| name.starts_with(ours.as_str()))
    };
    let dirs = [PathBuf::from("/run/netns"), std::env::temp_dir()];
    let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    entries.flatten().map(|entry| entry.path()).filter(ours).collect()
}

fn count(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no count at {path} in {value}"))
}

fn ms(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {path} in {value}"))
}

fn books_balance(policy: &str, outcome: &Value) {
    let frames = |fate: &str| count(outcome, &format!("/frames/{fate}"));
    let fates = ["bypassed", "released", "dropped", "held"].map(frames);
    assert_eq!(frames("received"), fates.iter().sum::<u64>(), "{policy}: {fates:?}");
    assert!(frames("received") > 500, "{policy}: hardly any traffic");
    assert_eq!(count(outcome, "/early_releases"), 0, "{policy}");
    let verdict = |part: &str| count(outcome, &format!("/verdict/{part}"));
    assert_eq!(verdict("seen"), frames("bypassed") + frames("released"), "{policy}: the capture missed some");
    assert!(verdict("judged") > 300, "{policy}: a verdict over next to nothing");
    let (closed, committed) = (count(outcome, "/epochs/closed"), count(outcome, "/epochs/committed"));
    assert!(closed >= committed && committed >= 10, "{policy}: {committed} of {closed} committed");
    for latency in ["bypass", "hold", "commit_to_first", "commit_to_last"] {
        let quantiles =
            ["p50", "p99", "p999", "max"].map(|q| count(outcome, &format!("/latency_ns/{latency}/{q}")));
        assert!(quantiles.is_sorted(), "{policy}: {latency} {quantiles:?}");
    }
    assert_eq!((count(outcome, "/rtp/streams"), count(outcome, "/rtp/lost")), (10, 0), "{policy}");
    for done in ["/tcp/upload_bytes_per_s", "/tcp/download_bytes_per_s", "/tcp/transactions", "/udp/answered"]
    {
        assert!(count(outcome, done) > 0, "{policy}: {done}");
    }
}

fn difference_shows(held: &Value, realtime: &Value) {
    assert_eq!(count(held, "/frames/bypassed"), 0, "hold-all lets nothing through");
    assert!(count(realtime, "/frames/bypassed") > 1000, "realtime lets the calls through");
    let delta = |outcome| ms(outcome, "/rtp/delta_ms_max");
    assert!(delta(held) > 150.0, "held calls come in bursts an epoch apart: {}", delta(held));
    assert!(delta(realtime) < delta(held) * 0.6, "{} against {}", delta(realtime), delta(held));
    let jitter = |outcome| ms(outcome, "/rtp/jitter_ms_mean");
    assert!(jitter(realtime) < jitter(held) / 3.0, "{} against {}", jitter(realtime), jitter(held));
    // TCP is held under both: an answer takes an epoch.
    for outcome in [held, realtime] {
        assert!(ms(outcome, "/tcp/transaction_ms_mean") > 150.0, "{outcome}");
        assert!(count(outcome, "/latency_ns/hold/p50") > 50_000_000, "{outcome}");
    }
}
