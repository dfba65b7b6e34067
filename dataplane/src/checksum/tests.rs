use super::*;
use crate::wire::express::Plain;
use crate::wire::sample::{self, Chain, Owing};
use proptest::prelude::*;

fn verdict(bytes: &[u8]) -> Result<(), Bad> {
    let frame = Chain::whole(bytes);
    verify(&frame, &Headers::parse(frame.head(), frame.len()))
}

/// RFC 1071, 4.1, word by word.
fn by_the_book(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]) as u64;
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (sum as u16).to_be()
}

fn good() -> Vec<Vec<u8>> {
    let mut icmp = vec![8, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3];
    let sum = !by_the_book(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_ne_bytes());
    let mut routed = vec![17, 2, 2, 1, 0, 0, 0, 0];
    routed.extend([9; 16]);
    let udp = [&[0, 1, 0, 2, 0, 13, 0, 0][..], b"hello"].concat();
    routed.extend(sample::checksummed(udp, 6, 17, &sample::GUEST6, &[9; 16]));
    vec![
        sample::udp(40000, 5004, &sample::rtp(1, 2)),
        sample::udp(40000, 5004, b"odd"),
        sample::udp6(40000, 5004, b"odd"),
        sample::tcp(443, 50000, b"hello"),
        sample::neighbour(135, 255, &[1, 1, 2, 0, 0, 0, 0, 1]),
        sample::ipv4(1, &[], 0, &icmp),
        sample::ipv4(17, &[7, 4, 0, 0], 0, &sample::datagram(1, 2, b"options")),
        sample::ipv6(43, 64, &routed),
    ]
}

#[test]
fn the_example_of_rfc_1071_sums_up() {
    assert_eq!(ones_complement(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]).to_be(), 0xddf2);
}

#[test]
fn good_frames_pass_and_each_flipped_bit_is_found() {
    for frame in good() {
        assert_eq!(verdict(&frame), Ok(()));
        let h = Headers::parse(&frame, frame.len() as u32);
        for bit in (h.transport_at as usize * 8)..frame.len() * 8 {
            let mut broken = frame.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            // Ports, lengths and text alike; only an IPv4 UDP checksum of 0 would be legal.
            assert!(verdict(&broken).is_err(), "bit {bit}");
        }
        if h.version == 4 {
            for bit in 14 * 8..34 * 8 {
                let mut broken = frame.clone();
                broken[bit / 8] ^= 1 << (bit % 8);
                assert!(verdict(&broken).is_err(), "header bit {bit}");
            }
        }
    }
}

#[test]
fn no_checksum_is_legal_over_ipv4_only() {
    let mut v4 = sample::udp(1, 2, b"x");
    v4[40..42].fill(0);
    assert_eq!(verdict(&v4), Ok(()));
    let mut v6 = sample::udp6(1, 2, b"x");
    v6[60..62].fill(0);
    assert_eq!(verdict(&v6), Err(Bad::Missing));
}

#[test]
fn of_a_fragment_only_the_ip_header_is_checked() {
    let udp = sample::datagram(1, 2, &[7; 200]);
    let mut first = sample::ipv4(17, &[], 0x2000, &udp[..64]);
    first[60] ^= 1;
    assert_eq!(verdict(&first), Ok(()), "the datagram's sum is the receiver's matter");
    first[24] ^= 1;
    assert_eq!(verdict(&first), Err(Bad::Ipv4Header));
}

#[test]
fn a_surplus_area_is_not_summed() {
    let surplus = [&sample::datagram(1, 2, b"data")[..], b"more"].concat();
    assert_eq!(verdict(&sample::ipv4(17, &[], 0, &surplus)), Ok(()));
}

#[test]
fn padding_does_not_count_and_other_protocols_pass() {
    let mut padded = sample::udp(1, 2, b"x");
    padded.resize(60, 0xee);
    assert_eq!(verdict(&padded), Ok(()));
    assert_eq!(verdict(&sample::arp(1)), Ok(()));
    assert_eq!(verdict(&sample::ipv4(50, &[], 0, &[1, 2, 3, 4])), Ok(()));
    assert_eq!(verdict(&[0; 13]), Err(Bad::Unreadable));
}

#[test]
fn a_checksum_that_is_left_to_us_is_put_in_whatever_stood_there() {
    for frame in good() {
        let headers = Headers::parse(&frame, frame.len() as u32);
        let field = headers.transport_at as usize + if headers.kind == Kind::Tcp { 16 } else { 6 };
        for place in [frame[field], 0, 0xff] {
            let mut asked = frame.clone();
            asked[field] = place;
            let mut asked = Owing(Chain::whole(&asked));
            let settled = settle(&mut asked, &headers, false);
            if matches!(headers.kind, Kind::Udp | Kind::Tcp) {
                assert_eq!((settled, asked.0.0.concat()), (Ok(()), frame.clone()));
            } else {
                assert_eq!(settled, Err(Bad::Missing), "only UDP and TCP can be asked for");
            }
        }
    }
}

#[test]
fn the_short_way_settles_as_the_long_one() {
    let rtp = sample::udp(40000, 5004, &sample::rtp(9, 7));
    for frame in [&rtp, &sample::tcp(40000, 5004, &[7; 31]), &sample::tcp(40000, 80, &[7; 700])] {
        for at in 14..frame.len() {
            let mut other = frame.clone();
            other[at] ^= 0x55;
            let headers = Headers::parse(&other, other.len() as u32);
            let protocol = match Plain::read(&other, other.len() as u32) {
                Some(Plain::Rtp(_)) => 17,
                Some(Plain::Tcp(_)) => 6,
                None => continue,
            };
            assert_eq!(
                settle_express(&mut Chain::whole(&other), protocol, true),
                verdict(&other).is_ok(),
                "{at}"
            );
            let (mut short, mut long) = (Owing(Chain::whole(&other)), Owing(Chain::whole(&other)));
            assert_eq!(
                settle_express(&mut short, protocol, true),
                settle(&mut long, &headers, true).is_ok(),
                "{at}"
            );
            if settle(&mut long, &headers, true).is_ok() {
                assert_eq!(short.0.0, long.0.0, "{at}");
            }
        }
    }
    let mut without = rtp.clone();
    without[40..42].fill(0);
    assert!(settle_express(&mut Chain::whole(&without), 17, true), "none is legal over IPv4");
}

#[test]
fn long_and_short_slices_are_summed_alike() {
    // All ones carry at each step; the other pattern has a carry here and there.
    for fill in [|_| 0xff, |n: usize| (n * 37 % 251) as u8] {
        let bytes: Vec<u8> = (0..LONG + 80).map(fill).collect();
        for len in 0..bytes.len() {
            let words = bytes[..len]
                .chunks(2)
                .map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
            assert_eq!(folded(sum(&bytes[..len])), folded(words.sum()), "{len}");
        }
    }
}

#[test]
fn a_sum_of_zero_is_sent_as_ones_because_zero_says_that_there_is_none() {
    // The last two bytes make the sum come out as 0.
    let mut frame = sample::udp(1, 2, &[0, 0]);
    let sum = [frame[40], frame[41]];
    frame[42..44].copy_from_slice(&sum);
    let mut asked = Owing(Chain::whole(&frame));
    let headers = Headers::parse(&frame, frame.len() as u32);
    assert_eq!(settle(&mut asked, &headers, true), Ok(()));
    assert_eq!(asked.0.0[0][40..42], [0xff; 2]);
    assert_eq!(verdict(&asked.0.0[0]), Ok(()));
}

#[test]
fn a_checksum_that_cannot_be_put_in_keeps_the_frame_back() {
    let mut fragment = sample::udp(1, 2, &[7; 100]);
    fragment[20] |= 0x20;
    let arp = sample::arp(1);
    let mut header = sample::udp(1, 2, b"x");
    header[24] ^= 1;
    for frame in [fragment, arp, header, vec![0; 13]] {
        let headers = Headers::parse(&frame, frame.len() as u32);
        assert!(settle(&mut Owing(Chain::whole(&frame)), &headers, false).is_err());
    }
}

proptest! {
    #[test]
    fn sums_agree_with_the_book(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let ours = ones_complement(&bytes);
        prop_assert_eq!(ours % 0xffff, by_the_book(&bytes) % 0xffff);
        prop_assert_eq!(ours == 0, bytes.iter().all(|b| *b == 0));
    }

    #[test]
    fn cut_into_segments_a_frame_is_judged_alike(
        which in 0..8usize, cuts in proptest::collection::vec(0..230usize, 0..5), flip in 0..400usize,
    ) {
        let mut bytes = good()[which].clone();
        if flip / 2 < bytes.len() {
            bytes[flip / 2] ^= 0x10;
        }
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let segments = cuts.windows(2).map(|w| bytes[w[0]..w[1]].to_vec()).collect();
        let chain = Chain(segments);
        let headers = Headers::parse(chain.head(), chain.len());
        prop_assert_eq!(verify(&chain, &headers), verdict(&bytes));
        let mut asked = Owing(chain);
        if settle(&mut asked, &headers, true).is_ok() {
            let whole = asked.0.0.concat();
            prop_assert_eq!(verdict(&whole), Ok(()), "what was put in is right, in segments too");
        }
    }
}

#[test]
fn a_long_sum_does_not_overflow() {
    let ones = vec![0xff; 1 << 20];
    assert_eq!(ones_complement(&ones), 0xffff);
}
