//! The follower of the stream, on streams that a writer of its own makes: it finds every boundary however the bytes come
//! in pieces, and nothing that is cut, moved, changed or unknown is ever taken for one.

use crate::writer::{self, record};
use proptest::prelude::*;
use tidegate_replica::xen::stream::{Fault, Follower, Mark};

/// Follows `bytes` in pieces of these lengths, in turns: the marks, with the place of each.
fn follow(bytes: &[u8], pieces: &[usize]) -> (Vec<(usize, Mark)>, Result<Follower, Fault>) {
    let (mut follower, mut marks, mut at) = (Follower::new(), vec![], 0);
    let mut lengths = pieces.iter().copied().cycle();
    while at < bytes.len() {
        let piece = lengths.next().unwrap().clamp(1, bytes.len() - at);
        let mut rest = &bytes[at..at + piece];
        while !rest.is_empty() {
            match follower.feed(rest) {
                Ok((taken, mark)) => {
                    assert!(taken > 0 && taken <= rest.len());
                    assert!(mark.is_some() || taken == rest.len(), "it stops at marks only");
                    at += taken;
                    rest = &rest[taken..];
                    marks.extend(mark.map(|mark| (at, mark)));
                }
                Err(fault) => {
                    assert!(fault.at <= at as u64 + rest.len() as u64);
                    assert_eq!(follower.feed(b"more").unwrap_err(), fault, "for good");
                    return (marks, Err(fault));
                }
            }
        }
    }
    (marks, Ok(follower))
}

fn fault(bytes: &[u8]) -> String {
    follow(bytes, &[1 << 20]).1.expect_err("refused").what
}

/// Where the checkpoints of a stream of these page counts are saved and ended.
fn expected(page_counts: &[u32]) -> Vec<(usize, Mark)> {
    let mut at = writer::opening().len();
    let mut marks = vec![];
    let mut from = 0;
    for (count, number) in page_counts.iter().zip(1..) {
        at += writer::body(*count, 0).len();
        marks.push((at, Mark::Saved { number, bytes: (at - from) as u64 }));
        at += writer::end().len();
        marks.push((at, Mark::Ended { number, bytes: (at - from) as u64 }));
        from = at;
    }
    marks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_boundary_is_found_however_the_bytes_come(
        counts in prop::collection::vec(0u32..6, 1..5),
        pieces in prop::collection::vec(1usize..9000, 1..8),
    ) {
        let stream = writer::stream(&counts);
        let (marks, follower) = follow(&stream, &pieces);
        prop_assert_eq!(marks, expected(&counts));
        let follower = follower.unwrap();
        prop_assert!(follower.is_between());
        prop_assert_eq!(follower.checkpoints(), counts.len() as u64);
    }

    #[test]
    fn whoever_reads_no_more_than_the_appetite_never_reads_into_the_next_checkpoint(
        counts in prop::collection::vec(0u32..6, 1..5),
        most in 1usize..6000,
    ) {
        let stream = writer::stream(&counts);
        let (mut follower, mut at, mut ends) = (Follower::new(), 0, vec![]);
        while at < stream.len() {
            let take = follower.appetite().min(most).min(stream.len() - at);
            prop_assert!(take > 0);
            let (taken, mark) = follower.feed(&stream[at..at + take]).unwrap();
            at += taken;
            if let Some(Mark::Ended { .. }) = mark {
                prop_assert_eq!(taken, take, "nothing of the next one was read");
                ends.push(at);
            }
        }
        let ends_are = expected(&counts).into_iter().filter(|(_, m)| matches!(m, Mark::Ended { .. }));
        prop_assert_eq!(ends, ends_are.map(|(at, _)| at).collect::<Vec<_>>());
    }

    #[test]
    fn a_cut_stream_has_the_checkpoints_before_the_cut_and_no_other(
        counts in prop::collection::vec(0u32..4, 1..4),
        cut in 0.0f64..1.0,
    ) {
        let stream = writer::stream(&counts);
        let cut = (stream.len() as f64 * cut) as usize;
        let (marks, follower) = follow(&stream[..cut], &[777]);
        prop_assert!(follower.is_ok());
        let whole: Vec<_> = expected(&counts).into_iter().filter(|(at, _)| *at <= cut).collect();
        prop_assert_eq!(marks, whole);
    }

    #[test]
    fn any_bytes_are_followed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600), from in 0usize..1500) {
        // After a good beginning of any length.
        let good = writer::opening();
        let hostile = [&good[..from.min(good.len())], &bytes].concat();
        let (marks, _) = follow(&hostile, &[64, 3]);
        prop_assert!(marks.is_empty(), "600 bytes of noise hold no checkpoint");
    }

    #[test]
    fn a_bit_that_turns_in_a_header_moves_no_boundary(which in 0usize..12, bit in 0usize..64) {
        // Headers of records: a turned bit is refused, or makes an optional record or another length of it; then what
        // follows is out of step. Never is there a mark in a place that has none.
        let stream = writer::stream(&[2, 1]);
        let heads = heads(&stream);
        let at = heads[which % heads.len()] + bit / 8;
        let mut turned = stream.clone();
        turned[at] ^= 1 << (bit % 8);
        let right = expected(&[2, 1]);
        for (at, mark) in follow(&turned, &[1 << 20]).0 {
            prop_assert!(right.iter().any(|(right, _)| *right == at), "{mark:?} at {at}");
        }
    }
}

/// Where the records of libxc and libxl begin.
fn heads(stream: &[u8]) -> Vec<usize> {
    let mut heads = vec![];
    let mut at = writer::opening_of(2).len();
    while at < stream.len() {
        heads.push(at);
        let length = u32::from_le_bytes(stream[at + 4..at + 8].try_into().unwrap()) as usize;
        at += 8 + length.next_multiple_of(8);
    }
    heads
}

fn after_opening(records: &[Vec<u8>]) -> Vec<u8> {
    [writer::opening(), records.concat()].concat()
}

#[test]
fn what_is_out_of_order_is_refused() {
    let (pages, state, saved, end) = (writer::pages(1, 1), writer::state(), writer::saved(), writer::end());
    let refused = |records: &[Vec<u8>]| fault(&after_opening(records));
    assert!(refused(&[state.clone(), pages.clone()]).contains("out of order"));
    assert!(refused(&[pages.clone(), saved.clone()]).contains("without the state"));
    assert!(refused(&[state.clone(), state.clone()]).contains("a second"));
    assert!(refused(&[state.clone(), saved.clone(), saved.clone()]).contains("unknown type 0xe"));
    assert!(refused(&[state.clone(), saved.clone(), end.clone(), end.clone()]).contains("PV"));
    assert!(refused(&[state.clone(), saved.clone(), record(1, &[])]).contains("LIBXC_CONTEXT again"));
    assert!(
        refused(&[state.clone(), saved.clone(), end.clone(), record(16, &[])]).contains("out of its place")
    );
    let early = [writer::opening_of(2)[..writer::opening_of(2).len() - 48].to_vec(), end].concat();
    assert!(fault(&early).contains("CHECKPOINT_END before any"), "{}", fault(&early));
}

#[test]
fn what_cannot_be_replicated_is_named_with_the_way_out() {
    assert!(
        fault(&writer::opening_of(1)).contains("PV guest"),
        "and what to set: {}",
        fault(&writer::opening_of(1))
    );
    let hvm = |kind| after_opening(&[writer::state(), writer::saved(), record(kind, &[0; 16])]);
    assert!(fault(&hvm(3)).contains("type = \"pvh\""));
    assert!(fault(&hvm(2)).contains("HVM guest with a device model"));
    assert!(fault(&hvm(5)).contains("COLO"));
    assert!(fault(&hvm(0)).contains("not as Remus"));
    assert!(fault(&hvm(77)).contains("newer"));
    assert!(fault(&after_opening(&[record(0, &[])])).contains("xl remus"));
    assert!(fault(&after_opening(&[record(15, &[0; 8])])).contains("COLO"));
    assert!(fault(&after_opening(&[record(3, &[0; 8])])).contains("PV"));
    assert!(fault(&after_opening(&[record(99, &[0; 8])])).contains("unknown type 0x63"));
    assert!(fault(b"xl migration receiver ready, send binary domain data.\n").contains("no stream of xl"));
}

#[test]
fn another_version_order_or_option_is_refused() {
    let change = |at: usize, byte: u8| {
        let mut stream = writer::opening();
        stream[at] = byte;
        fault(&stream)
    };
    let libxl = 48 + writer_config();
    let libxc = libxl + 16 + 8;
    assert!(change(0, b'x').contains("no stream of xl"));
    assert!(change(32, 1).contains("byte order"));
    assert!(change(36, 7).contains("flags 0x7"));
    assert!(change(36, 1).contains("before 4.6"));
    assert!(change(47, 1).contains("configuration of"), "{}", change(47, 1));
    assert!(change(libxl, b'l').contains("header of libxl"));
    assert!(change(libxl + 11, 3).contains("version 3 of libxl"));
    assert!(change(libxl + 15, 1).contains("options"));
    assert!(change(libxc, 0).contains("header of libxc"));
    assert!(change(libxc + 15, 4).contains("version 4 of libxc"));
    assert!(change(libxc + 17, 1).contains("big endian"));
    assert!(change(libxc + 24, 4).contains("kind 4"));
    assert!(change(libxc + 28, 21).contains("2^21"));
}

fn writer_config() -> usize {
    let opening = writer::opening();
    u32::from_le_bytes(opening[44..48].try_into().unwrap()) as usize
}

#[test]
fn no_length_is_believed() {
    let head = |kind: u32, length: u32| [kind.to_le_bytes(), length.to_le_bytes()].concat();
    for (kind, length) in
        [(1, u32::MAX), (1, 8), (9, u32::MAX), (9, 0), (10, 9), (8, 25), (14, 8), (1 << 31, u32::MAX)]
    {
        let stream = after_opening(&[head(kind, length)]);
        assert!(!fault(&stream).is_empty(), "{kind} {length}");
    }
    // More pages than fit, fewer than are there, none at all, half a page.
    for (count, bytes) in
        [(3u32, 16usize), (1, 8 + 8 + 2 * 4096), (0, 8), (2, 8 + 16 + 100), (u32::MAX, 8 + 8 + 4096)]
    {
        let mut body = count.to_le_bytes().to_vec();
        body.resize(bytes.max(16), 0);
        assert!(fault(&after_opening(&[record(1, &body)])).contains("do not fit"), "{count} {bytes}");
    }
}

#[test]
fn an_optional_record_is_skipped() {
    let optional = record(1 << 31 | 5, &[9; 13]);
    let stream = after_opening(&[
        optional.clone(),
        writer::pages(1, 1),
        optional.clone(),
        writer::state(),
        writer::saved(),
        optional,
        writer::end(),
    ]);
    let (marks, follower) = follow(&stream, &[5]);
    assert_eq!(marks.len(), 2);
    assert!(follower.unwrap().is_between());
}

/// Writes the seeds of the fuzz target, where `TIDEGATE_SEEDS` says so: they are what the writer writes.
#[test]
fn seeds_of_the_fuzz_target_are_streams() {
    let mut changed = writer::stream(&[1, 0]);
    let at = changed.len() - 12;
    changed[at] ^= 1;
    let seeds = [
        ("remus", writer::stream(&[0, 1, 0])),
        ("cut", writer::stream(&[1])[..3000].to_vec()),
        ("changed", changed),
        ("pv", writer::opening_of(1)),
        ("hvm", after_opening(&[writer::state(), writer::saved(), record(3, &[0; 16])])),
        ("optional", after_opening(&[record(1 << 31, &[1; 9]), writer::checkpoint(0, 0)])),
    ];
    for (name, seed) in seeds {
        if let Some(dir) = std::env::var_os("TIDEGATE_SEEDS") {
            // 0: read by appetite.
            std::fs::write(std::path::Path::new(&dir).join(name), [&[0][..], &seed].concat()).unwrap();
        }
        let (marks, result) = follow(&seed, &[100]);
        assert!(result.is_err() || !marks.is_empty() || name == "cut", "{name}");
    }
}
