//! The control socket's messages: newline-delimited JSON, the habits of QMP.
//!
//! ```text
//! <- {"tidegate":{"version":"0.1.0","pid":4711,"capabilities":["leases",...]}}
//! -> {"id":1,"execute":"close","arguments":{"guest":"pbx"}}
//! <- {"id":1,"return":{"guest":"pbx","epoch":7,"generation":1812..., "frames":12,"bytes":9000,"pause":3}}
//! -> {"id":2,"execute":"commit","arguments":{"guest":"pbx","generation":1,"epoch":7}}
//! <- {"id":2,"error":{"reason":"generation","desc":"another generation; the guest is in generation 1812..."}}
//! <- {"event":"closed","data":{...},"timestamp":{"seconds":1764000000,"microseconds":1}}
//! ```
//!
//! A line to the plane has at most [`LINE_MAX`] bytes. Requests of one session are answered in their order.

mod explain;
mod handover;
mod pulse;
mod report;
mod verb;

pub use explain::*;
pub use handover::*;
pub use pulse::*;
pub use report::*;
pub use verb::*;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Longest line the plane takes, its newline not counted, bytes.
pub const LINE_MAX: usize = 64 << 10;

/// What this version can do, as the greeting lists it.
pub const CAPABILITIES: [&str; 8] =
    ["epochs", "in-band-barrier", "leases", "policies", "streams", "events", "pulse", "handover"];

/// The first line of every connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Greeting {
    /// Who greets.
    pub tidegate: About,
}

/// What the plane says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct About {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// See [`CAPABILITIES`].
    pub capabilities: Vec<String>,
}

impl About {
    /// This process.
    pub fn this_process() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            capabilities: CAPABILITIES.map(String::from).into(),
        }
    }
}

/// A request as it is read.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Comes back with the answer. Anything, or nothing.
    #[serde(default)]
    pub id: Value,
    /// The verb.
    pub execute: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

/// Why a request was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Failure {
    /// A word in kebab-case that a program can decide by.
    pub reason: String,
    /// A sentence that a person can act on.
    pub desc: String,
}

impl Failure {
    /// `reason` is a word, `desc` a sentence.
    pub fn new(reason: &str, desc: impl Into<String>) -> Self {
        Self { reason: reason.into(), desc: desc.into() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.desc, self.reason)
    }
}

impl std::error::Error for Failure {}

/// The answer to the request with this id.
pub fn answer(id: &Value, answer: Result<Value, Failure>) -> Value {
    match answer {
        Ok(value) => json!({ "id": id, "return": value }),
        Err(failure) => json!({ "id": id, "error": failure }),
    }
}

impl Request {
    /// Reads a line. The error carries the id where one could be made out.
    pub fn parse(line: &[u8]) -> Result<Request, (Value, Failure)> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|e| (Value::Null, Failure::new("bad-json", format!("not a line of JSON: {e}"))))?;
        let id = value.get("id").cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|e| {
            let desc = format!("{e}; write {{\"id\":1,\"execute\":\"guests\",\"arguments\":{{}}}}");
            (id, Failure::new("bad-request", desc))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_broken_request_is_answered_with_its_id_where_it_has_one() {
        assert_eq!(Request::parse(b"{\"id\":").unwrap_err().1.reason, "bad-json");
        let (id, failure) = Request::parse(b"{\"id\":7,\"exec\":\"close\"}").unwrap_err();
        assert_eq!((id, failure.reason.as_str()), (json!(7), "bad-request"));
        let (id, _) = Request::parse(b"{\"id\":{\"a\":1},\"execute\":\"x\",\"arguments\":[]}").unwrap_err();
        assert_eq!(id, json!({"a": 1}));
        let request = Request::parse(b"{\"execute\":\"guests\"}").expect("id and arguments are optional");
        assert_eq!((request.id, request.arguments.len()), (Value::Null, 0));
    }

    proptest! {
        #[test]
        fn any_line_is_a_request_or_a_failure(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = Request::parse(&line) {
                let _ = Verb::read(&request.execute, request.arguments);
            }
        }
    }
}
