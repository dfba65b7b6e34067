//! Writes a stream as `xl remus` does, from the format's specification: no code of the reader is used.
#![allow(dead_code)] // each test uses its part

/// One record of either layer.
pub fn record(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + body.len().next_multiple_of(8));
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// The headers, up to where records of libxc begin. `domain` is the kind of the domain: 2 for PVH.
pub fn opening_of(domain: u32) -> Vec<u8> {
    let config = br#"{"c_info":{"type":"pvh","name":"pbx"}}"#;
    let mut bytes = b"Xen saved domain, xl format\n \0 \r".to_vec();
    for word in [0x0102_0304, 3, 0, config.len() as u32] {
        bytes.extend_from_slice(&u32::to_le_bytes(word));
    }
    bytes.extend_from_slice(config);
    bytes.extend_from_slice(b"LibxlFmt");
    bytes.extend_from_slice(&2u32.to_be_bytes());
    bytes.extend_from_slice(&0u32.to_be_bytes());
    bytes.extend(record(1, &[]));
    bytes.extend_from_slice(&[0xff; 8]);
    bytes.extend_from_slice(b"XENF");
    bytes.extend_from_slice(&3u32.to_be_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&domain.to_le_bytes());
    bytes.extend_from_slice(&[12, 0, 0, 0]);
    for word in [4u32, 17] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The headers of a PVH guest's stream, and the records that come once.
pub fn opening() -> Vec<u8> {
    let mut bytes = opening_of(2);
    bytes.extend(record(17, &[1; 24 * 16]));
    bytes.extend(record(18, &[2; 16]));
    bytes.extend(record(16, &[]));
    bytes
}

/// PAGE_DATA: `count` pages with contents, and one without.
pub fn pages(count: u32, fill: u8) -> Vec<u8> {
    let mut body = (count + 1).to_le_bytes().to_vec();
    body.extend_from_slice(&[0; 4]);
    for page in 0..u64::from(count) {
        body.extend_from_slice(&page.to_le_bytes());
    }
    body.extend_from_slice(&(0xfu64 << 60).to_le_bytes());
    body.resize(body.len() + count as usize * 4096, fill);
    record(1, &body)
}

/// The state of processors and devices.
pub fn state() -> Vec<u8> {
    let mut bytes = record(8, &[3; 24]);
    bytes.extend(record(9, &[4; 2300]));
    bytes.extend(record(10, &[5; 8 + 16 * 12]));
    bytes
}

/// libxc's CHECKPOINT.
pub fn saved() -> Vec<u8> {
    record(14, &[])
}

/// libxl's CHECKPOINT_END.
pub fn end() -> Vec<u8> {
    record(4, &[])
}

/// A checkpoint up to where the guest runs again, with so many pages.
pub fn body(page_count: u32, fill: u8) -> Vec<u8> {
    let mut bytes = if page_count == 0 { Vec::new() } else { pages(page_count, fill) };
    bytes.extend(state());
    bytes.extend(saved());
    bytes
}

/// A whole checkpoint.
pub fn checkpoint(page_count: u32, fill: u8) -> Vec<u8> {
    [body(page_count, fill), end()].concat()
}

/// A stream of these numbers of pages, a checkpoint each.
pub fn stream(page_counts: &[u32]) -> Vec<u8> {
    let mut bytes = opening();
    for (count, fill) in page_counts.iter().zip(1..) {
        bytes.extend(checkpoint(*count, fill));
    }
    bytes
}
