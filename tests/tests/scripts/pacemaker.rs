//! The resource agent in `scripts/pacemaker`, with Debian's shell functions for agents; `tidegate`, `systemctl` and the
//! cluster's `crm_attribute` are stand-ins that write down what they are told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::machine::{Machine, Outcome, scripts};

const SUCCESS: i32 = 0;
const GENERIC: i32 = 1;
const UNIMPLEMENTED: i32 = 3;
const INSTALLED: i32 = 5;
const CONFIGURED: i32 = 6;
const NOT_RUNNING: i32 = 7;
const RUNNING_PROMOTED: i32 = 8;
const FAILED_PROMOTED: i32 = 9;

const PRIMARY: &str = r#"{"guest":"pbx","role":"primary"}"#;
const HOLDING: &str = r#"{"guest":"pbx","image":"holding","role":"standby"}"#;
const APPLYING: &str = r#"{"guest":"pbx","image":"applying","role":"standby"}"#;
const EMPTY: &str = r#"{"guest":"pbx","image":"empty","role":"standby"}"#;
const TORN: &str = r#"{"guest":"pbx","image":"torn","role":"standby"}"#;
const PROMOTED: &str = r#"{"guest":"pbx","image":"loaded","role":"promoted"}"#;

const ENDED: &str = r#"{"guest":"pbx","image":"loaded","role":"ended"}"#;

const TIDEGATE: &str = r#"echo "tidegate $*" >>"$STAGE/log"
case $1 in
    replication) cat "$3" ;;
    failover)
        [ ! -e "$STAGE/refuses" ] || exit 1
        echo '{"image":"loaded","role":"promoted"}' >"$STAGE/standby" ;;
esac"#;
const SYSTEMCTL: &str = r#"echo "systemctl $*" >>"$STAGE/log"
[ ! -e "$STAGE/fails" ] || exit 1
verb=$1
shift
for unit; do
    case "$verb $unit" in
        "start tidegate-primary@pbx") echo '{"role":"primary"}' >"$STAGE/primary" ;;
        "start tidegate-standby@pbx") echo '{"image":"empty","role":"standby"}' >"$STAGE/standby" ;;
        "stop tidegate-primary@pbx") rm -f "$STAGE/primary" ;;
        "stop tidegate-standby@pbx") rm -f "$STAGE/standby" ;;
    esac
done"#;
const CRM_ATTRIBUTE: &str = r#"echo "crm_attribute $*" >>"$STAGE/log""#;

/// A node of a cluster.
struct Node {
    machine: Machine,
}

impl Node {
    fn new() -> Node {
        let machine = Machine::bare();
        machine.write("log", "");
        for (name, body) in
            [("tidegate", TIDEGATE), ("systemctl", SYSTEMCTL), ("crm_attribute", CRM_ATTRIBUTE)]
        {
            let file = format!("bin/{name}");
            machine.write(&file, &format!("#!/bin/sh\n{body}\n"));
            fs::set_permissions(machine.root.join(file), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Node { machine }
    }

    /// Whose processes run, by what they say of themselves.
    fn with(self, desk: &str, status: &str) -> Node {
        self.machine.write(desk, status);
        self
    }

    fn command(&self, action: &str) -> Command {
        let root = self.machine.root.display();
        let mut command = Command::new("timeout");
        command
            .arg("20")
            .arg(scripts().join("pacemaker/tidegate"))
            .arg(action)
            .env("PATH", format!("{root}/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("STAGE", &self.machine.root)
            .env("OCF_ROOT", "/usr/lib/ocf")
            .env("OCF_RESOURCE_INSTANCE", "pbx")
            // Of Debian 12's Pacemaker.
            .env("OCF_RESKEY_crm_feature_set", "3.16.2")
            .env("HA_SBIN_DIR", format!("{root}/bin"))
            .env("OCF_RESKEY_guest", "pbx")
            .env("OCF_RESKEY_primary_desk", format!("{root}/primary"))
            .env("OCF_RESKEY_standby_desk", format!("{root}/standby"));
        command
    }

    #[track_caller]
    fn act(&self, action: &str) -> Outcome {
        ended(&mut self.command(action))
    }

    /// What the stand-ins were told, without the questions.
    fn told(&self) -> Vec<String> {
        let log = self.machine.read("log");
        log.lines().filter(|line| !line.starts_with("tidegate replication")).map(str::to_owned).collect()
    }
}

#[track_caller]
fn ended(command: &mut Command) -> Outcome {
    let output = command.output().expect("timeout, of coreutils");
    Outcome {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn the_meta_data_are_what_the_resource_agent_api_says() {
    let node = Node::new();
    // Asked by the cluster before anything is configured.
    let said = ended(node.command("meta-data").env_remove("OCF_RESKEY_guest")).ended(SUCCESS, "<actions>");
    node.machine.write("meta-data.xml", &said.out);
    let file = node.machine.root.join("meta-data.xml");
    let api = "/usr/share/resource-agents/ra-api-1.dtd";
    let valid = Command::new("xmllint").args(["--noout", "--dtdvalid", api]).arg(file).output();
    let valid = valid.expect("xmllint, of libxml2-utils");
    assert!(valid.status.success(), "{}", String::from_utf8_lossy(&valid.stderr));
    for (action, role) in
        [("promote", ""), ("demote", ""), ("monitor", "Promoted"), ("monitor", "Unpromoted")]
    {
        let named = said.out.lines().any(|line| {
            line.contains(&format!("<action name=\"{action}\""))
                && (role.is_empty() || line.contains(&format!("role=\"{role}\"")))
        });
        assert!(named, "{action} {role}");
    }
}

#[test]
fn each_role_is_told_with_the_wish_to_be_promoted() {
    for (desk, status, code, wish) in [
        ("nobody", "", NOT_RUNNING, None),
        ("primary", PRIMARY, RUNNING_PROMOTED, Some("crm_attribute -p -v 100")),
        ("standby", PROMOTED, RUNNING_PROMOTED, Some("crm_attribute -p -v 100")),
        // Its QEMU has ended since: the cluster recovers it.
        ("standby", ENDED, FAILED_PROMOTED, Some("crm_attribute -p -D")),
        ("standby", HOLDING, SUCCESS, Some("crm_attribute -p -v 50")),
        // The last checkpoint is there while the next is applied.
        ("standby", APPLYING, SUCCESS, Some("crm_attribute -p -v 50")),
        ("standby", EMPTY, SUCCESS, Some("crm_attribute -p -D")),
        ("standby", TORN, SUCCESS, Some("crm_attribute -p -D")),
    ] {
        let node = Node::new().with(desk, status);
        node.act("monitor").ended(code, "");
        assert_eq!(node.told(), wish.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{status}");
    }
}

#[test]
fn a_node_that_holds_a_checkpoint_takes_over_and_says_that_the_other_is_off() {
    for status in [HOLDING, APPLYING] {
        let node = Node::new().with("standby", status);
        node.act("promote").ended(SUCCESS, "");
        let desk = node.machine.root.join("standby");
        let order = format!("tidegate failover --primary-is-off --desk {}", desk.display());
        assert_eq!(node.told(), [order], "the VM must not boot anew");
        node.act("monitor").ended(RUNNING_PROMOTED, "");
        // Twice is the same as once.
        let told = node.told().len();
        node.act("promote").ended(SUCCESS, "");
        assert_eq!(node.told().len(), told);
    }
    let node = Node::new().with("standby", HOLDING).with("refuses", "");
    node.act("promote").ended(GENERIC, "journalctl -u tidegate-standby@pbx");
    // A VM was protected here: a fresh one in its place would be somebody else.
    let node = Node::new().with("standby", TORN);
    node.act("promote").ended(GENERIC, "half a checkpoint");
    assert_eq!(node.told(), [""; 0]);
}

#[test]
fn the_first_promotion_boots_the_vm_where_nobody_has_a_checkpoint() {
    let node = Node::new();
    node.act("start").ended(SUCCESS, "");
    node.act("monitor").ended(SUCCESS, "");
    node.act("promote").ended(SUCCESS, "");
    node.act("monitor").ended(RUNNING_PROMOTED, "");
    let told = node.told();
    let order: Vec<&str> =
        told.iter().map(String::as_str).filter(|line| line.starts_with("systemctl")).collect();
    let units = ["start tidegate-standby@pbx", "stop tidegate-standby@pbx", "start tidegate-primary@pbx"];
    assert_eq!(order, units.map(|unit| format!("systemctl {unit}")));
}

#[test]
fn a_demoted_node_becomes_a_standby_and_a_stopped_one_nothing() {
    for (desk, status) in [("primary", PRIMARY), ("standby", PROMOTED), ("standby", ENDED)] {
        let node = Node::new().with(desk, status);
        node.act("demote").ended(SUCCESS, "");
        node.act("monitor").ended(SUCCESS, "");
        node.act("start").ended(SUCCESS, "");
        node.act("stop").ended(SUCCESS, "");
        node.act("monitor").ended(NOT_RUNNING, "");
        node.act("stop").ended(SUCCESS, "");
    }
    let node = Node::new().with("fails", "");
    node.act("start").ended(GENERIC, "journalctl -u tidegate-standby@pbx");
    node.act("stop").ended(GENERIC, "");
}

#[test]
fn what_is_missing_is_told_from_what_failed() {
    let node = Node::new();
    ended(node.command("monitor").env_remove("OCF_RESKEY_guest")).ended(CONFIGURED, "guest is not set");
    ended(node.command("monitor").env("OCF_RESKEY_tidegate", "no-such-program")).ended(INSTALLED, "");
    node.act("migrate_to").ended(UNIMPLEMENTED, "");
    node.act("validate-all").ended(SUCCESS, "");
}
