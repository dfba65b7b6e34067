//! A plane that is started anew counts its epochs from the beginning; what its standby holds does not.

use crate::alone;
use crate::guest::Scratch;
use crate::host::{Host, plane};
use crate::process::SOON;
use crate::rig::within;

#[test]
fn epochs_are_counted_on_from_what_the_standby_holds_where_states_are_sent_whole() {
    let _alone = alone();
    let scratch = Scratch::new();
    let mut host = Host::start(&scratch, "primary", "open", &[]);
    let waiting = Host::start(&scratch, "standby", "muted", &["-incoming", "defer"]);
    // Nobody takes over in between.
    let both = "--full --decide manager --dead-after 2s";
    let (standby, to) = waiting.stand_by(both);
    let mut replicate = host.run("replicate", &format!("--to {to} {both}"));
    replicate.event("protected", |_| true);
    assert!(within(SOON, || replicate.events("checkpoint").len() > 4));
    replicate.kill();
    let held = standby.events("checkpoint").last().expect("one")["epoch"].as_u64();
    host.rig = plane("open");
    let replicate = host.run("replicate", &format!("--to {to} {both}"));
    replicate.event("protected", |_| true);
    assert!(standby.events("refused").is_empty(), "{:#?}", standby.lines());
    let first = replicate.events("checkpoint").first().expect("one")["epoch"].as_u64();
    assert!(first > held, "{first:?} is not after {held:?}");
}
