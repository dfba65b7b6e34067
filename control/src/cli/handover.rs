//! `tidegate guard`: a handover by hand, as replication does it by itself.

use super::tables;
use super::verbs::{Done, Target, millis, show, steer_with};
use crate::client::{Client, ClientError};
use crate::protocol::{Guard, GuardReport, HandedOver, Which};
use crate::quantity::span;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Streams of one request: a line to the plane has 64 KiB.
const STREAMS: usize = 300;

/// What is asked, or handed over.
#[derive(Clone, Debug, clap::Args)]
pub struct GuardArgs {
    /// Only streams that went on since the answer with this token
    #[arg(long, value_name = "TOKEN", conflicts_with = "import")]
    since: Option<u64>,
    /// Hand over to a muted guest what this file has: an answer with --json of the primary's plane
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
    /// With --import: how long the primary may have sent since
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "0ms", requires = "import")]
    margin: Duration,
    #[command(flatten)]
    target: Target,
}

impl GuardArgs {
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn execute(self) -> Done {
        match &self.import {
            Some(file) => self.hand_over(file),
            None => self.ask(),
        }
    }

    fn ask(&self) -> Done {
        let mut client = Client::connect(self.target.socket())?;
        let mut asked = Guard { guest: self.target.guest(), since: self.since, ..Guard::default() };
        let mut all: Option<GuardReport> = None;
        loop {
            let part: GuardReport = known(client.execute("guard", &asked)?)?;
            asked.from = part.next;
            let more = part.next.is_some();
            match &mut all {
                None => all = Some(GuardReport { next: None, ..part }),
                Some(all) => all.streams.extend(part.streams),
            }
            if !more {
                let answer = serde_json::to_value(all.unwrap_or_default()).unwrap_or_default();
                return show(self.target.reach(), answer, tables::guard);
            }
        }
    }

    fn hand_over(&self, file: &Path) -> Done {
        let wrong = |why: String| {
            let remedy = "write it with `tidegate guard --json` of the primary";
            ClientError::Output(format!("cannot use {}: {why}; {remedy}", file.display()))
        };
        let text = std::fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
        let told: GuardReport = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let mut client = Client::connect(self.target.socket())?;
        steer_with(&mut client, &self.target)?;
        let mut sum = HandedOver::default();
        let mut identities = told.identities;
        let mut rows = told.streams.chunks(STREAMS);
        loop {
            let streams = rows.next().unwrap_or_default();
            if streams.is_empty() && identities.is_empty() {
                break;
            }
            let request = Guard {
                guest: self.target.guest(),
                streams: Some(streams.to_vec()),
                identities: Some(std::mem::take(&mut identities)),
                margin_ms: Some(millis(self.margin)),
                ..Guard::default()
            };
            let part: HandedOver = known(client.execute("guard", request)?)?;
            sum.inherited += part.inherited;
            sum.not_inherited += part.not_inherited;
            sum.identities += part.identities;
            sum.guest = part.guest;
        }
        let answer = serde_json::to_value(sum).unwrap_or_default();
        show(self.target.reach(), answer, |answer: &Value| tables::answer("guard", answer))
    }
}

fn known<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, ClientError> {
    serde_json::from_value(answer)
        .map_err(|e| ClientError::Answer(format!("an answer of another version: {e}")))
}

/// `tidegate announce`.
pub(super) fn announce(target: &Target) -> Done {
    let mut client = Client::connect(target.socket())?;
    steer_with(&mut client, target)?;
    let answer = client.execute("announce", Which { guest: target.guest() })?;
    show(target.reach(), answer, |answer: &Value| tables::answer("announce", answer))
}
