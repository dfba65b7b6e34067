//! Who the guest is: the addresses and VLAN tags that it sends from, so that a standby can announce it.
//!
//! Confirmed is what the guest said itself by ARP, RARP or neighbour discovery. Beside that one frame of a burst is looked
//! at, to learn a hardware address that is silent otherwise; the IP address there may be a stranger's (a guest may route),
//! so it is never announced. The table is small, and what is merely seen displaces nothing that is confirmed.

use crate::arena::{Arena, Slice};
use crate::rtp::is_host;
use crate::streams::{Version, Word};
use crate::tsc::TscRate;
use crate::wire::{Headers, Kind, MAX_TAGS, arp, ethernet, icmpv6, ipv4};
use std::sync::Arc;

/// Identities of one lane.
pub const IDENTITIES: usize = 32;
/// Bytes of the most tags that are looked at.
pub const TAG_BYTES: usize = ethernet::TAG * MAX_TAGS;
/// A confirmed identity that was not heard of for so long may be displaced by another confirmed one.
const STALE_NS: u64 = 600_000_000_000;
/// Bytes of a frame without tags up to the end of the sender's address in ARP.
const ARP_SENDER: usize = ethernet::HEADER + 18;
/// From one frame that is looked at to the next.
const SAMPLE_NS: u64 = 1_000_000;

/// One address of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its VLAN tags as they stand in its frames, with priority 0; see `tag_bytes`.
    pub tags: [u8; TAG_BYTES],
    /// How many bytes of `tags` there are.
    pub tag_bytes: u8,
    /// IPv4 as ::ffff:a.b.c.d; `None` when only the hardware address was told.
    pub address: Option<[u8; 16]>,
    /// The guest said so itself.
    pub confirmed: bool,
    /// It advertises itself as a router (RFC 4861, 4.4).
    pub router: bool,
}

impl Identity {
    /// Somebody at this hardware address, without tags.
    pub fn of_mac(mac: [u8; 6]) -> Identity {
        let (tags, tag_bytes) = ([0; TAG_BYTES], 0);
        Identity { mac, tags, tag_bytes, address: None, confirmed: true, router: false }
    }

    /// The tags that there are.
    pub fn tags(&self) -> &[u8] {
        &self.tags[..usize::from(self.tag_bytes).min(TAG_BYTES)]
    }

    /// Hardware address and tags of a frame's sender.
    fn of_sender(headers: &Headers, head: &[u8]) -> Option<Identity> {
        let mac = ethernet::source(head).filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6])?;
        let mut identity = Identity::of_mac(mac);
        let bytes = usize::from(headers.tags) * ethernet::TAG;
        identity.tags.get_mut(..bytes)?.copy_from_slice(head.get(12..12 + bytes)?);
        identity.tag_bytes = bytes as u8;
        identity.tags.chunks_exact_mut(ethernet::TAG).for_each(|tag| tag[2] &= 0x0f);
        Some(identity)
    }

    /// What the guest's own announcement says: of a frame that is one.
    fn announced(headers: &Headers, head: &[u8]) -> Option<Identity> {
        let mut identity = Identity::of_sender(headers, head)?;
        let packet = head.get(usize::from(headers.network_at)..)?;
        match headers.kind {
            // A probe does not have its address yet.
            Kind::Arp => identity.address = Some(ipv4::mapped(packet.first_chunk::<{ arp::PACKET }>()?, 14)),
            Kind::Rarp => return Some(identity),
            Kind::Icmpv6 => {
                let message = headers.payload(head);
                identity.address = match message {
                    [icmpv6::NEIGHBOUR_ADVERTISEMENT, ..] => {
                        identity.router = message.get(4)? & 0x80 != 0;
                        Some(*message.get(8..)?.first_chunk()?)
                    }
                    _ => Some(headers.src),
                };
            }
            _ => return None,
        }
        identity.address.is_some_and(|address| is_host(&address)).then_some(identity)
    }

    /// What any frame shows.
    fn seen(headers: &Headers, head: &[u8]) -> Option<Identity> {
        let identity = Identity::of_sender(headers, head)?;
        let address = Some(headers.src).filter(|src| headers.version != 0 && is_host(src));
        Some(Identity { address, confirmed: false, ..identity })
    }

    /// What is said of the one is said of the other: the same sender, and the same address unless one was merely seen.
    fn is(&self, other: &Identity) -> bool {
        let same_sender = self.mac == other.mac && self.tags() == other.tags();
        same_sender && (self.address == other.address || !self.confirmed || !other.confirmed)
    }
}

const PRESENT: u64 = 1 << 56;
const CONFIRMED: u64 = 1 << 57;
const ROUTER: u64 = 1 << 58;
const ADDRESS: u64 = 1 << 59;

/// An identity as words: hardware address, bytes of tags and flags; the tags; the address.
type Words = [Word; 5];

fn bytes8(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    u64::from_le_bytes(word)
}

fn write(words: &Words, identity: &Identity) {
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    let flags = PRESENT
        | flag(identity.confirmed, CONFIRMED)
        | flag(identity.router, ROUTER)
        | flag(identity.address.is_some(), ADDRESS);
    let address = identity.address.unwrap_or_default();
    words[0].set(bytes8(&identity.mac) | u64::from(identity.tag_bytes) << 48 | flags);
    words[1].set(bytes8(&identity.tags[..8]));
    words[2].set(bytes8(&identity.tags[8..]));
    words[3].set(bytes8(&address[..8]));
    words[4].set(bytes8(&address[8..]));
}

fn read(words: &Words) -> Option<Identity> {
    let first = words[0].get();
    if first & PRESENT == 0 {
        return None;
    }
    let [a, b, c, d, e, f, tag_bytes, _] = first.to_le_bytes();
    let (mut tags, mut address) = ([0; TAG_BYTES], [0; 16]);
    tags[..8].copy_from_slice(&words[1].get().to_le_bytes());
    tags[8..].copy_from_slice(&words[2].get().to_le_bytes()[..TAG_BYTES - 8]);
    address[..8].copy_from_slice(&words[3].get().to_le_bytes());
    address[8..].copy_from_slice(&words[4].get().to_le_bytes());
    Some(Identity {
        mac: [a, b, c, d, e, f],
        tags,
        tag_bytes,
        address: (first & ADDRESS != 0).then_some(address),
        confirmed: first & CONFIRMED != 0,
        router: first & ROUTER != 0,
    })
}

/// The identities of a lane, for anybody to read.
#[derive(Debug)]
pub struct IdentityTable {
    version: Version,
    places: Slice<Words>,
}

impl IdentityTable {
    pub(crate) fn new(arena: &mut impl Arena) -> Self {
        IdentityTable { version: Version::default(), places: arena.slice(IDENTITIES, Words::default) }
    }

    /// All of them as they stand.
    pub fn snapshot(&self) -> Vec<Identity> {
        self.version
            .read(|| self.places.iter().filter_map(read).collect())
            .map(|(_, identities)| identities)
            .unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    identity: Option<Identity>,
    /// TSC of the last time it was heard of.
    at: u64,
}

/// The lcore's side. See the module's head.
#[derive(Debug)]
pub(crate) struct Identities {
    table: Arc<IdentityTable>,
    entries: Slice<Entry>,
    /// Of the last frame that was looked at: its source and Ethertype, and where an IPv4 source is.
    sampled: (u64, u32),
    /// TSC.
    next_sample: u64,
    /// Destination to sender's address of the last ARP without tags, and until when it is not looked at again, TSC.
    last_arp: [u8; ARP_SENDER],
    arp_again: u64,
    sample_every: u64,
    /// Where the one heard of last is: mostly it is the next one, too.
    last: usize,
    rate: TscRate,
}

impl Identities {
    pub fn new(table: Arc<IdentityTable>, rate: TscRate, arena: &mut impl Arena) -> Self {
        let entries = arena.slice(IDENTITIES, || Entry { identity: None, at: 0 });
        Identities {
            table,
            entries,
            sampled: (0, 0),
            next_sample: 0,
            last_arp: [0; ARP_SENDER],
            arp_again: 0,
            sample_every: rate.ticks(SAMPLE_NS),
            last: 0,
            rate,
        }
    }

    /// Looks at one frame of a burst, once in a while: nothing to do when its sender is that of the last one.
    #[inline(always)]
    pub fn sample(&mut self, head: &[u8], frame_len: u32, now: u64) {
        if now >= self.next_sample {
            self.see(head, frame_len, now);
        }
    }

    #[cold]
    fn see(&mut self, head: &[u8], frame_len: u32, now: u64) {
        self.next_sample = now.saturating_add(self.sample_every);
        let Some(bytes) = head.first_chunk::<34>() else { return };
        let [.., a, b, c, d, e, f, g, h] = *bytes.first_chunk::<14>().unwrap_or(&[0; 14]);
        let source = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let address = u32::from_ne_bytes([bytes[26], bytes[27], bytes[28], bytes[29]]);
        if (source, address) != self.sampled {
            self.sampled = (source, address);
            if let Some(identity) = Identity::seen(&Headers::parse(head, frame_len), head) {
                self.note(identity, now);
            }
        }
    }

    /// The guest has announced itself: a frame that the classifier took for such.
    #[cold]
    pub fn announced(&mut self, headers: &Headers, head: &[u8], now: u64) {
        // A guest that asks for many neighbours says the same of itself each time.
        let sender = head.first_chunk().filter(|_| headers.kind == Kind::Arp && headers.tags == 0);
        if let Some(sender) = sender {
            if *sender == self.last_arp && now < self.arp_again {
                return;
            }
            (self.last_arp, self.arp_again) = (*sender, now.saturating_add(self.sample_every));
        }
        if let Some(identity) = Identity::announced(headers, head) {
            self.note(identity, now);
        }
    }

    /// Heard of at `now`.
    pub fn note(&mut self, identity: Identity, now: u64) {
        let is = |entry: &Entry| entry.identity.as_ref().is_some_and(|known| known.is(&identity));
        let known = match is(&self.entries[self.last]) {
            true => Some(self.last),
            false => self.entries.iter().position(is),
        };
        let place = match known {
            Some(place) => {
                self.last = place;
                self.entries[place].at = now;
                match &self.entries[place].identity {
                    Some(known) if !identity.confirmed || *known == identity => return,
                    _ => place,
                }
            }
            None => match self.room(identity.confirmed, now) {
                Some(place) => place,
                None => return,
            },
        };
        self.entries[place] = Entry { identity: Some(identity), at: now };
        let change = self.table.version.open();
        write(&self.table.places[place], &identity);
        change.close();
    }

    /// A place for a new one: a free one, else the longest silent of those merely seen, else, for one that is
    /// `confirmed`, of those long silent.
    fn room(&self, confirmed: bool, now: u64) -> Option<usize> {
        let stale = self.rate.ticks(STALE_NS);
        let rank = |entry: &Entry| match entry.identity {
            None => 0,
            Some(identity) if !identity.confirmed => 1,
            Some(_) if now.saturating_sub(entry.at) > stale => 2,
            Some(_) => 3,
        };
        let places = self.entries.iter().enumerate();
        let (rank, _, place) = places.map(|(n, entry)| (rank(entry), entry.at, n)).min()?;
        (rank < if confirmed { 3 } else { 2 }).then_some(place)
    }
}

#[cfg(test)]
mod tests;
