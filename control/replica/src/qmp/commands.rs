//! The commands that replication needs, with their answers as types.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Qmp, QmpError};

/// How often a migration is asked for whose event does not come.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How often the VM's state is asked for: it follows within microseconds.
const STATE_EVERY: Duration = Duration::from_micros(200);

/// What QEMU says of the VM (`query-status`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// vCPUs run.
    Running,
    /// Stopped by `stop`, or restored and not started yet.
    Paused,
    /// Stopped, and its state was sent.
    PostMigrate,
    /// Waits for a state to come.
    InMigrate,
    /// Stopped while its state is sent.
    FinishMigrate,
    /// Any other: `shutdown`, `guest-panicked`, `internal-error`, ...
    Other(String),
}

impl RunState {
    fn named(name: &str) -> RunState {
        match name {
            "running" => RunState::Running,
            "paused" => RunState::Paused,
            "postmigrate" => RunState::PostMigrate,
            "inmigrate" => RunState::InMigrate,
            "finish-migrate" => RunState::FinishMigrate,
            other => RunState::Other(other.to_owned()),
        }
    }
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::PostMigrate => "postmigrate",
            RunState::InMigrate => "inmigrate",
            RunState::FinishMigrate => "finish-migrate",
            RunState::Other(name) => name,
        })
    }
}

/// Where a migration is (`query-migrate`, the event `MIGRATION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationStatus {
    /// There was none yet.
    None,
    /// It goes on: `setup`, `active`, `device`, `cancelling`, ...
    Underway,
    /// Done.
    Completed,
    /// It failed; the VM is as it was.
    Failed,
    /// It was cancelled; the VM is as it was.
    Cancelled,
}

impl MigrationStatus {
    /// QEMU's word for it as a value. An unknown word is something that goes on.
    pub fn named(name: &str) -> MigrationStatus {
        match name {
            "none" => MigrationStatus::None,
            "completed" => MigrationStatus::Completed,
            "failed" => MigrationStatus::Failed,
            "cancelled" => MigrationStatus::Cancelled,
            _ => MigrationStatus::Underway,
        }
    }
}

/// The answer of `query-migrate`.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Where it is.
    pub status: MigrationStatus,
    /// QEMU's reason for a failure, when it gives one.
    pub reason: Option<String>,
    /// What in this VM cannot be sent at all, in QEMU's words.
    pub blocked: Vec<String>,
}

/// A drive (`query-block`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The drive's name, or the path of the device that has it.
    pub name: String,
    /// What is in it; `None` when it is empty.
    pub inserted: Option<Inserted>,
    /// A guest can put something else in.
    pub removable: bool,
}

/// What a drive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// The image: a path or a URL.
    pub file: String,
    /// The format driver: `raw`, `qcow2`, ...
    pub driver: String,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// How many images lie below this one.
    pub backing_depth: u64,
}

/// A vCPU (`query-cpus-fast`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub index: u64,
    /// The host thread that runs it.
    pub thread_id: i32,
}

/// Parameters of a migration.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Bytes a second.
    pub max_bandwidth: u64,
    /// How long the last step may take: with a paused VM it says when that step may begin.
    pub downtime_limit: Duration,
}

impl Qmp {
    /// Pauses the VM. When this returns no vCPU runs and its vhost-user rings have been stopped.
    pub fn stop(&mut self) -> Result<(), QmpError> {
        self.execute("stop", json!({})).map(drop)
    }

    /// Lets the VM run on.
    pub fn cont(&mut self) -> Result<(), QmpError> {
        self.execute("cont", json!({})).map(drop)
    }

    /// The VM's state.
    pub fn status(&mut self) -> Result<RunState, QmpError> {
        let answer = self.execute("query-status", json!({}))?;
        Ok(RunState::named(text(&answer, "status", "query-status")?))
    }

    /// Hands QEMU a file descriptor under a name, for `fd:NAME`.
    pub fn pass_descriptor(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> Result<(), QmpError> {
        self.request("getfd", json!({ "fdname": name }), Some(descriptor), self.patience).map(drop)
    }

    /// Lets QEMU close one that it was handed and has not used.
    pub fn close_descriptor(&mut self, name: &str) -> Result<(), QmpError> {
        self.execute("closefd", json!({ "fdname": name })).map(drop)
    }

    /// Turns capabilities of migration on or off.
    pub fn set_capabilities(&mut self, wanted: &[(&str, bool)]) -> Result<(), QmpError> {
        let list: Vec<Value> =
            wanted.iter().map(|(name, state)| json!({ "capability": name, "state": state })).collect();
        self.execute("migrate-set-capabilities", json!({ "capabilities": list })).map(drop)
    }

    /// Sets a migration's parameters.
    pub fn set_parameters(&mut self, parameters: Parameters) -> Result<(), QmpError> {
        let limit = u64::try_from(parameters.downtime_limit.as_millis()).unwrap_or(u64::MAX);
        let arguments = json!({ "max-bandwidth": parameters.max_bandwidth, "downtime-limit": limit });
        self.execute("migrate-set-parameters", arguments).map(drop)
    }

    /// Begins to send the VM's state. The answer comes before it is sent.
    pub fn migrate(&mut self, uri: &str) -> Result<(), QmpError> {
        self.execute("migrate", json!({ "uri": uri })).map(drop)
    }

    /// Gives up what [`Qmp::migrate`] began.
    pub fn migrate_cancel(&mut self) -> Result<(), QmpError> {
        self.execute("migrate_cancel", json!({})).map(drop)
    }

    /// Lets a QEMU that waits (`-incoming defer`) read a state.
    pub fn migrate_incoming(&mut self, uri: &str) -> Result<(), QmpError> {
        self.execute("migrate-incoming", json!({ "uri": uri })).map(drop)
    }

    /// Waits until the migration that was begun has ended, by the event `MIGRATION` and, should that be lost, by
    /// asking. `None` at the deadline.
    pub fn wait_migration(&mut self, deadline: Instant) -> Result<Option<Migration>, QmpError> {
        loop {
            let look = deadline.min(Instant::now() + ASK_EVERY);
            let event = self.wait_event(look, |event| event.name == "MIGRATION")?;
            if let Some(event) = event {
                let status = MigrationStatus::named(event.data["status"].as_str().unwrap_or(""));
                if status == MigrationStatus::Underway {
                    continue;
                }
                if status == MigrationStatus::Completed {
                    return Ok(Some(Migration { status, reason: None, blocked: Vec::new() }));
                }
            } else if Instant::now() >= deadline {
                return Ok(None);
            }
            let migration = self.migration()?;
            if migration.status != MigrationStatus::Underway {
                return Ok(Some(migration));
            }
        }
    }

    /// Waits until the VM is in one of these states; the state it is in, which is another one at the deadline.
    pub fn wait_state(&mut self, wanted: &[RunState], deadline: Instant) -> Result<RunState, QmpError> {
        loop {
            let state = self.status()?;
            if wanted.contains(&state) || Instant::now() >= deadline {
                return Ok(state);
            }
            std::thread::sleep(STATE_EVERY);
        }
    }

    /// Where the migration is.
    pub fn migration(&mut self) -> Result<Migration, QmpError> {
        let answer = self.execute("query-migrate", json!({}))?;
        Ok(Migration {
            status: MigrationStatus::named(answer["status"].as_str().unwrap_or("none")),
            reason: answer["error-desc"].as_str().map(str::to_owned),
            blocked: answer["blocked-reasons"]
                .as_array()
                .map(|reasons| reasons.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default(),
        })
    }

    /// The drives.
    pub fn blocks(&mut self) -> Result<Vec<Block>, QmpError> {
        let answer = self.execute("query-block", json!({}))?;
        let drives = answer.as_array().ok_or_else(|| QmpError::malformed("query-block gave no list"))?;
        Ok(drives.iter().map(block).collect())
    }

    /// The vCPUs.
    pub fn cpus(&mut self) -> Result<Vec<Cpu>, QmpError> {
        let answer = self.execute("query-cpus-fast", json!({}))?;
        let cpus = answer.as_array().ok_or_else(|| QmpError::malformed("query-cpus-fast gave no list"))?;
        let number = |cpu: &Value, key: &str| {
            cpu[key].as_u64().ok_or_else(|| QmpError::malformed(format!("a vCPU without {key}")))
        };
        cpus.iter()
            .map(|cpu| {
                let thread = i32::try_from(number(cpu, "thread-id")?)
                    .map_err(|_| QmpError::malformed("a thread id out of range"))?;
                Ok(Cpu { index: number(cpu, "cpu-index")?, thread_id: thread })
            })
            .collect()
    }

    /// The VM's RAM, bytes.
    pub fn memory_size(&mut self) -> Result<u64, QmpError> {
        let answer = self.execute("query-memory-size-summary", json!({}))?;
        let base = answer["base-memory"].as_u64();
        let base =
            base.ok_or_else(|| QmpError::malformed("query-memory-size-summary gave no base-memory"))?;
        Ok(base.saturating_add(answer["plugged-memory"].as_u64().unwrap_or(0)))
    }

    /// A property of an object (`qom-get`).
    pub fn property(&mut self, path: &str, property: &str) -> Result<Value, QmpError> {
        self.execute("qom-get", json!({ "path": path, "property": property }))
    }
}

fn text<'a>(answer: &'a Value, key: &str, command: &str) -> Result<&'a str, QmpError> {
    answer[key].as_str().ok_or_else(|| QmpError::malformed(format!("{command} gave no {key}")))
}

/// What is missing counts as the worse case: a drive that can be written to.
fn block(drive: &Value) -> Block {
    let word = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let inserted = drive.get("inserted").filter(|inserted| inserted.is_object()).map(|inserted| Inserted {
        file: word(&inserted["file"]).unwrap_or_default(),
        driver: word(&inserted["drv"]).unwrap_or_default(),
        read_only: inserted["ro"].as_bool().unwrap_or(false),
        backing_depth: inserted["backing_file_depth"].as_u64().unwrap_or(0),
    });
    Block {
        name: word(&drive["device"])
            .or_else(|| word(&drive["qdev"]))
            .unwrap_or_else(|| "(no name)".to_owned()),
        inserted,
        removable: drive["removable"].as_bool().unwrap_or(false),
    }
}
