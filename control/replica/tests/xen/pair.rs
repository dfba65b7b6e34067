//! Both processes, each with a plane, and xl on either side: the test writes what `xl remus` would, and a script takes
//! what `xl migrate-receive` would.

use crate::process::{Process, replica};
pub use crate::process::{SOON, a_while};
use crate::proxy::Proxy;
use crate::rig::{Client, Rig, guest, within};
use crate::writer;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use tidegate_dataplane::guest::Rings;

pub const READY: &str = "xl migration receiver ready, send binary domain data.\n";

/// A script that is ready, takes what it is fed into `fed`, and starts the domain when that ends (not at once, as xl does
/// not: whoever kills it then is in time).
pub const FAITHFUL: &str = "printf 'xl migration receiver ready, send binary domain data.\\n'; cat > fed; sleep 0.2; echo started > started";

/// How the pair is started.
pub struct Plan {
    /// Keys of the primary's guest.
    pub keys: &'static str,
    /// What the script of `xl migrate-receive` does.
    pub xl: String,
    /// `--decide`.
    pub decide: &'static str,
    /// More options of both sides.
    pub both: &'static str,
}

impl Default for Plan {
    /// Without leases: what leaves is for the commits alone to say.
    fn default() -> Plan {
        Plan { keys: "mode = \"open\"", xl: FAITHFUL.into(), decide: "manager", both: "" }
    }
}

pub struct Pair {
    // Processes first: they end before their planes do.
    pub send: Process,
    pub receive: Process,
    pub proxy: Proxy,
    pub primary: Rig,
    pub backup: Rig,
    stdin: Option<ChildStdin>,
    stdout: Arc<Mutex<Vec<u8>>>,
    dir: tempfile::TempDir,
    options: (&'static str, &'static str),
    written: Vec<u8>,
    checkpoints: u8,
}

fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("xl");
    std::fs::write(&path, format!("#!/bin/sh\ncd {}\n{text}\n", dir.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// What xen-send says to xl.
type Said = Arc<Mutex<Vec<u8>>>;

fn start_send(
    primary: &Rig,
    dir: &tempfile::TempDir,
    proxy: &Proxy,
    (decide, both): (&str, &str),
) -> (Process, ChildStdin, Said) {
    let mut send = replica();
    send.args(["xen-send", "--json", "--decide", decide, "--to", &proxy.address.to_string(), "--socket"])
        .arg(&primary.path)
        .arg("--desk")
        .arg(dir.path().join("send.sock"))
        .args(both.split_ascii_whitespace());
    let mut child = send.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = Process::hear(child.stderr.take().unwrap());
    let (stdin, mut out) = (child.stdin.take(), child.stdout.take().unwrap());
    let stdout = Arc::new(Mutex::new(vec![]));
    let kept = Arc::clone(&stdout);
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = out.read(&mut bytes) {
            kept.lock().unwrap().extend_from_slice(&bytes[..count]);
        }
    });
    (Process { child, lines }, stdin.unwrap(), stdout)
}

impl Pair {
    pub fn start(plan: &Plan) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        let primary = Rig::behind(Rings::Untold, &guest("pbx", 0, plan.keys), &[]);
        let backup = Rig::behind(Rings::Untold, &guest("pbx", 0, "mode = \"muted\""), &[]);
        let mut receive = replica();
        receive
            .args(["xen-receive", "--json", "--listen", "127.0.0.1:0", "--decide", plan.decide, "--socket"])
            .arg(&backup.path)
            .arg("--xl")
            .arg(script(dir.path(), &plan.xl))
            .arg("--desk")
            .arg(dir.path().join("receive.sock"))
            .args(plan.both.split_ascii_whitespace());
        let mut child = receive.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Process::hear(child.stdout.take().unwrap());
        let receive = Process { child, lines };
        let listen: SocketAddr =
            receive.event("waiting", |_| true)["listen"].as_str().unwrap().parse().unwrap();
        let proxy = Proxy::to(listen);
        let (send, stdin, stdout) = start_send(&primary, &dir, &proxy, (plan.decide, plan.both));
        let (stdin, options) = (Some(stdin), (plan.decide, plan.both));
        Pair {
            send,
            receive,
            proxy,
            primary,
            backup,
            stdin,
            stdout,
            dir,
            options,
            written: vec![],
            checkpoints: 0,
        }
    }

    /// xl, and with it xen-send, is started again.
    pub fn again(self) -> Pair {
        let (send, stdin, stdout) = start_send(&self.primary, &self.dir, &self.proxy, self.options);
        Pair { send, stdin: Some(stdin), stdout, written: vec![], checkpoints: 0, ..self }
    }

    /// Waits until xl may write.
    pub fn ready(self) -> Pair {
        assert!(within(SOON, || !self.said().is_empty()), "{:#?}", self.send.lines());
        self
    }

    /// What xen-send said to xl.
    pub fn said(&self) -> String {
        String::from_utf8(self.stdout.lock().unwrap().clone()).unwrap()
    }

    /// Writes as xl does: the guest runs again when this returns. Whoever has ended is written to all the same.
    pub fn write(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(bytes);
        }
    }

    /// The same from another thread, for writes that shall block.
    pub fn take_pipe(&mut self) -> ChildStdin {
        self.stdin.take().unwrap()
    }

    pub fn give_pipe(&mut self, pipe: ChildStdin, wrote: &[u8]) {
        self.written.extend_from_slice(wrote);
        self.stdin = Some(pipe);
    }

    /// xl is gone.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// xen-send waits for the first byte of the next checkpoint.
    pub fn narrow(&self) {
        let number = u64::from(self.checkpoints);
        self.send.event("step", |step| step["step"] == "narrow" && step["epoch"] == number);
    }

    /// The live copy and checkpoint 1.
    pub fn copy(&mut self) {
        let bytes = [writer::opening(), writer::checkpoint(40, 1)].concat();
        self.write(&bytes);
        self.checkpoints = 1;
        self.narrow();
    }

    /// A checkpoint with so many pages: writes what the guest waits for, then the end.
    pub fn checkpoint(&mut self, pages: u32) {
        let fill = self.checkpoints + 1;
        self.write(&writer::body(pages, fill));
        self.end();
    }

    /// Its end.
    pub fn end(&mut self) {
        self.write(&writer::end());
        self.checkpoints += 1;
    }

    /// Waits until xen-send has heard that the backup has this checkpoint.
    pub fn acknowledged(&self) {
        let epoch = self.sent_epoch();
        self.send.event("step", |step| step["step"] == "commit" && step["epoch"] == epoch);
    }

    /// The epoch that names the last checkpoint.
    pub fn sent_epoch(&self) -> u64 {
        let number = u64::from(self.checkpoints);
        self.send.event("checkpoint", |event| event["number"] == number)["epoch"].as_u64().unwrap()
    }

    /// Protection has begun: checkpoint 2 is held by the backup.
    pub fn protect(&mut self) {
        self.copy();
        self.checkpoint(3);
        self.acknowledged();
        self.narrow();
    }

    /// All that was written.
    pub fn written(&self) -> &[u8] {
        &self.written
    }

    /// What the waiting domain was fed.
    pub fn fed(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("fed")).unwrap_or_default()
    }

    /// The waiting domain was told to start.
    pub fn started(&self) -> bool {
        self.dir.path().join("started").exists()
    }

    /// Mode, and the open epoch, of the primary's guest.
    pub fn stands(&self) -> (&'static str, u64) {
        self.primary.plane.guests[0].with(|guest| (guest.mode().name(), guest.open_epoch()))
    }

    /// What the backup's process says of itself.
    pub fn status(&self) -> Value {
        self.order("status", serde_json::json!({}))
    }

    /// Asks or orders the backup's process.
    pub fn order(&self, verb: &str, arguments: Value) -> Value {
        Client::connect(&self.dir.path().join("receive.sock")).grant(verb, arguments)
    }

    /// Tells the primary's process that the backup is lost.
    pub fn give_up(&self, evidence: &str) {
        let desk = self.dir.path().join("send.sock");
        Client::connect(&desk).grant("backup-lost", serde_json::json!({ "evidence": evidence }));
    }

    pub fn pulse(&self, rig: &Rig) -> Value {
        rig.client().grant("pulse", serde_json::json!({}))
    }
}
