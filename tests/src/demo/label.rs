//! A number on every frame of the guest, behind what its headers call its end.
//!
//! Neither TCP nor ARP has room for a label of ours, but an Ethernet frame may be longer than the packet in
//! it (short ones are padded), and every receiver ignores the rest. So one trailer serves all protocols.

/// Tells a label from padding.
const MAGIC: [u8; 4] = *b"tdgl";
/// Bytes that a label adds to a frame.
pub(super) const LEN: usize = 12;

/// Appends label `number`.
pub(super) fn append(frame: &mut Vec<u8>, number: u64) {
    frame.extend(MAGIC);
    frame.extend(number.to_be_bytes());
}

/// The label of a frame, if it has one.
pub(super) fn read(frame: &[u8]) -> Option<u64> {
    let (_, trailer) = frame.split_at_checked(frame.len().checked_sub(LEN)?)?;
    let number = trailer.strip_prefix(&MAGIC)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_back_and_nothing_else_is_taken_for_one() {
        let mut frame = vec![7; 60];
        assert_eq!(read(&frame), None);
        append(&mut frame, 0x0102_0304_0506_0708);
        assert_eq!(frame.len(), 60 + LEN);
        assert_eq!(read(&frame), Some(0x0102_0304_0506_0708));
        assert_eq!(read(&frame[..71]), None, "cut off");
        assert_eq!(read(&frame[..5]), None);
    }
}
