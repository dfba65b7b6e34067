//! The plane's program with real DPDK and no guest: how it starts, refuses and stops.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PLANE: &str = env!("CARGO_BIN_EXE_tidegate-plane");

fn command(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(PLANE);
    let guest = format!("net_vhost0,iface={}", dir.join("run/guest.sock").display());
    command
        .args(["--guest-port", &guest, "--wire-port", "net_null0,no-rx=1", "--lcore", "1"])
        .args(["--no-huge", "--memory-mb", "64", "--hold-frames", "1024", "--idle", "backoff"])
        .args(["--socket", &dir.join("run/t.sock").display().to_string()])
        .args(more)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Exit code and what was said, killed when it takes too long.
fn end(mut child: Child) -> (Option<i32>, String) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait().expect("our child") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().expect("ours");
                panic!("it does not end");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let output = child.wait_with_output().expect("our child");
    (status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn refused(dir: &Path, more: &[&str]) -> (Option<i32>, String) {
    end(command(dir, more).spawn().expect("starts"))
}

fn answers(socket: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if let Ok(mut stream) = UnixStream::connect(socket) {
            stream.write_all(b"{\"execute\":\"guests\"}\n").expect("written");
            let mut lines = BufReader::new(stream).lines();
            let answered = lines.nth(1).and_then(Result::ok).unwrap_or_default();
            return answered.contains("\"protected\"");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn a_signal_stops_it_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let hlogs = dir.path().join("hlog");
    let child =
        command(dir.path(), &["--mode", "protected", "--hlog-dir", &hlogs.display().to_string()]).spawn();
    let child = child.expect("starts");
    let socket = dir.path().join("run/t.sock");
    assert!(answers(&socket), "it answers");
    assert!(dir.path().join("run/guest.sock").exists());
    // A second plane on the same socket is refused and harms nothing.
    let (code, said) = refused(dir.path(), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another process listens"), "{said}");
    assert!(answers(&socket), "the first one goes on");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).expect("ours");
    let (code, said) = end(child);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("discarded"), "{said}");
    let left: Vec<_> = std::fs::read_dir(dir.path().join("run")).expect("there").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(std::fs::read_dir(hlogs).expect("there").count(), 1);
}

/// The log of a plane to whose guest these requests were made, once all were answered and it has ended.
fn log_of(mode: &str, requests: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = command(dir.path(), &["--mode", mode]);
    command.env("TIDEGATE_LOG", "info");
    let child = command.spawn().expect("starts");
    let socket = dir.path().join("run/t.sock");
    let deadline = Instant::now() + Duration::from_secs(60);
    let stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(e) if Instant::now() > deadline => panic!("{e}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut lines = BufReader::new(stream);
    let mut answer = String::new();
    lines.read_line(&mut answer).expect("a greeting");
    for request in requests.iter().chain([&"{\"execute\":\"shutdown\"}"]) {
        lines.get_mut().write_all(format!("{request}\n").as_bytes()).expect("written");
        lines.read_line(&mut answer).expect("an answer");
    }
    let (code, said) = end(child);
    assert_eq!(code, Some(0), "{said}");
    said
}

#[test]
fn the_log_tells_what_was_done_apart_from_what_was_refused() {
    let unprotect = "{\"execute\":\"unprotect\",\"arguments\":{\"mode\":\"drop\"}}";
    let (mute, unmute) = ("{\"execute\":\"mute\"}", "{\"execute\":\"unmute\"}");
    for (mode, request, refused, never) in [
        ("muted", unprotect, "unprotect refused: ", "unprotected"),
        ("open", unmute, "unmute refused: ", "unmuted"),
    ] {
        let said = log_of(mode, &[request]);
        assert!(said.contains(refused) && said.contains("(wrong-mode)") && !said.contains(never), "{said}");
    }
    let said = log_of("protected", &[unprotect, mute, unmute]);
    for done in ["unprotected (Drop) by session", "muted by session", "unmuted by session"] {
        assert!(said.contains(done), "{done}: {said}");
    }
    assert!(!said.contains("refused"), "{said}");
}

#[test]
fn what_cannot_work_is_refused_with_its_reason_and_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let (code, said) = refused(dir.path(), &["--lcore", "999"]);
    assert_eq!(code, Some(2), "given twice: {said}");
    for (more, wanted, reason) in [
        (vec!["--max-epochs-in-flight", "0"], 2, "max_epochs_in_flight"),
        (vec!["--control-cpu", "4095"], 2, "CPU 4095"),
        (vec!["--pace", "90%"], 1, "tells no speed"),
        (vec!["--eal-arg=--no-such-thing"], 1, "no-such-thing"),
    ] {
        let (code, said) = refused(dir.path(), &more);
        assert_eq!(code, Some(wanted), "{more:?}: {said}");
        assert!(said.contains(reason), "{more:?}: {said}");
    }
}

#[test]
fn a_kernel_device_that_leaks_is_refused_as_a_guest_port() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("run/t.sock").display().to_string();
    let ports = ["--guest-port", "net_af_packet0,iface=lo", "--wire-port", "net_null0", "--lcore", "1"];
    let memory = ["--no-huge", "--memory-mb", "64", "--hold-frames", "1024", "--idle", "backoff"];
    let mut command = Command::new(PLANE);
    command.args(ports).args(memory).args(["--socket", &socket]).stderr(Stdio::piped());
    let (code, said) = end(command.spawn().expect("starts"));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("guest guest, lane 0: guest_port") && said.contains("ip addr flush dev lo"),
        "{said}"
    );
}
