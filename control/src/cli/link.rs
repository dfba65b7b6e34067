//! The link between the hosts, on the command line: who is at its ends, how its heart beats, what is granted over it.

use crate::quantity::span;
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Who decides that a standby takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decide {
    /// The standby, once the primary is silent and its lease has ended.
    Standby,
    /// A cluster manager or a person: `tidegate failover`.
    Manager,
    /// A third host that holds the lease.
    Witness,
}

/// The link to the other host.
#[derive(Clone, Debug, Args)]
pub struct LinkArgs {
    /// Directory of ca.pem, NODE.pem and NODE.key (tidegate certs). Only a link on loopback may do without
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// This host's name in its certificate [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The name in the other host's certificate
    #[arg(long, value_name = "NAME", requires = "certs")]
    pub peer: Option<String>,
    /// From one heartbeat to the next
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = span)]
    pub beat: Duration,
    /// Silence of the other side that counts as its death
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = span)]
    pub dead_after: Duration,
    /// Who decides about a takeover; both hosts must say the same
    #[arg(long, value_enum, default_value_t = Decide::Standby)]
    pub decide: Decide,
    /// The witness
    #[arg(long, value_name = "ADDR", required_if_eq("decide", "witness"), value_parser = address)]
    pub witness: Option<SocketAddr>,
    /// The name in the witness's certificate
    #[arg(long, value_name = "NAME", default_value = "witness")]
    pub witness_name: String,
}

/// What a standby grants the primary.
#[derive(Clone, Copy, Debug, Args)]
pub struct GrantArgs {
    /// How long one grant lets the primary speak
    #[arg(long, value_name = "TIME", default_value = "90ms", value_parser = span)]
    pub term: Duration,
    /// For how long of it frames may bypass; behind that they wait for the next grant. A call repeats as much when this
    /// host takes over [default: half of --term, two beats and a quarter at least]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub media_term: Option<Duration>,
}

/// Reads `ADDRESS:PORT`. A name is not looked up: the other host is dialed again while leases run, and a resolver takes its
/// time.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write the address in numbers and the port, 10.7.0.2:7411 or [fd00::2]:7411; names are not looked up".to_owned()
    })
}

impl LinkArgs {
    /// Refuses times that contradict each other, in words for the command line.
    pub fn check(&self) -> Result<(), String> {
        if self.dead_after <= self.beat {
            return Err(
                "--dead-after must be longer than --beat: five beats are usual, 100ms and 20ms".into()
            );
        }
        if self.witness.is_some() && self.decide != Decide::Witness {
            return Err("--witness is for --decide witness alone: say so, or leave it out".into());
        }
        Ok(())
    }

    /// The same for what is granted over this link.
    pub fn check_grants(&self, grants: &GrantArgs) -> Result<(), String> {
        let &GrantArgs { term, media_term } = grants;
        self.check()?;
        if term <= self.beat {
            return Err("--term must be longer than --beat: each beat asks for the next grant".into());
        }
        if media_term.is_some_and(|media| media > term) {
            return Err("--media-term is a part of --term: it cannot be longer".into());
        }
        Ok(())
    }

    /// The same for the side that listens at `here`: nobody from elsewhere is let in without a certificate.
    pub fn check_listen(&self, here: SocketAddr) -> Result<(), String> {
        if self.certs.is_none() && !here.ip().is_loopback() {
            return Err(format!(
                "{here} is not on loopback: make certificates (tidegate certs) and name them with --certs"
            ));
        }
        Ok(())
    }

    /// The same for the side that dials `to`: whom it will find there has to be known.
    pub fn check_dial(&self, to: SocketAddr) -> Result<(), String> {
        self.check()?;
        if self.certs.is_some() && self.peer.is_none() {
            return Err("--certs wants --peer: the name in the other host's certificate".into());
        }
        if self.certs.is_none() && !to.ip().is_loopback() {
            return Err(format!(
                "{to} is not on loopback: make certificates (tidegate certs) and name them with --certs and --peer"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        link: LinkArgs,
    }

    fn link(words: &str) -> LinkArgs {
        Line::parse_from(std::iter::once("x").chain(words.split_ascii_whitespace())).link
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_the_option_to_change() {
        let ms = Duration::from_millis;
        let grants =
            |term, media_term: Option<u64>| GrantArgs { term: ms(term), media_term: media_term.map(ms) };
        let [near, far]: [SocketAddr; 2] =
            ["127.0.0.1:1", "10.7.0.2:1"].map(|at| at.parse().expect("an address"));
        assert_eq!(link("").check_dial(near), Ok(()));
        assert!(link("").check_dial(far).unwrap_err().contains("--certs"));
        assert_eq!(link("--certs /d --peer b").check_dial(far), Ok(()));
        assert_eq!((link("").check_listen(near), link("--certs /d").check_listen(far)), (Ok(()), Ok(())));
        assert!(link("").check_listen(far).unwrap_err().contains("--certs"));
        assert!(link("--certs /d").check_dial(near).unwrap_err().contains("--peer"));
        assert!(link("--beat 100ms").check_dial(near).unwrap_err().contains("--dead-after"));
        assert!(link("--witness 127.0.0.1:1").check_dial(near).unwrap_err().contains("--decide"));
        assert_eq!(link("--decide witness --witness 127.0.0.1:1").check_dial(near), Ok(()));
        assert_eq!(address("[fd00::2]:7411"), Ok("[fd00::2]:7411".parse().expect("an address")));
        for wrong in ["host-b:7411", "10.7.0.2", "[fd00::2]"] {
            assert!(address(wrong).unwrap_err().contains("10.7.0.2:7411"), "{wrong}");
        }
        assert_eq!(link("").check_grants(&grants(90, Some(45))), Ok(()));
        assert!(link("").check_grants(&grants(20, None)).unwrap_err().contains("--term"));
        assert!(link("").check_grants(&grants(90, Some(91))).unwrap_err().contains("--media-term"));
    }
}
