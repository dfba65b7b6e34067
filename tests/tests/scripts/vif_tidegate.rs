//! `scripts/vif-tidegate`: a NIC of a domain comes to its place and leaves it, with a veth that plays the vif.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tidegate_tests::capture::{Capture, Kind};
use tidegate_tests::ensure;
use tidegate_tests::failure::Result;
use tidegate_tests::namespace::Namespace;
use tidegate_tests::scratch::Scratch;

use crate::machine::scripts;

const PLACE: &str = "tg-try0";

/// A Dom0 with a domain's vif, the domain on the other end, and a make-believe xenstore.
struct Dom0 {
    dom0: Namespace,
    domain: Namespace,
    scratch: Scratch,
}

impl Dom0 {
    fn new() -> Result<Dom0> {
        let (dom0, domain) = (Namespace::bare()?, Namespace::bare()?);
        dom0.run(&format!("ip link add vif9.0 type veth peer name eth0 netns {}", domain.name()))?;
        domain.run("ip link set eth0 up")?;
        domain.run("ip address add 10.9.0.2/24 dev eth0")?;
        dom0.run("ip address add 10.9.0.1/32 dev lo")?;
        dom0.run("ip link set vif9.0 up")?;
        dom0.run("ip route add 10.9.0.2 dev vif9.0")?;
        let scratch = Scratch::new()?;
        let path = scratch.path().display();
        tool(&scratch.file("xenstore-read"), &format!("cat {path}/place"));
        tool(&scratch.file("xenstore-write"), &format!("echo \"$@\" >>{path}/written"));
        fs::write(scratch.file("place"), PLACE).expect("written");
        Ok(Dom0 { dom0, domain, scratch })
    }

    /// As xl calls it.
    fn call(&self, vif: &str, what: &str) -> Result<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        self.dom0.run(&format!(
            "env PATH={path}:{} vif={vif} XENBUS_PATH=backend/vif/9/0 {} {what}",
            self.scratch.path().display(),
            scripts().join("vif-tidegate").display()
        ))
    }

    /// What xenstore was told.
    fn told(&self) -> String {
        fs::read_to_string(self.scratch.file("written")).unwrap_or_default()
    }

    /// True when Dom0's kernel answers the domain.
    fn kernel_hears(&self) -> bool {
        let _ = self.domain.run("ip neighbour flush all");
        self.domain.run("ping -c 1 -W 1 10.9.0.1").is_ok()
    }
}

fn tool(path: &Path, line: &str) {
    fs::write(path, format!("#!/bin/sh\n{line}\n")).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("executable");
}

#[test]
fn a_vif_comes_to_its_place_and_the_kernel_hears_nothing_of_it_any_more() -> Result<()> {
    let host = Dom0::new()?;
    ensure!(host.kernel_hears(), "before, it is a NIC like any other");
    host.call("vif9.0", "online")?;
    ensure!(host.told().contains("hotplug-status connected"), "xl waits for it: {:?}", host.told());
    let capture = Capture::start_on(PLACE, "-Q in", &host.dom0, &host.scratch, "place")?;
    ensure!(!host.kernel_hears(), "a held frame would be answered");
    let frames = capture.finish()?;
    ensure!(frames.iter().any(|frame| frame.kind == Kind::Arp), "the place hears it: {frames:?}");
    let shown = host.call("vif9.0", "show")?;
    ensure!(shown.contains("tg-try0 vif9.0"), "{shown}");
    host.call("vif9.0", "offline")?;
    let shown = host.call("vif9.0", "show")?;
    ensure!(shown.contains("tg-try0 -"), "the place stays for the next: {shown}");
    host.scratch.passed();
    Ok(())
}

#[test]
fn the_next_vif_takes_the_place_and_a_second_one_beside_it_does_not() -> Result<()> {
    let host = Dom0::new()?;
    host.call("vif9.0", "online")?;
    host.dom0.run("ip link add vif10.0 type veth peer name other")?;
    let refused = host.call("vif10.0", "online").expect_err("one vif a place").to_string();
    ensure!(refused.contains("vif9.0") && host.told().contains("hotplug-error"), "{refused}");
    // The domain is gone without a word: its vif vanishes, the place does not.
    host.dom0.run("ip link delete vif9.0")?;
    host.call("vif10.0", "online")?;
    let shown = host.call("vif10.0", "show")?;
    ensure!(shown.contains("tg-try0 vif10.0"), "{shown}");
    // What xl tells of the first one comes late.
    host.call("vif9.0", "offline")?;
    let shown = host.call("vif10.0", "show")?;
    ensure!(shown.contains("tg-try0 vif10.0"), "the late word is about another: {shown}");
    fs::write(host.scratch.file("place"), "xenbr0").expect("written");
    let refused = host.call("vif10.0", "online").expect_err("a bridge is no place").to_string();
    ensure!(refused.contains("must begin with tg-"), "{refused}");
    host.scratch.passed();
    Ok(())
}
