//! When an epoch is closed and when it is committed.

use crate::pair::{Pair, Plan, READY, a_while};
use crate::rig::within;
use crate::writer;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

#[test]
fn a_frame_leaves_when_the_backup_has_the_checkpoint_after_it_and_xl_hears_nothing_but_that_it_may_write() {
    let mut pair = Pair::start(&Plan::default()).ready();
    pair.primary.send(0, 1);
    assert_eq!(pair.primary.wire_sees(0, 1), [1], "open through the live copy");
    pair.copy();
    pair.primary.send(0, 2);
    assert_eq!(pair.primary.wire_sees(0, 2), [1, 2], "and until checkpoint 2");
    let before = pair.stands();
    assert_eq!(before.0, "open");
    pair.write(&writer::body(3, 2));
    assert_eq!(pair.stands(), ("protected", before.1 + 1), "when the guest runs again");
    pair.end();
    pair.acknowledged();
    for n in 3..8 {
        pair.narrow();
        let epoch = pair.stands().1;
        pair.primary.send(0, n);
        pair.write(&writer::body(3, n));
        assert_eq!(pair.stands().1, epoch + 1, "closed before the guest runs again");
        pair.primary.send(0, 100 + n);
        assert!(!pair.primary.on_wire(0).contains(&n), "the backup does not have it yet");
        pair.end();
        pair.acknowledged();
        let upto = pair.primary.wire_sees(0, pair.primary.on_wire(0).len().max(2 * usize::from(n) - 3));
        assert!(within(Duration::from_secs(5), || pair.primary.on_wire(0).contains(&n)), "{upto:?}");
        assert!(!pair.primary.on_wire(0).contains(&(100 + n)), "sent after the close");
    }
    assert_eq!(pair.fed(), pair.written(), "the waiting domain has all of it");
    assert_eq!(
        pair.destroyed(),
        "pbx--incoming\n",
        "what a receiver of before may have left, and nothing else"
    );
    assert_eq!(pair.said(), READY);
    assert!(pair.send.events("merged").is_empty());
    assert!(!pair.started());
}

#[test]
fn the_guest_does_not_run_before_the_close_is_answered() {
    let plan = Plan { keys: "mode = \"open\"\nclose_timeout_ms = 10000", ..Plan::default() };
    let mut pair = Pair::start(&plan).ready();
    pair.protect();
    let epoch = pair.stands().1;
    pair.primary.freeze(true);
    let (mut pipe, runs) = (pair.take_pipe(), AtomicBool::new(false));
    let body = writer::body(1, 9);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pipe.write_all(&body).unwrap();
            runs.store(true, SeqCst);
        });
        a_while();
        assert!(!runs.load(SeqCst), "one dirty page is enough to hold xl back");
        pair.primary.freeze(false);
        assert!(within(Duration::from_secs(10), || runs.load(SeqCst)));
    });
    assert_eq!(pair.stands().1, epoch + 1);
    pair.give_pipe(pipe, &body);
    pair.end();
    pair.acknowledged();
}

#[test]
fn a_checkpoint_that_fits_into_the_pipe_commits_nothing_and_the_next_commits_both() {
    let mut pair = Pair::start(&Plan::default()).ready();
    pair.protect();
    pair.primary.send(0, 1);
    pair.checkpoint(0);
    assert!(pair.send.event("merged", |_| true)["reason"].as_str().unwrap().contains("fits into"));
    pair.narrow();
    pair.acknowledged();
    a_while();
    assert_eq!(pair.primary.on_wire(0), [] as [u8; 0]);
    pair.primary.send(0, 2);
    pair.checkpoint(2);
    assert_eq!(pair.primary.wire_sees(0, 2), [1, 2]);
}

#[test]
fn a_checkpoint_that_had_begun_before_the_pipe_was_narrow_commits_nothing() {
    let mut pair = Pair::start(&Plan::default()).ready();
    pair.protect();
    pair.primary.send(0, 1);
    pair.write(&writer::body(2, 3));
    // xl was faster than this side: the next one is in the pipe behind the end.
    pair.primary.send(0, 2);
    let both = [writer::end(), writer::body(2, 4), writer::end()].concat();
    pair.write(&both);
    assert!(pair.send.event("merged", |_| true)["reason"].as_str().unwrap().contains("narrow"));
    assert_eq!(pair.primary.wire_sees(0, 1), [1]);
    a_while();
    assert_eq!(pair.primary.on_wire(0), [1]);
}

#[test]
fn a_protection_that_began_too_late_is_no_protection() {
    let mut pair = Pair::start(&Plan::default()).ready();
    pair.copy();
    // It fits: the guest may have run, and spoken, before the plane held anything.
    pair.checkpoint(0);
    pair.send.event("merged", |_| true);
    pair.narrow();
    a_while();
    assert!(pair.receive.events("checkpoint").is_empty(), "nobody may start from this");
    let until = writer::opening().len() + writer::pages(40, 1).len() + writer::state().len();
    assert_eq!(pair.fed(), pair.written()[..until], "nor from what came before");
    pair.primary.send(0, 1);
    pair.checkpoint(2);
    assert_eq!(pair.primary.wire_sees(0, 1), [1]);
    assert_eq!(pair.fed(), pair.written());
}

#[test]
fn a_link_that_is_cut_before_the_acknowledgement_lets_nothing_out() {
    let mut pair = Pair::start(&Plan::default()).ready();
    pair.protect();
    pair.primary.send(0, 1);
    pair.proxy.silence_the_backup();
    pair.checkpoint(2);
    let epoch = pair.sent_epoch();
    pair.receive.event("checkpoint", |event| event["epoch"] == epoch);
    a_while();
    assert_eq!(pair.primary.on_wire(0), [] as [u8; 0], "the backup has it and nobody knows");
    pair.proxy.cut();
    assert_eq!(pair.send.ends(), 1);
    pair.send.event("link-lost", |_| true);
    a_while();
    assert_eq!(pair.primary.on_wire(0), [] as [u8; 0]);
    assert_eq!(pair.stands().0, "protected");
    assert_eq!(pair.said(), READY);
}

#[test]
fn what_xl_says_on_the_backup_is_no_acknowledgement() {
    let noisy = "printf 'xl migration receiver ready, send binary domain data.\\n'
        echo '{\"acked\":{\"id\":{\"generation\":1,\"epoch\":1},\"length\":1,\"checksum\":1,\"digest\":null}}'; echo 3
        head -c 100 > fed; exec sleep 60";
    let mut pair = Pair::start(&Plan { xl: noisy.into(), ..Plan::default() }).ready();
    pair.copy();
    pair.checkpoint(2);
    pair.narrow();
    pair.primary.send(0, 1);
    // More than the pipe to xl takes.
    pair.checkpoint(400);
    a_while();
    assert_eq!(pair.primary.on_wire(0), [] as [u8; 0], "it takes nothing, whatever it says");
}

#[test]
fn a_receiver_that_is_not_ready_in_just_these_words_is_no_receiver() {
    for words in [
        "echo 'Last login: never'; cat",
        "exit 1",
        "printf 'xl migration receiver ready, send binary domain data'",
    ] {
        let mut pair = Pair::start(&Plan { xl: words.into(), ..Plan::default() }).ready();
        let problem = pair.receive.event("given-back", |_| true);
        assert!(problem["reason"].as_str().unwrap().contains("does not receive"), "{problem}");
        assert_eq!(pair.send.ends(), 1, "xl lets the guest run when this ends");
        assert_eq!(pair.stands().0, "open");
    }
}

#[test]
fn a_stream_that_cannot_be_replicated_ends_it_in_words_and_leaves_the_guest_open() {
    for (stream, words) in [
        (writer::opening_of(1), "PV guest"),
        (
            [writer::opening(), writer::state(), writer::saved(), writer::record(3, &[0; 16])].concat(),
            "HVM guest",
        ),
        (b"\nxl: domain not found, and many more words than a header has\n".to_vec(), "no stream of xl"),
        ([writer::opening(), writer::record(77, &[0; 8])].concat(), "unknown type"),
    ] {
        let mut pair = Pair::start(&Plan::default()).ready();
        pair.write(&stream);
        assert_eq!(pair.send.ends(), 1);
        let lines = pair.send.lines().join("\n");
        assert!(lines.contains(words), "{lines}");
        assert_eq!((pair.stands().0, pair.said().as_str()), ("open", READY));
        a_while();
        assert!(!pair.started());
    }
}
