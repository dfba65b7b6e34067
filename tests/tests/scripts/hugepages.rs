//! `scripts/hugepages` on make-believe machines; on a real kernel with two nodes it runs in the VM of `vfio_vm`.

use crate::machine::Machine;

const NODE0: &str = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
const NODE1: &str = "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";
const WHOLE: &str = "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const GIANT: &str = "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";
const STATE: &str = "run/tidegate/hugepages.state";

#[test]
fn reserve_writes_to_the_node_that_was_named_and_undo_restores_it() {
    let machine = Machine::bare().with_pools(2);
    machine.write(NODE1, "3\n");
    machine.run("hugepages", &["reserve", "--count", "64", "--node", "1"]).done("3 -> 64");
    assert_eq!(
        (machine.read(NODE0), machine.read(NODE1), machine.read(WHOLE)),
        ("0".into(), "64".into(), "0".into())
    );
    machine.run("hugepages", &["undo"]).done("64 -> 3");
    assert_eq!((machine.read(NODE0), machine.read(NODE1)), ("0".into(), "3".into()));
    assert!(!machine.root.join(STATE).exists());
    machine.run("hugepages", &["undo"]).done("nothing to undo");
}

#[test]
fn twice_is_the_same_as_once_and_a_pool_never_shrinks() {
    let machine = Machine::bare().with_pools(1);
    machine.run("hugepages", &["reserve", "--mb", "256"]).done("0 -> 128");
    let once = machine.snapshot();
    machine.run("hugepages", &["reserve", "--mb", "256"]).done("nothing to do");
    machine.run("hugepages", &["reserve", "--mb", "2"]).done("nothing to do");
    assert_eq!(machine.snapshot(), once);
    // Growing in two steps: undo goes back to the start, not to the first step.
    machine.run("hugepages", &["reserve", "--count", "200"]).done("128 -> 200");
    machine.run("hugepages", &["undo"]).done("200 -> 0");
}

#[test]
fn pages_that_others_add_meanwhile_stay_theirs() {
    let machine = Machine::bare().with_pools(1);
    machine.run("hugepages", &["reserve", "--count", "100"]).done("");
    machine.write(WHOLE, "130\n");
    machine.run("hugepages", &["reserve", "--count", "150"]).done("130 -> 150");
    machine.write(WHOLE, "160\n");
    machine.run("hugepages", &["undo"]).done("160 -> 40");
}

#[test]
fn all_nodes_and_both_sizes_are_undone_together() {
    let machine = Machine::bare().with_pools(2);
    machine.run("hugepages", &["reserve", "--count", "5", "--all-nodes"]).done("");
    machine.run("hugepages", &["reserve", "--size", "1G", "--mb", "1025"]).done("0 -> 2");
    assert_eq!(
        (machine.read(NODE0), machine.read(NODE1), machine.read(GIANT)),
        ("5".into(), "5".into(), "2".into())
    );
    machine.run("hugepages", &["undo"]).done("");
    assert_eq!(
        (machine.read(NODE0), machine.read(NODE1), machine.read(GIANT)),
        ("0".into(), "0".into(), "0".into())
    );
}

#[test]
fn a_machine_without_numa_nodes_has_one_nameless_node() {
    for node in [&["--node", "0"][..], &["--all-nodes"], &[]] {
        let machine = Machine::bare().with_pools(0);
        machine
            .run("hugepages", &[&["reserve", "--count", "7"], node].concat())
            .done("on this machine: 0 -> 7");
        assert_eq!(machine.read(WHOLE), "7");
    }
    let machine = Machine::bare().with_pools(0);
    machine.run("hugepages", &["reserve", "--count", "7", "--node", "1"]).failed("Leave --node out");
}

#[test]
fn a_kernel_without_the_sysfs_directory_has_the_old_file() {
    let machine = Machine::bare();
    machine.write("proc/sys/vm/nr_hugepages", "1\n");
    machine.run("hugepages", &["reserve", "--count", "9"]).done("1 -> 9");
    assert_eq!(machine.read("proc/sys/vm/nr_hugepages"), "9");
    assert_eq!(machine.run("hugepages", &["status", "--json"]).json()["pools"][0]["size_kb"], 2048);
    machine.run("hugepages", &["undo"]).done("9 -> 1");
    machine.run("hugepages", &["reserve", "--size", "1G", "--count", "1"]).failed("no pages of 1G");
}

#[test]
fn a_dry_run_prints_what_is_then_written_and_writes_nothing() {
    let machine = Machine::bare().with_pools(2);
    let before = machine.snapshot();
    let args = ["reserve", "--mb", "33", "--all-nodes"];
    let root = machine.root.to_str().unwrap().to_owned();
    let said = machine.run("hugepages", &[&args[..], &["--dry-run"]].concat()).done("").out;
    assert_eq!(said, format!("echo 17 > {root}/{NODE0}\necho 17 > {root}/{NODE1}\n"));
    assert_eq!(machine.snapshot(), before);
    machine.run("hugepages", &args).done("");
    let said = machine.run("hugepages", &["undo", "--dry-run"]).done("").out;
    assert_eq!(said, format!("echo 0 > {root}/{NODE1}\necho 0 > {root}/{NODE0}\n"));
    assert_eq!(machine.read(NODE0), "17");
}

#[test]
fn fewer_pages_than_asked_is_a_failure_with_the_kernel_command_line_that_helps() {
    let machine = Machine::bare().with_pools(1);
    std::fs::remove_file(machine.root.join(GIANT)).unwrap();
    // A kernel that takes the number and gives nothing.
    std::os::unix::fs::symlink("/dev/null", machine.root.join(GIANT)).unwrap();
    machine
        .run("hugepages", &["reserve", "--size", "1G", "--count", "4"])
        .failed("hugepagesz=1G hugepages=4")
        .failed("the kernel gave 0");
}

#[test]
fn status_tells_pools_and_mounts() {
    let machine = Machine::bare().with_pools(2);
    machine.write(NODE1, "12\n");
    let mounts =
        "nodev /dev/hugepages hugetlbfs rw 0 0\nnodev /mnt/a\\040b hugetlbfs rw,pagesize=1024M 0 0\n";
    machine.write("proc/mounts", mounts);
    let status = machine.run("hugepages", &["status", "--json"]).json();
    let pools = status["pools"].as_array().unwrap();
    assert_eq!(pools.len(), 6);
    let node1 = pools.iter().find(|pool| pool["node"] == 1 && pool["size_kb"] == 2048).unwrap();
    assert_eq!((&node1["total"], &node1["free"]), (&12.into(), &0.into()));
    assert_eq!(status["mounts"][0], serde_json::json!({ "path": "/dev/hugepages", "size_kb": 2048 }));
    assert_eq!(status["mounts"][1], serde_json::json!({ "path": "/mnt/a b", "size_kb": 1048576 }));
    assert_eq!(status["undo"], false);
    machine.run("hugepages", &["status"]).done("mounted: /dev/hugepages (2M)");
}

#[test]
fn a_state_file_that_is_not_ours_is_not_guessed_at() {
    let machine = Machine::bare().with_pools(1);
    machine.write(STATE, "pool 2048 - 0 4 /nowhere\nrubbish\n");
    machine.run("hugepages", &["undo"]).failed("line 2");
}

#[test]
fn wrong_use_is_told_from_failure() {
    let machine = Machine::bare().with_pools(1);
    for args in [
        &[][..],
        &["reserve"],
        &["reserve", "--count", "0"],
        &["reserve", "--count", "-1"],
        &["reserve", "--count", "1", "--mb", "2"],
        &["reserve", "--size", "4K", "--count", "1"],
        &["reserve", "--count", "1", "--node", "0", "--all-nodes"],
        &["reserve", "--count", "1", "--json"],
        &["reserve", "--count", "99999999999999999999"],
        &["release"],
        &["status", "undo"],
    ] {
        machine.run("hugepages", args).ended(2, "See: hugepages --help");
    }
    machine.run("hugepages", &["reserve", "--count", "1", "--node", "4"]).failed("This machine has: 0");
    machine.run("hugepages", &["reserve", "--count", "08"]).done("0 -> 8");
}
