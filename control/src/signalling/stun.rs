//! STUN messages (RFC 8489) as far as they speak of TURN channels, read strictly: what is cut, too long or does not add up
//! is none.
//!
//! A reader of its own: nobody here has a key, so nothing is verified, and what is wanted are a type, a transaction and two
//! attributes. The crates that read STUN bring hashes, ciphers and random numbers for what is not done here.

use tidegate_dataplane::wire::turn::{BIND, BOUND, CHANNELS, COOKIE, NOT_BOUND, REFRESH};

/// What makes two messages one exchange.
pub(super) type Transaction = [u8; 12];

/// What such a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// Bind this channel.
    Bind(u16),
    /// It is bound.
    Bound,
    /// It is not.
    NotBound,
    /// Let the whole allocation go, and all its channels.
    LetGo,
}

/// A message about channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub about: About,
    pub transaction: Transaction,
}

const HEADER: usize = 20;
/// Attributes.
const CHANNEL_NUMBER: u16 = 0x000c;
const LIFETIME: u16 = 0x000d;
const PEER: u16 = 0x0012;
/// MESSAGE-INTEGRITY and its successor: what is behind them is not covered, and not read (RFC 8489, 14.5).
const INTEGRITY: [u16; 2] = [0x0008, 0x001c];

/// The first of each attribute.
#[derive(Default)]
struct Attributes<'a> {
    number: Option<&'a [u8]>,
    lifetime: Option<&'a [u8]>,
    peer: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    /// All of `bytes`, or nothing.
    fn read(mut bytes: &'a [u8]) -> Option<Attributes<'a>> {
        let (mut found, mut covered) = (Attributes::default(), true);
        while let [k0, k1, l0, l1, rest @ ..] = bytes {
            let (kind, len) = (u16::from_be_bytes([*k0, *k1]), usize::from(u16::from_be_bytes([*l0, *l1])));
            let value = rest.get(..len)?;
            bytes = rest.get(len.next_multiple_of(4)..)?;
            let place = match kind {
                CHANNEL_NUMBER => &mut found.number,
                LIFETIME => &mut found.lifetime,
                PEER => &mut found.peer,
                _ => {
                    covered &= !INTEGRITY.contains(&kind);
                    continue;
                }
            };
            if covered {
                place.get_or_insert(value);
            }
        }
        bytes.is_empty().then_some(found)
    }

    /// The channel that is to be bound, and a peer that it is for.
    fn channel(&self) -> Option<u16> {
        // An address of IPv4 or IPv6 with its port.
        let peer = matches!(self.peer?, [_, 1, _, _, rest @ ..] if rest.len() == 4)
            || matches!(self.peer?, [_, 2, _, _, rest @ ..] if rest.len() == 16);
        let [high, low, _, _] = self.number? else { return None };
        Some(u16::from_be_bytes([*high, *low])).filter(|number| peer && CHANNELS.contains(number))
    }
}

impl Message {
    /// Reads a datagram.
    pub fn read(bytes: &[u8]) -> Option<Message> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let [k0, k1, l0, l1, c0, c1, c2, c3, transaction @ ..] = *header;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if u32::from_be_bytes([c0, c1, c2, c3]) != COOKIE || len != rest.len() || !len.is_multiple_of(4) {
            return None;
        }
        let attributes = Attributes::read(rest)?;
        let about = match u16::from_be_bytes([k0, k1]) {
            BIND => About::Bind(attributes.channel()?),
            BOUND => About::Bound,
            NOT_BOUND => About::NotBound,
            REFRESH if attributes.lifetime == Some(&[0; 4]) => About::LetGo,
            _ => return None,
        };
        Some(Message { about, transaction })
    }
}

#[cfg(test)]
mod tests {
    use super::super::turn::sample;
    use super::*;
    use proptest::prelude::*;

    fn about(bytes: &[u8]) -> Option<About> {
        Message::read(bytes).map(|message| {
            assert_eq!(message.transaction, [7; 12]);
            message.about
        })
    }

    const PEER_4: (u16, &[u8]) = (PEER, &[0, 1, 0x21, 0x13, 1, 2, 3, 4]);

    fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        sample::message(kind, [7; 12], attributes)
    }

    #[test]
    fn messages_about_channels_are_read() {
        let number = (CHANNEL_NUMBER, &[0x40, 1, 0xff, 0xff][..]);
        assert_eq!(about(&message(BIND, &[number, PEER_4])), Some(About::Bind(0x4001)));
        let long = [(0x0006, &b"user1"[..]), (0x8022, b"software"), PEER_4, number, (0x0008, &[9; 20])];
        assert_eq!(about(&message(BIND, &long)), Some(About::Bind(0x4001)));
        let six = [0, 2, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        assert_eq!(about(&message(BIND, &[number, (PEER, &six)])), Some(About::Bind(0x4001)));
        let twice = [number, (CHANNEL_NUMBER, &[0x40, 2, 0, 0]), PEER_4];
        assert_eq!(about(&message(BIND, &twice)), Some(About::Bind(0x4001)), "the first one counts");
        assert_eq!(about(&message(BOUND, &[])), Some(About::Bound));
        assert_eq!(about(&message(NOT_BOUND, &[(9, &[0, 0, 4, 1])])), Some(About::NotBound));
        assert_eq!(about(&message(REFRESH, &[(LIFETIME, &[0; 4])])), Some(About::LetGo));
    }

    #[test]
    fn what_does_not_add_up_is_none() {
        let number = |high: u8, low: u8| [high, low, 0, 0];
        for attributes in [
            &[(CHANNEL_NUMBER, &number(0x3f, 0xff)[..]), PEER_4][..],
            &[(CHANNEL_NUMBER, &number(0x50, 0)), PEER_4],
            &[(CHANNEL_NUMBER, &[0x40, 1]), PEER_4],
            &[(CHANNEL_NUMBER, &[0x40, 1, 0, 0, 0]), PEER_4],
            &[(CHANNEL_NUMBER, &number(0x40, 1))],
            &[(CHANNEL_NUMBER, &number(0x40, 1)), (PEER, &[0, 1, 0, 0, 1, 2, 3])],
            &[(CHANNEL_NUMBER, &number(0x40, 1)), (PEER, &[0, 3, 0, 0, 1, 2, 3, 4])],
            &[PEER_4, (0x0008, &[9; 20]), (CHANNEL_NUMBER, &number(0x40, 1))],
            &[PEER_4],
        ] {
            assert_eq!(about(&message(BIND, attributes)), None, "{attributes:x?}");
        }
        for lifetime in [&[0, 0, 0, 1][..], &[0, 0], &[]] {
            assert_eq!(about(&message(REFRESH, &[(LIFETIME, lifetime)])), None);
        }
        assert_eq!(about(&message(REFRESH, &[])), None);
        assert_eq!(about(&message(0x0001, &[])), None);
        let good = message(BIND, &[(CHANNEL_NUMBER, &number(0x40, 1)), PEER_4]);
        for end in 0..good.len() {
            assert_eq!(about(&good[..end]), None, "cut at {end}");
        }
        assert_eq!(about(&[&good[..], &[0; 4]].concat()), None, "bytes behind it");
        let mut lies = good.clone();
        lies[23] = 200;
        assert_eq!(about(&lies), None, "an attribute longer than the message");
        let mut other = good;
        other[4] = 0;
        assert_eq!(about(&other), None, "cookie");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_soundly(
            flips in proptest::collection::vec((0..60usize, any::<u8>()), 0..6), cut in 0..60usize,
        ) {
            let mut bytes = message(BIND, &[(6, b"user1"), (CHANNEL_NUMBER, &[0x40, 1, 0, 0]), PEER_4]);
            for (at, value) in flips {
                let last = bytes.len() - 1;
                bytes[at.min(last)] = value;
            }
            bytes.truncate(cut);
            if let Some(Message { about: About::Bind(number), .. }) = Message::read(&bytes) {
                prop_assert!(CHANNELS.contains(&number));
            }
        }
    }
}
