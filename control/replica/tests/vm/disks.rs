//! Drives of a real QEMU, under both programs of a replication with planes in memory: what is refused, and when the hooks
//! are called.

use crate::alone;
use crate::guest::Scratch;
use crate::host::Host;
use crate::process::{SOON, a_while};
use crate::rig::within;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tidegate_replica::qmp::Qmp;

/// A disk with nothing on it.
fn disk(scratch: &Scratch, name: &str) -> String {
    let path = scratch.file(name);
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    path.display().to_string()
}

/// A hook that writes down what it is called for, and takes its time while there is a file `slow`.
fn hook(scratch: &Scratch, name: &str) -> (PathBuf, PathBuf) {
    let (path, log) = (scratch.file(name), scratch.file(&format!("{name}.log")));
    let slow = scratch.file("slow");
    let body =
        format!("#!/bin/sh\n[ ! -e {} ] || sleep 0.6\necho \"$@\" >>{}\n", slow.display(), log.display());
    fs::write(&path, body).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (path, log)
}

/// What a hook was called for.
fn called(log: &Path, moment: &str) -> Vec<u64> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix(moment)?.trim().parse().ok()).collect()
}

/// It ends with this in its error.
fn refused(host: &Host, more: &str, why: &[&str]) {
    let mut replicate = host.run("replicate", &format!("--to 127.0.0.1:1 {more}"));
    assert_eq!(replicate.ends(), 1);
    let said = replicate.lines().join("\n");
    assert!(why.iter().all(|why| said.contains(why)), "{why:?} are not all in {said}");
}

#[test]
fn a_writable_drive_is_refused_with_the_reason_and_a_read_only_one_where_nobody_vouches() {
    let _alone = alone();
    let scratch = Scratch::new();
    let image = disk(&scratch, "disk");
    let writable = format!("if=virtio,format=raw,file={image}");
    let host = Host::start(&scratch, "writable", "open", &["-drive", &writable]);
    for disks in ["none", "read-only"] {
        refused(
            &host,
            &format!("--disks {disks}"),
            &["virtio0", &image, "the guest can write to it", "--disks external"],
        );
    }
    let fixed = format!("if=virtio,format=raw,readonly=on,file={}", disk(&scratch, "fixed"));
    let host = Host::start(&scratch, "fixed", "open", &["-drive", &fixed]);
    refused(&host, "", &["virtio0", "give the standby's QEMU the same image", "--disks read-only"]);
    let waiting = Host::start(&scratch, "standby", "muted", &["-drive", &fixed, "-incoming", "defer"]);
    let (_standby, to) = waiting.stand_by("");
    let replicate = host.run("replicate", &format!("--to {to} --disks read-only"));
    replicate.event("protected", |_| true);
}

#[test]
fn what_is_put_into_a_drive_later_is_judged_then() {
    let _alone = alone();
    let scratch = Scratch::new();
    let tray = "if=ide,index=2,media=cdrom";
    let host = Host::start(&scratch, "primary", "open", &["-drive", tray]);
    let waiting = Host::start(&scratch, "standby", "muted", &["-drive", tray, "-incoming", "defer"]);
    let (_standby, to) = waiting.stand_by("");
    let replicate = host.run("replicate", &format!("--to {to}"));
    replicate.event("protected", |_| true);
    let mut operator = Qmp::connect(&host.second_monitor, SOON).unwrap();
    let image = disk(&scratch, "image.iso");
    operator
        .execute(
            "blockdev-change-medium",
            serde_json::json!({ "device": "ide1-cd0", "filename": image, "format": "raw" }),
        )
        .unwrap();
    let void = replicate.event("void", |_| true);
    assert!(
        void["problem"].as_str().is_some_and(|why| why.contains(&image) && why.contains("--disks")),
        "{void}"
    );
    let taken = replicate.events("checkpoint").len();
    a_while();
    assert_eq!(replicate.events("checkpoint").len(), taken, "as long as it is in");
    operator.execute("eject", serde_json::json!({ "device": "ide1-cd0", "force": true })).unwrap();
    assert!(within(SOON, || replicate.events("checkpoint").len() > taken + 2), "{:#?}", replicate.lines());
}

#[test]
fn a_replication_of_disks_has_its_hook_called_at_close_commit_and_promote_and_may_take_its_time() {
    let _alone = alone();
    let scratch = Scratch::new();
    let drive = |name: &str| format!("if=virtio,format=raw,file={}", disk(&scratch, name));
    let mut host = Host::start(&scratch, "primary", "open", &["-drive", &drive("a")]);
    let waiting = Host::start(&scratch, "standby", "muted", &["-drive", &drive("b"), "-incoming", "defer"]);
    let ((ours, log), (theirs, promoted)) = (hook(&scratch, "hook"), hook(&scratch, "promote"));
    let external = format!("--disks external --disk-hook {}", ours.display());

    // A standby that could not bring its disks to a checkpoint is none.
    let (mut standby, to) = waiting.stand_by("");
    let replicate = host.run("replicate", &format!("--to {to} {external}"));
    let why = replicate.event("unreachable", |_| true);
    assert!(why["reason"].as_str().is_some_and(|why| why.contains("--disk-hook")), "{why}");
    standby.kill();
    let mut standby = waiting.run("standby", &format!("--listen {to} --disk-hook {}", theirs.display()));
    replicate.event("protected", |_| true);
    assert!(within(SOON, || called(&log, "commit").len() > 3));
    let (closed, committed) = (called(&log, "close"), called(&log, "commit"));
    assert!(committed.iter().all(|epoch| closed.contains(epoch)), "{closed:?} {committed:?}");

    // Six times the silence that counts as death.
    fs::write(scratch.file("slow"), "").unwrap();
    let slow = |event: &serde_json::Value| event["close_ms"].as_f64() > Some(500.0);
    let count = || replicate.events("checkpoint").into_iter().filter(slow).count();
    assert!(within(SOON, || count() > 2), "{:#?}", replicate.lines());
    assert!(
        standby.events("promoted").is_empty() && replicate.events("fenced").is_empty(),
        "{:#?}",
        standby.lines()
    );

    fs::remove_file(scratch.file("slow")).unwrap();
    host.vm.kill();
    let told = standby.event("promoted", |_| true);
    assert_eq!(called(&promoted, "promote"), [told["epoch"].as_u64().unwrap()]);
    standby.terminate();
    assert_eq!(standby.ends(), 0);
}
