use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;
const TERMS: Terms = Terms {
    term_ms: 100,
    media_ms: 40,
    drift_ppm: 1000,
    margin: Duration::ZERO,
    drain: Duration::from_millis(2),
};

fn landlord() -> Landlord {
    let mut landlord = Landlord::new(TERMS, 0, Former::Nobody);
    landlord.set_able(Ok(()));
    landlord
}

#[test]
fn a_grant_counts_from_its_request_and_once() {
    let mut tenant = Tenant::new();
    let (first, second) = (tenant.request(10), tenant.request(20));
    assert_eq!(tenant.granted(second + 1, 100, 40), None, "unknown");
    assert_eq!(tenant.granted(second, 100, 40), Some(Lease { since_ns: 20, term_ms: 100, media_ms: 40 }));
    assert_eq!(tenant.granted(second, 100, 40), None, "repeated");
    assert_eq!(tenant.granted(first, 100, 40), None, "older than one that came");
    let third = tenant.request(30);
    assert_eq!(tenant.surrender(), third);
    assert_eq!(tenant.granted(third, 100, 40), None, "given up");
    assert!(tenant.request(40) > third);
}

#[test]
fn frames_bypass_for_half_of_a_term_and_for_no_less_than_two_beats() {
    let ms = Duration::from_millis;
    let of = |term, media: Option<u64>, beat| Terms::of(ms(term), media.map(ms), ms(beat)).media_ms;
    assert_eq!([of(90, None, 20), of(100, None, 20), of(90, None, 30)], [45, 50, 67]);
    assert_eq!([of(90, Some(30), 20), of(90, Some(500), 20), of(40, None, 20)], [30, 90, 40]);
    assert_eq!(Tenant { newest: 1, asked: [(1, 5)].into() }.granted(1, 90, 500).unwrap().media_ms, 90);
}

#[test]
fn nothing_is_granted_without_a_living_standby_or_after_the_decision() {
    let mut landlord = Landlord::new(TERMS, 0, Former::Nobody);
    assert!(matches!(landlord.ask(1, 1, 1), Answer::Denied { seq: 1, .. }));
    landlord.set_able(Ok(()));
    assert_eq!(landlord.ask(2, 1, 2), Answer::Grant { seq: 2, term_ms: 100 });
    assert_eq!(landlord.ask(2, 1, 2), Answer::Ignored);
    landlord.decide();
    assert!(matches!(landlord.ask(3, 1, 3), Answer::Denied { .. }));
    assert!(landlord.relent());
    assert_eq!(landlord.ask(4, 1, 4), Answer::Grant { seq: 4, term_ms: 100 });
    landlord.set_able(Err("its QEMU is gone".to_owned()));
    let denied = Answer::Denied { seq: 5, reason: "its QEMU is gone".to_owned() };
    assert_eq!(landlord.ask(5, 1, 5), denied);
    landlord.decide();
    assert_eq!(landlord.promote(TERMS.wait_ns()), Err(Some(Duration::from_nanos(4))));
    assert_eq!(landlord.promote(4 + TERMS.wait_ns()), Ok(()));
    landlord.set_able(Ok(()));
    assert!(!landlord.relent() && !landlord.give_back());
    assert!(matches!(landlord.ask(9, 2, 9), Answer::Denied { .. }));
}

#[test]
fn a_landlord_that_granted_nothing_does_not_promote() {
    let mut landlord = landlord();
    landlord.decide();
    assert_eq!(landlord.promote(u64::MAX), Err(None));
    landlord.vouch_nobody();
    assert_eq!(landlord.promote(0), Ok(()));
}

#[test]
fn what_was_given_back_needs_a_new_grant() {
    let mut landlord = landlord();
    landlord.ask(0, 1, 1);
    assert!(landlord.give_back());
    landlord.decide();
    assert_eq!(landlord.promote(u64::MAX), Err(None));
    assert!(matches!(landlord.ask(1, 1, 2), Answer::Denied { .. }));
    landlord.take_in();
    landlord.decide();
    assert_eq!(landlord.promote(u64::MAX), Err(None), "the primary may run without a lease");
    assert!(landlord.relent());
    assert!(matches!(landlord.ask(2, 1, 3), Answer::Grant { .. }));
    landlord.decide();
    assert_eq!(landlord.promote(2 + TERMS.wait_ns()), Ok(()));
}

#[test]
fn after_its_own_restart_the_landlord_waits_a_whole_term() {
    let former = Terms { term_ms: 500, ..TERMS };
    let mut landlord = Landlord::new(TERMS, 1000, Former::Unknown { term_ms: 500 });
    landlord.set_able(Ok(()));
    landlord.ask(1000, 1, 1);
    assert!(landlord.surrendered(1001, 1, 1));
    assert_eq!(landlord.may_promote_at(), Some(1000 + former.wait_ns()));
    landlord.vouch_nobody();
    assert_eq!(landlord.may_promote_at(), Some(0));
}

#[test]
fn a_surrender_shortens_the_wait_only_of_what_it_covers() {
    let mut landlord = landlord();
    landlord.ask(0, 1, 5);
    assert!(!landlord.surrendered(1, 1, 4), "a grant came after it");
    assert!(!landlord.surrendered(1, 2, 9), "of another incarnation");
    assert!(landlord.surrendered(MS, 1, 6));
    assert_eq!(landlord.may_promote_at(), Some(MS + TERMS.drain_ns()));
    assert_eq!(landlord.ask(2, 1, 6), Answer::Ignored, "given up on the way");
    // A new incarnation's surrender says nothing of the old one's lease.
    let mut landlord = self::landlord();
    landlord.ask(0, 1, 5);
    landlord.ask(10, 2, 1);
    assert!(landlord.surrendered(20, 2, 1));
    assert_eq!(landlord.may_promote_at(), Some(TERMS.wait_ns()));
}

/// A primary host: its plane's lease as its own clock counts it, and the process that renews it.
#[derive(Default)]
struct Primary {
    tenant: Tenant,
    incarnation: u64,
    /// The plane's: what every process of this host has given it.
    lease_end: u64,
    /// Until when frames may bypass.
    media_end: u64,
}

enum Message {
    Request { incarnation: u64, seq: u64, asked: u64 },
    Surrender { incarnation: u64, upto: u64 },
    Grant { incarnation: u64, seq: u64, term_ms: u64 },
}

#[derive(Clone, Debug)]
enum Step {
    /// The primary asks; the request takes so long, or is lost.
    Ask(Option<u64>),
    /// The primary fences and surrenders.
    Surrender(Option<u64>),
    /// The primary's process starts again; its plane goes on.
    Restart,
    Decide,
    Relent,
    /// The landlord's process starts again.
    LandlordRestarts,
}

fn delay() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![
        4 => (0..3 * MS).prop_map(Some),
        3 => (0..250 * MS).prop_map(Some),
        1 => Just(None),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => delay().prop_map(Step::Ask),
        2 => delay().prop_map(Step::Surrender),
        1 => Just(Step::Restart),
        2 => Just(Step::Decide),
        1 => Just(Step::Relent),
        1 => Just(Step::LandlordRestarts),
    ]
}

/// True time to a clock's that runs `ppm` fast (or slow), from an origin of its own.
fn clock(true_ns: u64, ppm: i64, origin: u64) -> u64 {
    let off = i128::from(true_ns) * i128::from(ppm) / 1_000_000;
    origin + u64::try_from(i128::from(true_ns) + off).unwrap()
}

fn run(steps: Vec<(u64, Step)>, drifts: (i64, i64), delays: Vec<Option<u64>>) -> Result<bool, TestCaseError> {
    let here = |at: u64| clock(at, drifts.0, 5_000 * MS);
    let there = |at: u64| clock(at, drifts.1, 9_000 * MS);
    let mut landlord = landlord();
    let mut primary = Primary { incarnation: 1, ..Primary::default() };
    // In flight, by when they arrive: order on the way is not kept.
    let mut flying: BTreeMap<(u64, usize), Message> = BTreeMap::new();
    let mut delays = delays.into_iter().cycle();
    let mut count = 0;
    let mut fly = |flying: &mut BTreeMap<(u64, usize), Message>, now: u64, delay: Option<u64>, message| {
        count += 1;
        if let Some(delay) = delay {
            flying.insert((now + delay, count), message);
        }
    };
    let mut steps = steps.into_iter();
    let mut next = steps.next();
    let mut now = 0;
    // The newest report of what went out was made then, by the primary's clock: it comes with its beat.
    let mut reported = 0;
    let idle = now + 100_000 * MS;
    while now < idle {
        // The next thing to happen: an arrival, a step, or the landlord's time.
        let arrival = flying.keys().next().map(|(at, _)| *at);
        let step = next.as_ref().map(|(at, _)| *at);
        let due = landlord.may_promote_at().filter(|_| landlord.stage == Stage::Decided);
        let due = due.map(|at| {
            // The first true time at which its clock shows that.
            let wanted = at.saturating_sub(5_000 * MS);
            let mut t = u64::try_from(i128::from(wanted) * 1_000_000 / i128::from(1_000_000 + drifts.0))
                .unwrap()
                .saturating_sub(3);
            while here(t) < at {
                t += 1;
            }
            t.max(now)
        });
        let Some(at) = [arrival, step, due].into_iter().flatten().min() else { break };
        now = at.max(now);
        if due == Some(at) {
            prop_assert_eq!(landlord.promote(here(now)), Ok(()));
            let until = primary.lease_end + TERMS.drain.as_nanos() as u64;
            let silent = there(now) >= until;
            prop_assert!(silent, "promoted {} ns too early", until.saturating_sub(there(now)));
            let guarded = reported + TERMS.media_ms * MS;
            prop_assert!(primary.media_end <= guarded, "{} ns unguarded", primary.media_end - guarded);
            return Ok(true);
        }
        if arrival == Some(at) {
            let Some((_, message)) = flying.pop_first() else { break };
            match message {
                Message::Request { incarnation, seq, asked } => {
                    reported = reported.max(asked);
                    if let Answer::Grant { seq, term_ms } = landlord.ask(here(now), incarnation, seq) {
                        landlord.sent(here(now));
                        fly(
                            &mut flying,
                            now,
                            delays.next().flatten(),
                            Message::Grant { incarnation, seq, term_ms },
                        );
                    }
                }
                Message::Surrender { incarnation, upto } => {
                    landlord.surrendered(here(now), incarnation, upto);
                }
                Message::Grant { incarnation, seq, term_ms } if incarnation == primary.incarnation => {
                    if let Some(lease) = primary.tenant.granted(seq, term_ms, TERMS.media_ms) {
                        // The plane: a fence is left only by protecting anew, which any later grant may be used for.
                        if lease.end_ns() > there(now) {
                            primary.lease_end = primary.lease_end.max(lease.end_ns());
                            primary.media_end = primary.media_end.max(lease.since_ns + lease.media_ms * MS);
                        }
                    }
                }
                Message::Grant { .. } => {}
            }
            continue;
        }
        let Some((_, step)) = next.take() else { break };
        match step {
            Step::Ask(delay) => {
                let (incarnation, asked) = (primary.incarnation, there(now));
                let seq = primary.tenant.request(asked);
                fly(&mut flying, now, delay, Message::Request { incarnation, seq, asked });
            }
            Step::Surrender(delay) => {
                // What left before the fence is in the ring as long as that drains.
                primary.lease_end = primary.lease_end.min(there(now));
                let upto = primary.tenant.surrender();
                let incarnation = primary.incarnation;
                fly(&mut flying, now, delay, Message::Surrender { incarnation, upto });
            }
            Step::Restart => {
                primary.tenant = Tenant::new();
                primary.incarnation += 1;
            }
            Step::Decide => landlord.decide(),
            Step::Relent => {
                landlord.relent();
            }
            Step::LandlordRestarts => {
                landlord = Landlord::new(TERMS, here(now), Former::Unknown { term_ms: TERMS.term_ms });
                landlord.set_able(Ok(()));
            }
        }
        next = steps.next().map(|(wait, step)| (now + wait, step));
    }
    Ok(false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// At no moment does the landlord promote while the tenant's plane may speak or its tx ring may hold a frame:
    /// whatever is lost, late or overtaken, and however the two clocks drift.
    #[test]
    fn the_tenant_is_silent_when_the_landlord_promotes(
        steps in proptest::collection::vec((prop_oneof![0..2 * MS, 0..120 * MS], step()), 1..60),
        here in -500i64..=500,
        apart in -999i64..=999,
        delays in proptest::collection::vec(delay(), 1..40),
    ) {
        // Their rates differ by less than 1000 ppm.
        let there = (here + apart).clamp(-1500, 1500);
        run(steps, (here, there), delays)?;
    }
}

#[test]
fn the_property_meets_promotions() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy =
        (proptest::collection::vec((0..20 * MS, step()), 1..60), proptest::collection::vec(delay(), 1..40));
    let promoted = (0..200)
        .filter(|_| {
            let (steps, delays) = strategy.new_tree(&mut runner).unwrap().current();
            run(steps, (0, 0), delays).unwrap()
        })
        .count();
    assert!(promoted > 50, "{promoted} of 200 runs promote");
}
