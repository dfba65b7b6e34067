//! T.38's own transport (UDPTL; ITU-T T.38, 9.1): its shape, so that a port that signalling named for a fax lets
//! nothing else out.

/// One length-prefixed field (X.691, 11.9) at the front of `bytes`: what is behind it.
fn field(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = match bytes {
        [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [high @ 0x80..=0xbf, low, rest @ ..] => (usize::from(high & 0x3f) << 8 | usize::from(*low), rest),
        _ => return None,
    };
    rest.get(len..)
}

/// A count and as many fields.
fn fields(bytes: &[u8]) -> Option<&[u8]> {
    let [count @ 0..=0x7f, rest @ ..] = bytes else { return None };
    (0..*count).try_fold(rest, |rest, _| field(rest))
}

/// True for a whole UDPTL packet: a number, a primary packet of a byte at least, then the earlier ones again or their
/// parity, and nothing behind it.
pub(crate) fn is_packet(payload: &[u8]) -> bool {
    let [_, _, primary @ ..] = payload else { return false };
    if primary.first() == Some(&0) {
        return false;
    }
    let end = match field(primary) {
        Some([kind, again @ ..]) if *kind & 0x80 == 0 => fields(again),
        // How many packets each parity covers (an integer), then the parities.
        Some([_, parity @ ..]) => field(parity).and_then(fields),
        _ => None,
    };
    end.is_some_and(<[u8]>::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_a_fax_are_told_from_others() {
        for packet in [
            &[0, 1, 1, 6, 0, 0][..],                  // t30 indicator, nothing again
            &[0, 2, 3, 0xc0, 1, 2, 0, 1, 1, 6],       // with the one before
            &[0x90, 2, 1, 6, 0x80, 1, 3, 1, 2, 9, 9], // parity
        ] {
            assert!(is_packet(packet), "{packet:x?}");
            for end in 0..packet.len() {
                assert!(!is_packet(&packet[..end]), "cut at {end}: {packet:x?}");
            }
            assert!(!is_packet(&[packet, &[0]].concat()), "a byte too many: {packet:x?}");
        }
        let mut long = vec![0, 1, 0x80, 200];
        long.extend([7; 200]);
        long.extend([0, 0]);
        assert!(is_packet(&long));
        assert!(!is_packet(&[0, 1, 0, 0, 0]), "nothing in it");
        assert!(!is_packet(b"INVITE sip:bob@example.org SIP/2.0\r\n\r\n"));
        assert!(!is_packet(&[0x80, 8, 0, 1, 0, 0, 0, 160, 1, 2, 3, 4, 0xd5, 0xd5]), "RTP");
        assert!(
            !is_packet(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]),
            "STUN"
        );
    }
}
