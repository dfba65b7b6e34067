//! What can go wrong between us and a monitor.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Why a monitor gave no answer, or not the one that was wanted.
#[derive(Debug)]
pub enum QmpError {
    /// Nobody to talk to at that socket.
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The monitor took the connection and did not greet in time: it serves one client after the other.
    Taken,
    /// The connection ended: the VM's QEMU is gone. Nothing else has this name.
    Gone,
    /// No answer in time. The connection stays usable: a late answer is recognised by its id and dropped.
    Timeout {
        /// The command.
        command: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// QEMU answered with an error.
    Refused {
        /// The command.
        command: String,
        /// QEMU's class of the error, e.g. `GenericError`.
        class: String,
        /// QEMU's words.
        description: String,
    },
    /// What came is not QMP, or not what the command's documentation says. The connection is not used again.
    Malformed {
        /// What was wrong with it.
        what: String,
    },
    /// The socket failed in another way.
    Io(std::io::Error),
}

impl QmpError {
    /// QEMU itself is gone (or speaks no QMP any more): no later command can succeed on this connection.
    pub fn is_final(&self) -> bool {
        matches!(self, QmpError::Gone | QmpError::Malformed { .. } | QmpError::Io(_))
    }

    pub(super) fn malformed(what: impl Into<String>) -> QmpError {
        QmpError::Malformed { what: what.into() }
    }
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QmpError::Connect { path, source } => write!(
                f,
                "no monitor at {}: {source}; start QEMU with -qmp unix:{},server=on,wait=off (one client at a \
                 time: add a second -qmp beside libvirt's)",
                path.display(),
                path.display()
            ),
            QmpError::Taken => f.write_str(
                "the monitor does not greet: it serves one client at a time and another one has it (a tidegate replicate, \
                 standby or observe that still runs?). End that one, or give QEMU a second -qmp",
            ),
            QmpError::Gone => f.write_str("QEMU is gone: its monitor's connection ended"),
            QmpError::Timeout { command, within } => {
                write!(f, "QEMU gave no answer to {command} within {} ms", within.as_millis())
            }
            QmpError::Refused { command, class, description } => {
                write!(f, "QEMU refused {command}: {description} ({class})")
            }
            QmpError::Malformed { what } => write!(f, "the monitor does not speak QMP: {what}"),
            QmpError::Io(error) => write!(f, "the monitor's socket failed: {error}"),
        }
    }
}

impl std::error::Error for QmpError {}
