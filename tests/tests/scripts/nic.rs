//! `scripts/nic` on make-believe machines: what it refuses, and what it would write. On a real kernel with an IOMMU it
//! runs in the VM of `vfio_vm`.

use crate::machine::Machine;

const CARD: &str = "0000:03:00.0";

fn machine() -> Machine {
    Machine::bare()
        .with_device(CARD, "0x020000", "e1000e", Some(7), "eth1")
        .with_device("0000:04:00.0", "0x020000", "ixgbe", Some(8), "eth2")
        .with_device("0000:04:00.1", "0x020000", "ixgbe", Some(8), "eth3")
        .with_device("0000:00:1c.0", "0x060400", "pcieport", Some(8), "")
        .with_device("0000:00:1f.2", "0x010601", "ahci", Some(9), "")
        .with_device("0000:05:00.0", "0x020000", "vfio-pci", Some(10), "")
}

#[test]
fn a_dry_run_prints_the_writes_in_their_order() {
    let machine = machine();
    let before = machine.snapshot();
    let root = machine.root.to_str().unwrap().to_owned();
    let device = format!("{root}/sys/bus/pci/devices/{CARD}");
    for name in [CARD, "03:00.0", "eth1"] {
        let said = machine.run("nic", &["bind", name, "--dry-run"]).done("").out;
        assert_eq!(
            said,
            format!(
                "echo 'vfio-pci' > {device}/driver_override\necho '{CARD}' > {device}/driver/unbind\n\
                 echo '{CARD}' > {root}/sys/bus/pci/drivers_probe\n"
            )
        );
    }
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn a_card_that_is_bound_already_is_done() {
    machine().run("nic", &["bind", "05:00.0", "--dry-run"]).done("bound to vfio-pci already");
    machine().run("nic", &["unbind", CARD, "--dry-run"]).done("with its kernel driver already (e1000e)");
}

#[test]
fn a_whole_iommu_group_goes_or_none_of_it() {
    let machine = machine();
    machine.run("nic", &["bind", "eth2", "--dry-run"]).failed("nic bind 0000:04:00.0 0000:04:00.1");
    let said = machine.run("nic", &["bind", "eth2", "eth3", "--dry-run"]).done("").out;
    assert_eq!(said.matches("drivers_probe").count(), 2, "{said}");
    // A neighbour without a driver stands in nobody's way; nor does the bridge above both.
    std::fs::remove_file(machine.root.join("sys/devices/pci0000:00/0000:04:00.1/driver")).unwrap();
    machine.run("nic", &["bind", "eth2", "--dry-run"]).done("drivers_probe");
}

#[test]
fn what_must_not_be_bound_is_refused_with_a_way_out() {
    let machine = machine().with_device("0000:06:00.0", "0x020000", "e1000e", None, "eth4");
    machine.write("sys/class/net/veth0/ifindex", "9\n");
    for (name, what) in [
        ("77:00.0", "there is no PCI device 0000:77:00.0"),
        ("77:00.0", "The cards of this machine: 0000:03:00.0"),
        ("eth9", "neither a PCI address"),
        ("../../etc", "neither a PCI address"),
        ("0000:00:1f.2", "no network card (class 0x010601)"),
        ("veth0", "net_af_packet0,iface=veth0"),
        ("eth4", "intel_iommu=on"),
        ("eth4", "--no-iommu"),
    ] {
        machine.run("nic", &["bind", name, "--dry-run"]).failed(what);
    }
    machine.link("sys/class/net/eth1/master", "sys/devices/virtual/net/br0");
    machine.run("nic", &["bind", "eth1", "--dry-run"]).failed("is part of br0");
    machine.run("nic", &["bind", "eth1", "--dry-run", "--force"]).done("vfio-pci");
}

#[test]
fn without_an_iommu_only_by_its_name() {
    let machine = Machine::bare().with_device("0000:06:00.0", "0x020000", "e1000e", None, "eth4");
    machine.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
    let said = machine.run("nic", &["bind", "eth4", "--no-iommu", "--dry-run"]).done("all memory").out;
    let order: Vec<_> = said.lines().map(|line| line.rsplit('/').next().unwrap()).collect();
    assert_eq!(
        order,
        ["modprobe vfio-pci", "enable_unsafe_noiommu_mode", "driver_override", "unbind", "drivers_probe"]
    );
    // A driver that uses no IOMMU at all asks for none.
    machine.run("nic", &["bind", "eth4", "--driver", "uio_pci_generic", "--dry-run"]).done("uio_pci_generic");
}

#[test]
fn a_card_goes_back_to_the_driver_that_it_came_from() {
    let machine = machine();
    machine.write("run/tidegate/nic.state", "device 0000:05:00.0 ixgbe eth5\n");
    let root = machine.root.to_str().unwrap().to_owned();
    let device = format!("{root}/sys/bus/pci/devices/0000:05:00.0");
    let back = format!(
        "echo '' > {device}/driver_override\necho '0000:05:00.0' > {device}/driver/unbind\n\
         echo '0000:05:00.0' > {root}/sys/bus/pci/drivers_probe\n"
    );
    assert_eq!(machine.run("nic", &["unbind", "05:00.0", "--dry-run"]).done("").out, back);
    assert_eq!(machine.run("nic", &["undo", "--dry-run"]).done("").out, back);
}

#[test]
fn status_shows_cards_groups_and_who_shares_them() {
    let machine = machine().with_device("0000:07:00.0", "0x020000", "virtio-pci", None, "eth7");
    let status = machine.run("nic", &["status", "--json"]).json();
    let devices = status["devices"].as_array().unwrap();
    let by_pci = |pci: &str| devices.iter().find(|device| device["pci"] == pci);
    assert_eq!(devices.len(), 5);
    assert!(by_pci("0000:00:1f.2").is_none());
    let card = by_pci("0000:04:00.0").unwrap();
    assert_eq!((&card["driver"], &card["iommu_group"]), (&"ixgbe".into(), &8.into()));
    assert_eq!(card["group_members"], serde_json::json!(["0000:04:00.1"]));
    assert_eq!(by_pci("0000:07:00.0").unwrap()["interfaces"], serde_json::json!(["eth7"]));
    assert_eq!(by_pci("0000:05:00.0").unwrap()["interfaces"], serde_json::json!([]));
    machine.run("nic", &["status"]).done("group shared with 0000:04:00.1");
    Machine::bare().run("nic", &["status"]).done("no PCI network card here");
}

#[test]
fn nothing_is_written_to_a_make_believe_machine() {
    machine().run("nic", &["bind", CARD]).failed("--root is for status and --dry-run");
}

#[test]
fn wrong_use_is_told_from_failure() {
    for args in [
        &[][..],
        &["bind"],
        &["unbind"],
        &["undo", CARD],
        &["bind", CARD, "--json"],
        &["take", CARD],
        &["--fast"],
    ] {
        machine().run("nic", args).ended(2, "See: nic --help");
    }
}
