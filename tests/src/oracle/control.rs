//! A client of tidegate's control socket that does not wait: who has a wire to watch asks, goes on
//! watching, and looks for the answer now and then.

use serde_json::{Value, json};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest answer taken, bytes.
const ANSWER_MAX: usize = 8 << 20;
/// An answer that takes longer does not come.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What the plane answered: what it returned, or its reason and description for refusing.
pub type Answer = Result<Value, Refused>;

/// The plane said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// A word.
    pub reason: String,
    /// A sentence.
    pub desc: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.desc, self.reason)
    }
}

/// The connection failed: what happened, at which socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

/// A greeted connection.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
    path: String,
    read: Vec<u8>,
    next_id: u64,
}

impl Control {
    /// Connects and waits for the greeting.
    pub fn connect(path: &Path) -> Result<Control, Broken> {
        let shown = path.display().to_string();
        let stream = UnixStream::connect(path).and_then(|stream| {
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        let stream = stream.map_err(|error| Broken(format!("cannot connect to {shown}: {error}")))?;
        let mut control = Control { stream, path: shown, read: Vec::new(), next_id: 1 };
        let greeting = control.wait(|| (), |control| control.line())?;
        if greeting.get("tidegate").is_none() {
            return Err(control.broken("no greeting"));
        }
        Ok(control)
    }

    /// Sends a request. One at a time: its answer is the next thing to ask for.
    pub fn ask(&mut self, verb: &str, arguments: Value) -> Result<(), Broken> {
        let mut line = json!({ "id": self.next_id, "execute": verb, "arguments": arguments }).to_string();
        self.next_id += 1;
        line.push('\n');
        // A request is short, so a socket that cannot take it at once is one that nobody reads.
        self.stream.write_all(line.as_bytes()).map_err(|error| self.broken(&error.to_string()))
    }

    /// The answer to the last request, if it has come.
    pub fn answer(&mut self) -> Result<Option<Answer>, Broken> {
        while let Some(mut message) = self.line()? {
            if message["id"] != self.next_id - 1 {
                continue; // An event, or the answer to a request of which nobody waited for the end.
            }
            let word = |key: &str| message["error"][key].as_str().unwrap_or_default().to_owned();
            return Ok(Some(match message.get("return") {
                Some(_) => Ok(message["return"].take()),
                None => Err(Refused { reason: word("reason"), desc: word("desc") }),
            }));
        }
        Ok(None)
    }

    /// Asks and waits, calling `meanwhile` again and again.
    pub fn execute(
        &mut self,
        verb: &str,
        arguments: Value,
        meanwhile: impl FnMut(),
    ) -> Result<Answer, Broken> {
        self.ask(verb, arguments)?;
        self.wait(meanwhile, |control| control.answer())
    }

    fn wait<T>(
        &mut self,
        mut meanwhile: impl FnMut(),
        mut look: impl FnMut(&mut Control) -> Result<Option<T>, Broken>,
    ) -> Result<T, Broken> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if Instant::now() > deadline {
                return Err(self.broken(&format!("no answer within {} s", ANSWER_WITHIN.as_secs())));
            }
            meanwhile();
            // The plane's control thread may need this CPU to answer.
            std::thread::sleep(Duration::from_micros(10));
        }
    }

    fn line(&mut self) -> Result<Option<Value>, Broken> {
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let message = serde_json::from_slice(&line);
                return message.map(Some).map_err(|error| self.broken(&format!("no JSON: {error}")));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(self.broken("the plane closed the connection")),
                Ok(_) if self.read.len() > ANSWER_MAX => return Err(self.broken("an endless line")),
                Ok(count) => self.read.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(&error.to_string())),
            }
        }
    }

    fn broken(&self, what: &str) -> Broken {
        Broken(format!("{}: {what}", self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn answers_are_found_between_events_and_refusals_keep_their_reason() {
        let path = std::env::temp_dir().join(format!("control-test-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"{\"tidegate\":{}}\n{\"event\":\"closed\"}\n{\"id\":1,\"ret").unwrap();
            std::thread::sleep(Duration::from_millis(5));
            peer.write_all(b"urn\":{\"epoch\":3}}\n").unwrap();
            peer.write_all(b"{\"id\":2,\"error\":{\"reason\":\"busy\",\"desc\":\"later\"}}\n").unwrap();
            let _ = peer.read_to_end(&mut Vec::new());
        });
        let mut control = Control::connect(&path).unwrap();
        let mut polls = 0;
        let answer = control.execute("close", json!({}), || polls += 1).unwrap();
        assert_eq!(answer.unwrap()["epoch"], 3);
        assert!(polls > 0);
        let refused = control.execute("close", json!({}), || ()).unwrap().unwrap_err();
        assert_eq!(refused.to_string(), "later (busy)");
        drop(control);
        server.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
