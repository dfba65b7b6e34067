//! `scripts/libvirt/standby-domain` with a stand-in `virsh`; with a real libvirt it runs in `tests/tests/libvirt.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::machine::{Machine, Outcome, scripts};

/// Prints the domain that is laid there, writes down what it is to create.
const VIRSH: &str = r#"#!/bin/sh
case "$*" in
    *dumpxml*) cat "$STAGE/domain.xml" 2>/dev/null || { echo "error: failed to get domain" >&2; exit 1; } ;;
    *domstate*) cat "$STAGE/state" ;;
    *create*) for file; do :; done; echo "$*" >"$STAGE/created"; cat "$file" >"$STAGE/created.xml" ;;
esac
"#;

fn host(xml: Option<&str>) -> Machine {
    let host = Machine::bare();
    host.write("bin/virsh", VIRSH);
    fs::set_permissions(host.root.join("bin/virsh"), fs::Permissions::from_mode(0o755)).unwrap();
    host.write("state", "shut off\n");
    if let Some(xml) = xml {
        host.write("domain.xml", xml);
    }
    host
}

fn sample() -> String {
    fs::read_to_string(scripts().join("libvirt/pbx.xml")).unwrap()
}

#[track_caller]
fn run(host: &Machine, args: &[&str]) -> Outcome {
    let output = Command::new("timeout")
        .arg("20")
        .arg(scripts().join("libvirt/standby-domain"))
        .args(args)
        .env("PATH", format!("{}/bin:/usr/bin:/bin", host.root.display()))
        .env("STAGE", &host.root)
        .output()
        .expect("timeout, of coreutils");
    Outcome {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn the_twin_is_the_same_but_that_it_waits() {
    let host = host(Some(&sample()));
    run(&host, &["--check", "pbx"]).done("nothing stands in the way");
    assert!(!host.root.join("created").exists(), "a check creates nothing");
    run(&host, &["-c", "test:///default", "pbx"]).done("waits for its first checkpoint");
    assert!(host.read("created").starts_with("-q -c test:///default create --paused"));
    let twin = host.read("created.xml");
    let added: Vec<&str> =
        twin.lines().filter(|line| !sample().lines().any(|known| known == *line)).collect();
    assert_eq!(added, ["    <qemu:arg value='-incoming'/>", "    <qemu:arg value='defer'/>"]);
    assert_eq!(twin.lines().count(), sample().lines().count() + 2);
    assert_eq!(run(&host, &["--print", "pbx"]).done("").out.trim_end(), twin);
}

#[test]
fn what_stands_in_the_way_is_said_with_what_to_do() {
    for (from, to, said) in [
        ("<source type='file'/>", "<source type='memfd'/>", "RAM is in no file"),
        ("<access mode='shared'/>", "", "RAM is not shared"),
        ("<interface type='vhostuser'>", "<interface type='bridge'>", "goes past tidegate"),
        ("<qemu:arg value='-qmp'/>", "", "no monitor for tidegate"),
        ("<serial type='pty'>", "<hostdev mode='subsystem'/><serial type='pty'>", "in no checkpoint"),
        ("<cpu mode='custom'", "<cpu mode='host-passthrough'", "the other host may lack it"),
        ("pc-q35-7.2", "q35", "has no version"),
        ("<qemu:arg value='-qmp'/>", "<qemu:arg value='-qmp'/><qemu:arg value='-incoming'/>", "itself waits"),
    ] {
        let changed = sample().replace(from, to);
        assert_ne!(changed, sample(), "{from}");
        let host = host(Some(&changed));
        for args in [&["--check", "pbx"][..], &["pbx"]] {
            run(&host, args).failed(said);
        }
        assert!(!host.root.join("created").exists(), "{said}");
    }
}

#[test]
fn a_domain_that_runs_or_is_not_there_has_no_twin_here() {
    for state in ["running", "paused"] {
        let host = host(Some(&sample()));
        host.write("state", state);
        run(&host, &["pbx"]).failed("already");
        assert!(!host.root.join("created").exists());
        run(&host, &["--check", "pbx"]).done("nothing stands in the way");
    }
    run(&host(None), &["pbx"]).failed("define it here first");
    for wrong in [&[][..], &["a", "b"], &["--start", "a"], &["-c"]] {
        run(&host(None), wrong).ended(2, "See: standby-domain --help");
    }
    run(&host(None), &["--help"]).done("exit codes: 0 done");
}
