use super::bulk::{BulkLimits, Carried};
use super::dial::{Dial, Dialed, incarnation};
use super::listen::{Accepted, Listen, Listener, Peers, State};
use super::message::{Beat, Down, Role, Up};
use super::socket::Patience;
use super::tls::{Keys, TlsFiles};
use super::{LinkError, envelope};
use crate::certs::{self, tests::args};
use crate::checkpoint::{Checkpoint, CheckpointId, Pages, Ram, RamDigest};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tidegate_control::cli::Decide;

const PATIENCE: Patience = Patience {
    handshake: Duration::from_secs(5),
    quiet: Duration::from_millis(50),
    stall: Duration::from_secs(2),
};
const SOON: Duration = Duration::from_secs(10);

fn listen(keys: Option<Keys>) -> Listen {
    Listen {
        address: "127.0.0.1:0".parse().unwrap(),
        node: "beta".to_owned(),
        incarnation: 7,
        peers: Peers::Named(vec!["alpha".to_owned()]),
        keys,
        bulk: Some(BulkLimits { device_max: 8 << 20, ram_pages: 1024 }),
        patience: PATIENCE,
    }
}

fn start(listen: Listen) -> Listener {
    listen
        .start(|hello| match hello.guest.as_str() {
            "pbx" => Ok(State { term_ms: 100, ..State::default() }),
            other => Err(format!("no guest `{other}` here")),
        })
        .unwrap()
}

fn dial(listener: &Listener, keys: Option<Keys>) -> Dial {
    Dial {
        address: listener.address.to_string(),
        peer: "beta".to_owned(),
        node: "alpha".to_owned(),
        guest: "pbx".to_owned(),
        role: Role::Primary,
        decide: Decide::Standby,
        disk_hook: false,
        incarnation: incarnation().unwrap(),
        keys,
        patience: PATIENCE,
    }
}

fn keys(dir: &Path, node: &str) -> Keys {
    Keys::read(&TlsFiles::in_dir(dir, node)).unwrap()
}

fn certificates(nodes: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    certs::make(&args(dir.path(), nodes), SystemTime::now()).unwrap();
    dir
}

fn refusal(result: Result<Dialed, LinkError>) -> String {
    match result {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was let in"),
    }
}

fn patient<T>(mut receive: impl FnMut() -> Result<T, LinkError>) -> Result<T, LinkError> {
    let began = Instant::now();
    loop {
        match receive() {
            Err(LinkError::Quiet) if began.elapsed() < SOON => {}
            other => return other,
        }
    }
}

fn checkpoint(epoch: u64) -> Checkpoint {
    let pages = Pages { numbers: (0..512).collect(), bytes: vec![epoch as u8; 512 * 4096] };
    let ram = Ram::Difference { base: RamDigest(1), pages, digest: RamDigest(2) };
    Checkpoint { id: CheckpointId { generation: 3, epoch }, device: vec![9; 3 << 20], ram }
}

/// Something in each direction.
fn converse(dialed: &mut Dialed, accepted: &mut Accepted) {
    assert_eq!((accepted.hello.node.as_str(), accepted.hello.session), ("alpha", dialed.welcome.session));
    assert_eq!((dialed.welcome.term_ms, dialed.welcome.incarnation), (100, 7));
    for seq in 1..=3 {
        let beat = Up::Beat(Beat { seq, ..Beat::default() });
        dialed.up.send(&beat).unwrap();
        assert_eq!(patient(|| accepted.up.receive()).unwrap(), beat);
        let grant = Down::Grant { seq, term_ms: 100, media_ms: 50 };
        accepted.down.send(&grant).unwrap();
        assert_eq!(patient(|| dialed.down.receive()).unwrap(), grant);
    }
    let (mut to, mut from) = (dialed.bulk.take().unwrap(), accepted.bulk.take().unwrap());
    let sender = std::thread::spawn(move || {
        let sent: Vec<_> = (1..=3).map(|e| to.send(&checkpoint(e), &mut |_| {}).unwrap()).collect();
        (to, sent)
    });
    let got: Vec<_> = (1..=3).map(|_| patient(|| from.receive()).unwrap()).collect();
    let (to, sent) = sender.join().unwrap();
    for (epoch, (got, sent)) in (1..).zip(got.into_iter().zip(sent)) {
        assert_eq!(got, Carried::Checkpoint(checkpoint(epoch), sent));
    }
    let acked = Down::Acked {
        id: CheckpointId { generation: u64::MAX, epoch: 3 },
        length: u64::MAX,
        checksum: u128::MAX,
        digest: Some(RamDigest(u128::MAX - 1)),
    };
    accepted.down.send(&acked).unwrap();
    assert_eq!(patient(|| dialed.down.receive()).unwrap(), acked);
    (dialed.bulk, accepted.bulk) = (Some(to), Some(from));
}

fn session(listener: &Listener, dial: &Dial) -> (Dialed, Accepted) {
    let dialed = dial.standby().unwrap();
    (dialed, listener.sessions.recv_timeout(SOON).unwrap())
}

#[test]
fn a_plain_session_on_loopback_carries_everything() {
    let listener = start(listen(None));
    let (mut dialed, mut accepted) = session(&listener, &dial(&listener, None));
    converse(&mut dialed, &mut accepted);
}

#[test]
fn a_tls_session_carries_everything() {
    let dir = certificates(&["alpha", "beta"]);
    let listener = start(listen(Some(keys(dir.path(), "beta"))));
    let (mut dialed, mut accepted) = session(&listener, &dial(&listener, Some(keys(dir.path(), "alpha"))));
    converse(&mut dialed, &mut accepted);
    drop(listener);
    // The listener's end does not end its sessions.
    accepted.down.send(&Down::Bye { reason: String::new() }).unwrap();
    assert!(matches!(patient(|| dialed.down.receive()), Ok(Down::Bye { .. })));
}

#[test]
fn a_witness_session_has_no_bulk() {
    let listener = start(Listen { bulk: None, ..listen(None) });
    let dialed = dial(&listener, None).witness().unwrap();
    let accepted = listener.sessions.recv_timeout(SOON).unwrap();
    assert!(dialed.bulk.is_none() && accepted.bulk.is_none());
}

#[test]
fn another_ca_is_refused_on_either_side() {
    let (ours, theirs) = (certificates(&["alpha", "beta"]), certificates(&["alpha", "beta"]));
    let listener = start(listen(Some(keys(ours.path(), "beta"))));
    let refused = refusal(dial(&listener, Some(keys(theirs.path(), "alpha"))).standby());
    assert!(refused.contains("another CA"), "{refused}");
    // Their key under our CA: the dialer trusts the listener, the listener not the dialer.
    let mut mixed = TlsFiles::in_dir(theirs.path(), "alpha");
    mixed.ca = ours.path().join("ca.pem");
    let refused = refusal(dial(&listener, Some(Keys::read(&mixed).unwrap())).standby());
    assert!(
        refused.contains("refused this node's certificate") && refused.contains("another CA"),
        "{refused}"
    );
    assert!(listener.sessions.try_recv().is_err());
}

#[test]
fn another_name_is_refused_on_either_side() {
    let dir = certificates(&["alpha", "beta", "gamma"]);
    let listener = start(listen(Some(keys(dir.path(), "gamma"))));
    let refused = refusal(dial(&listener, Some(keys(dir.path(), "alpha"))).standby());
    assert!(refused.contains("another node"), "{refused}");

    let listener = start(listen(Some(keys(dir.path(), "beta"))));
    let refused = refusal(dial(&listener, Some(keys(dir.path(), "gamma"))).standby());
    assert!(refused.contains("its certificate does not"), "gamma as alpha: {refused}");
    let honest = Dial { node: "gamma".to_owned(), ..dial(&listener, Some(keys(dir.path(), "gamma"))) };
    let refused = refusal(honest.standby());
    assert!(refused.contains("not the peer that is configured"), "{refused}");
    let other = Dial { guest: "db".to_owned(), ..dial(&listener, Some(keys(dir.path(), "alpha"))) };
    let refused = refusal(other.standby());
    assert!(refused.contains("no guest `db`"), "{refused}");
    assert!(listener.sessions.try_recv().is_err());
}

#[test]
fn an_expired_certificate_is_refused_on_either_side() {
    let dir = certificates(&["alpha", "beta"]);
    let past = SystemTime::now() - Duration::from_secs(11 * 366 * 86_400);
    certs::make(&args(dir.path(), &["old"]), past).unwrap();
    let listener = start(Listen {
        peers: Peers::OfTheCa,
        node: "old".to_owned(),
        ..listen(Some(keys(dir.path(), "old")))
    });
    let to_old = Dial { peer: "old".to_owned(), ..dial(&listener, Some(keys(dir.path(), "alpha"))) };
    let refused = refusal(to_old.standby());
    assert!(refused.contains("has expired") && refused.contains("--force"), "{refused}");

    let listener = start(Listen { peers: Peers::OfTheCa, ..listen(Some(keys(dir.path(), "beta"))) });
    let from_old = Dial { node: "old".to_owned(), ..dial(&listener, Some(keys(dir.path(), "old"))) };
    let refused = refusal(from_old.standby());
    assert!(refused.contains("expired") && refused.contains("refused this node"), "{refused}");
}

#[test]
fn without_certificates_nothing_leaves_loopback() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7000"] {
        let refused = Listen { address: address.parse().unwrap(), ..listen(None) }
            .start(|_| Ok(State::default()))
            .unwrap_err()
            .to_string();
        assert!(refused.contains("tidegate certs"), "{address}: {refused}");
    }
    let listener = start(listen(None));
    let there = Dial { address: "192.0.2.1:7000".to_owned(), ..dial(&listener, None) };
    let refused = refusal(there.standby());
    assert!(refused.contains("tidegate certs"), "{refused}");
}

#[test]
fn plain_and_tls_do_not_mix_and_say_so() {
    let dir = certificates(&["alpha", "beta"]);
    let tls = start(listen(Some(keys(dir.path(), "beta"))));
    let refused = refusal(dial(&tls, None).standby());
    assert!(refused.contains("certificates"), "{refused}");
    let plain = start(listen(None));
    let refused = refusal(dial(&plain, Some(keys(dir.path(), "alpha"))).standby());
    assert!(refused.contains("are certificates configured there"), "{refused}");
    assert!(tls.sessions.try_recv().is_err() && plain.sessions.try_recv().is_err());
}

#[test]
fn a_newer_session_takes_the_place_of_the_older() {
    let listener = start(listen(None));
    let (mut old, mut old_here) = session(&listener, &dial(&listener, None));
    let (mut new, mut new_here) = session(&listener, &dial(&listener, None));
    assert!(matches!(patient(|| old.down.receive()), Err(LinkError::Closed | LinkError::Io(_))));
    assert!(matches!(patient(|| old_here.up.receive()), Err(LinkError::Closed | LinkError::Io(_))));
    assert!(old_here.down.send(&Down::Bye { reason: String::new() }).is_err());
    converse(&mut new, &mut new_here);
}

#[test]
fn a_session_that_lacks_a_connection_replaces_nothing() {
    let listener = start(listen(None));
    let (mut dialed, mut accepted) = session(&listener, &dial(&listener, None));
    // Up and down only, where bulk is due: never complete.
    let short = Patience { handshake: Duration::from_millis(300), ..PATIENCE };
    let lacking = Dial { patience: short, ..dial(&listener, None) };
    assert!(lacking.witness().is_err());
    converse(&mut dialed, &mut accepted);
}

#[test]
fn a_stopper_ends_whoever_blocks() {
    let listener = start(listen(None));
    let (dialed, mut accepted) = session(&listener, &dial(&listener, None));
    let mut bulk = dialed.bulk.unwrap();
    // Nobody reads: it blocks when the buffers are full.
    let sender = std::thread::spawn(move || {
        (1..1000).find_map(|epoch| bulk.send(&checkpoint(epoch), &mut |_| {}).err())
    });
    std::thread::sleep(Duration::from_millis(100));
    dialed.stopper.stop();
    dialed.stopper.stop();
    assert!(sender.join().unwrap().is_some());
    assert!(matches!(patient(|| accepted.up.receive()), Err(LinkError::Closed | LinkError::Io(_))));
}

#[test]
fn a_peer_that_stops_reading_stalls_nobody_for_long() {
    let listener = start(listen(None));
    let (mut dialed, _accepted) = session(&listener, &dial(&listener, None));
    let mut bulk = dialed.bulk.take().unwrap();
    let began = Instant::now();
    let error = (1..1000).find_map(|epoch| bulk.send(&checkpoint(epoch), &mut |_| {}).err());
    assert!(matches!(error, Some(LinkError::Io(_))), "{error:?}");
    assert!(began.elapsed() < SOON);
}

/// A TCP connection that says `bytes`, and when it was ended.
fn until_closed(address: SocketAddr, bytes: &[u8], every: Duration) -> Duration {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    for byte in bytes.iter().cycle() {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        match stream.read(&mut [0; 64]) {
            Ok(0) => break,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            _ => {}
        }
        assert!(began.elapsed() < SOON, "nobody ends it");
        std::thread::sleep(every);
    }
    began.elapsed()
}

#[test]
fn a_dialer_that_drips_is_ended_in_bounded_time() {
    let dir = certificates(&["alpha", "beta"]);
    let hello = b"TG\0\x01\0\0\x0f\xff\0\0\0\0\0\0\0\0";
    // A TLS record of a client hello that never ends.
    let tls = b"\x16\x03\x01\x20\x00\x01\x00\x1f\xfc\x03\x03";
    for (keys, bytes) in [(None, &hello[..]), (Some(keys(dir.path(), "beta")), &tls[..])] {
        let short = Patience { handshake: Duration::from_millis(300), ..PATIENCE };
        let listener = start(Listen { patience: short, ..listen(keys) });
        let took = until_closed(listener.address, bytes, Duration::from_millis(20));
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}

#[test]
fn hostile_dialers_do_not_keep_the_peer_out() {
    let dir = certificates(&["alpha", "beta"]);
    let listener = start(listen(Some(keys(dir.path(), "beta"))));
    let hostile: Vec<_> = (0..300).filter_map(|_| TcpStream::connect(listener.address).ok()).collect();
    let began = Instant::now();
    let (mut dialed, mut accepted) = session(&listener, &dial(&listener, Some(keys(dir.path(), "alpha"))));
    assert!(began.elapsed() < PATIENCE.handshake, "{:?}", began.elapsed());
    converse(&mut dialed, &mut accepted);
    drop(hostile);
}

#[test]
fn half_a_message_ends_the_session_but_silence_does_not() {
    let listener = start(listen(None));
    let (dialed, mut accepted) = session(&listener, &dial(&listener, None));
    for _ in 0..20 {
        assert!(matches!(accepted.up.receive(), Err(LinkError::Quiet)));
    }
    // Behind the sender's back: the first half of a header.
    let mut up = dialed.up;
    up.wire().write_all(b"TG\0\x03").unwrap();
    let began = Instant::now();
    let error = patient(|| accepted.up.receive()).unwrap_err();
    assert!(matches!(&error, LinkError::Io(_)), "{error}");
    assert!(began.elapsed() < SOON);
}

#[test]
fn a_message_of_another_kind_or_shape_is_refused() {
    let listener = start(listen(None));
    for (kind, payload) in [
        (envelope::Kind::Down, &br#"{"bye":{"reason":""}}"#[..]),
        (envelope::Kind::Up, br#"{"bye":{"reason":"","more":1}}"#),
        (envelope::Kind::Up, br#"{"beat":{"seq":-1}}"#),
        (envelope::Kind::Up, b"\xff"),
        (envelope::Kind::Up, b""),
    ] {
        let (mut dialed, mut accepted) = session(&listener, &dial(&listener, None));
        dialed.up.frames().send(kind, &[payload]).unwrap();
        let error = patient(|| accepted.up.receive()).unwrap_err();
        assert!(matches!(&error, LinkError::Protocol(_)), "{payload:?}: {error}");
        assert!(accepted.up.receive().is_err());
    }
}
