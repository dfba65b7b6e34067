//! `scripts/install`, the unit and the sample configuration that it installs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::machine::{Machine, Outcome, script, scripts};

const BINARY: &str = "usr/local/bin/tidegate";
const CONFIG: &str = "etc/tidegate/tidegate.toml";
const UNIT: &str = "usr/local/lib/systemd/system/tidegate.service";

/// What a build leaves behind.
fn build(stage: &Machine) -> PathBuf {
    let built = stage.root.join("built");
    fs::create_dir_all(&built).unwrap();
    for program in ["tidegate", "tidegate-plane", "tidegate-replica"] {
        fs::copy("/bin/true", built.join(program)).unwrap();
    }
    built.join("tidegate")
}

fn install(stage: &Machine, args: &[&str]) -> Outcome {
    let binary = build(stage);
    let destdir = ["--destdir", stage.root.to_str().unwrap(), "--binary", binary.to_str().unwrap()];
    script("install", &[&destdir, args].concat())
}

#[test]
fn what_is_installed_can_be_removed_without_a_trace() {
    let stage = Machine::bare();
    build(&stage);
    let before = stage.snapshot();
    install(&stage, &["--dry-run"]).done("install");
    assert_eq!(stage.snapshot(), before, "a dry run writes nothing");
    install(&stage, &[]).done("tidegate doctor");
    for program in [BINARY, "usr/local/lib/tidegate/nic", "usr/local/lib/tidegate/hugepages"] {
        assert_eq!(fs::metadata(stage.root.join(program)).unwrap().permissions().mode() & 0o777, 0o755);
    }
    install(&stage, &["--uninstall", "--dry-run"]).done("remove");
    assert!(stage.root.join(BINARY).exists());
    install(&stage, &["--uninstall"]).done("remove");
    assert_eq!(stage.snapshot(), before);
    install(&stage, &["--uninstall"]).failed("nothing is installed");
}

#[test]
fn a_dom0_gets_the_hotplug_script_where_xl_looks_for_it_and_no_other_host() {
    const SCRIPT: &str = "etc/xen/scripts/vif-tidegate";
    let stage = Machine::bare();
    install(&stage, &[]).done("");
    assert!(!stage.root.join(SCRIPT).exists());
    fs::create_dir_all(stage.root.join("etc/xen/scripts")).unwrap();
    install(&stage, &[]).done("vif-tidegate");
    assert_eq!(fs::metadata(stage.root.join(SCRIPT)).unwrap().permissions().mode() & 0o777, 0o755);
    install(&stage, &["--uninstall"]).done("remove");
    assert!(!stage.root.join(SCRIPT).exists());
}

#[test]
fn twice_is_the_same_as_once() {
    let stage = Machine::bare();
    install(&stage, &[]).done("");
    let once = stage.snapshot();
    let again = install(&stage, &[]).done("unchanged");
    assert!(!again.out.contains("install "), "{again:?}");
    assert_eq!(stage.snapshot(), once);
}

#[test]
fn a_configuration_that_was_edited_is_neither_overwritten_nor_removed() {
    let stage = Machine::bare();
    install(&stage, &[]).done("");
    stage.write(CONFIG, "mine\n");
    install(&stage, &[]).done("keep");
    assert_eq!(stage.read(CONFIG), "mine");
    install(&stage, &["--uninstall"]).done("(edited)");
    assert_eq!(stage.read(CONFIG), "mine");
}

#[test]
fn an_update_removes_what_the_new_version_no_longer_has() {
    let stage = Machine::bare();
    install(&stage, &[]).done("");
    let old = stage.root.join("usr/local/lib/tidegate/old");
    fs::write(&old, "").unwrap();
    let manifest = "usr/local/share/tidegate/installed";
    stage.write(manifest, &format!("{}\n{}\n", stage.read(manifest), old.display()));
    install(&stage, &[]).done("remove");
    assert!(!old.exists());
    assert!(stage.root.join(BINARY).exists());
}

#[test]
fn the_unit_names_the_prefix_and_wrong_ones_are_refused() {
    let stage = Machine::bare();
    install(&stage, &["--prefix", "/opt/tide"]).done("");
    let unit = stage.read("etc/systemd/system/tidegate.service");
    assert!(unit.contains("ExecStart=/opt/tide/bin/tidegate run") && !unit.contains("/usr/local"), "{unit}");
    install(&stage, &["--prefix", "opt"]).ended(2, "an absolute path");
    install(&stage, &["--prefix", "/a b|c"]).ended(2, "letters");
    script("install", &["--binary", "/nowhere", "--dry-run"]).failed("cargo build --release");
}

/// `key=value` of the unit, in order.
fn settings() -> Vec<(String, String)> {
    let unit = fs::read_to_string(scripts().join("tidegate.service")).unwrap();
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    // systemd comes with the target, not with each machine that builds.
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    let stage = Machine::bare();
    install(&stage, &[]).done("");
    let root = stage.root.to_str().unwrap();
    let unit = stage.read(UNIT).replace("/usr/local/", &format!("{root}/usr/local/"));
    stage.write("tidegate.service", &unit);
    let file = format!("{root}/tidegate.service");
    let verify = Command::new("systemd-analyze").args(["verify", &file]).output().unwrap();
    let said = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success() && !said.contains("tidegate"), "{said}");
    // 10 is no isolation at all; 3 is as low as cards, sockets and packets allow.
    let offline = ["security", "--offline=true", "--threshold=30", &file];
    let exposure = Command::new("systemd-analyze").args(offline).output().unwrap();
    assert!(exposure.status.success(), "{}", String::from_utf8_lossy(&exposure.stdout));
}

#[test]
fn the_unit_and_the_sample_configuration_agree() {
    let sample = fs::read_to_string(scripts().join("tidegate.toml")).unwrap();
    let number = |key: &str| {
        let line = sample.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='));
        line.unwrap().trim().trim_matches(['[', ']', '"']).to_owned()
    };
    let settings = settings();
    let of = |key: &str| settings.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default();
    assert_eq!(of("CPUAffinity"), format!("{} {}", number("control_cpus"), number("lcores")));
    assert!(of("ExecStartPre").ends_with(&format!("--mb {} --all-nodes", number("memory_mb"))));
    assert_eq!(number("socket"), format!("/run/{}/tidegate.sock", of("RuntimeDirectory")));
    assert_eq!(of("RuntimeDirectoryMode"), "0700");
    // What stops it is what it handles, and what keeps held frames from leaving is that nothing else does.
    assert_eq!((of("KillSignal"), of("Restart")), ("SIGTERM".into(), "on-failure".into()));
    assert_eq!((of("LimitMEMLOCK"), of("Type")), ("infinity".into(), "notify".into()));
}
