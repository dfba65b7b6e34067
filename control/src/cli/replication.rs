//! The command lines of replication. The programs behind them are in `tidegate-replica`, which `tidegate` becomes: so
//! the client that people type with links neither TLS nor anything that maps a guest's memory.

use super::link::{GrantArgs, LinkArgs, address};
use super::{FAILED, Interval, say_error};
use crate::config::DEFAULT_SOCKET;
use crate::quantity::span;
use clap::{Args, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The program behind these commands.
const REPLICA: &str = "tidegate-replica";

/// See the module's head.
#[derive(Clone, Debug, Subcommand)]
pub enum ReplicationCommand {
    /// Replicate a running VM of this host to a standby: pause, close, save, resume; commit when the standby has it
    #[command(after_help = "Examples:
  tidegate replicate --qmp /run/pbx.qmp --to 10.7.0.2:7411 --certs /etc/tidegate/certs --peer host-b
  tidegate replicate --guest pbx --qmp /run/pbx.qmp --to 127.0.0.1:7411 --interval 50ms --json
  tidegate replicate --qmp /run/pbx.qmp --to 127.0.0.1:7411 --interval auto --floor 25ms --ceiling 400ms

--interval auto measures, smooths and decides after each checkpoint, between --floor and --ceiling: sqrt(2 * pause * 1 s)
costs a guest least that stands still in each pause and whose output waits for the next (250 ms instead of 1 s while calls
are set up). Shorter so that SIP's answers leave within 250 ms and the hold queue stays half empty; longer so that the
guest stands still for 10 % of its time at most, 5 % while it speaks, and that a slow link keeps up. tidegate replication
shows the interval and what decided about it; --json tells each change as an event `interval`.

The VM's RAM must be a shared file: -object memory-backend-file,id=mem,size=4G,share=on,mem-path=/dev/shm/pbx
-machine memory-backend=mem. Ends with SIGTERM or SIGINT: the standby is told that it cannot take over any more, and the
guest goes on unprotected as its on_backup_lost says. Ends too when the guest shuts down: nobody brings it back. Exit codes: 0 ended when asked, 1 failed, 2 wrong use.")]
    Replicate(Box<ReplicateArgs>),
    /// Be the standby of a VM: hold its newest checkpoint, and take over when its primary is dead
    #[command(after_help = "Example:
  tidegate standby --qmp /run/pbx-b.qmp --listen 10.7.0.2:7411 --certs /etc/tidegate/certs --peer host-a

QEMU waits beside it with the same devices and RAM size, its own RAM file, and -incoming defer; this host's plane serves
its vhost-user socket with mode = \"muted\". After a promotion the process stays, to tell the old primary that it is over.")]
    Standby(Box<StandbyArgs>),
    /// Relay what `xl remus` writes of a Xen domain to its backup host: close at each checkpoint's first byte, commit
    /// when the other side has it
    #[command(after_help = "Example, as root on the Dom0 where the domain runs:
  xl remus -F -n -i 200 -s '' pbx 'tidegate xen-send --to 10.7.0.2:7413 --certs /etc/tidegate/certs --peer host-b'

xl starts it and waits until the other side is ready. The domain must be PVH (Xen replicates no PV guest here, and an HVM
guest's device model is not followed). Exit codes: 0 ended when asked, 1 failed, 2 wrong use.")]
    XenSend(Box<XenSendArgs>),
    /// Protect a Xen domain: start `xl remus` with xen-send as its transport, watch both, and never leave the domain suspended
    #[command(after_help = "Examples, as root on the Dom0 where the domain runs:
  tidegate xen-remus pbx 10.7.0.2:7413 --interval 200ms --certs /etc/tidegate/certs --peer host-b
  tidegate xen-remus pbx --rescue          its xl was killed: let it run again if it is suspended

Ends with SIGTERM or SIGINT: the backup is told that it cannot take over any more, and the domain goes on unprotected. Exit
codes: 0 ended when asked, 1 failed, 2 wrong use.")]
    XenRemus(Box<XenRemusArgs>),
    /// Be the backup of a Xen domain: feed complete checkpoints to `xl migrate-receive`, and have it start the domain when
    /// its primary is dead
    #[command(after_help = "Example, as root on the backup's Dom0:
  tidegate xen-receive --listen 10.7.0.2:7413 --certs /etc/tidegate/certs --peer host-a

This host's plane has the guest with mode = \"muted\". After a promotion the process stays, to tell the old primary that
it is over. Exit codes: 0 ended when asked, 1 failed, 2 wrong use.")]
    XenReceive(Box<XenReceiveArgs>),
    /// Have the standby take over now: it waits until the primary's lease has ended, unless you say that it is fenced
    #[command(after_help = "Examples:
  tidegate failover
  tidegate failover --primary-is-off       only after its power was cut: nothing else makes this true")]
    Failover(FailoverArgs),
    /// How a replication stands, on either host
    #[command(after_help = "Examples:
  tidegate replication
  tidegate replication --desk /run/tidegate/standby.sock --json")]
    Replication(DeskArgs),
    /// Make the certificates that primary, standby and witness know each other by
    #[command(after_help = "Example:
  tidegate certs /etc/tidegate/certs host-a host-b witness
  scp /etc/tidegate/certs/{ca.pem,host-b.pem,host-b.key} host-b:/etc/tidegate/certs/
  tidegate certs /etc/tidegate/certs --renew-ca          then ca.pem to every node again")]
    Certs(CertsArgs),
    /// Hold the lease for both hosts, on a third one
    #[command(after_help = "Example:
  tidegate witness --listen 10.7.0.3:7412 --certs /etc/tidegate/certs --node witness")]
    Witness(WitnessArgs),
    /// Follow a VM that somebody else checkpoints (COLO, virsh): STOP closes, RESUME commits where you say that it may
    #[command(after_help = "Examples:
  tidegate observe --guest pbx --qmp /run/pbx.qmp                      closes only; somebody else commits
  tidegate observe --guest pbx --qmp /run/pbx.qmp --resume-commits     COLO: RESUME means that the secondary has it")]
    Observe(ObserveArgs),
}

/// How a guest's writable disks are kept in step with its checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disks {
    /// It has none.
    None,
    /// All are read-only.
    ReadOnly,
    /// Something else replicates them; --disk-hook is called at each close and commit.
    External,
}

/// The VM and its plane on this host.
#[derive(Clone, Debug, Args)]
pub struct VmArgs {
    /// The plane's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// The guest; may be left out where the plane has one only
    #[arg(long, short, value_name = "NAME")]
    pub guest: Option<String>,
    /// A monitor of the VM's QEMU (-qmp unix:PATH,server=on,wait=off), for this process alone
    #[arg(long, value_name = "PATH")]
    pub qmp: PathBuf,
    /// Become the guest's controller even if another process is
    #[arg(long)]
    pub takeover: bool,
    /// Every checkpoint and event as a line of JSON on the standard output
    #[arg(long)]
    pub json: bool,
}

/// See [`ReplicationCommand::Replicate`].
#[derive(Clone, Debug, Args)]
pub struct ReplicateArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub vm: VmArgs,
    /// The standby
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub to: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub link: LinkArgs,
    /// From one checkpoint to the next; `auto` follows what a checkpoint costs and what waits for it, see below
    #[arg(long, value_name = "TIME|auto", default_value = "100ms")]
    pub interval: Interval,
    /// The earliest next one, when output waits and asks for it
    #[arg(long, value_name = "TIME", default_value = "40ms", value_parser = span)]
    pub floor: Duration,
    /// The latest next one, while nothing waits
    #[arg(long, value_name = "TIME", default_value = "400ms", value_parser = span)]
    pub ceiling: Duration,
    /// Checkpoints that may be on their way at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub in_flight: u32,
    /// Send all of RAM with every checkpoint, through QEMU: for a VM whose RAM is in no shared file. The VM pauses for as
    /// long as that takes: --dead-after, and the standby's --term, must be longer
    #[arg(long)]
    pub full: bool,
    /// Compare all of RAM with what was sent, even where the kernel tells which pages changed (soft-dirty)
    #[arg(long)]
    pub compare_all: bool,
    /// Threads that compare RAM while the VM is paused [default: two where there are two CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub compare_threads: Option<u32>,
    /// How the guest's disks are kept in step
    #[arg(long, value_enum, default_value_t = Disks::None)]
    pub disks: Disks,
    /// Called as `PATH close EPOCH` inside the pause and `PATH commit EPOCH` after the acknowledgement. It has 2 s each time;
    /// the standby needs a hook too
    #[arg(long, value_name = "PATH", required_if_eq("disks", "external"))]
    pub disk_hook: Option<PathBuf>,
    /// This process's own socket: tidegate replication
    #[arg(long, value_name = "PATH", default_value = "/run/tidegate/replicate.sock")]
    pub desk: PathBuf,
}

/// See [`ReplicationCommand::Standby`].
#[derive(Clone, Debug, Args)]
pub struct StandbyArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub vm: VmArgs,
    /// Where the primary finds this standby
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub listen: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub link: LinkArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub grants: GrantArgs,
    /// After a promotion hold at once, for a backup of its own; otherwise the guest is open
    #[arg(long)]
    pub protected: bool,
    /// Called as `PATH promote EPOCH` before the VM is loaded: makes the disks those of that epoch's close. A primary with
    /// --disks external takes no standby without
    #[arg(long, value_name = "PATH")]
    pub disk_hook: Option<PathBuf>,
    /// All of RAM comes with every checkpoint: the primary says --full
    #[arg(long)]
    pub full: bool,
    /// Largest device state that is taken, MiB (with --full: besides RAM)
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub device_mib: u32,
    /// This process's own socket: tidegate replication, tidegate failover
    #[arg(long, value_name = "PATH", default_value = STANDBY_DESK)]
    pub desk: PathBuf,
}

/// See [`ReplicationCommand::XenSend`].
#[derive(Clone, Debug, Args)]
pub struct XenSendArgs {
    /// The backup host
    #[arg(long, value_name = "ADDR")]
    pub to: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub send: SendArgs,
}

/// What `xen-send` is told by whoever starts it, and `xen-remus` by a person.
#[derive(Clone, Debug, Args)]
pub struct SendArgs {
    /// The plane's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// The guest; may be left out where the plane has one only
    #[arg(long, short, value_name = "NAME")]
    pub guest: Option<String>,
    /// Become the guest's controller even if another process is
    #[arg(long)]
    pub takeover: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub link: LinkArgs,
    /// xl that writes nothing for so long is no sign of life any more: longer than its interval and a checkpoint
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    pub stalled_after: Duration,
    /// This process's own socket: tidegate replication
    #[arg(long, value_name = "PATH", default_value = "/run/tidegate/replicate.sock")]
    pub desk: PathBuf,
    /// Every checkpoint and event as a line of JSON on the standard error: the standard output is xl's
    #[arg(long)]
    pub json: bool,
}

impl SendArgs {
    /// The words that say the same.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut say = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        let time = |span: Duration| format!("{}us", span.as_micros());
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        say("--socket", path(&self.socket));
        say("--desk", path(&self.desk));
        say("--stalled-after", time(self.stalled_after));
        let link = &self.link;
        say("--beat", time(link.beat));
        say("--dead-after", time(link.dead_after));
        let decide = link.decide.to_possible_value();
        say("--decide", decide.map(|value| value.get_name().to_owned()).unwrap_or_default());
        say("--witness-name", link.witness_name.clone());
        let given = [
            ("--guest", self.guest.clone()),
            ("--certs", link.certs.as_ref().map(path)),
            ("--node", link.node.clone()),
            ("--peer", link.peer.clone()),
            ("--witness", link.witness.map(|at| at.to_string())),
        ];
        for (flag, value) in given {
            if let Some(value) = value {
                say(flag, value);
            }
        }
        let flags = [("--takeover", self.takeover), ("--json", self.json)];
        words.extend(flags.iter().filter(|(_, on)| *on).map(|(flag, _)| (*flag).to_owned()));
        words
    }
}

/// See [`ReplicationCommand::XenRemus`].
#[derive(Clone, Debug, Args)]
pub struct XenRemusArgs {
    /// The domain's name or number
    #[arg(value_name = "DOM")]
    pub domain: String,
    /// The backup host, where `tidegate xen-receive` listens
    #[arg(value_name = "BACKUP", required_unless_present = "rescue")]
    pub backup: Option<SocketAddr>,
    /// From the end of one checkpoint to the next
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = span)]
    pub interval: Duration,
    /// A domain that stands still for so long is let run, unprotected: longer than any checkpoint takes
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    pub suspended_at_most: Duration,
    /// Protect nothing: let the domain run again if it is suspended, and end. For after a crash, and for ExecStopPost
    #[arg(long)]
    pub rescue: bool,
    /// Xen's tool
    #[arg(long, value_name = "PROGRAM", default_value = "xl")]
    pub xl: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub send: SendArgs,
}

impl XenRemusArgs {
    /// Refuses what contradicts itself, in words for the command line.
    pub fn check(&self) -> Result<(), String> {
        if self.interval.as_millis() == 0 {
            return Err("--interval must be a millisecond or longer".into());
        }
        match self.backup {
            Some(backup) => self.send.link.check_dial(backup),
            None => Ok(()),
        }
    }

    /// The words of the xen-send that xl starts.
    pub fn send_words(&self) -> Vec<String> {
        let to = self.backup.map(|backup| ["--to".to_owned(), backup.to_string()]);
        to.into_iter().flatten().chain(self.send.words()).collect()
    }
}

/// See [`ReplicationCommand::XenReceive`].
#[derive(Clone, Debug, Args)]
pub struct XenReceiveArgs {
    /// The plane's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// The guest; may be left out where the plane has one only
    #[arg(long, short, value_name = "NAME")]
    pub guest: Option<String>,
    /// Become the guest's controller even if another process is
    #[arg(long)]
    pub takeover: bool,
    /// Where the primary finds this host
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub listen: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub link: LinkArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub grants: GrantArgs,
    /// After a promotion hold at once, for a backup of its own; otherwise the guest is open
    #[arg(long)]
    pub protected: bool,
    /// Xen's tool
    #[arg(long, value_name = "PROGRAM", default_value = "xl")]
    pub xl: PathBuf,
    /// Largest checkpoint that is taken, MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub checkpoint_mib: u32,
    /// This process's own socket: tidegate replication, tidegate failover
    #[arg(long, value_name = "PATH", default_value = STANDBY_DESK)]
    pub desk: PathBuf,
    /// Every checkpoint and event as a line of JSON on the standard output
    #[arg(long)]
    pub json: bool,
}

/// Where a standby is asked.
const STANDBY_DESK: &str = "/run/tidegate/standby.sock";

/// See [`ReplicationCommand::Failover`].
#[derive(Clone, Debug, Args)]
pub struct FailoverArgs {
    /// The primary is off or fenced for certain: its lease need not be waited for
    #[arg(long)]
    pub primary_is_off: bool,
    /// The standby's socket
    #[arg(long, value_name = "PATH", default_value = STANDBY_DESK)]
    pub desk: PathBuf,
    /// The answer as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// See [`ReplicationCommand::Replication`].
#[derive(Clone, Debug, Args)]
pub struct DeskArgs {
    /// Whom to ask; default: whichever of /run/tidegate/replicate.sock and standby.sock answers
    #[arg(long, value_name = "PATH")]
    pub desk: Option<PathBuf>,
    /// The answer as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// See [`ReplicationCommand::Certs`].
#[derive(Clone, Debug, Args)]
pub struct CertsArgs {
    /// Where the files are, or will be
    pub dir: PathBuf,
    /// Names of the nodes
    #[arg(required_unless_present = "renew_ca", value_name = "NODE")]
    pub nodes: Vec<String>,
    /// Replace certificates and keys of these nodes that are there already
    #[arg(long)]
    pub force: bool,
    /// Make the CA's own certificate anew, with its old key: certificates of nodes stay good
    #[arg(long)]
    pub renew_ca: bool,
    /// One JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// See [`ReplicationCommand::Witness`].
#[derive(Clone, Debug, Args)]
pub struct WitnessArgs {
    /// Where to listen: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub listen: SocketAddr,
    /// Directory with ca.pem, NODE.pem and NODE.key; not needed on loopback alone
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// This node's name, as in its certificate
    #[arg(long, default_value = "witness")]
    pub node: String,
    /// Serve these nodes only; without it, every node of the CA
    #[arg(long, value_name = "NODE")]
    pub peer: Vec<String>,
    /// Length of the leases, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub term_ms: u64,
    /// The longest --term-ms that was ever used here: how long to be unsure after a start
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    pub former_term_ms: u64,
    /// Largest difference between the rates of two hosts' clocks, parts per million
    #[arg(long, value_name = "PPM", default_value_t = 500)]
    pub drift_ppm: u32,
    /// Time in which a full tx ring leaves a NIC, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2)]
    pub drain_ms: u64,
    /// A node is called silent after so long, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub silent_ms: u64,
    /// Where it listens as a line of JSON on the standard output, once it does
    #[arg(long)]
    pub json: bool,
}

/// See [`ReplicationCommand::Observe`].
#[derive(Clone, Debug, Args)]
pub struct ObserveArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub vm: VmArgs,
    /// A RESUME says that the backup has the checkpoint of the pause that it ends (COLO says so; `virsh` does not)
    #[arg(long)]
    pub resume_commits: bool,
}

/// Becomes `tidegate-replica` with the same arguments.
pub(super) fn hand_over() -> ExitCode {
    let beside = std::env::current_exe().ok().and_then(|here| {
        let dir = here.parent()?.to_owned();
        let places = [dir.join(REPLICA), dir.parent()?.join("libexec/tidegate").join(REPLICA)];
        places.into_iter().find(|path| path.is_file())
    });
    let Some(program) = beside else {
        say_error("cannot find tidegate-replica beside this program; install tidegate again");
        return ExitCode::from(FAILED);
    };
    let error = Command::new(&program).args(std::env::args_os().skip(1)).exec();
    say_error(&format!("cannot start {}: {error}", program.display()));
    ExitCode::from(FAILED)
}

#[cfg(test)]
mod tests;
