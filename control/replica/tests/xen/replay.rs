//! What the guest says twice after a failover, where no lease says when the primary was silent.

use crate::pair::{Pair, Plan, SOON, a_while};
use crate::rig::call::{heard, rtp, send, send_on};
use crate::rig::within;
use serde_json::json;

/// A manager takes its time, and until then the primary's calls go on: nobody knows how far.
#[test]
fn without_a_lease_no_packet_is_seen_twice_however_long_the_manager_takes() {
    let mut pair = Pair::start(&Plan::default()).ready();
    pair.protect();
    (1..=20).for_each(|n| send(&pair.primary, rtp(n, 7)));
    assert!(within(SOON, || heard(&pair.primary).len() == 20));
    a_while();
    pair.proxy.cut();
    pair.receive.event("session-ended", |_| true);
    (21..=320).for_each(|n| send(&pair.primary, rtp(n, 7)));
    assert!(within(SOON, || heard(&pair.primary).len() == 320), "the call goes on");
    pair.order("failover", json!({ "primary_is_off": true }));
    for n in 10..4000 {
        send(&pair.backup, rtp(n, 7));
        if heard(&pair.backup).len() > 5 {
            break;
        }
    }
    let again = heard(&pair.backup);
    assert!(again.first() > Some(&320), "seen twice: {again:?}");
    assert!(again.len() > 5, "the call goes on");
}

/// What the standby's plane did not take it cannot guard against: the primary gets no lease for more of it.
#[test]
fn a_standby_whose_plane_takes_no_guard_grants_no_lease() {
    // The backup has no second lane.
    let keys = "mode = \"open\"\nclose_timeout_ms = 500\n[[guest.lane]]\nguest_port = \"net_vhost7,iface=/r/7\"\n\
                wire_port = \"net_null7\"\nlcore = 1\nhold_frames = 64\n";
    let mut pair = Pair::start(&Plan { keys, decide: "standby", ..Plan::default() }).ready();
    pair.protect();
    pair.checkpoint(2);
    pair.acknowledged();
    assert!(within(SOON, || pair.status()["primary_leased"] == true));
    (1..=20).for_each(|n| send(&pair.primary, rtp(n, 7)));
    a_while();
    assert!(pair.receive.events("unguarded").is_empty(), "both have that lane");
    (1..=20).for_each(|n| send_on(&pair.primary, 1, rtp(n, 8)));
    let told = pair.receive.event("unguarded", |_| true);
    assert!(told["problem"].as_str().is_some_and(|why| why.contains("lane 1")), "{told}");
    assert!(within(SOON, || pair.pulse(&pair.primary)["fenced"] == true), "no lease for more of it");
}
