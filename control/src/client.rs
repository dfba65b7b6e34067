//! The socket's other end: a blocking client, one request at a time.

use crate::protocol::{Failure, Greeting};
use serde_json::{Value, json};
use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest answer that is taken: histograms with buckets are the longest there are.
const ANSWER_MAX: u64 = 64 << 20;
/// An answer that takes longer never comes: closes and orders are bounded to seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// No connection, or it broke: what happened, and what to do.
    Connection(String),
    /// The plane said no.
    Refused(Failure),
    /// The plane said something that this version does not understand.
    Answer(String),
    /// The answer is there and could not be written.
    Output(String),
}

impl ClientError {
    /// As the plane itself would have said it: a word for programs, a sentence for people.
    pub fn failure(&self) -> Failure {
        match self {
            ClientError::Refused(failure) => failure.clone(),
            ClientError::Connection(what) => Failure::new("no-connection", what),
            ClientError::Answer(what) => Failure::new("bad-answer", what),
            ClientError::Output(what) => Failure::new("cannot-write", what),
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connection(what) | ClientError::Answer(what) | ClientError::Output(what) => {
                f.write_str(what)
            }
            ClientError::Refused(failure) => write!(f, "{failure}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// A connection that was greeted.
#[derive(Debug)]
pub struct Client {
    lines: BufReader<UnixStream>,
    greeting: Greeting,
    path: String,
    next_id: u64,
}

impl Client {
    /// The connection.
    pub fn stream(&self) -> &UnixStream {
        self.lines.get_ref()
    }

    /// Connects and reads the greeting.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let shown = path.display().to_string();
        let stream = UnixStream::connect(path).map_err(|e| {
            let remedy = match e.kind() {
                ErrorKind::NotFound => "start the plane (tidegate run), or name its socket with --socket",
                ErrorKind::ConnectionRefused => "the plane that made this socket is gone; start it again",
                ErrorKind::PermissionDenied => {
                    "become its user or root, or have it run with control.allow_uids"
                }
                _ => "see that the plane runs (tidegate run)",
            };
            ClientError::Connection(format!("cannot connect to {shown}: {e}; {remedy}"))
        })?;
        let _ = stream.set_read_timeout(Some(ANSWER_WITHIN));
        let mut client = Client {
            lines: BufReader::new(stream),
            greeting: Greeting { tidegate: crate::protocol::About::this_process() },
            path: shown,
            next_id: 1,
        };
        let first = client.read()?;
        if let Some(error) = first.get("error") {
            return Err(ClientError::Refused(failure(error)));
        }
        client.greeting = serde_json::from_value(first).map_err(|_| {
            ClientError::Connection(format!("{} is not tidegate's socket: no greeting", client.path))
        })?;
        Ok(client)
    }

    /// What the plane said of itself.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Sends one request and waits for its answer; events that come between are left out.
    pub fn execute(&mut self, verb: &str, arguments: impl serde::Serialize) -> Result<Value, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = json!({ "id": id, "execute": verb, "arguments": arguments }).to_string();
        line.push('\n');
        self.lines
            .get_mut()
            .write_all(line.as_bytes())
            .map_err(|e| ClientError::Connection(format!("{} took no request: {e}", self.path)))?;
        loop {
            let mut message = self.read()?;
            if message["id"] == id {
                return match message.get_mut("return") {
                    Some(value) => Ok(value.take()),
                    None => Err(ClientError::Refused(failure(&message["error"]))),
                };
            }
            if message.get("event").is_none() {
                return Err(ClientError::Refused(failure(&message["error"])));
            }
        }
    }

    /// Waits for the next event, as long as it takes.
    pub fn event(&mut self) -> Result<Value, ClientError> {
        let _ = self.lines.get_ref().set_read_timeout(None);
        loop {
            let message = self.read()?;
            if message.get("event").is_some() {
                return Ok(message);
            }
        }
    }

    fn read(&mut self) -> Result<Value, ClientError> {
        let broken = |what: String| ClientError::Connection(format!("{}: {what}", self.path));
        let mut line = Vec::new();
        match self.lines.by_ref().take(ANSWER_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return Err(broken("the plane closed the connection".into())),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(broken(format!("no answer within {} s", ANSWER_WITHIN.as_secs())));
            }
            Err(e) => return Err(broken(e.to_string())),
        }
        serde_json::from_slice(&line).map_err(|e| broken(format!("an answer that is not JSON: {e}")))
    }
}

fn failure(error: &Value) -> Failure {
    serde_json::from_value(error.clone())
        .unwrap_or_else(|_| Failure::new("unknown", format!("refused without a reason: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn serve(path: &Path, script: &'static str) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(path).expect("binds");
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("a client");
            peer.write_all(script.as_bytes()).expect("takes it");
            let _ = peer.read(&mut [0; 512]);
        })
    }

    const HELLO: &str = "{\"tidegate\":{\"version\":\"0\",\"pid\":1,\"capabilities\":[]}}\n";

    #[test]
    fn answers_are_matched_by_id_and_events_do_not_stand_in_between() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let script = "{\"event\":\"closed\",\"data\":{}}\n{\"id\":1,\"return\":{\"a\":5}}\n";
        let server = serve(&path, Box::leak(format!("{HELLO}{script}").into_boxed_str()));
        let mut client = Client::connect(&path).expect("greeted");
        assert_eq!(client.execute("guests", json!({})).expect("granted")["a"], 5);
        drop(client);
        server.join().expect("ends");
    }

    #[test]
    fn what_is_not_tidegate_or_not_there_is_said_with_a_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let absent = Client::connect(&path).unwrap_err().to_string();
        assert!(absent.contains("tidegate run") && absent.contains("--socket"), "{absent}");
        let server = serve(&path, "{\"QMP\":{}}\n");
        assert!(Client::connect(&path).unwrap_err().to_string().contains("no greeting"));
        server.join().expect("ends");
    }
}
