//! A monitor that is slow, rude, endless or dead, played over a socket pair.

use std::io::{BufRead, BufReader, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::thread::JoinHandle;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

use super::*;

const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":["oob"]}}"#;
const SOON: Duration = Duration::from_secs(5);
const BRIEF: Duration = Duration::from_millis(80);

/// Plays a monitor: greets, and lets `play` answer each request from `qmp_capabilities` on.
fn monitor(play: impl Fn(&Value, &mut UnixStream) + Send + 'static) -> (UnixStream, JoinHandle<()>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let requests = BufReader::new(theirs.try_clone().unwrap());
        let _ = writeln!(theirs, "{GREETING}");
        for line in requests.lines().map_while(Result::ok) {
            let request: Value = serde_json::from_str(&line).unwrap();
            if request["execute"] == "qmp_capabilities" {
                answer(&request, "{}", &mut theirs);
            } else {
                play(&request, &mut theirs);
            }
        }
    });
    (ours, thread)
}

fn answer(request: &Value, value: &str, to: &mut UnixStream) {
    let _ = writeln!(to, r#"{{"return":{value},"id":{}}}"#, request["id"]);
}

fn connected(play: impl Fn(&Value, &mut UnixStream) + Send + 'static) -> Qmp {
    Qmp::over(monitor(play).0, SOON).unwrap()
}

/// One that greets and then says nothing more; its peer must be kept.
pub(crate) fn silent() -> (Qmp, JoinHandle<()>) {
    let (ours, thread) = monitor(|_, _| {});
    (Qmp::over(ours, SOON).unwrap(), thread)
}

#[test]
fn an_answer_counts_with_its_id_only() {
    let mut qmp = connected(|request, to| {
        let _ = writeln!(
            to,
            r#"{{"return":{{"status":"running"}},"id":{}}}"#,
            request["id"].as_u64().unwrap() + 7
        );
        answer(request, r#"{"status":"paused"}"#, to);
    });
    assert_eq!(qmp.version(), "7.2.22");
    assert_eq!(qmp.status().unwrap(), RunState::Paused);
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    let mut qmp = connected(|request, to| {
        if request["execute"] == "query-status" {
            std::thread::sleep(BRIEF * 2);
            answer(request, r#"{"status":"running"}"#, to);
        } else {
            answer(request, r#"{"status":"completed"}"#, to);
        }
    });
    let before = qmp.last_answer();
    let late = qmp.execute_within("query-status", json!({}), BRIEF).unwrap_err();
    assert!(matches!(late, QmpError::Timeout { .. }) && !late.is_final(), "{late}");
    assert_eq!(qmp.last_answer(), before, "no heartbeat");
    assert_eq!(qmp.migration().unwrap().status, MigrationStatus::Completed);
    assert!(qmp.last_answer() > before);
}

#[test]
fn events_are_kept_in_order_with_their_time_and_in_bounds() {
    let mut qmp = connected(|request, to| {
        for number in 0..EVENTS_KEPT + 10 {
            let _ = writeln!(
                to,
                r#"{{"event":"E{number}","data":{{}},"timestamp":{{"seconds":3,"microseconds":{number}}}}}"#
            );
        }
        answer(request, "{}", to);
    });
    qmp.stop().unwrap();
    assert_eq!(qmp.events_lost(), 10);
    let wanted = qmp.wait_event(Instant::now() + SOON, |event| event.name == "E20").unwrap().unwrap();
    assert_eq!(wanted.at_ns, 3_000_020_000);
    let oldest = qmp.next_event(Instant::now()).unwrap().unwrap();
    assert_eq!(oldest.name, "E10", "those before were lost; those passed over stay");
    assert!(qmp.wait_event(Instant::now() + BRIEF, |event| event.name == "E20").unwrap().is_none());
}

#[test]
fn the_end_of_qemu_is_an_error_of_its_own() {
    let mut qmp = connected(|_, to| to.shutdown(std::net::Shutdown::Both).unwrap());
    assert!(matches!(qmp.stop(), Err(QmpError::Gone)));
    assert!(qmp.stop().unwrap_err().is_final());
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(matches!(Qmp::over(ours, SOON), Err(QmpError::Gone)));
}

#[test]
fn a_refusal_has_qemus_words() {
    let mut qmp = connected(|request, to| {
        let _ = writeln!(
            to,
            r#"{{"error":{{"class":"GenericError","desc":"Migration is not finalized yet"}},"id":{}}}"#,
            request["id"]
        );
    });
    let refusal = qmp.cont().unwrap_err();
    assert!(matches!(&refusal, QmpError::Refused { command, .. } if command == "cont"));
    assert!(refusal.to_string().contains("not finalized yet"));
}

#[test]
fn nonsense_and_endless_lines_end_the_connection() {
    let nonsense: [fn(&mut UnixStream); 4] = [
        |to| drop(writeln!(to, "no JSON")),
        |to| drop(writeln!(to, "[1,2]")),
        |to| drop(writeln!(to, "{}", "[".repeat(100_000))),
        |to| while to.write_all(&[b'x'; 4096]).is_ok() {},
    ];
    for play in nonsense {
        let mut qmp = connected(move |_, to| play(to));
        assert!(matches!(qmp.stop(), Err(QmpError::Malformed { .. })));
        assert!(matches!(qmp.stop(), Err(QmpError::Malformed { .. })), "and stays so");
    }
}

#[test]
fn a_flood_of_events_does_not_outlast_the_deadline() {
    let mut qmp = connected(|_, to| {
        while writeln!(
            to,
            r#"{{"event":"FLOOD","timestamp":{{"seconds":-1,"microseconds":18446744073709551615}}}}"#
        )
        .is_ok()
        {}
    });
    let begin = Instant::now();
    let outcome = qmp.execute_within("stop", json!({}), BRIEF);
    assert!(matches!(outcome, Err(QmpError::Timeout { .. })), "{outcome:?}");
    assert!(begin.elapsed() < SOON);
}

#[test]
fn a_peer_that_does_not_greet_is_given_up() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let taken = Qmp::over(ours, BRIEF).map(drop).unwrap_err();
    assert!(
        matches!(taken, QmpError::Taken) && taken.to_string().contains("one client at a time"),
        "{taken}"
    );
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    writeln!(theirs, r#"{{"hello":1}}"#).unwrap();
    assert!(matches!(Qmp::over(ours, SOON), Err(QmpError::Malformed { .. })));
    let missing = Qmp::connect(Path::new("/nonexistent/qmp"), BRIEF).err().unwrap();
    assert!(missing.to_string().contains("-qmp unix:/nonexistent/qmp"), "{missing}");
}

#[test]
fn a_descriptor_travels_with_its_command() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = std::thread::spawn(move || {
        let mut theirs = theirs;
        writeln!(theirs, "{GREETING}").unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            theirs.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        answer(&serde_json::from_slice(&line).unwrap(), "{}", &mut theirs);
        let mut bytes = [0; 4096];
        let mut space = nix::cmsg_space!([i32; 2]);
        let descriptor = {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let message =
                recvmsg::<UnixAddr>(theirs.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())
                    .unwrap();
            message
                .cmsgs()
                .unwrap()
                .find_map(|part| match part {
                    ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
                    _ => None,
                })
                .unwrap()
        };
        let request = String::from_utf8_lossy(&bytes).into_owned();
        let request: Value = serde_json::from_str(request.split('\n').next().unwrap()).unwrap();
        assert_eq!((&request["execute"], &request["arguments"]["fdname"]), (&json!("getfd"), &json!("it")));
        answer(&request, "{}", &mut theirs);
        descriptor
    });
    let mut qmp = Qmp::over(ours, SOON).unwrap();
    let file = tempfile::tempfile().unwrap();
    (&file).write_all(b"seen").unwrap();
    qmp.pass_descriptor("it", file.as_fd()).unwrap();
    let descriptor = peer.join().unwrap();
    let same = std::fs::read(format!("/proc/self/fd/{descriptor}")).unwrap();
    assert_eq!(same, b"seen");
}

#[test]
fn a_drive_of_which_little_is_told_counts_as_one_that_is_written_to() {
    let mut qmp = connected(|request, to| {
        let drives = r#"[{"device":"","qdev":"/machine/peripheral/cd","removable":true},
            {"device":"d0","inserted":{"file":"/a.qcow2","drv":"qcow2","ro":true,"backing_file_depth":1}},
            {"inserted":{}}]"#;
        answer(request, &drives.replace('\n', ""), to);
    });
    let drives = qmp.blocks().unwrap();
    assert_eq!((drives[0].name.as_str(), drives[0].removable), ("/machine/peripheral/cd", true));
    assert!(drives[0].inserted.is_none());
    assert!(
        drives[1].inserted.as_ref().is_some_and(|inserted| inserted.read_only && inserted.backing_depth == 1)
    );
    assert!(drives[2].inserted.as_ref().is_some_and(|inserted| !inserted.read_only));
}
