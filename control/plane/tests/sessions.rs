//! Bad input and bad company on the control socket.

mod rig;

use rig::{Client, Rig};
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_plane::server::SESSIONS;

const PROTECTED: &str = "mode = \"protected\"";

#[test]
fn garbage_is_answered_and_the_session_goes_on() {
    let rig = Rig::one(PROTECTED);
    let mut client = rig.client();
    let lines: [(&[u8], &str); 9] = [
        (b"hello", "bad-json"),
        (b"\xff\xfe\x00\x01", "bad-json"),
        (b"{\"id\":1,\"execute\":", "bad-json"),
        (b"[]", "bad-request"),
        (b"{}", "bad-request"),
        (b"{\"id\":1,\"execute\":7}", "bad-request"),
        (b"{\"id\":1,\"execute\":\"close\",\"force\":true}", "bad-request"),
        (b"{\"id\":1,\"execute\":\"flush\"}", "unknown-verb"),
        (
            b"{\"id\":1,\"execute\":\"commit\",\"arguments\":{\"epoch\":1.5,\"generation\":1}}",
            "bad-arguments",
        ),
    ];
    for (line, reason) in lines {
        client.write(line);
        client.write(b"\r\n");
        let answer = client.read().expect("an answer");
        assert_eq!(answer["error"]["reason"], reason, "{answer}");
    }
    let deep = [b"[".repeat(60_000), b"\n".to_vec()].concat();
    client.write(&deep);
    assert_eq!(client.read().expect("an answer")["error"]["reason"], "bad-json", "nesting is bounded");
    client.write(b"\n  \n");
    client.grant("hello", json!({}));
}

#[test]
fn an_endless_line_ends_the_session_and_nothing_else() {
    let rig = Rig::one(PROTECTED);
    let mut other = rig.client();
    let mut client = rig.client();
    let chunk = vec![b'x'; 70_000];
    client.write(&chunk);
    assert_eq!(client.read().expect("a reason")["error"]["reason"], "too-long");
    assert_eq!(client.read(), None, "hung up");
    other.grant("hello", json!({}));
}

#[test]
fn a_peer_that_hangs_up_in_the_middle_harms_nobody() {
    let rig = Rig::one(PROTECTED);
    for _ in 0..20 {
        let mut stream = UnixStream::connect(&rig.path).expect("connects");
        stream.write_all(b"{\"id\":1,\"execute\":\"clo").expect("written");
    }
    let mut stream = UnixStream::connect(&rig.path).expect("connects");
    stream.write_all(b"{\"id\":1,\"execute\":\"hello\"}").expect("written");
    stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("answers");
    assert!(answers.contains("\"return\""), "a last line without a newline is served: {answers}");
    rig.client().grant("hello", json!({}));
}

#[test]
fn one_session_controls_and_the_others_look_on() {
    let rig = Rig::one(PROTECTED);
    let (mut first, mut second) = (rig.client(), rig.client());
    second.grant("subscribe", json!({}));
    rig.send(0, 1);
    let (generation, epoch) = first.close();
    for (verb, arguments) in [
        ("close", json!({})),
        ("commit", json!({"generation": generation, "epoch": epoch})),
        ("protect", json!({})),
        ("unprotect", json!({"mode": "release"})),
        ("mute", json!({})),
        ("resumed", json!({})),
        ("policy", json!({"name": "bypass-all"})),
        ("lease", json!({"generation": generation, "term_ms": 1000})),
    ] {
        assert_eq!(second.refuse(verb, arguments), "not-controller", "{verb}");
    }
    let guest = &second.grant("guests", json!({}))["guests"][0];
    assert_eq!(guest["controller"]["pid"], std::process::id());
    // Taken over: now the first one looks on.
    assert!(second.grant("takeover", json!({}))["from"].is_u64());
    assert_eq!(second.event("controller-lost")["guest"], "pbx");
    assert_eq!(first.refuse("close", json!({})), "not-controller");
    drop(second);
    let mut third = rig.client();
    assert!(rig::within(Duration::from_secs(5), || third.ask("seal", json!({"epoch": 1})).is_ok()));
    assert_eq!(rig.on_wire(0), [] as [u8; 0], "a controller that goes releases nothing");
    assert_eq!(third.refuse("commit", json!({"generation": generation, "epoch": 9})), "unclosed");
}

#[test]
fn a_lost_controller_is_told() {
    let rig = Rig::one(PROTECTED);
    let mut watcher = rig.client();
    watcher.grant("subscribe", json!({"events": ["controller-lost"]}));
    let mut controller = rig.client();
    controller.close();
    drop(controller);
    assert_eq!(watcher.event("controller-lost")["pid"], std::process::id());
}

#[test]
fn anybody_may_fence() {
    let rig = Rig::one("mode = \"open\"");
    let mut controller = rig.client();
    controller.grant("protect", json!({}));
    let fenced = rig.client().grant("fence", json!({}));
    assert_eq!(fenced["seen_by_all_lanes"], true);
    let (generation, epoch) = controller.close();
    let commit = json!({"generation": generation, "epoch": epoch});
    assert_eq!(controller.refuse("commit", commit), "fenced", "nothing is committed behind a fence");
}

#[test]
fn a_slow_subscriber_delays_nobody_and_is_told_what_it_lost() {
    let rig = Rig::one(PROTECTED);
    let mut slow = rig.client();
    slow.grant("subscribe", json!({}));
    let before = Instant::now();
    for n in 0..20_000u32 {
        rig.plane.hub.publish("closed", json!({"guest": "pbx", "epoch": n, "pad": "x".repeat(100)}));
    }
    assert!(before.elapsed() < Duration::from_secs(5), "publishing waits for nobody: {:?}", before.elapsed());
    let mut other = rig.client();
    let before = Instant::now();
    other.close();
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    assert!(other.grant("stats", json!({}))["control"]["events_lost"].as_u64() > Some(0));
    let lost = slow.event("lost")["count"].as_u64().expect("a number");
    assert!(lost > 0);
}

#[test]
fn a_subscriber_that_never_reads_is_hung_up_on() {
    let rig = Rig::one(PROTECTED);
    let mut stuck = rig.client();
    stuck.grant("subscribe", json!({}));
    let sessions = |rig: &Rig| rig.client().grant("stats", json!({}))["control"]["sessions"].as_u64();
    assert_eq!(sessions(&rig), Some(2));
    for n in 0..20_000u32 {
        rig.plane.hub.publish("closed", json!({"epoch": n, "pad": "x".repeat(400)}));
    }
    // WRITE_WITHIN is 5 s.
    assert!(rig::within(Duration::from_secs(20), || sessions(&rig) == Some(1)));
}

#[test]
fn there_are_so_many_sessions_and_no_more() {
    let rig = Rig::one(PROTECTED);
    // The one that asked just now may still count for a moment: then one is refused, and tries again.
    let mut clients: Vec<Client> = Vec::new();
    let all = || {
        clients.extend(Client::seated(&rig.path));
        clients.len() as u64 == SESSIONS
    };
    assert!(rig::within(Duration::from_secs(20), all), "as many as there may be");
    let refused = || rig.client().ask("hello", json!({})) == Err("too-many-sessions".into());
    assert!(rig::within(Duration::from_secs(20), refused), "and no more");
    rig.client().grant("fence", json!({}));
    assert_eq!(clients[0].grant("guests", json!({}))["guests"][0]["fenced"], true, "but anybody may fence");
    let waiting: Vec<Client> = (0..8).filter_map(|_| Client::admitted(&rig.path)).collect();
    let away = || Client::admitted(&rig.path).is_none();
    assert!(
        rig::within(Duration::from_secs(20), away),
        "{} wait to fence: no more are taken in",
        waiting.len()
    );
    drop(waiting);
    clients.pop();
    let seated = || Client::seated(&rig.path).is_some();
    assert!(rig::within(Duration::from_secs(20), seated), "the place of one that ended is free again");
}

#[test]
fn unknown_events_are_not_subscribed_to() {
    let rig = Rig::one(PROTECTED);
    let mut client = rig.client();
    assert_eq!(client.refuse("subscribe", json!({"events": ["closed", "flushed"]})), "bad-arguments");
}

/// Connects as another user. Needs root to become one.
#[test]
fn only_users_that_are_allowed_are_let_in() {
    assert!(nix::unistd::geteuid().is_root(), "this test becomes other users; run it as root");
    let rig = Rig::new(&rig::guest("pbx", 0, PROTECTED), &[1]);
    let ask = |uid: u32| {
        let socat = Command::new("socat")
            .args(["-t1", "-", &format!("UNIX-CONNECT:{}", rig.path.display())])
            .uid(uid)
            .stdin(Stdio::null())
            .output()
            .expect("socat is installed");
        String::from_utf8_lossy(&socat.stdout).into_owned()
    };
    assert!(ask(1).contains("\"tidegate\""), "{}", ask(1));
    let refused = ask(65534);
    assert!(refused.contains("not-allowed") && refused.contains("control.allow_uids"), "{refused}");
}
