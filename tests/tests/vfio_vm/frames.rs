//! The few frames that the far end of the card's cable sends and reads. Written by hand, sharing nothing with the plane.

/// The card in the VM.
pub const CARD: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
/// The far end of the cable: the test.
pub const PEER: [u8; 6] = [0x52, 0x54, 0, 0xaa, 0xbb, 0xcc];
const BROADCAST: [u8; 6] = [0xff; 6];
const CARD_IP: [u8; 4] = [10, 9, 0, 2];
const PEER_IP: [u8; 4] = [10, 9, 0, 1];

fn ethernet(to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &PEER, &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A frame of the type for local experiments (IEEE 802, 88b5) with a number in it.
pub fn numbered(number: u32) -> Vec<u8> {
    ethernet(CARD, 0x88b5, &[b"tide", &number.to_be_bytes()[..], &[number as u8; 64]].concat())
}

/// The number of a `numbered` frame that came back with its addresses swapped and nothing else changed.
pub fn returned(frame: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(frame.get(18..22)?.try_into().ok()?);
    let mut expected = numbered(number);
    expected[..6].copy_from_slice(&PEER);
    expected[6..12].copy_from_slice(&CARD);
    (frame == expected).then_some(number)
}

/// "Who has the card's address?": after the answer the kernel in the VM knows ours too.
pub fn arp_request() -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    ethernet(BROADCAST, 0x0806, &[&head[..], &PEER, &PEER_IP, &[0; 6], &CARD_IP].concat())
}

/// An ARP answer from the card (RFC 826).
pub fn is_arp_reply(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[22..28] == CARD
}

/// An ICMP echo request to the card's address (RFC 792).
pub fn ping(sequence: u16) -> Vec<u8> {
    let mut icmp = [&[8, 0, 0, 0, 0x7d, 0x9e], &sequence.to_be_bytes()[..], &[0x55; 32]].concat();
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let length = (20 + icmp.len() as u16).to_be_bytes();
    let mut ip = [&[0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 1, 0, 0], &PEER_IP[..], &CARD_IP].concat();
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    ethernet(CARD, 0x0800, &[ip, icmp].concat())
}

/// The sequence number of an echo reply from the card.
pub fn pong(frame: &[u8]) -> Option<u16> {
    let reply = frame.len() >= 42 && frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0;
    reply.then(|| u16::from_be_bytes([frame[40], frame[41]]))
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[test]
fn checksums_are_those_of_rfc_1071() {
    assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), [0x22, 0x0d]);
}
