//! The call that is measured: to the server, or through it between two phones.

use super::lab::SERVER;
use super::scenario::CallWay;
use crate::failure::{Failure, Result};
use std::time::Duration;
use tidegate_tests::capture::Frame;
use tidegate_tests::media::relayed_streams;
use tidegate_tests::namespace::Namespace;
use tidegate_tests::phone::{Model, Phone, Transport};
use tidegate_tests::scratch::Scratch;
use tidegate_tests::survival::call::Call;

/// The phones' first media port, and how many each has.
const FIRST_PORT: u16 = 40_000;
const PORTS: u16 = 100;
/// What the phones hear of each other: one stream to each.
const STREAMS: usize = 2;

const fn model(name: &'static str, number: u16) -> Model {
    Model {
        name,
        number,
        transport: Transport::Udp,
        account: "audio_codecs=PCMA",
        video: false,
        registers: true,
        interface: "br0",
    }
}

/// A call under way.
pub enum Talk {
    /// sipp calls the teller.
    To(Call),
    /// baresip calls baresip by way of kamailio; rtpengine relays.
    Through {
        /// Who calls, and hangs up.
        caller: Box<Phone>,
        /// Who answers.
        _callee: Box<Phone>,
    },
}

impl Talk {
    /// Calls. The one to the server ends by itself after `length`.
    pub fn start(way: CallWay, outside: &Namespace, scratch: &Scratch, length: Duration) -> Result<Talk> {
        if way == CallWay::To {
            return Ok(Talk::To(Call::start(outside, scratch, length)?));
        }
        let callee = Phone::start(&model("callee", 1), outside, scratch)?;
        let mut caller = Phone::start(&model("caller", 0), outside, scratch)?;
        caller.call("callee")?;
        Ok(Talk::Through { caller: Box::new(caller), _callee: Box::new(callee) })
    }

    /// Packets that came from the server: those of the direction that has fewer. `frames`: what was captured so far.
    pub fn heard(&self, frames: impl FnOnce() -> Result<Vec<Frame>>) -> Result<u32> {
        match self {
            Talk::To(call) => Ok(call.heard()),
            Talk::Through { .. } => {
                let streams = relayed_streams(&frames()?, SERVER.into());
                let fewest = streams.values().map(|stream| stream.echoed.len() as u32).min();
                Ok(if streams.len() < STREAMS { 0 } else { fewest.unwrap_or(0) })
            }
        }
    }

    /// Ends it; a failure when it was none that a person would call whole.
    pub fn finish(&mut self) -> Result<()> {
        match self {
            Talk::To(call) => Ok(call.finish()?),
            Talk::Through { caller, .. } => {
                if caller.happened("CALL_CLOSED") {
                    return Err(Failure::new("the call was closed before the caller hung up"));
                }
                Ok(caller.hang_up()?)
            }
        }
    }
}

/// Who hears a stream from the server, by where it goes.
pub fn listener(way: CallWay, port: u16) -> &'static str {
    match (way, port.checked_sub(FIRST_PORT).map(|above| above / PORTS)) {
        (CallWay::Through, Some(1)) => "what the callee hears",
        _ => "what the caller hears",
    }
}

/// Who sent a stream to the server, by where it came from.
pub fn speaker(way: CallWay, port: u16) -> &'static str {
    match listener(way, port) {
        "what the callee hears" => "from the callee, as sent",
        _ => "from the caller, as sent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_call_have_names() {
        assert_eq!(listener(CallWay::To, 6300), "what the caller hears");
        assert_eq!(listener(CallWay::Through, 40_012), "what the caller hears");
        assert_eq!(listener(CallWay::Through, 40_112), "what the callee hears");
        assert_eq!(speaker(CallWay::Through, 40_112), "from the callee, as sent");
        assert_eq!(speaker(CallWay::To, 6300), "from the caller, as sent");
    }
}
