//! What both hosts must be told alike.

use crate::alone;
use crate::guest::Scratch;
use crate::host::Host;

#[test]
fn hosts_that_were_told_different_ways_to_decide_do_not_begin_and_say_so() {
    let _alone = alone();
    let scratch = Scratch::new();
    let host = Host::start(&scratch, "primary", "open", &[]);
    let waiting = Host::start(&scratch, "standby", "muted", &["-incoming", "defer"]);
    let (_standby, to) = waiting.stand_by("");
    let replicate = host.run("replicate", &format!("--to {to} --decide manager"));
    let why = replicate.event("unreachable", |_| true);
    let told = ["--decide standby", "--decide manager", "both hosts"];
    assert!(told.iter().all(|told| why["reason"].as_str().is_some_and(|why| why.contains(told))), "{why}");
    assert!(replicate.events("checkpoint").is_empty());
}
