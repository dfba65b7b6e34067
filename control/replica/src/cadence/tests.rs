use super::*;
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds { floor: ms(25), ceiling: ms(400) };

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn cost_of(pause: u64, acknowledged: u64) -> Cost {
    Cost { pause: ms(pause), acknowledged: ms(acknowledged) }
}

fn waits() -> Demand {
    Demand { waits: true, ..Demand::default() }
}

#[test]
fn it_is_the_interval_that_costs_least() {
    let (best, why) = interval(cost_of(5, 5), waits(), BOUNDS);
    assert_eq!((best, why), (ms(100), Why::Balance));
    let of = |i: Duration| cost(0.005 / i.as_secs_f64(), i / 2, WORTH);
    for other in [ms(25), ms(50), ms(90), ms(110), ms(200), ms(400)] {
        assert!(of(best) < of(other), "{other:?}");
    }
}

#[test]
fn each_bound_decides_where_it_should() {
    let media = Demand { media: true, ..waits() };
    let calls = Demand { signalling: true, media: true, ..waits() };
    let signalling = Demand { signalling: true, ..waits() };
    for (cost, demand, expected) in [
        (cost_of(5, 5), Demand::default(), (ms(400), Why::Idle)),
        (cost_of(5, 5), media, (ms(100), Why::Balance)),
        (cost_of(5, 5), signalling, (ms(50), Why::Balance)),
        // The first bounds alone: 250 - 5 - 215.
        (cost_of(5, 215), signalling, (ms(108), Why::Link)),
        (cost_of(5, 150), Demand { fill_a_second: 5.0, ..waits() }, (ms(100), Why::Balance)),
        (cost_of(5, 5), Demand { fill_a_second: 10.0, ..waits() }, (ms(50), Why::HoldQueue)),
        (cost_of(5, 300), waits(), (ms(150), Why::Link)),
        (cost_of(10, 10), media, (ms(190), Why::StandStill)),
        (cost_of(10, 10), calls, (ms(190), Why::StandStill)),
        (cost_of(20, 10), signalling, (ms(180), Why::StandStill)),
        (cost_of(30, 10), media, (ms(400), Why::Ceiling)),
        (cost_of(0, 0), waits(), (ms(25), Why::Floor)),
    ] {
        let (found, why) = interval(cost, demand, BOUNDS);
        assert!(
            found.abs_diff(expected.0) < ms(2) && why == expected.1,
            "{cost:?} {demand:?}: {found:?} {why:?}"
        );
    }
    let wide = Bounds { floor: ms(1), ceiling: ms(4000) };
    let (found, why) = interval(cost_of(6, 130), Demand { fill_a_second: 0.0, ..signalling }, wide);
    assert_eq!((found.as_millis(), why), (65, Why::Link));
    let slow = Cost { pause: ms(16), acknowledged: ms(180) };
    assert_eq!(interval(slow, signalling, wide).1, Why::StandStill);
}

#[test]
fn signalling_is_answered_before_sip_says_it_again() {
    // The balance alone would be 158 ms; 250 - 12 - 130 are left, and the guest may stand still for so much of them.
    let dear = Bounds { floor: ms(1), ceiling: ms(4000) };
    let cost = Cost { pause: ms(11), acknowledged: ms(180) };
    let calls = Demand { signalling: true, ..waits() };
    let (found, _) = interval(cost, calls, dear);
    assert!(found + cost.pause + cost.acknowledged < ms(500), "{found:?}");
}

fn seen(pause: Duration) -> Seen {
    Seen { pause, filled: 0.0, since: ms(100), waits: true, media: false, signalling: false }
}

#[test]
fn it_moves_in_steps_and_then_stays() {
    let mut cadence = Cadence::new(BOUNDS, ms(100));
    assert_eq!((cadence.interval(), cadence.why()), (ms(100), Why::Start));
    let mut now = Instant::now();
    let mut moves = Vec::new();
    for _ in 0..200 {
        now += ms(100);
        if cadence.taken(&seen(ms(20)), now) {
            moves.push(cadence.interval());
        }
    }
    assert_eq!(moves, [ms(150), ms(200)], "sqrt(2 * 20 ms * 1 s), by steps of a half");
    // A machine that wavers by a tenth moves nothing.
    for n in 0..200 {
        now += ms(200);
        assert!(!cadence.taken(&seen(ms(19 + n % 3)), now));
    }
    // One long pause counts as no more than one that is twice as long as they are.
    cadence.taken(&seen(ms(2000)), now + ms(200));
    assert!(cadence.interval() < ms(240), "{:?}", cadence.interval());
}

#[test]
fn what_was_there_a_moment_ago_counts_and_what_was_long_ago_does_not() {
    let mut cadence = Cadence::new(BOUNDS, ms(100));
    let start = Instant::now();
    let calls = Seen { signalling: true, ..seen(ms(3)) };
    for n in 0..20 {
        cadence.taken(&calls, start + ms(50 * n));
    }
    let busy = cadence.interval();
    assert!(busy < ms(50), "{busy:?}");
    let quiet = Seen { waits: false, ..seen(ms(3)) };
    assert!(!cadence.taken(&quiet, start + ms(2000)), "a moment later");
    assert_ne!(cadence.why(), Why::Idle);
    for n in 0..40 {
        cadence.taken(&quiet, start + ms(6000 + 400 * n));
    }
    // What it says next shall not wait for the ceiling.
    assert_eq!((cadence.interval(), cadence.why()), (busy, Why::Idle));
}

#[test]
fn output_that_urges_is_heard_as_far_as_the_guest_can_bear_it() {
    let mut cadence = Cadence::new(BOUNDS, ms(200));
    assert_eq!(cadence.urged(), ms(25), "nothing is known of pauses");
    cadence.taken(&seen(ms(20)), Instant::now());
    assert_eq!(cadence.urged(), ms(80), "a fifth of the time");
    // Urged at each checkpoint it would stand still for a fifth for good.
    let mut now = Instant::now();
    for _ in 0..200 {
        now += ms(100);
        let since = cadence.urged();
        cadence.taken(&Seen { since, signalling: true, ..seen(ms(20)) }, now);
    }
    assert!(cadence.stood < SHARE * 1.1, "{}", cadence.stood);
}

fn demands() -> impl Strategy<Value = Demand> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 0.0..1e4f64).prop_map(
        |(waits, media, signalling, fill_a_second)| Demand { waits, media, signalling, fill_a_second },
    )
}

proptest! {
    #[test]
    fn the_operators_bounds_hold_whatever_is_measured(
        pause in 0u64..10_000_000, acknowledged in 0u64..100_000_000, demand in demands(),
        floor in 1u64..1000, more in 0u64..5000,
    ) {
        let bounds = Bounds { floor: ms(floor), ceiling: ms(floor + more) };
        let cost = Cost { pause: Duration::from_micros(pause), acknowledged: Duration::from_micros(acknowledged) };
        let (found, _) = interval(cost, demand, bounds);
        prop_assert!((bounds.floor..=bounds.ceiling).contains(&found));
    }

    #[test]
    fn the_guest_never_stands_still_for_more_than_its_share(pause in 1u64..20_000, demand in demands()) {
        let wide = Bounds { floor: Duration::from_micros(1), ceiling: Duration::from_secs(3600) };
        let pause = Duration::from_micros(pause);
        let (found, _) = interval(Cost { pause, acknowledged: Duration::ZERO }, demand, wide);
        let share = pause.as_secs_f64() / (pause + found).as_secs_f64();
        prop_assert!(share <= if demand.media { MEDIA_SHARE } else { SHARE } + 1e-6, "{share}");
    }

    #[test]
    fn a_longer_pause_never_shortens_the_interval(
        pause in 0u64..100_000, more in 0u64..100_000, media: bool, fill in 0.0..10.0f64,
    ) {
        let demand = Demand { waits: true, media, signalling: false, fill_a_second: fill };
        let of = |us| interval(
            Cost { pause: Duration::from_micros(us), acknowledged: ms(10) }, demand, BOUNDS).0;
        prop_assert!(of(pause) <= of(pause + more));
    }

    #[test]
    fn its_memory_keeps_the_bounds_and_the_step(
        steps in proptest::collection::vec((0u64..500_000, 0u64..2_000_000, 0.0..2.0f64, any::<[bool; 3]>(), 0u64..10_000), 1..80)
    ) {
        let mut cadence = Cadence::new(BOUNDS, ms(100));
        let mut now = Instant::now();
        for (pause, acknowledged, filled, [waits, media, signalling], since) in steps {
            now += ms(since);
            let before = cadence.interval();
            cadence.acknowledged(Duration::from_micros(acknowledged));
            let seen = Seen { pause: Duration::from_micros(pause), filled, since: ms(since), waits, media, signalling };
            let moved = cadence.taken(&seen, now);
            let after = cadence.interval();
            prop_assert_eq!(moved, after != before);
            prop_assert!((BOUNDS.floor..=BOUNDS.ceiling).contains(&after));
            let ratio = after.as_secs_f64() / before.as_secs_f64();
            prop_assert!((1.0 / STEP - 1e-6..=STEP + 1e-6).contains(&ratio), "{}", ratio);
            prop_assert!(cadence.urged() >= BOUNDS.floor && cadence.urged() <= after.max(BOUNDS.floor));
        }
    }
}
