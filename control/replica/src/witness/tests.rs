use super::*;
use crate::lease::Tenant;
use crate::link::LinkError;
use crate::link::dial::{Dial, Dialed};
use crate::link::listen::{Listen, Peers};
use crate::link::message::{Down, Role, Up};
use crate::link::socket::Patience;
use proptest::prelude::*;
use std::time::{Duration, Instant};
use tidegate_control::cli::Decide;

const MS: u64 = 1_000_000;
const TERMS: Terms = Terms {
    term_ms: 100,
    media_ms: 100,
    drift_ppm: 1000,
    margin: Duration::ZERO,
    drain: Duration::from_millis(2),
};

fn caller(node: &str, incarnation: u64) -> Caller {
    Caller { node: node.to_owned(), incarnation }
}

/// One that has been up for long, and knows two nodes.
fn witness() -> (Witness, Caller, Caller) {
    let (alpha, beta) = (caller("alpha", 1), caller("beta", 1));
    let mut witness = Witness::new(TERMS, 0, 0);
    witness.unknown_until_ns = 0;
    for node in [&alpha, &beta] {
        witness.greet(0, "pbx", node).unwrap();
    }
    (witness, alpha, beta)
}

fn beat(seq: u64, renewal: bool, standby: Option<&str>) -> Beat {
    Beat { seq, renewal, standby: standby.map(str::to_owned), ..Beat::default() }
}

fn grant(seq: u64) -> Answer {
    Answer::Grant { seq, term_ms: 100 }
}

#[test]
fn a_standby_may_take_over_when_the_lease_has_run_out() {
    let (mut witness, alpha, beta) = witness();
    assert_eq!(witness.beat(0, "pbx", &alpha, &beat(1, false, Some("beta"))), grant(1));
    let wait = Verdict::Wait { ms: TERMS.wait_ns().div_ceil(MS) - 1 };
    assert_eq!(witness.claim(MS, "pbx", &beta, 1), Some(wait));
    assert_eq!(witness.claim(MS, "pbx", &beta, 1), None, "repeated");
    assert_eq!(witness.claim(TERMS.wait_ns(), "pbx", &beta, 2), Some(Verdict::Yes { term_ms: 100 }));
    let denied = witness.beat(TERMS.wait_ns() + 1, "pbx", &alpha, &beat(2, true, Some("beta")));
    assert!(matches!(denied, Answer::Denied { seq: 2, .. }));
    // The new holder goes on with beats.
    assert_eq!(witness.beat(TERMS.wait_ns() + 2, "pbx", &beta, &beat(3, true, None)), grant(3));
}

#[test]
fn only_whom_the_holder_names_may_take_over() {
    let (mut witness, alpha, beta) = witness();
    let late = 10 * TERMS.wait_ns();
    let refused = |verdict| matches!(verdict, Some(Verdict::No { .. }));
    assert!(refused(witness.claim(late, "pbx", &beta, 1)), "nobody has held the lease");
    witness.beat(late, "pbx", &alpha, &beat(1, false, Some("beta")));
    // The evidence for `on_backup_lost`: the grant that answers a beat naming none.
    assert_eq!(witness.beat(late, "pbx", &alpha, &beat(2, true, None)), grant(2));
    assert!(refused(witness.claim(2 * late, "pbx", &beta, 2)));
    // An old beat that comes late does not bring it back.
    assert_eq!(witness.beat(2 * late, "pbx", &alpha, &beat(1, true, Some("beta"))), Answer::Ignored);
    assert!(refused(witness.claim(3 * late, "pbx", &beta, 3)));
    witness.beat(3 * late, "pbx", &alpha, &beat(3, true, Some("beta")));
    witness.withdraw(3 * late, "pbx", &beta, "its QEMU is gone".to_owned());
    assert!(refused(witness.claim(4 * late, "pbx", &beta, 4)));
    witness.greet(4 * late, "pbx", &beta).unwrap();
    assert_eq!(witness.claim(4 * late, "pbx", &beta, 5), Some(Verdict::Yes { term_ms: 100 }));
}

#[test]
fn a_lease_that_ran_out_goes_to_nobody_whom_its_holder_did_not_name() {
    let (mut witness, alpha, beta) = witness();
    let gamma = caller("gamma", 1);
    witness.greet(0, "pbx", &gamma).unwrap();
    let late = 10 * TERMS.wait_ns();
    witness.beat(0, "pbx", &alpha, &beat(1, false, Some("beta")));
    let denied = |answer| matches!(answer, Answer::Denied { .. });
    assert!(denied(witness.beat(late, "pbx", &gamma, &beat(1, false, None))), "not named");
    assert_eq!(witness.claim(late, "pbx", &beta, 1), Some(Verdict::Yes { term_ms: 100 }));
    // Beta has taken over and is silent: the late alpha, which held it before, would be the second to run the guest.
    assert!(denied(witness.beat(2 * late, "pbx", &alpha, &beat(2, false, None))));
    assert!(
        denied(witness.beat(2 * late, "pbx", &gamma, &beat(2, true, None))),
        "whatever it says of itself"
    );
    assert!(!witness.is_succeeded("pbx", &beta) && witness.is_succeeded("pbx", &caller("beta", 2)));
    assert_eq!(witness.beat(2 * late, "pbx", &caller("beta", 2), &beat(1, false, Some("gamma"))), grant(1));
    assert_eq!(witness.beat(3 * late, "pbx", &gamma, &beat(3, false, None)), grant(3), "named");
    assert!(witness.surrender(4 * late, "pbx", &gamma, 3));
    assert_eq!(witness.beat(5 * late, "pbx", &alpha, &beat(3, false, None)), grant(3), "given up");
}

#[test]
fn a_surrender_shortens_the_wait() {
    let (mut witness, alpha, beta) = witness();
    witness.beat(0, "pbx", &alpha, &beat(3, false, Some("beta")));
    assert!(!witness.surrender(MS, "pbx", &alpha, 2), "a grant came after it");
    assert!(!witness.surrender(MS, "pbx", &caller("alpha", 2), 9), "of another incarnation");
    assert!(!witness.surrender(MS, "pbx", &beta, 9), "not the holder");
    assert!(witness.surrender(MS, "pbx", &alpha, 3));
    assert_eq!(witness.beat(MS, "pbx", &alpha, &beat(3, true, None)), Answer::Ignored);
    let standing = witness.others(MS, "pbx", "beta", 100 * MS);
    assert!(matches!(&standing[..], [(node, Standing::Withdrawn { .. })] if node == "alpha"));
    let at = MS + TERMS.drain_ns();
    assert_eq!(witness.claim(at - 1, "pbx", &beta, 1), Some(Verdict::Wait { ms: 1 }));
    assert_eq!(witness.claim(at, "pbx", &beta, 2), Some(Verdict::Yes { term_ms: 100 }));
}

#[test]
fn after_a_restart_it_lends_to_whoever_renews_and_to_nobody_else() {
    let wait = TERMS.wait_ns();
    let (alpha, beta) = (caller("alpha", 1), caller("beta", 1));
    let mut witness = Witness::new(TERMS, 0, 0);
    for node in [&alpha, &beta] {
        witness.greet(0, "pbx", node).unwrap();
    }
    assert!(witness.is_unsure(wait - 1) && !witness.is_unsure(wait));
    assert!(matches!(witness.beat(1, "pbx", &beta, &beat(1, false, None)), Answer::Denied { .. }));
    assert!(matches!(witness.claim(1, "pbx", &beta, 2), Some(Verdict::No { .. })));
    assert_eq!(witness.beat(2, "pbx", &alpha, &beat(7, true, Some("beta"))), grant(7));
    assert!(matches!(witness.claim(wait - 1, "pbx", &beta, 3), Some(Verdict::Wait { .. })));
    assert!(matches!(witness.beat(3, "pbx", &beta, &beat(4, true, None)), Answer::Denied { .. }));
    assert!(matches!(witness.beat(3, "pbx", &alpha, &beat(8, false, None)), Answer::Denied { .. }));
    assert_eq!(witness.beat(wait, "pbx", &alpha, &beat(9, false, None)), grant(9));
    let longer = Witness::new(TERMS, 0, 500);
    assert!(longer.is_unsure(500 * MS));
}

#[test]
fn a_surrender_covers_no_lease_that_another_start_lent_or_got() {
    let wait = TERMS.wait_ns();
    // Lent by a former start of the witness, to whom it does not know.
    let mut witness = Witness::new(TERMS, 0, 0);
    let (alpha, beta) = (caller("alpha", 1), caller("beta", 1));
    for node in [&alpha, &beta] {
        witness.greet(0, "pbx", node).unwrap();
    }
    witness.beat(1, "pbx", &alpha, &beat(1, true, Some("beta")));
    assert!(witness.surrender(2, "pbx", &alpha, 1));
    assert!(matches!(witness.claim(wait - 1, "pbx", &beta, 1), Some(Verdict::Wait { .. })));
    assert!(matches!(witness.claim(wait, "pbx", &beta, 2), Some(Verdict::Yes { .. })));
    // Lent to a former start of the holder's process.
    let (mut witness, alpha, beta) = self::witness();
    let again = caller("alpha", 2);
    witness.beat(0, "pbx", &alpha, &beat(1, false, Some("beta")));
    witness.beat(1, "pbx", &again, &beat(1, true, Some("beta")));
    assert!(witness.surrender(2, "pbx", &again, 1));
    assert!(matches!(witness.claim(wait - 1, "pbx", &beta, 1), Some(Verdict::Wait { .. })));
    assert!(matches!(witness.claim(wait, "pbx", &beta, 2), Some(Verdict::Yes { .. })));
}

#[test]
fn guests_and_nodes_are_bounded() {
    let mut witness = Witness::new(TERMS, 0, 0);
    for n in 0..GUESTS_MAX {
        witness.greet(0, &format!("g{n}"), &caller("alpha", 1)).unwrap();
    }
    assert!(witness.greet(0, "more", &caller("alpha", 1)).is_err());
    for n in 1..NODES_MAX {
        witness.greet(0, "g0", &caller(&format!("n{n}"), 1)).unwrap();
    }
    assert!(witness.greet(0, "g0", &caller("more", 1)).is_err());
    witness.greet(0, "g0", &caller("alpha", 2)).unwrap();
    assert_eq!(witness.beat(0, "nobody", &caller("alpha", 1), &beat(1, true, None)), Answer::Ignored);
}

/// A host that may speak under its plane's lease.
struct Node {
    name: &'static str,
    ppm: i64,
    incarnation: u64,
    tenant: Tenant,
    /// Its own clock's.
    lease_end: u64,
    /// What its requests were, by number.
    asked: HashMap<u64, Request>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Request {
    Fresh,
    Renewal,
    Claim,
}

#[derive(Clone, Debug)]
enum Step {
    /// As it must: a renewal while its lease runs, a fresh one otherwise.
    Beat(usize, Option<u64>),
    Claim(usize, Option<u64>),
    Surrender(usize, Option<u64>),
    Restart(usize),
    WitnessRestarts,
}

enum Message {
    Beat(usize, Caller, Beat),
    Claim(usize, Caller, u64),
    Surrender(Caller, u64),
    Grant(usize, u64, u64, u64),
}

fn delay() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![6 => (0..3 * MS).prop_map(Some), 2 => (0..250 * MS).prop_map(Some), 1 => Just(None)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0usize..2, delay()).prop_map(|(n, d)| Step::Beat(n, d)),
        6 => (0usize..2, delay()).prop_map(|(n, d)| Step::Claim(n, d)),
        2 => (0usize..2, delay()).prop_map(|(n, d)| Step::Surrender(n, d)),
        1 => (0usize..2).prop_map(Step::Restart),
        1 => Just(Step::WitnessRestarts),
    ]
}

fn clock(true_ns: u64, ppm: i64) -> u64 {
    5_000 * MS + u64::try_from(i128::from(true_ns) * i128::from(1_000_000 + ppm) / 1_000_000).unwrap()
}

/// How often the speaker changed.
fn run(steps: Vec<(u64, Step)>, ppm: [i64; 3], delays: Vec<Option<u64>>) -> Result<usize, TestCaseError> {
    let node = |name, ppm| Node {
        name,
        ppm,
        incarnation: 1,
        tenant: Tenant::new(),
        lease_end: 0,
        asked: HashMap::new(),
    };
    let mut nodes = [node("alpha", ppm[1]), node("beta", ppm[2])];
    let greeted = |now: u64| {
        let mut witness = Witness::new(TERMS, clock(now, ppm[0]), 0);
        for name in ["alpha", "beta"] {
            witness.greet(clock(now, ppm[0]), "pbx", &caller(name, 1)).unwrap();
        }
        witness
    };
    let mut witness = greeted(0);
    let mut flying: BTreeMap<(u64, usize), Message> = BTreeMap::new();
    let mut delays = delays.into_iter().cycle();
    let (mut count, mut speaker, mut changes) = (0, None, 0);
    let mut steps = steps.into_iter();
    let mut now = 0;
    let mut next = steps.next();
    loop {
        let arrival = flying.keys().next().map(|(at, _)| *at);
        let step = next.as_ref().map(|(at, _)| *at);
        let Some(at) = [arrival, step].into_iter().flatten().min() else { return Ok(changes) };
        now = at.max(now);
        let here = clock(now, ppm[0]);
        let mut out = Vec::new();
        if arrival == Some(at) {
            match flying.pop_first().unwrap().1 {
                Message::Beat(n, caller, beat) => {
                    if let Answer::Grant { seq, term_ms } = witness.beat(here, "pbx", &caller, &beat) {
                        out.push((
                            delays.next().flatten(),
                            Message::Grant(n, caller.incarnation, seq, term_ms),
                        ));
                    }
                }
                Message::Claim(n, caller, seq) => {
                    if let Some(Verdict::Yes { term_ms }) = witness.claim(here, "pbx", &caller, seq) {
                        out.push((
                            delays.next().flatten(),
                            Message::Grant(n, caller.incarnation, seq, term_ms),
                        ));
                    }
                }
                Message::Surrender(caller, upto) => {
                    witness.surrender(here, "pbx", &caller, upto);
                }
                Message::Grant(n, incarnation, seq, term_ms) if incarnation == nodes[n].incarnation => {
                    let own = clock(now, nodes[n].ppm);
                    let lease = nodes[n].tenant.granted(seq, term_ms, term_ms);
                    let fenced = own >= nodes[n].lease_end;
                    // A renewal does not lift a fence.
                    let usable = !fenced || nodes[n].asked.get(&seq) != Some(&Request::Renewal);
                    if let Some(lease) = lease.filter(|lease| usable && lease.end_ns() > own) {
                        nodes[n].lease_end = nodes[n].lease_end.max(lease.end_ns());
                        let other = &nodes[1 - n];
                        let until = other.lease_end + TERMS.drain.as_nanos() as u64;
                        let silent = clock(now, other.ppm) >= until || other.lease_end == 0;
                        prop_assert!(silent, "{} speaks while {} may", nodes[n].name, other.name);
                        if speaker.replace(n).is_some_and(|before| before != n) {
                            changes += 1;
                        }
                    }
                }
                Message::Grant(..) => {}
            }
        } else {
            match next.take().unwrap().1 {
                Step::Beat(n, delay) => {
                    let node = &mut nodes[n];
                    let own = clock(now, node.ppm);
                    let renewal = own < node.lease_end;
                    let seq = node.tenant.request(own);
                    node.asked.insert(seq, if renewal { Request::Renewal } else { Request::Fresh });
                    let other = if n == 0 { "beta" } else { "alpha" };
                    let caller = caller(node.name, node.incarnation);
                    out.push((delay, Message::Beat(n, caller, beat(seq, renewal, Some(other)))));
                }
                Step::Claim(n, delay) => {
                    let node = &mut nodes[n];
                    let seq = node.tenant.request(clock(now, node.ppm));
                    node.asked.insert(seq, Request::Claim);
                    out.push((delay, Message::Claim(n, caller(node.name, node.incarnation), seq)));
                }
                Step::Surrender(n, delay) => {
                    let node = &mut nodes[n];
                    node.lease_end = node.lease_end.min(clock(now, node.ppm));
                    let upto = node.tenant.surrender();
                    out.push((delay, Message::Surrender(caller(node.name, node.incarnation), upto)));
                }
                Step::Restart(n) => {
                    let node = &mut nodes[n];
                    node.incarnation += 1;
                    node.tenant = Tenant::new();
                    node.asked.clear();
                }
                Step::WitnessRestarts => witness = greeted(now),
            }
            next = steps.next().map(|(wait, step)| (now + wait, step));
        }
        for (delay, message) in out {
            count += 1;
            if let Some(delay) = delay {
                flying.insert((now + delay, count), message);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever is lost, late or overtaken, whoever restarts, and however the three clocks drift: a node begins to
    /// speak, or goes on, only when the other's lease is over by its own clock and its tx ring is empty.
    #[test]
    fn one_node_speaks_at_a_time(
        steps in proptest::collection::vec((prop_oneof![0..2 * MS, 0..120 * MS], step()), 1..80),
        ppm in [-499i64..=499, -499i64..=499, -499i64..=499],
        delays in proptest::collection::vec(delay(), 1..40),
    ) {
        run(steps, ppm, delays)?;
    }
}

#[test]
fn the_property_meets_changes_of_the_speaker() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let delays = proptest::collection::vec(delay(), 1..40);
    let strategy = (proptest::collection::vec((0..60 * MS, step()), 1..80), delays);
    let changes: usize = (0..200)
        .map(|_| {
            let (steps, delays) = strategy.new_tree(&mut runner).unwrap().current();
            run(steps, [0; 3], delays).unwrap()
        })
        .sum();
    assert!(changes > 50, "the speaker changed {changes} times in 200 runs");
}

fn dial(running: &Running, node: &str, role: Role, incarnation: u64) -> Dialed {
    let dial = Dial {
        address: running.address.to_string(),
        peer: "witness".to_owned(),
        node: node.to_owned(),
        guest: "pbx".to_owned(),
        role,
        decide: Decide::Witness,
        disk_hook: false,
        incarnation,
        keys: None,
        patience: Patience { quiet: Duration::from_millis(10), ..Patience::default() },
    };
    dial.witness().unwrap()
}

/// The first message that `wanted` wants.
fn until<T>(dialed: &mut Dialed, wanted: impl Fn(&Down) -> Option<T>) -> T {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        match dialed.down.receive() {
            Ok(down) => {
                if let Some(found) = wanted(&down) {
                    return found;
                }
            }
            Err(LinkError::Quiet) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it never came");
}

#[test]
fn a_witness_serves_primary_and_standby_over_the_link() {
    let listen = Listen {
        address: "127.0.0.1:0".parse().unwrap(),
        node: "witness".to_owned(),
        incarnation: 1,
        peers: Peers::OfTheCa,
        keys: None,
        bulk: None,
        patience: Patience { quiet: Duration::from_millis(10), ..Patience::default() },
    };
    let terms = Terms { term_ms: 300, ..Terms::default() };
    let running = start(listen, terms, 0, Duration::from_millis(150)).unwrap();
    let (mut alpha, mut beta) =
        (dial(&running, "alpha", Role::Primary, 5), dial(&running, "beta", Role::Standby, 5));
    assert_eq!(alpha.welcome.term_ms, 300);
    assert!(alpha.welcome.not_ready.is_some(), "it has just started");
    // A renewal is granted at once, and the standby's beats are noted.
    alpha.up.send(&Up::Beat(beat(1, true, Some("beta")))).unwrap();
    let term_ms = until(&mut alpha, |down| match down {
        Down::Grant { seq: 1, term_ms, .. } => Some(*term_ms),
        _ => None,
    });
    assert_eq!(term_ms, 300);
    beta.up.send(&Up::Beat(beat(1, false, None))).unwrap();
    until(&mut beta, |down| matches!(down, Down::Noted { seq: 1 }).then_some(()));
    // It tells each of the other.
    let alive = |node: &'static str| {
        move |down: &Down| match down {
            Down::Peer { node: who, standing: Standing::Alive } if who == node => Some(()),
            _ => None,
        }
    };
    until(&mut alpha, alive("beta"));
    // The primary falls silent: the standby hears it, asks, waits and takes over.
    until(&mut beta, |down| match down {
        Down::Peer { node, standing: Standing::Silent { .. } } if node == "alpha" => Some(()),
        _ => None,
    });
    let mut seq = 1;
    loop {
        seq += 1;
        beta.up.send(&Up::Claim { seq }).unwrap();
        let verdict = until(&mut beta, |down| match down {
            Down::Verdict { seq: s, verdict } if *s == seq => Some(verdict.clone()),
            _ => None,
        });
        match verdict {
            Verdict::Wait { ms } => std::thread::sleep(Duration::from_millis(ms)),
            Verdict::Yes { term_ms } => break assert_eq!(term_ms, 300),
            Verdict::No { reason } => panic!("{reason}"),
        }
    }
    // The late primary gets nothing; the new holder's beats renew.
    alpha.up.send(&Up::Beat(beat(2, true, Some("beta")))).unwrap();
    until(&mut alpha, |down| matches!(down, Down::Denied { seq: 2, .. }).then_some(()));
    beta.up.send(&Up::Beat(beat(seq + 1, true, None))).unwrap();
    until(&mut beta, |down| matches!(down, Down::Grant { .. }).then_some(()));
    beta.up.send(&Up::Surrender { upto: seq + 1, reason: "test".to_owned() }).unwrap();
    until(&mut alpha, |down| {
        matches!(down, Down::Peer { standing: Standing::Withdrawn { .. }, .. }).then_some(())
    });
    // Another process on that node is a standby again: its beats do not renew what the one before held.
    let mut anew = dial(&running, "beta", Role::Standby, 6);
    anew.up.send(&Up::Beat(beat(1, false, None))).unwrap();
    let noted = until(&mut anew, |down| match down {
        Down::Noted { seq: 1 } => Some(true),
        Down::Grant { .. } | Down::Denied { .. } => Some(false),
        _ => None,
    });
    assert!(noted, "a standby was lent the lease");
    anew.up.send(&Up::Beat(beat(2, true, None))).unwrap();
    until(&mut anew, |down| matches!(down, Down::Grant { seq: 2, .. }).then_some(()));
}
