//! The benches can be run and say what they promise to say. How fast anything is, is no test's matter.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs `scripts/bench` with the quick profile, which the other tests have built; its one line of JSON.
fn bench(arguments: &[&str]) -> Value {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let output = Command::new(top.join("scripts/bench"))
        .args(arguments)
        .args(["--profile", "quick", "--json"])
        .output()
        .expect("scripts/bench starts");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}\n{words}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().count(), 1, "nothing but the report: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// True, and told, when this machine has one CPU only.
fn one_cpu() -> bool {
    let alone = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2);
    if alone {
        eprintln!("SKIPPED: a bench needs two CPUs, one for what is measured and one for what feeds it");
    }
    alone
}

#[test]
fn ceiling_reports_ratios_and_frames_a_second() {
    if one_cpu() {
        return;
    }
    let report = bench(&["ceiling", "--seconds", "1", "--repeats", "1"]);
    for ratio in ["ratio_io", "ratio_mac"] {
        for key in ["median", "min", "max"] {
            assert!(report[ratio][key].as_f64().is_some_and(|ratio| ratio > 0.0), "{ratio}.{key}: {report}");
        }
        assert_eq!(report[ratio]["n"], 1);
    }
    for device in ["io", "mac", "tidegate"] {
        assert!(
            report["fps"][device]["median"].as_f64().is_some_and(|fps| fps > 1000.0),
            "{device}: {report}"
        );
    }
    for key in ["ring", "pages", "mix", "checksums", "wire"] {
        assert!(report["conditions"][key].is_string(), "{key} is stated: {report}");
    }
}

#[test]
fn classify_reports_ticks_and_instructions_over_the_plain_forwarder() {
    if one_cpu() {
        return;
    }
    let report = bench(&["classify", "--seconds", "0.2", "--repeats", "1"]);
    for load in ["rtp", "rtp_10000_streams", "tcp"] {
        assert!(report["added_ticks"][load]["median"].is_f64(), "{load}: {report}");
        assert!(
            report["mac_ticks"][load]["median"].as_f64().is_some_and(|ticks| ticks > 1.0),
            "{load}: {report}"
        );
    }
    assert!(report["many_over_few"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{report}");
    assert!(report["instructions"]["rtp_bypass"].as_f64().is_some_and(|n| n > 100.0), "{report}");
}

/// One scenario end to end, with real checkpoints: it is measured once, and drawn again without being measured again.
#[test]
fn figures_measure_a_call_through_a_replicated_vm_and_draw_it() {
    if one_cpu() {
        return;
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("figures-{}", std::process::id()));
    let dir = out.display().to_string();
    let arguments = ["figures", "--out", &dir, "--only", "6-realtime-300", "--length", "5s"];
    let report = bench(&arguments);
    let panel = &report["panels"][0];
    assert_eq!(
        (&panel["scenario"]["name"], &report["missing"]),
        (&"6-realtime-300".into(), &Value::Array(vec![]))
    );
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number: {value} of {panel}"));
    let heard = &panel["voices"][0]["parts"][0];
    // 5 s of 20 ms packets, on a machine that may be busy.
    assert!((150.0..300.0).contains(&number(&heard["packets"])), "{heard}");
    assert!((1.0..=4.5).contains(&number(&heard["playout"]["mos_60"])), "{heard}");
    assert!(number(&heard["delta_ms_max"]) >= 20.0 && number(&heard["jitter_ms_max"]) > 0.0, "{heard}");
    assert!(number(&panel["checkpoints"]) >= 3.0 && number(&panel["pause_ms"]["median"]) > 0.0, "{panel}");
    assert!(
        number(&panel["tcp_outward_mbit"]) > 0.0 && number(&panel["sent"][0]["packets"]) > 150.0,
        "{panel}"
    );
    assert_eq!(panel["meta"]["call_broken"], Value::Null, "{panel}");
    for stated in ["cpu", "kernel", "path", "stamps", "tidegate", "qemu"] {
        assert!(
            panel["meta"]["conditions"][stated].as_str().is_some_and(|text| !text.is_empty()),
            "{stated}"
        );
    }
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(read("6-realtime-300.svg").contains("SLA 500"));
    assert!(read("figures.html").contains("6-realtime-300"));
    let meta = out.join("6-realtime-300/meta.json");
    let measured = std::fs::metadata(&meta).and_then(|meta| meta.modified()).expect("raw samples are kept");
    assert_eq!(bench(&arguments), report, "the same samples make the same figures");
    let again = std::fs::metadata(&meta).and_then(|meta| meta.modified()).expect("raw samples are kept");
    assert_eq!(measured, again, "what is complete is not measured again");
    let _ = std::fs::remove_dir_all(out);
}

/// Every ratio under its key: measured, or with the reason why not. How fast anything is, is not judged.
#[test]
fn ratios_have_every_key_and_say_how_they_were_measured() {
    if one_cpu() {
        return;
    }
    let report = bench(&["ratios", "--short"]);
    let keys = "R1_io R1_mac R2_bypass R2_held R3 R3_worst_us R4_gap R4_pdv R5_us R6 R6_first_p99_us R7 R8_pps R8_p99 R9";
    for key in keys.split(' ') {
        let figure = &report[key];
        if key.starts_with("R8") && figure["skipped"].as_str().is_some_and(|why| !why.is_empty()) {
            eprintln!("SKIPPED: {key}: {}", figure["skipped"]);
            continue;
        }
        for part in ["median", "min", "max"] {
            assert!(figure[part].as_f64().is_some_and(f64::is_finite), "{key}.{part}: {report}");
        }
        assert_eq!(figure["n"], 1, "{key}: {figure}");
    }
    // What is no matter of speed: nothing is lost or put in another order, held frames wait as long as they must, and
    // no longer than the machine makes them; a call that is held has the gap of its epochs.
    let number = |key: &str| report[key]["median"].as_f64().unwrap_or(f64::NAN);
    assert_eq!(number("R7_lost"), 0.0, "{report}");
    assert!((0.99..2.0).contains(&number("R7")), "{report}");
    let gap = &report["parts"]["epochs"]["gap_ms"]["raw"][1]["median"];
    assert!(gap.as_f64().is_some_and(|ms| ms > 300.0), "hold-all at 400 ms: {report}");
    for stated in ["cpu", "kernel", "dpdk", "stamps"] {
        assert!(
            report["machine"][stated].as_str().is_some_and(|text| !text.is_empty()),
            "{stated}: {report}"
        );
    }
    for (part, ways) in report["parts"].as_object().expect("parts") {
        assert!(ways["path"].is_string() || part == "bridge", "{part} states its path: {ways}");
        assert!(report["noise"][part]["hiccups_2ms"].is_u64(), "{part} states the machine's noise: {report}");
    }
    assert_eq!((&report["short"], &report["repeats"]), (&true.into(), &1.into()));
}

#[test]
fn scale_draws_every_curve_and_derives_what_it_says_it_derives() {
    if one_cpu() {
        return;
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scale-{}", std::process::id()));
    let report = bench(&["scale", "--out", &out.display().to_string(), "--short"]);
    let curves = report["curves"].as_array().expect("curves");
    let names: Vec<_> = curves.iter().filter_map(|curve| curve["name"].as_str()).collect();
    assert_eq!(names, ["calls", "streams", "guests", "epochs", "depth"]);
    for curve in curves {
        let points = curve["points"].as_array().expect("points");
        assert!(points.len() == 2 && points.iter().all(|point| point["cost"]["median"].is_f64()), "{curve}");
        assert!(curve["why"].as_str().is_some_and(|why| why.len() > 40), "{curve}");
    }
    let held = &curves[4]["points"][0]["memory_bytes"];
    assert!(held.as_f64().is_some_and(|bytes| (2048.0..3000.0).contains(&bytes)), "{held}");
    assert_eq!(report["derived"]["derived_not_measured"], true, "{report}");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    for name in names {
        assert!(read(&format!("{name}.svg")).contains("ns a frame"), "{name}");
    }
    let page = read("scale.html");
    assert!(page.contains("derived, not measured") && page.contains("Software stamps"), "{page}");
    let _ = std::fs::remove_dir_all(out);
}

/// The kernel's own sch_plug, in a router VM that real checkpoints drive; both directions of a call through the VM's server.
#[test]
fn a_call_through_the_vm_waits_in_a_routers_sch_plug_that_follows_the_checkpoints() {
    if one_cpu() {
        return;
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("plugged-{}", std::process::id()));
    let dir = out.display().to_string();
    let name = "5-sch-plug-400-through";
    let report = bench(&["figures", "--out", &dir, "--only", name, "--length", "5s"]);
    let panel = &report["panels"][0];
    let voices = panel["voices"].as_array().expect("voices");
    let heard: Vec<&str> = voices.iter().filter_map(|voice| voice["name"].as_str()).collect();
    assert_eq!(heard, ["what the caller hears", "what the callee hears"], "{panel}");
    assert_eq!(panel["sent"].as_array().map(Vec::len), Some(2), "{panel}");
    for voice in voices {
        let whole = &voice["parts"][0];
        // Held, each packet by the kernel: it comes in bursts, a checkpoint apart. Nothing in between would be a plug.
        assert!(whole["most_at_once"].as_u64().is_some_and(|most| most >= 5), "{voice}");
        assert!(whole["delta_ms_max"].as_f64().is_some_and(|gap| gap >= 200.0), "{voice}");
    }
    let plug = &panel["meta"]["plug"];
    let count = |key: &str| plug[key].as_u64().unwrap_or_else(|| panic!("{key}: {plug}"));
    assert!(count("buffered") >= 3 && count("released") >= 3, "{plug}");
    assert!(plug["kernel"].as_str().is_some_and(|kernel| kernel.contains("cloud")), "{plug}");
    assert!(out.join(format!("{name}-2.svg")).is_file(), "each direction is drawn");
    let _ = std::fs::remove_dir_all(out);
}

/// Two peers that run, one that is not installed, one that ends at once: the report has all four.
#[test]
fn peers_report_who_ran_and_who_could_not_and_why() {
    if one_cpu() {
        return;
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("peers-{}", std::process::id()));
    let dir = out.display().to_string();
    let short = ["--seconds", "2", "--repeats", "1", "--interval", "100ms"];
    let only = |names: &[&str]| -> Vec<String> {
        names.iter().flat_map(|name| ["--only".to_owned(), (*name).to_owned()]).collect()
    };
    let run = |names: &[&str], more: &[&str]| {
        let names = only(names);
        let mut words = vec!["peers"];
        words.extend(names.iter().map(String::as_str).chain(short).chain(more.iter().copied()));
        bench(&words)
    };
    let names = ["filter-buffer", "ovs-dpdk", "tidegate-realtime"];
    let report = run(&names, &["--out", &dir, "--vswitchd", "/nonexistent/vswitchd"]);
    let missing = &report["missing"][0];
    assert_eq!(missing["name"], "ovs-dpdk", "{report}");
    assert!(missing["why"].as_str().is_some_and(|why| why.contains("/nonexistent/vswitchd")), "{missing}");
    let ran: Vec<&str> =
        report["peers"].as_array().expect("peers").iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(ran, ["filter-buffer", "tidegate-realtime"], "{report}");
    for row in report["peers"].as_array().expect("peers") {
        let number = |key: &str| row[key]["median"].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
        assert!(number("tcp_mbit") > 0.0, "{row}");
        assert!(row["alone"]["gap_ms_max"]["median"].as_f64().is_some_and(|gap| gap >= 20.0), "{row}");
        assert!(row["beside_tcp"]["pdv_ms_p99"]["median"].is_f64(), "{row}");
    }
    let [buffer, realtime] = [0, 1].map(|at| &report["peers"][at]);
    assert!(buffer["alone"]["most_at_once"]["median"].as_f64().is_some_and(|most| most >= 3.0), "{buffer}");
    assert!(buffer["no_rate"].is_string() && buffer["frames_per_second"].is_null(), "{buffer}");
    assert!(realtime["frames_per_second"]["median"].as_f64().is_some_and(|rate| rate > 100.0), "{realtime}");
    let page = std::fs::read_to_string(out.join("peers.html")).expect("the page");
    assert!(page.contains("/nonexistent/vswitchd") && page.contains("QEMU filter-buffer"));
    let _ = std::fs::remove_dir_all(out);

    let report = run(&["ovs-dpdk", "testpmd-io"], &["--vswitchd", "/bin/false"]);
    assert_eq!(report["peers"][0]["name"], "testpmd-io", "{report}");
    assert_eq!(report["missing"][0]["name"], "ovs-dpdk", "{report}");
    assert!(report["missing"][0]["why"].as_str().is_some_and(|why| why.contains("vswitchd")), "{report}");
}

/// A fixed interval and `auto`, with real checkpoints, calls, signalling and TCP.
#[test]
fn sweep_measures_a_replicated_vm_at_a_fixed_interval_and_at_auto() {
    if one_cpu() {
        return;
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sweep-{}", std::process::id()));
    let dir = out.display().to_string();
    let arguments = [
        "sweep",
        "--out",
        &dir,
        "--intervals",
        "100ms,auto",
        "--calls",
        "2",
        "--loads",
        "paced",
        "--length",
        "2s",
    ];
    let report = bench(&arguments);
    let cells = report["cells"].as_array().expect("cells");
    assert_eq!((cells.len(), &report["missing"]), (2, &Value::Array(vec![])), "{report}");
    let positive = |cell: &Value, path: &str| {
        let value = cell.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {cell}"));
        assert!(value > 0.0, "{path}: {cell}");
    };
    for cell in cells {
        for path in [
            "/interval_ms",
            "/checkpoints",
            "/pause_ms/median",
            "/committed_after_ms/median",
            "/checkpoint_bytes/median",
            "/tcp_outward_mbit",
            "/transaction/p50_ms",
            "/transaction/n",
            "/signalling/p50_ms",
            "/signalling/n",
            "/held/max_bytes",
            "/voice/mos_60/min",
        ] {
            positive(cell, path);
        }
        assert_eq!(cell["voice"]["heard"], 2, "{cell}");
    }
    let advice = &report["verdict"]["advice"][0];
    let says = advice["calls_come_ms"].as_f64().expect("the rule says something");
    assert!(
        (25.0..=400.0).contains(&says) && advice["auto_ms"].as_f64().is_some_and(|ms| ms > 0.0),
        "{advice}"
    );
    let told = std::fs::read_to_string(out.join("auto/calls-2-tcp-paced/primary.jsonl"))
        .expect("raw samples are kept");
    assert!(told.contains("\"interval_ms\""), "{told}");
    let page = std::fs::read_to_string(out.join("sweep.html")).expect("a report");
    assert!(page.contains("INVITE to 200 OK") && out.join("signalling.svg").exists());
    assert_eq!(bench(&arguments), report, "what is complete is not measured again");
    let _ = std::fs::remove_dir_all(out);
}

/// Generator, plane and sink as three namespaces, each led over its control port.
#[test]
fn hosts_put_calls_tcp_and_sip_through_a_plane_and_keep_every_packet() {
    if one_cpu() {
        return;
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hosts-{}", std::process::id()));
    std::fs::create_dir_all(&out).expect("a directory below target/tmp");
    let runs = out.join("runs.toml");
    let text = "[[run]]\nname = \"short\"\npolicy = \"realtime\"\ninterval = \"100ms\"\nlength = \"3s\"\ncalls = 20\n\
                tcp = \"2M\"\ntransactions = 20\nsip = 4\n";
    std::fs::write(&runs, text).expect("the runs");
    let (dir, file) = (out.display().to_string(), runs.display().to_string());
    let arguments = ["hosts", "local", "--out", &dir, "--runs", &file];
    let report = bench(&arguments);
    let run = &report["runs"][0];
    assert_eq!((&run["kept"], &report["missing"]), (&Value::Null, &Value::Array(vec![])), "{report}");
    for way in ["outward", "inward"] {
        let number = |key: &str| run[way][key].as_u64().unwrap_or_else(|| panic!("{way}.{key}: {run}"));
        assert_eq!(number("calls"), 20, "{way}: {run}");
        assert!(number("sent") >= 1000 && number("lost") * 10 < number("sent"), "{way}: {run}");
        assert!(run[way]["latency"]["p50_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{way}: {run}");
    }
    assert!(run["tcp_mbit"].as_f64().is_some_and(|mbit| mbit > 0.1), "{run}");
    for (key, least) in [("transactions", 10), ("sip_tcp", 3), ("sip_udp", 3)] {
        assert!(run[key]["n"].as_u64().is_some_and(|n| n >= least), "{key}: {run}");
    }
    // What is held waits for an epoch's commit; media does not.
    let p50 = |value: &Value| value["p50_ms"].as_f64().unwrap_or_default();
    assert!(p50(&run["transactions"]) > 10.0, "transactions were held: {run}");
    let kept = std::fs::metadata(out.join("short/sink-received.bin")).expect("raw samples are kept").len();
    assert!(kept >= 24 * 1000, "{kept}");
    assert!(std::fs::read_to_string(out.join("hosts.html")).expect("a report").contains("short"));
    assert_eq!(bench(&arguments), report, "what is complete is not run again");
    let _ = std::fs::remove_dir_all(out);
}

#[test]
fn a_wrong_name_is_wrong_use() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let output = Command::new(top.join("scripts/bench")).arg("ceilling").output().expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no bench 'ceilling'"));
}

#[test]
fn a_build_is_announced_before_it_begins() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let bin = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("no-cargo-{}", std::process::id()));
    std::fs::create_dir_all(&bin).expect("a directory below target/tmp");
    // In place of the build, and of what the bench wants to be there: ends at once.
    for program in ["cargo", "valgrind"] {
        let _ = std::os::unix::fs::symlink("/bin/false", bin.join(program));
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new(top.join("scripts/bench"))
        .args(["cost", "--help"])
        .env("PATH", path)
        .output()
        .expect("scripts/bench starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.starts_with("bench: building what it measures (profile release)"), "{said}");
    let _ = std::fs::remove_dir_all(bin);
}
