//! The start-up scripts, each promise of their help on a make-believe machine.

mod cpu_isolation;
mod hugepages;
mod install;
mod machine;
mod nic;
mod pacemaker;
mod standby_domain;
mod vif_tidegate;

use machine::{script, scripts};

const ALL: [&str; 4] = ["hugepages", "nic", "cpu-isolation", "install"];

#[test]
fn help_teaches_by_example_and_names_the_exit_codes() {
    for name in ALL {
        for flag in ["--help", "-h"] {
            let help = script(name, &[flag]).done("exit codes: 0 done");
            let examples = help.out.lines().filter(|line| line.contains(&format!("{name} "))).count();
            assert!(help.err.is_empty() && examples >= 4, "{help:?}");
        }
        script(name, &["--no-such-option"]).ended(2, &format!("See: {name} --help"));
    }
}

#[test]
fn shellcheck_finds_nothing() {
    let files = ALL.map(|name| scripts().join(name));
    let vm = ["nic-image", "nic-steps", "unit-steps"].map(|name| scripts().join("../tests/vm").join(name));
    let others =
        ["libvirt/standby-domain", "pacemaker/tidegate", "vif-tidegate"].map(|name| scripts().join(name));
    let output = std::process::Command::new("shellcheck")
        .args(files)
        .args(vm)
        .args(others)
        .output()
        .expect("shellcheck");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_key_of_the_sample_configuration_is_explained() {
    let sample = std::fs::read_to_string(scripts().join("tidegate.toml")).unwrap();
    let mut explained = false;
    for line in sample.lines() {
        let key = line.trim_start_matches('#').split_once(" = ").map(|(key, _)| key);
        let is_key = !line.starts_with("# ")
            && key.is_some_and(|key| key.chars().all(|c| c.is_alphanumeric() || c == '_'));
        assert!(!is_key || explained, "no comment above: {line}");
        explained = line.starts_with("# ");
    }
}
