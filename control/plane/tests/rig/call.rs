//! Frames of a call: what the guest sends, and what the wire hears of it.

use super::{Rig, within};
use std::time::Duration;

/// The guest, and whom it calls.
pub const GUEST: [u8; 4] = [10, 0, 0, 2];
pub const PEER: [u8; 4] = [10, 0, 0, 9];
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn sum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 =
        bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | two.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A datagram of the guest.
pub fn udp(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    let mut udp = [ports[0].to_be_bytes(), ports[1].to_be_bytes(), length, [0; 2]].concat();
    udp.extend(payload);
    let check = sum(&[&GUEST[..], &PEER, &[0, 17], &length, &udp].concat());
    udp[6..8].copy_from_slice(&check);
    let mut header = vec![0x45, 0];
    header.extend((20 + udp.len() as u16).to_be_bytes());
    header.extend([0, 7, 0, 0, 64, 17, 0, 0]);
    header.extend([GUEST, PEER].concat());
    let check = sum(&header);
    header[10..12].copy_from_slice(&check);
    [&[2, 0, 0, 0, 0, 9][..], &MAC, &[8, 0], &header, &udp].concat()
}

/// A packet of a call of G.711.
pub fn rtp(sequence: u16, ssrc: u32) -> Vec<u8> {
    let mut rtp = vec![0x80, 8];
    rtp.extend(sequence.to_be_bytes());
    rtp.extend((u32::from(sequence) * 160).to_be_bytes());
    rtp.extend(ssrc.to_be_bytes());
    rtp.resize(172, 0xd5);
    udp([4000, 7000], &rtp)
}

/// The guest sends it on its first lane; returns once that has taken it.
pub fn send(rig: &Rig, frame: Vec<u8>) {
    send_on(rig, 0, frame);
}

/// The same on any.
pub fn send_on(rig: &Rig, lane: usize, frame: Vec<u8>) {
    let end = &rig.guest_ends[lane].to_lane;
    end.lock().expect("sound").push_back(frame);
    assert!(within(Duration::from_secs(5), || end.lock().expect("sound").is_empty()));
    std::thread::sleep(Duration::from_millis(2));
}

/// Sequence numbers of the RTP on the wire.
pub fn heard(rig: &Rig) -> Vec<u16> {
    let wire = rig.wires[0].from_lane.lock().expect("sound");
    let rtp = wire.iter().filter(|frame| frame.len() == 214 && frame[23] == 17);
    rtp.map(|frame| u16::from_be_bytes([frame[44], frame[45]])).collect()
}
