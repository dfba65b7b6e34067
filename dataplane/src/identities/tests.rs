use super::*;
use crate::arena::Heap;
use crate::wire::sample;

const MS: u64 = 1_000_000;

fn table() -> Identities {
    let shared = Arc::new(IdentityTable::new(&mut Heap));
    Identities::new(shared, TscRate::new(1000 * MS), &mut Heap)
}

fn announce(identities: &mut Identities, frame: &[u8], now: u64) {
    let headers = Headers::parse(frame, frame.len() as u32);
    identities.announced(&headers, frame, now);
}

fn mapped(address: [u8; 4]) -> [u8; 16] {
    let mut mapped = [0; 16];
    mapped[10..12].copy_from_slice(&[0xff; 2]);
    mapped[12..].copy_from_slice(&address);
    mapped
}

#[test]
fn arp_and_neighbour_discovery_say_who_the_guest_is() {
    let mut identities = table();
    announce(&mut identities, &sample::arp(1), 1);
    announce(&mut identities, &sample::tagged(&sample::arp(2), &[0x88a8, 0x8100]), 1);
    announce(&mut identities, &sample::neighbour(135, 255, &[]), 1);
    announce(&mut identities, &sample::rarp(), 1);
    let known = identities.table.snapshot();
    assert_eq!(known.len(), 4, "{known:?}");
    assert!(known.iter().all(|identity| identity.confirmed && identity.mac == sample::GUEST_MAC));
    assert_eq!(known[0].address, Some(mapped(sample::GUEST)));
    assert_eq!(
        (known[1].tags(), known[1].address),
        (&[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2][..], known[0].address)
    );
    assert_eq!((known[2].address, known[2].router), (Some(sample::GUEST6), false));
    assert_eq!(known[3].address, None);
    announce(&mut identities, &sample::arp(1), 2);
    assert_eq!(identities.table.snapshot(), known, "once");
}

#[test]
fn probes_and_strange_addresses_say_nothing() {
    let mut identities = table();
    let mut probe = sample::arp(1);
    probe[28..32].fill(0);
    announce(&mut identities, &probe, 1);
    let mut group = sample::arp(1);
    group[28..32].copy_from_slice(&[224, 0, 0, 1]);
    announce(&mut identities, &group, 1);
    let mut detection = sample::neighbour(135, 255, &[]);
    detection[22..38].fill(0);
    announce(&mut identities, &detection, 1);
    assert_eq!(identities.table.snapshot(), []);
}

#[test]
fn a_router_that_advertises_itself_is_known_as_one() {
    let mut identities = table();
    let mut frame = sample::neighbour(136, 255, &[]);
    announce(&mut identities, &frame, 1);
    assert!(!identities.table.snapshot()[0].router);
    frame[14 + 40 + 4] |= 0x80;
    announce(&mut identities, &frame, 1);
    let known = identities.table.snapshot();
    assert_eq!((known.len(), known[0].router), (1, true));
}

#[test]
fn a_guest_that_is_merely_seen_is_not_confirmed_until_it_says_so() {
    let mut identities = table();
    let frame = sample::udp(40000, 5004, b"x");
    identities.sample(&frame, frame.len() as u32, 10 * MS);
    let seen = identities.table.snapshot();
    assert_eq!((seen.len(), seen[0].confirmed, seen[0].address), (1, false, Some(mapped(sample::GUEST))));
    announce(&mut identities, &sample::arp(1), 11 * MS);
    let known = identities.table.snapshot();
    assert_eq!((known.len(), known[0].confirmed), (1, true));
    let other = sample::udp6(40000, 5004, b"x");
    identities.sample(&other, other.len() as u32, 10 * MS + 1);
    assert_eq!(identities.table.snapshot().len(), 1, "one look in a millisecond");
    identities.sample(&frame, frame.len() as u32, 20 * MS);
    assert!(identities.table.snapshot()[0].confirmed, "a look takes nothing back");
    identities.sample(&frame[..33], 33, 30 * MS);
}

#[test]
fn a_flood_of_senders_displaces_nothing_that_is_confirmed() {
    let mut identities = table();
    announce(&mut identities, &sample::arp(1), 1);
    let mut flood = sample::udp(40000, 5004, b"x");
    for n in 0..10_000u64 {
        flood[8..12].copy_from_slice(&(n as u32 + 2).to_be_bytes());
        identities.sample(&flood, flood.len() as u32, (n + 1) * 2 * MS);
    }
    let known = identities.table.snapshot();
    assert_eq!(known.len(), IDENTITIES);
    assert_eq!(known.iter().filter(|identity| identity.confirmed).count(), 1);
    // Nor does one of confirmed ones, until that is long silent.
    let mut arp = sample::arp(1);
    let mut now = 0;
    for n in 0..10_000u32 {
        now += MS;
        arp[28..32].copy_from_slice(&(0x0a01_0000 + n).to_be_bytes());
        announce(&mut identities, &arp, now);
    }
    assert!(
        identities.table.snapshot().iter().any(|identity| identity.address == Some(mapped(sample::GUEST)))
    );
    announce(&mut identities, &arp, STALE_NS + 2);
    assert!(
        identities.table.snapshot().iter().all(|identity| identity.address != Some(mapped(sample::GUEST)))
    );
}
