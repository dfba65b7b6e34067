//! The `tidegate` command as a process: what it prints where, and its exit codes.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

fn tidegate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).output().expect("it starts")
}

/// The one line of JSON on the standard output.
fn answer(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "{output:?}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

fn check(more: &[&str]) -> Output {
    let ports = ["run", "--check", "--guest-port", "net_vhost0,iface=/run/t/a.sock"];
    let rest = ["--wire-port", "net_null0", "--lcore", "0", "--idle", "backoff", "--no-huge"];
    tidegate(&[&ports[..], &rest, more].concat())
}

/// Every verb that speaks to the plane, with arguments that are good.
const VERBS: [&[&str]; 24] = [
    &["status"],
    &["pulse"],
    &["hello"],
    &["stats"],
    &["streams"],
    &["histograms"],
    &["protect"],
    &["close"],
    &["seal", "--epoch", "1"],
    &["resumed"],
    &["commit", "--generation", "1", "--epoch", "1"],
    &["unprotect", "--mode", "drop"],
    &["backup-lost", "--evidence", "x"],
    &["mute"],
    &["unmute"],
    &["announce"],
    &["guard"],
    &["lease", "--generation", "1", "--term", "1h"],
    &["fence"],
    &["policy", "--name", "hold-all"],
    &["explain", "--stream", "10.0.0.5:40000"],
    &["subscribe"],
    &["takeover"],
    &["shutdown"],
];

/// A plane that refuses every request.
fn refusing(path: &Path) {
    let listener = UnixListener::bind(path).expect("binds");
    std::thread::spawn(move || {
        for peer in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(peer);
            let greeting = json!({ "tidegate": { "version": "0", "pid": 1, "capabilities": [] } });
            let mut line = String::new();
            let _ = writeln!(lines.get_mut(), "{greeting}");
            let _ = lines.read_line(&mut line);
            let id = serde_json::from_str::<Value>(&line).unwrap_or_default()["id"].clone();
            let error = json!({ "reason": "wrong-mode", "desc": "the guest is open" });
            let _ = writeln!(lines.get_mut(), "{}", json!({ "id": id, "error": error }));
        }
    });
}

#[test]
fn who_asks_for_json_gets_json_when_the_plane_is_not_there_or_refuses() {
    let dir = tempfile::tempdir().expect("a directory");
    let (absent, there) = (dir.path().join("absent"), dir.path().join("there"));
    refusing(&there);
    for (socket, reason) in [(absent, "no-connection"), (there, "wrong-mode")] {
        for verb in VERBS {
            let socket = socket.display().to_string();
            let output = tidegate(&[verb, &["--json", "--socket", &socket]].concat());
            assert_eq!(output.status.code(), Some(1), "{verb:?}: {output:?}");
            let answer = answer(&output);
            assert_eq!(answer["error"]["reason"], reason, "{verb:?}");
            let desc = answer["error"]["desc"].as_str().expect("a sentence");
            assert!(String::from_utf8_lossy(&output.stderr).contains(desc), "{output:?}");
        }
    }
}

#[test]
fn wrong_use_is_json_too_where_json_was_asked_for() {
    let output = tidegate(&["lease", "--generation", "1", "--term", "1y", "--json"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let answer = answer(&output);
    assert_eq!(answer["error"]["reason"], "wrong-use");
    assert!(answer["error"]["desc"].as_str().is_some_and(|desc| desc.contains("1h")), "{answer}");
    assert!(tidegate(&["status", "--nothing"]).stdout.is_empty(), "only where it was asked for");
    assert_eq!(tidegate(&["run", "--json"]).status.code(), Some(2), "run answers nothing without --check");
}

#[test]
fn a_check_that_passes_says_how_much_memory_the_lanes_take() {
    let output = check(&[]);
    let said = String::from_utf8_lossy(&output.stdout);
    let wanted = "ok: 1 guest, 1 lane; frames and rings take 96 MiB of eal.memory_mb = 256 (plain pages)\n";
    assert_eq!((output.status.code(), &*said), (Some(0), wanted), "{output:?}");
    let wanted = json!({"guests": 1, "lanes": 1, "needed_mb": 96, "memory_mb": 256, "pages": "plain"});
    assert_eq!(answer(&check(&["--json"])), wanted);
}

#[test]
fn a_check_finds_what_run_would_refuse() {
    for (more, wanted) in [
        (vec!["--control-cpu", "4095"], "CPU 4095 is not one"),
        (vec!["--hold-frames", "160000"], "set eal.memory_mb = 384 (--memory-mb 384)"),
        (vec!["--mtu", "20"], "must be 576 to 9000"),
    ] {
        let output = check(&[&more[..], &["--json"]].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let answer = answer(&output);
        assert_eq!(answer["error"]["reason"], "bad-configuration");
        assert!(answer["error"]["desc"].as_str().is_some_and(|desc| desc.contains(wanted)), "{answer}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("t.toml");
    let far = format!("net_virtio_user0,path=/run/t/{}.sock", "x".repeat(100));
    for (wire, more, wanted) in [
        ("net_af_xdp0,iface=eth1", "queues = 12", "MiB of plain pages"),
        ("net_af_packet0,iface=eth1", "queues = 8\nmtu = 9000", "MiB of plain pages"),
        ("net_null0", "hold_bytes = -5", "write 65536"),
        (&*far, "", "at most 107 bytes"),
    ] {
        let text = format!(
            "[eal]\nhugepages = \"no\"\nidle = \"backoff\"\n[[guest]]\nname = \"a\"\n[[guest.lane]]\n\
             guest_port = \"net_vhost0,iface=/run/t/a.sock\"\nwire_port = \"{wire}\"\nlcore = 0\n{more}\n"
        );
        std::fs::write(&file, text).expect("written");
        let output = tidegate(&["run", "--check", "--config", &file.display().to_string()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(wanted), "{wire}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

/// ARP, then a UDP datagram to port 53 from 10.0.0.5, as pcap.
fn capture() -> Vec<u8> {
    let mut arp = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
    arp.resize(60, 0);
    let mut dns = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0];
    dns.extend([10, 0, 0, 5, 10, 0, 0, 9, 0x9c, 0x40, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    for frame in [arp, dns] {
        for word in [1000, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// Two guests, of which `pbx` lets DNS go by its second rule.
const GUESTS: &str = r#"
    [[guest]]
    name = "web"
    policy = "hold-all"
    [[guest.lane]]
    guest_port = "net_vhost0,iface=/run/t/w.sock"
    wire_port = "net_null0"
    lcore = 1
    [[guest]]
    name = "pbx"
    rules = [
        { ssrc = "0xcafe0000-0xcafeffff", verdict = "hold" },
        { protocol = "udp", dst_ports = 53, verdict = "bypass" },
    ]
    [[guest.lane]]
    guest_port = "net_vhost1,iface=/run/t/p.sock"
    wire_port = "net_null1"
    lcore = 1
"#;

#[test]
fn a_guests_own_rules_are_tried_on_a_capture_and_a_frame_of_it_is_explained() {
    let dir = tempfile::tempdir().expect("a directory");
    let (capture_at, config) = (dir.path().join("c.pcap"), dir.path().join("t.toml"));
    std::fs::write(&capture_at, capture()).expect("written");
    std::fs::write(&config, GUESTS).expect("written");
    let (capture_at, config) = (capture_at.display().to_string(), config.display().to_string());
    let classify =
        |more: &[&str]| tidegate(&[&["classify", &capture_at, "--json", "--flows"], more].concat());
    let counted = |output: &Output| {
        let file = answer(output)["files"][0].clone();
        (file["bypassed"].clone(), file["held"].clone(), file["by_rules"].clone())
    };
    assert_eq!(counted(&classify(&[])), (json!(1), json!(1), json!(0)), "ARP alone");
    let of_pbx = ["--config", &config, "--guest-name", "pbx"];
    assert_eq!(counted(&classify(&of_pbx)), (json!(2), json!(0), json!(1)));
    let of_web = ["--config", &config, "--guest-name", "web"];
    assert_eq!(counted(&classify(&of_web)), (json!(0), json!(2), json!(0)));
    let which = classify(&["--config", &config]);
    assert_eq!(which.status.code(), Some(2), "{which:?}");
    assert!(answer(&which)["error"]["desc"].as_str().is_some_and(|desc| desc.contains("web, pbx")));
    let table = tidegate(&[&["classify", &capture_at][..], &of_pbx].concat());
    assert!(String::from_utf8_lossy(&table.stdout).contains("1 bypass by the operator's rules"), "{table:?}");

    let second = format!("{capture_at}:2");
    let explain = |more: &[&str]| tidegate(&[&["explain", "--frame", &second], more].concat());
    let told = answer(&explain(&["--config", &config, "--guest", "pbx", "--json"]));
    assert_eq!(
        (&told["verdict"], &told["decided_by"], &told["rule"]),
        (&json!("bypass"), &json!("rule"), &json!(2))
    );
    assert_eq!(told["judged_before"], 1);
    let told = explain(&[]);
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(text.contains("verdict: hold, decided by policy") && text.contains("10.0.0.5:40000"), "{text}");
}

#[test]
fn explain_refuses_what_it_cannot_have_and_says_what_to_write() {
    for (arguments, said) in [
        (vec!["explain", "--json"], "--stream"),
        (vec!["explain", "--frame", "xyz", "--json"], "in hex"),
        (vec!["explain", "--frame", "/nowhere.pcap:1", "--json"], "nowhere"),
        (vec!["explain", "--frame", "@/nowhere", "--json"], "nowhere"),
        (vec!["explain", "--stream", "10.0.0.5", "--json"], "10.0.0.5:40000"),
        (vec!["explain", "--stream", "10.0.0.5:1", "--frame", "00", "--json"], "cannot be used with"),
        (vec!["explain", "--stream", "10.0.0.5:1", "--policy", "hold-all", "--json"], "cannot be used with"),
    ] {
        let output = tidegate(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let desc = answer(&output)["error"]["desc"].clone();
        assert!(desc.as_str().is_some_and(|desc| desc.contains(said)), "{arguments:?}: {desc}");
    }
    let help = tidegate(&["explain", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("The answer marks the step that decided"));
    let script = String::from_utf8_lossy(&tidegate(&["completion", "bash"]).stdout).into_owned();
    assert!(script.contains("explain") && script.contains("--media-ports"), "completion knows it");
}
