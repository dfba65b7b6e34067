//! The bytes that transfers carry: each place in the stream has its own, so that a receiver sees whether any
//! was lost, repeated or changed.

/// The byte at `place`.
fn byte(place: u64) -> u8 {
    (place ^ place >> 8 ^ place >> 16) as u8
}

/// Fills `buffer` with the bytes from `place` on.
pub(super) fn fill(buffer: &mut [u8], place: u64) {
    for (place, slot) in (place..).zip(buffer) {
        *slot = byte(place);
    }
}

/// A receiver's count.
#[derive(Debug, Default)]
pub(super) struct Check {
    /// Bytes received.
    pub bytes: u64,
    /// Those among them that are not what was sent.
    pub wrong: u64,
}

impl Check {
    /// Looks at the bytes that came next.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let wrong = (self.bytes..).zip(bytes).filter(|(place, got)| byte(*place) != **got).count();
        self.bytes += bytes.len() as u64;
        self.wrong += wrong as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_repeated_or_changed_byte_is_seen() {
        let mut sent = vec![0; 3000];
        fill(&mut sent, 0);
        let wrong = |pieces: &[&[u8]]| {
            let mut check = Check::default();
            pieces.iter().for_each(|piece| check.take(piece));
            check.wrong
        };
        assert_eq!(wrong(&[&sent[..1000], &sent[1000..]]), 0);
        assert!(wrong(&[&sent[..1000], &sent[1001..]]) > 1000, "lost");
        assert!(wrong(&[&sent[..1000], &sent[999..]]) > 1000, "repeated");
        let mut changed = sent.clone();
        changed[5] ^= 1;
        assert_eq!(wrong(&[&changed]), 1);
    }
}
