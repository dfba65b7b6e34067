//! What `tidegate classify` tells, as JSON and for people.

use super::quality::Quality;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// The whole answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// One for each file, in the order they were given.
    pub files: Vec<FileReport>,
}

/// One capture. Every packet that was judged is in `bypassed`, `held` or `refused`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FileReport {
    /// Its path.
    pub file: String,
    /// Packets in it.
    pub packets: u64,
    /// UDP datagrams among them (of a fragmented one its first part).
    pub udp_packets: u64,
    /// Would have left at once, or as soon as their stream had proven itself.
    pub bypassed: u64,
    /// Would have waited for the commit.
    pub held: u64,
    /// Would not have left at all: a rule says refuse.
    pub refused: u64,
    /// Of addresses that are not `--guest`.
    pub not_judged: u64,
    /// Of links that are not looked at.
    pub other_links: u64,
    /// The file ends in the middle of a packet.
    pub cut: bool,
    /// RTP streams: let go, or in sight for three packets at least.
    pub streams: Vec<StreamReport>,
    /// ARP, neighbour discovery, RARP that were let go.
    pub announcements: u64,
    /// T.38 fax (UDPTL) that was let go, on ports that SIP had named for it.
    pub udptl: u64,
    /// Later fragments of what was let go.
    pub fragments: u64,
    /// What a policy other than `realtime` lets go beside media.
    pub by_policy: u64,
    /// What the operator's rules let go beside RTP; that is in `by_rules` of its stream.
    pub by_rules: u64,
    /// RTCP that was let go and belongs to no stream below: always 0 with the policy `realtime`.
    pub rtcp_outside_streams: u64,
    /// Packets that looked like RTP, of streams too short to be listed. All of them were held.
    pub looked_like_rtp: u64,
    /// What was let go and nobody can explain: 0.
    pub bypassed_outside_streams: u64,
    /// All flows.
    pub flows: Vec<FlowReport>,
}

/// One RTP stream: one SSRC in one flow.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    /// Who sent it.
    pub src: IpAddr,
    /// From which port.
    pub sport: u16,
    /// To whom.
    pub dst: IpAddr,
    /// To which port.
    pub dport: u16,
    /// Synchronisation source, as 0x and eight digits.
    pub ssrc: String,
    /// RTP packets.
    pub packets: u64,
    /// Of those, let go; the ones that were let go on promotion are among them.
    pub bypassed: u64,
    /// Of those, let go by a rule of the operator.
    pub by_rules: u64,
    /// Number of the packet, from 1, with which it was promoted; `null` for never.
    pub promoted_at: Option<u64>,
    /// What decided: `three-in-order`, `two-in-order-after-set-up`, `media-port`, `sip` (the guest named the port),
    /// `known-stream` (its SSRC proved itself towards another peer), `policy`, `hold`, or `rule N` for the operator's.
    pub rule: Cow<'static, str>,
    /// RTCP packets let go with it.
    pub rtcp: u64,
    /// Units a second of the media clock, known or estimated.
    pub clock_rate: u32,
    /// As it was sent.
    #[serde(flatten)]
    pub quality: Quality,
}

/// One direction between two ports.
#[derive(Clone, Debug, Serialize)]
pub struct FlowReport {
    /// Who sent it.
    pub src: IpAddr,
    /// From which port; 0 where there is none.
    pub sport: u16,
    /// To whom.
    pub dst: IpAddr,
    /// To which port.
    pub dport: u16,
    /// IP protocol number; 0 for what is not IP.
    pub protocol: u8,
    /// Packets.
    pub packets: u64,
    /// Let go.
    pub bypassed: u64,
    /// Held.
    pub held: u64,
    /// Refused.
    pub refused: u64,
    /// What decided about the last one.
    pub rule: Cow<'static, str>,
}

fn ends(src: IpAddr, sport: u16, dst: IpAddr, dport: u16) -> String {
    format!("{} -> {}", SocketAddr::new(src, sport), SocketAddr::new(dst, dport))
}

impl FileReport {
    /// For people. `flows`: all of them, not only the streams.
    pub fn text(&self, flows: bool) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{}: {} packets, {} of them UDP: {} bypass, {} are held",
            self.file, self.packets, self.udp_packets, self.bypassed, self.held
        );
        if self.cut {
            text.push_str("  the file ends in the middle of a packet\n");
        }
        for (count, what) in [
            (self.other_links, "of links that are not known here: not looked at"),
            (self.not_judged, "not from the guest: not judged"),
            (self.announcements, "announcements (ARP, neighbour discovery) bypass"),
            (self.udptl, "packets of fax (T.38 UDPTL) bypass on ports that SIP named"),
            (self.fragments, "later fragments bypass with their first one"),
            (self.by_policy, "bypass by the policy's name"),
            (self.by_rules, "bypass by the operator's rules, beside RTP"),
            (self.refused, "refused by the operator's rules"),
            (self.looked_like_rtp, "looked like RTP for less than three packets: held"),
            (self.bypassed_outside_streams, "BYPASS AND NOBODY KNOWS WHY: please report this"),
        ] {
            if count > 0 {
                let _ = writeln!(text, "  {count} {what}");
            }
        }
        for s in &self.streams {
            let at = s.promoted_at.map_or("never".into(), |at| format!("from packet {at}"));
            let _ = writeln!(
                text,
                "  {} SSRC {}: {} RTP, {} bypass {at} ({}), {} RTCP\n    jitter {:.2} ms (max {:.2}), \
                 largest gap {:.1} ms, PDV p99 {:.1} ms, {} lost, {} reordered, MOS {:.2} / {:.2} (60 / 200 ms buffer)",
                ends(s.src, s.sport, s.dst, s.dport),
                s.ssrc,
                s.packets,
                s.bypassed,
                s.rule,
                s.rtcp,
                s.quality.jitter_ms,
                s.quality.jitter_ms_max,
                s.quality.delta_ms_max,
                s.quality.pdv_ms_p99,
                s.quality.lost,
                s.quality.reordered,
                s.quality.mos_60,
                s.quality.mos_200,
            );
        }
        for f in self.flows.iter().filter(|_| flows) {
            let _ = writeln!(
                text,
                "  {} protocol {}: {} packets, {} bypass, {} held ({})",
                ends(f.src, f.sport, f.dst, f.dport),
                f.protocol,
                f.packets,
                f.bypassed,
                f.held,
                f.rule
            );
        }
        text
    }
}
