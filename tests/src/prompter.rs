//! A monitor with a prompter: what QEMU says passes, and lines that it did not say can be put in between.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::failure::{Context, Failure, Result};

/// See the module's head. Its threads end with QEMU, or with whoever listens.
pub struct Prompter {
    listener: Arc<Mutex<Option<UnixStream>>>,
}

impl Prompter {
    /// Stands at `path` between the monitor and the one client that will connect.
    pub fn open(path: &Path, monitor: &Path) -> Result<Prompter> {
        let door = UnixListener::bind(path).context(|| format!("cannot make {}", path.display()))?;
        let listener = Arc::new(Mutex::new(None));
        let (own, monitor): (_, PathBuf) = (Arc::clone(&listener), monitor.to_owned());
        std::thread::spawn(move || {
            let Ok((client, _)) = door.accept() else { return };
            let Ok(qemu) = UnixStream::connect(&monitor) else { return };
            let (Ok(hears), Ok(asks), Ok(answers)) =
                (client.try_clone(), client.try_clone(), qemu.try_clone())
            else {
                return;
            };
            *own.lock().unwrap_or_else(PoisonError::into_inner) = Some(hears);
            std::thread::spawn(move || pass(asks, qemu));
            for line in BufReader::new(answers).lines().map_while(std::result::Result::ok) {
                if say(&own, &line).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        });
        Ok(Prompter { listener })
    }

    /// Says this line, as if QEMU had.
    pub fn prompt(&self, line: &str) -> Result<()> {
        say(&self.listener, line).map_err(|error| Failure::new(format!("nobody heard the prompter: {error}")))
    }
}

fn say(listener: &Mutex<Option<UnixStream>>, line: &str) -> std::io::Result<()> {
    let mut listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
    let stream = listener.as_mut().ok_or(std::io::ErrorKind::NotConnected)?;
    stream.write_all(format!("{line}\r\n").as_bytes())
}

fn pass(from: UnixStream, mut into: UnixStream) {
    for line in BufReader::new(from).lines().map_while(std::result::Result::ok) {
        if into.write_all(format!("{line}\n").as_bytes()).is_err() {
            return;
        }
    }
}
