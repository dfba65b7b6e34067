//! Finds the file of the guest's RAM by asking QEMU.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ram::RamError;
use crate::qmp::{Qmp, QmpError};

fn not_shared(what: impl Into<String>) -> RamError {
    RamError::NotShared { what: what.into() }
}

/// The file and the guest's size in bytes.
pub(super) fn find(qmp: &mut Qmp) -> Result<(PathBuf, u64), RamError> {
    let backends = qmp.execute("query-memdev", json!({}))?;
    let summary = qmp.execute("query-memory-size-summary", json!({}))?;
    let (id, size) = single(&backends, &summary)?;
    let object = format!("/objects/{id}");
    let kind = qmp.property(&object, "type")?;
    match kind.as_str() {
        Some("memory-backend-file") => {
            let path = qmp.property(&object, "mem-path")?;
            let path = path.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
            let path = path.ok_or_else(|| not_shared(format!("QEMU names no absolute path for {id:?}")))?;
            // A directory: QEMU made a file in it and removed its name at once.
            if path.is_dir() {
                opened(qmp, size, |link| link.starts_with(&path))
            } else {
                named(qmp, path, size)
            }
        }
        Some("memory-backend-memfd") => {
            opened(qmp, size, |link| link.to_string_lossy().starts_with("/memfd:"))
        }
        other => {
            Err(not_shared(format!("the VM's RAM ({id:?}) is {}, in no file", other.unwrap_or("unknown"))))
        }
    }
}

/// The one backend that is all of the guest's RAM.
fn single(backends: &Value, summary: &Value) -> Result<(String, u64), RamError> {
    let list = backends.as_array().map(Vec::as_slice).unwrap_or_default();
    let [backend] = list else {
        return Err(not_shared(match list.len() {
            0 => "the VM's RAM is QEMU's private memory".to_owned(),
            several => format!("the VM's RAM is spread over {several} memory backends, one is supported"),
        }));
    };
    let id =
        backend["id"].as_str().ok_or_else(|| QmpError::Malformed { what: "a backend without id".into() })?;
    if id.is_empty() || id.contains('/') {
        return Err(not_shared(format!("QEMU names a memory backend {id:?}")));
    }
    if backend["share"].as_bool() != Some(true) {
        return Err(not_shared(format!("the VM's RAM ({id:?}) is mapped privately (share=off)")));
    }
    let size = backend["size"].as_u64().unwrap_or(0);
    let base = summary["base-memory"].as_u64().unwrap_or(0);
    let plugged = summary["plugged-memory"].as_u64().unwrap_or(0);
    if size != base || plugged != 0 {
        return Err(not_shared(format!(
            "the guest has {} MiB and {} MiB of plugged memory, of which {id:?} is {} MiB only",
            base >> 20,
            plugged >> 20,
            size >> 20
        )));
    }
    Ok((id.to_owned(), size))
}

/// A file with a name. The name may have been given to another file since.
fn named(qmp: &Qmp, path: PathBuf, size: u64) -> Result<(PathBuf, u64), RamError> {
    let fault = |what: String| RamError::File { path: path.clone(), what };
    let metadata = fs::metadata(&path).map_err(|error| fault(error.to_string()))?;
    let Some(maps) = qmp.peer_pid().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/maps")).ok())
    else {
        return Ok((path, size));
    };
    // Another program may have opened the monitor's socket for QEMU: then its mappings tell nothing.
    let maps_a_file_of_this_name = maps.lines().any(|line| line.contains(&*path.to_string_lossy()));
    let maps_this = maps.lines().any(|line| inode(line) == Some(metadata.ino()));
    if maps_a_file_of_this_name && !maps_this {
        return Err(fault("QEMU maps another file, which had this name before".to_owned()));
    }
    Ok((path, size))
}

/// The inode in a line of `/proc/PID/maps`.
fn inode(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// A file without a name, among those that QEMU has open.
fn opened(qmp: &Qmp, size: u64, wanted: impl Fn(&Path) -> bool) -> Result<(PathBuf, u64), RamError> {
    let unseen = || not_shared("the VM's RAM is a file without a name, and QEMU's open files cannot be seen");
    let pid = qmp.peer_pid().ok_or_else(unseen)?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|_| unseen())?;
    let mut found: Vec<((u64, u64), PathBuf)> = Vec::new();
    for descriptor in descriptors.flatten().map(|entry| entry.path()) {
        let Ok(link) = fs::read_link(&descriptor) else { continue };
        let Ok(metadata) = fs::metadata(&descriptor) else { continue };
        let identity = (metadata.dev(), metadata.ino());
        let known = found.iter().any(|(other, _)| *other == identity);
        if wanted(&link) && metadata.is_file() && metadata.len() == size && !known {
            found.push((identity, descriptor));
        }
    }
    match found.as_slice() {
        [(_, path)] => Ok((path.clone(), size)),
        other => Err(not_shared(format!(
            "the VM's RAM is a file without a name, and QEMU has {} open that it could be",
            other.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(share: bool, size: u64) -> Value {
        json!({ "id": "mem", "size": size, "share": share })
    }

    fn reason(backends: Value, base: u64, plugged: u64) -> String {
        let summary = json!({ "base-memory": base, "plugged-memory": plugged });
        single(&backends, &summary).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn ram_that_is_not_one_shared_file_is_refused_with_the_reason() {
        assert_eq!(reason(json!([backend(true, 64)]), 64, 0), "");
        assert!(reason(json!([]), 64, 0).contains("private memory"));
        assert!(reason(json!([backend(false, 64)]), 64, 0).contains("share=off"));
        assert!(reason(json!([backend(true, 64), backend(true, 64)]), 128, 0).contains("2 memory backends"));
        assert!(reason(json!([backend(true, 64 << 20)]), 128 << 20, 0).contains("64 MiB only"));
        assert!(reason(json!([backend(true, 64)]), 64, 1 << 20).contains("1 MiB of plugged"));
        assert!(reason(json!("nonsense"), 0, 0).contains("private memory"));
    }
}
