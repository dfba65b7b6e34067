//! Captures for tests, made field by field.

/// A frame from 10.0.0.`host` to 10.0.0.9:5004, UDP, with these bytes.
pub fn udp(host: u8, sport: u16, payload: &[u8]) -> Vec<u8> {
    between((host, sport), (9, 5004), payload)
}

/// A frame from 10.0.0.x to 10.0.0.y, UDP, each with its port.
pub fn between((host, sport): (u8, u16), (to, dport): (u8, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend((28 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, host, 10, 0, 0, to]);
    frame.extend(sport.to_be_bytes());
    frame.extend(dport.to_be_bytes());
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    let sum = header_sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
    frame
}

pub fn rtp(sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 8];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend([0xca, 0xfe, 0xba, 0xbe]);
    packet.extend([0xd5; 160]);
    packet
}

/// The frames 20 ms apart, as pcap.
pub fn capture(frames: &[Vec<u8>]) -> (tempfile::TempDir, std::path::PathBuf) {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    for (n, frame) in frames.iter().enumerate() {
        let (us, len) = (n as u32 * 20_000, frame.len() as u32);
        for word in [1000 + us / 1_000_000, us % 1_000_000, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("calls.pcap");
    std::fs::write(&path, file).expect("written");
    (dir, path)
}

fn header_sum(header: &[u8]) -> [u8; 2] {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    (!((sum >> 16) + (sum & 0xffff)) as u16).to_be_bytes()
}
