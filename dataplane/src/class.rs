//! What a frame is, why one was dropped, and what is to become of it: the words that the counters,
//! the classifier and the lane share.

/// What a frame is, whatever its verdict. Counters are kept per class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// ARP, IPv6 neighbour discovery, RARP: whoever announces where a guest lives.
    Announce,
    /// A packet of a promoted RTP stream, or of a learned or configured media port.
    Rtp,
    /// RTCP that belongs to such a stream.
    Rtcp,
    /// T.38 fax on a port that signalling named for it.
    Udptl,
    /// TCP.
    Tcp,
    /// UDP that is not (yet) media.
    Udp,
    /// Any other protocol over IP, later fragments among them.
    Ip,
    /// Neither IP nor an announcement.
    Other,
    /// Headers that end too early or contradict themselves.
    Malformed,
}

impl Class {
    /// All classes, by their number.
    pub const ALL: [Class; 9] = [
        Class::Announce,
        Class::Rtp,
        Class::Rtcp,
        Class::Udptl,
        Class::Tcp,
        Class::Udp,
        Class::Ip,
        Class::Other,
        Class::Malformed,
    ];

    /// The word used in logs, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Announce => "announce",
            Class::Rtp => "rtp",
            Class::Rtcp => "rtcp",
            Class::Udptl => "udptl",
            Class::Tcp => "tcp",
            Class::Udp => "udp",
            Class::Ip => "ip",
            Class::Other => "other",
            Class::Malformed => "malformed",
        }
    }
}

/// Why a frame was dropped. One counter each, per class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// The hold queue has reached its quota of mbufs or bytes.
    HoldFull,
    /// The wire took nothing for so long that the bypass queue is full.
    WireFull,
    /// Longer than the lane's MTU allows, or left for us to segment.
    Oversize,
    /// A checksum that is wrong or missing.
    Checksum,
    /// The guest's output is discarded: mode `muted`.
    Muted,
    /// Nothing may leave: mode `fenced`.
    Fenced,
    /// Held when somebody said `unprotect drop`, when a fence lifted, or when the plane stopped.
    Discarded,
    /// A rule of the operator says drop.
    Refused,
    /// Headers that contradict themselves, end too early or nest deeper than is looked at: there is nothing to check.
    Unreadable,
    /// RTP that the dead primary may have sent before: the replay guard of a promoted standby.
    Replayed,
}

impl DropReason {
    /// All reasons, by their number.
    pub const ALL: [DropReason; 10] = [
        DropReason::HoldFull,
        DropReason::WireFull,
        DropReason::Oversize,
        DropReason::Checksum,
        DropReason::Muted,
        DropReason::Fenced,
        DropReason::Discarded,
        DropReason::Refused,
        DropReason::Unreadable,
        DropReason::Replayed,
    ];

    /// The word used in logs, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::HoldFull => "hold_full",
            DropReason::WireFull => "wire_full",
            DropReason::Oversize => "oversize",
            DropReason::Checksum => "checksum",
            DropReason::Muted => "muted",
            DropReason::Fenced => "fenced",
            DropReason::Discarded => "discarded",
            DropReason::Refused => "refused",
            DropReason::Unreadable => "unreadable",
            DropReason::Replayed => "replayed",
        }
    }
}

/// What is to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the wire at once.
    Bypass,
    /// Wait for the commit.
    Hold,
    /// Hold, but let go in order when this stream proves to be media.
    Probation(StreamRef),
    /// To the wire at once, right behind what this stream has waiting under probation.
    Promote(StreamRef),
    /// Not to the wire at all: a rule says so, or for RTP of a known stream the replay guard.
    Refuse,
}

/// Where a stream lives in the lane's [`crate::streams::StreamTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRef(pub u32);

/// What the quality of a stream is computed from when the packet leaves (RFC 3550, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    /// The stream.
    pub stream: StreamRef,
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp, in units of the stream's media clock.
    pub timestamp: u32,
}

/// The classifier's whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is to become of the frame.
    pub verdict: Verdict,
    /// What it is.
    pub class: Class,
    /// Set when the frame is RTP of a known stream, whatever the verdict: its quality is recorded when
    /// the frame leaves.
    pub media: Option<Media>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_match() {
        for (n, class) in Class::ALL.iter().enumerate() {
            assert_eq!(*class as usize, n);
        }
        for (n, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, n);
        }
    }
}
