//! The guest's own ports in a session description (SDP, RFC 8866), parsed by `sdp-types`.
//!
//! A port counts only on an address of the guest: that of the `c=` line, or of a host candidate (ICE). A `c=` line that
//! names another host opens nothing, whoever sent it.

use sdp_types::{Attribute, Connection, Media, Session};
use std::collections::BTreeSet;
use std::net::IpAddr;
use tidegate_dataplane::ear::Learned;

/// Ports of one description, counted once for each thing that is said of them.
pub(super) const PORTS: usize = 128;
/// Media of one description that are looked at, and lines of one.
const MEDIA: usize = 64;
const LINES: usize = 4096;
/// Kinds of lines that say nothing of ports. Phones write some of them in their own way: a bare name in `o=`, or a number
/// longer than it may be.
const UNREAD: &[u8] = b"osiuepbrzk";
/// Media never has a port below.
const LOWEST_PORT: u16 = 1024;

/// A port of the guest, and what it is for.
pub(super) type Use = (IpAddr, u16, Learned);

/// What the ports of a medium carry, if it is one that matters.
fn carried(proto: &str) -> Option<Learned> {
    let rtp = ["RTP/AVP", "RTP/AVPF", "RTP/SAVP", "RTP/SAVPF", "UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF"];
    if rtp.iter().any(|name| proto.eq_ignore_ascii_case(name)) {
        Some(Learned::Rtp)
    } else {
        proto.eq_ignore_ascii_case("udptl").then_some(Learned::Udptl)
    }
}

/// Whether the RTP of a medium is SRTP, as far as its description says: where keys are offered beside a profile without
/// them (RFC 8643), nobody knows.
fn secured(media: &Media, session: &Session) -> Option<bool> {
    let keys = |attribute: &Attribute| {
        ["crypto", "fingerprint", "key-mgmt", "zrtp-hash"]
            .iter()
            .any(|name| attribute.attribute.eq_ignore_ascii_case(name))
    };
    match media.proto.to_ascii_uppercase().contains("SAVP") {
        true => Some(true),
        false => (!media.attributes.iter().chain(&session.attributes).any(keys)).then_some(false),
    }
}

/// The address of a `c=` line, if it is one of the guest's. Nowhere (the old way to hold) is where the message is from.
fn own(connection: &Connection, from: IpAddr, homes: &[IpAddr]) -> Option<IpAddr> {
    let address = connection.try_address().ok()?.ip.to_canonical();
    match address.is_unspecified() {
        true => Some(from),
        false => homes.contains(&address).then_some(address),
    }
}

/// A host candidate on UDP (RFC 8839, 5.1): component, address, port.
fn candidate(attribute: &Attribute) -> Option<(u8, IpAddr, u16)> {
    if !attribute.attribute.eq_ignore_ascii_case("candidate") {
        return None;
    }
    let mut words = attribute.value.as_deref()?.split_ascii_whitespace();
    let (_foundation, component, transport, _priority) =
        (words.next()?, words.next()?, words.next()?, words.next()?);
    let (address, port) = (words.next()?, words.next()?);
    let host = words.next()? == "typ" && words.next()?.eq_ignore_ascii_case("host");
    let udp = transport.eq_ignore_ascii_case("udp");
    let address: IpAddr = address.parse().ok()?;
    (host && udp).then_some((component.parse().ok()?, address.to_canonical(), port.parse().ok()?))
}

/// The port of `a=rtcp` (RFC 3605), and its address where it names one.
fn rtcp(attribute: &Attribute) -> Option<(u16, Option<IpAddr>)> {
    if !attribute.attribute.eq_ignore_ascii_case("rtcp") {
        return None;
    }
    let mut words = attribute.value.as_deref()?.split_ascii_whitespace();
    let port = words.next()?.parse().ok()?;
    Some((port, words.nth(2).and_then(|address| address.parse().ok()).map(|a: IpAddr| a.to_canonical())))
}

/// What a description that came from `from` opens. `homes`: the guest's addresses. `None`: it is no description.
pub(super) fn uses(description: &[u8], from: IpAddr, homes: &[IpAddr]) -> Option<BTreeSet<Use>> {
    if description.iter().filter(|byte| **byte == b'\n').count() > LINES {
        return None;
    }
    let lines = description.split_inclusive(|byte| *byte == b'\n');
    let read = lines.filter(|line| !matches!(line, [kind, b'=', ..] if UNREAD.contains(kind)));
    let session = Session::parse(&read.flatten().copied().collect::<Vec<u8>>()).ok()?;
    let mut uses = BTreeSet::new();
    let mut open = |address: IpAddr, port: u16, what: Learned| {
        if port >= LOWEST_PORT && uses.len() < PORTS {
            uses.insert((address, port, what));
        }
    };
    // RTCP beside its media, or with it, needs no word: it goes with the stream next to it.
    let far = |port: u16, of: u16| port.abs_diff(of) > 1;
    for media in session.medias.iter().take(MEDIA) {
        let Some(what) = carried(&media.proto) else { continue };
        if media.port == 0 {
            continue;
        }
        // With its RTP on each of its ports.
        let also = secured(media, &session).filter(|_| what == Learned::Rtp).map(Learned::Secured);
        let connection = media.connections.first().or(session.connection.as_ref());
        let home = connection.and_then(|connection| own(connection, from, homes));
        if let Some(home) = home {
            for n in 0..media.num_ports.unwrap_or(1).min(MEDIA as u16) {
                if let Some(port) = media.port.checked_add(2 * n) {
                    open(home, port, what);
                    also.into_iter().for_each(|also| open(home, port, also));
                }
            }
        }
        let mux = media.attributes.iter().any(|a| a.attribute.eq_ignore_ascii_case("rtcp-mux"));
        if what == Learned::Rtp && !mux {
            let named = media.attributes.iter().filter_map(rtcp).next();
            if let (Some((port, address)), Some(home)) = (named, home)
                && far(port, media.port)
                && address.is_none_or(|address| address == home)
            {
                open(home, port, Learned::Rtcp { of: media.port });
            }
        }
        let candidates =
            || media.attributes.iter().filter_map(candidate).filter(|(_, a, _)| homes.contains(a));
        for (_, address, port) in candidates().filter(|(component, ..)| *component == 1) {
            open(address, port, what);
            also.into_iter().for_each(|also| open(address, port, also));
            let partners = candidates().filter(|(component, at, _)| *component == 2 && *at == address);
            for (_, _, rtcp) in partners.filter(|(.., rtcp)| what == Learned::Rtp && far(*rtcp, port)).take(4)
            {
                open(address, rtcp, Learned::Rtcp { of: port });
            }
        }
    }
    Some(uses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Learned::{Rtcp, Rtp, Secured, Udptl};

    const HOME: &str = "10.0.0.2";

    fn opens(home: &str, lines: &str) -> Vec<(String, u16, Learned)> {
        let mut all = says(home, lines);
        all.retain(|(.., what)| !matches!(what, Secured(_)));
        all
    }

    /// With what is said of keys.
    fn says(home: &str, lines: &str) -> Vec<(String, u16, Learned)> {
        let home = home.parse().expect("an address");
        let text = format!("v=0\r\no=- 1 1 IN IP4 {HOME}\r\ns=-\r\n{}\r\n", lines.replace('|', "\r\n"));
        let uses = uses(text.as_bytes(), home, &[home]).expect("a description");
        uses.into_iter().map(|(address, port, what)| (address.to_string(), port, what)).collect()
    }

    fn at(address: &str, uses: &[(u16, Learned)]) -> Vec<(String, u16, Learned)> {
        uses.iter().map(|(port, what)| (address.to_owned(), *port, *what)).collect()
    }

    #[test]
    fn ports_are_what_the_lines_say() {
        let c = "c=IN IP4 10.0.0.2|t=0 0|";
        for (lines, expected) in [
            ("m=audio 4000 RTP/AVP 8", &[(4000, Rtp)][..]),
            ("m=audio 4000 RTP/AVP 8|a=inactive", &[(4000, Rtp)]),
            ("m=audio 0 RTP/AVP 8|m=image 5000 udptl t38", &[(5000, Udptl)]),
            ("m=audio 4000 RTP/SAVP 8|m=video 4002 RTP/SAVPF 96", &[(4000, Rtp), (4002, Rtp)]),
            (
                "a=group:BUNDLE a v|m=audio 4000 UDP/TLS/RTP/SAVPF 8|a=mid:a|m=video 4000 RTP/AVPF 9|a=mid:v",
                &[(4000, Rtp)],
            ),
            ("m=audio 4000/3 RTP/AVP 8", &[(4000, Rtp), (4002, Rtp), (4004, Rtp)]),
            ("m=audio 65534/3 RTP/AVP 8", &[(65534, Rtp)]),
            ("m=audio 4000 RTP/AVP 8|a=rtcp:4001", &[(4000, Rtp)]),
            ("m=audio 4000 RTP/AVP 8|a=rtcp:5001 IN IP4 10.0.0.2", &[(4000, Rtp), (5001, Rtcp { of: 4000 })]),
            ("m=audio 4000 RTP/AVP 8|a=rtcp:5001 IN IP4 10.0.0.3", &[(4000, Rtp)]),
            ("m=audio 4000 RTP/AVP 8|a=rtcp:5001|a=rtcp-mux", &[(4000, Rtp)]),
            ("m=audio 1023 RTP/AVP 8", &[]),
            ("m=message 4000 TCP/MSRP *|m=application 4002 UDP/DTLS/SCTP webrtc-datachannel", &[]),
            ("m=audio 4000 RTP/AVP 8|c=IN IP4 10.0.0.3", &[]),
            ("m=audio 4000 RTP/AVP 8|c=IN IP4 0.0.0.0", &[(4000, Rtp)]),
            ("m=audio 4000 RTP/AVP 8|c=IN IP4 pbx.example.org", &[]),
        ] {
            assert_eq!(opens(HOME, &format!("{c}{lines}")), at(HOME, expected), "{lines}");
        }
    }

    #[test]
    fn a_description_tells_srtp_from_rtp_and_says_nothing_where_keys_are_a_mere_offer() {
        for (lines, told) in [
            ("m=audio 4000 RTP/AVP 8", Some(false)),
            ("m=audio 4000 RTP/AVPF 8", Some(false)),
            ("m=audio 4000 RTP/SAVP 8|a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x", Some(true)),
            ("m=audio 4000 rtp/savpf 8", Some(true)),
            ("m=audio 4000 UDP/TLS/RTP/SAVPF 8", Some(true)),
            ("m=audio 4000 RTP/AVP 8|a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x", None),
            ("m=audio 4000 RTP/AVP 8|a=Fingerprint:sha-256 00", None),
            ("m=audio 4000 RTP/AVP 8|a=zrtp-hash:1.10 00", None),
            ("a=fingerprint:sha-256 00|m=audio 4000 RTP/AVP 8", None),
            ("m=image 4000 udptl t38", None),
        ] {
            let said = says(HOME, &format!("c=IN IP4 10.0.0.2|t=0 0|{lines}"));
            let secured = said.iter().filter(|(.., what)| matches!(what, Secured(_)));
            let wanted: Vec<_> =
                told.into_iter().map(|told| (HOME.to_owned(), 4000, Secured(told))).collect();
            assert_eq!(secured.cloned().collect::<Vec<_>>(), wanted, "{lines}");
        }
    }

    #[test]
    fn odd_lines_that_say_nothing_of_ports_are_no_matter() {
        let home = HOME.parse().expect("an address");
        for odd in [
            "o= 1 1 IN IP4 x",
            "o=A Phone 1 1 IN IP4 x",
            "o=- -1 18446744073709551616 IN IP4 x",
            "s=caf\u{e9}|e=|b=x",
        ] {
            let lines =
                format!("v=0|{odd}|c=IN IP4 {HOME}|t=0 0|m=audio 4000 RTP/AVP 8|b=RS:|").replace('|', "\r\n");
            let uses = uses(lines.as_bytes(), home, &[home]);
            assert_eq!(uses.map(|uses| uses.len()), Some(2), "{odd}");
            assert_eq!(super::uses(lines.replace("v=0", "v=9").as_bytes(), home, &[home]), None);
        }
        assert_eq!(uses(b"POST / HTTP/1.1\r\nm=audio 4000 RTP/AVP 8\r\n", home, &[home]), None);
    }

    #[test]
    fn behind_nat_host_candidates_open_and_nothing_else() {
        let lines = "c=IN IP4 203.0.113.5|t=0 0|m=audio 9000 UDP/TLS/RTP/SAVPF 111|\
            a=candidate:1 1 UDP 2130706431 10.0.0.2 6000 typ host|a=candidate:1 2 UDP 2130706430 10.0.0.2 7001 typ host|\
            a=candidate:2 1 TCP 2130706431 10.0.0.2 6100 typ host tcptype active|\
            a=candidate:3 1 UDP 1694498815 203.0.113.5 9000 typ srflx raddr 10.0.0.2 rport 6000|\
            a=candidate:4 1 UDP 2130706431 10.0.0.3 6200 typ host|a=candidate:5 1 UDP 1 x.local 6300 typ host|a=candidate:6";
        assert_eq!(opens(HOME, lines), at(HOME, &[(6000, Rtp), (7001, Rtcp { of: 6000 })]));
    }

    #[test]
    fn ipv6_is_the_same() {
        let lines = "c=IN IP6 2001:db8::2|t=0 0|m=audio 4000 RTP/AVP 8|a=candidate:1 1 udp 1 2001:db8::2 5000 typ host";
        assert_eq!(opens("2001:db8::2", lines), at("2001:db8::2", &[(4000, Rtp), (5000, Rtp)]));
        assert_eq!(opens("2001:db8::3", lines), []);
    }

    #[test]
    fn thousands_of_media_open_no_more_than_the_bound() {
        let many: String = (0..3000).map(|n| format!("|m=audio {} RTP/AVP 8", 2000 + 2 * n)).collect();
        assert_eq!(says(HOME, &format!("c=IN IP4 10.0.0.2|t=0 0{many}")).len(), PORTS);
        let home = [HOME.parse().expect("an address")];
        assert_eq!(uses(&b"a=x\r\n".repeat(LINES + 1), home[0], &home), None);
        assert_eq!(uses(b"hello", home[0], &home), None);
    }
}
