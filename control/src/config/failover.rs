//! What a guest's configuration says of the time after a failover.

use super::Guest;
use serde::{Deserialize, Serialize};
use tidegate_dataplane::classify::Srtcp;

/// `guest.replay_guard`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayGuard {
    /// What the dead primary may have sent is refused.
    All,
    /// The same, but for streams that are known not to be SRTP.
    Srtp,
    /// It is sent again.
    Off,
}

/// When a guest is announced after it was unmuted, milliseconds.
pub(super) fn announce_ms() -> Vec<u64> {
    vec![0, 50, 150, 300, 600]
}

impl Guest {
    /// What is refused after a promotion.
    pub fn replay_guard(&self) -> ReplayGuard {
        self.replay_guard.unwrap_or(ReplayGuard::All)
    }

    /// SRTCP waits for its commit wherever the guest is protected, because its index would come round again after a
    /// failover: whoever protects it may bring it back, with a lease or without.
    pub fn srtcp(&self) -> Srtcp {
        match self.replay_guard() {
            ReplayGuard::Off => Srtcp::Passes,
            ReplayGuard::All | ReplayGuard::Srtp => Srtcp::Waits,
        }
    }

    /// What is wrong with `announce_ms`.
    pub(super) fn announce_problem(&self) -> Option<&'static str> {
        let moments = &self.announce_ms;
        let good = moments.len() <= 32 && moments.is_sorted() && moments.iter().all(|ms| *ms <= 60_000);
        (!good).then_some("at most 32 moments of 0 to 60000 milliseconds, rising; [] announces nothing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn guest(keys: &str) -> Result<Guest, String> {
        let lane =
            "[[guest.lane]]\nguest_port = \"net_vhost0,iface=/r/a\"\nwire_port = \"net_null0\"\nlcore = 1\n";
        let text = format!("[[guest]]\nname = \"a\"\n{keys}\n{lane}");
        Config::parse(&text, "t").map(|config| config.guests[0].clone())
    }

    #[test]
    fn srtcp_waits_unless_replays_are_not_guarded_against() {
        for (keys, guard, srtcp) in [
            ("", ReplayGuard::All, Srtcp::Waits),
            ("leased = true\nreplay_guard = \"off\"", ReplayGuard::Off, Srtcp::Passes),
            ("replay_guard = \"srtp\"", ReplayGuard::Srtp, Srtcp::Waits),
            ("replay_guard = \"all\"", ReplayGuard::All, Srtcp::Waits),
        ] {
            let guest = guest(keys).expect("good");
            assert_eq!((guest.replay_guard(), guest.srtcp()), (guard, srtcp), "{keys}");
        }
    }

    #[test]
    fn announcements_are_bounded() {
        assert_eq!(guest("").expect("good").announce_ms, [0, 50, 150, 300, 600]);
        assert!(guest("announce_ms = []").expect("good").announce_ms.is_empty());
        let many = format!("announce_ms = {:?}", vec![1; 33]);
        for bad in ["announce_ms = [60001]", "announce_ms = [50, 0]", &many] {
            assert!(guest(bad).unwrap_err().contains("announce_ms"), "{bad}");
        }
    }
}
