//! What the coordinator asks an agent for, and how it answers: a line of JSON each, bounded.

use super::scenario::{PlanePorts, Run};
use crate::failure::{Context, Failure, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{BufRead, Read, Write};
use std::net::Ipv4Addr;

/// Longest line that either side takes.
pub const LINE_MAX: usize = 64 * 1024;
/// Largest file that a coordinator takes.
pub const FILE_MAX: u64 = 4 << 30;

/// A host's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Plays the guest: calls, bulk and answers come from it.
    Generator,
    /// Stands between.
    Plane,
    /// The world outside: receives, asks, measures.
    Sink,
}

impl Role {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Role::Generator => "generator",
            Role::Plane => "plane",
            Role::Sink => "sink",
        }
    }
}

/// A port of generator or sink, and the address on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// An interface's name, or the PCI address of the NIC that it belongs to.
    pub port: String,
    /// What it is addressed by, with its prefix: `10.9.0.2/24`.
    pub address: String,
    /// The other side's.
    pub peer: Ipv4Addr,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The agent's clock, and which machine it runs on.
    Clock,
    /// Makes ready for a run: what only waits is started.
    Traffic {
        /// Generator or sink.
        role: Role,
        /// Its port.
        port: Port,
        /// What is to be run.
        run: Run,
    },
    /// The same of the plane.
    Plane {
        /// Its ports.
        ports: PlanePorts,
        /// What is to be run.
        run: Run,
    },
    /// The traffic begins.
    Start,
    /// How far it is.
    Progress,
    /// Nothing more is sent; what is on its way may arrive.
    Quiet,
    /// It ends; the answer names the files.
    Stop,
    /// One of these: a line with its length, then so many bytes.
    Fetch {
        /// As [`Request::Stop`] named it.
        file: String,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Done.
    Done(Value),
    /// Not done, and why.
    Refused(String),
}

/// Writes a line.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(message).context(|| "a message".into())?;
    line.push('\n');
    to.write_all(line.as_bytes()).context(|| "the other side is gone".into())
}

/// Reads a line; nothing at the end, and a failure for one that is too long.
pub fn line(from: &mut impl BufRead) -> Result<Option<String>> {
    let mut line = Vec::new();
    from.take(LINE_MAX as u64 + 1).read_until(b'\n', &mut line).context(|| "nothing came".into())?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => String::from_utf8(line).map(Some).context(|| "a line that is no text".into()),
        Some(_) => Err(Failure::new("a line that does not end")),
    }
}

/// Reads a message; nothing at the end.
pub fn receive<T: for<'de> Deserialize<'de>>(from: &mut impl BufRead) -> Result<Option<T>> {
    let Some(line) = line(from)? else { return Ok(None) };
    serde_json::from_str(&line).map(Some).context(|| "a message that is none".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written_and_nothing_else_is() {
        let mut wire = Vec::new();
        let sent = [Request::Clock, Request::Fetch { file: "rtp.bin".into() }, Request::Stop];
        sent.iter().for_each(|request| send(&mut wire, request).unwrap());
        let mut from = wire.as_slice();
        let read: Vec<Request> = std::iter::from_fn(|| receive(&mut from).unwrap()).collect();
        assert_eq!(read, sent);
        for wrong in ["{}\n", "x\n", "{\"do\":\"shell\"}\n", "{\"do\":\"fetch\"}\n", "\"clock\"", "\u{1}\n"] {
            assert!(receive::<Request>(&mut wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_read_for_ever() {
        let endless = std::io::repeat(b'x');
        assert!(
            line(&mut std::io::BufReader::new(endless)).unwrap_err().to_string().contains("does not end")
        );
        assert_eq!(line(&mut [0u8; 0].as_slice()).unwrap(), None);
    }
}
