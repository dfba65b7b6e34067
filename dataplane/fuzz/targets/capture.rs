//! The reader of captures: any bytes give packets, an end or an error. The file is the control crate's own, taken in
//! alone so that the rest of that crate need not be built.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../../control/src/classify/capture.rs"]
mod capture;

fuzz_target!(|data: &[u8]| {
    let mut seen = 0;
    let read = capture::read_from(data, |number, packet| {
        seen += 1;
        assert!(number >= seen && packet.bytes.len() <= data.len() + 14);
    });
    if let Ok(read) = read {
        assert_eq!(read.packets - read.other_links, seen);
    }
});
