//! The RTP streams of a lane, as pages that its lcore writes and anybody reads while they are written.
//!
//! One page of four cache lines for each stream: two that classification writes (`Seen`) and two
//! that departure writes (`Sent`, in [`crate::quality`]). A known stream costs its classification one
//! of them. Each half has a version that is odd while it is being changed: the lcore never waits, a
//! reader tries again. Who finds, makes and evicts entries is [`crate::rtp`].

use crate::arena::{Arena, Slice};
use crate::quality::{Quality, Sent};
use crate::tsc::TscRate;
use crate::wire::display_address;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

/// Entries of a table unless its owner says otherwise.
pub const DEFAULT_STREAMS: usize = 4096;
/// The most entries a table may have.
pub const MAX_STREAMS: usize = 1 << 20;

/// A word with one writer: loads and stores, never a locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Word(AtomicU64);

impl Word {
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Counts one more.
    #[inline(always)]
    pub fn bump(&self) {
        self.set(self.get() + 1);
    }
}

/// A half word with one writer.
#[derive(Debug, Default)]
pub(crate) struct Half(AtomicU32);

impl Half {
    #[inline(always)]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Makes several words change as one for readers, and says whose they are: the upper half counts, odd
/// while a change is under way; the lower half is the [`crate::class::StreamRef`], 0 for nobody's.
#[derive(Debug, Default)]
pub(crate) struct Version(AtomicU64);

const CHANGE: u64 = 1 << 32;

impl Version {
    /// Whose words these are.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        self.0.load(Ordering::Relaxed) as u32
    }

    /// The words are about to change.
    #[inline(always)]
    pub fn open(&self) -> Open<'_> {
        let before = self.0.load(Ordering::Relaxed);
        // Even before, so that this counts one more.
        self.0.store(before | CHANGE, Ordering::Relaxed);
        fence(Ordering::Release);
        Open { version: self, before }
    }

    /// Reads words that belong together, and whose they are. For other threads than the writer's: it
    /// changes them for some nanoseconds at a time, and if its core was taken away just then, waits for it,
    /// a tenth of a second at most. `None` after that: half a change is never shown.
    pub fn read<T>(&self, words: impl Fn() -> T) -> Option<(u32, T)> {
        for attempt in 0..2000 {
            let before = self.0.load(Ordering::Acquire);
            let value = words();
            fence(Ordering::Acquire);
            if before & CHANGE == 0 && self.0.load(Ordering::Relaxed) == before {
                return Some((before as u32, value));
            }
            match attempt {
                0..100 => std::hint::spin_loop(),
                100..1000 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(100)),
            }
        }
        None
    }
}

/// A change under way.
#[must_use = "a change that is not closed blocks its readers"]
pub(crate) struct Open<'a> {
    version: &'a Version,
    before: u64,
}

impl Open<'_> {
    /// The words have changed.
    #[inline(always)]
    pub fn close(self) {
        self.version.0.store(self.before.wrapping_add(2 * CHANGE), Ordering::Release);
    }

    /// The words have changed, and are `mark`'s now.
    pub fn close_for(self, mark: u32) {
        let count = self.before.wrapping_add(2 * CHANGE) & !0xffff_ffff;
        self.version.0.store(count | mark as u64, Ordering::Release);
    }
}

/// What classification knows of a stream. The first line is all that a known stream needs.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Seen {
    pub version: Version,
    /// The guest's address, in two words of its bytes.
    pub address: [Word; 2],
    /// SSRC, the guest's port, the last peer's port.
    pub name: Word,
    /// See [`crate::rtp::Track`].
    pub track: Word,
    /// TSC.
    pub last_seen: Word,
    pub packets: Word,
    /// The last peer's address, second half.
    pub peer_low: Word,
    pub peer_high: Word,
    /// Packets that waited, or wait, for a commit.
    pub held: Word,
    /// Number of the packet at which the stream was promoted; 0 for never.
    pub promoted_at: Word,
    /// TSC.
    pub first_seen: Word,
    pub first_timestamp: Word,
    /// Units a second; 0 while unknown.
    pub clock_rate: Word,
    /// Number of the TURN channel; 0 for what is sent directly.
    pub channel: Word,
    /// See [`crate::rtp::Guard`]; means something while the track says that there is one.
    pub guard: Word,
}

/// One stream.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Page {
    pub seen: Seen,
    pub sent: Sent,
}

/// The pages. See the module's head.
#[derive(Debug)]
pub struct StreamTable {
    pages: Slice<Page>,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// It looks like RTP, and has not proven it.
    Probation,
    /// It is media.
    Promoted,
}

impl StreamState {
    /// The word used in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            StreamState::Probation => "probation",
            StreamState::Promoted => "promoted",
        }
    }
}

/// A stream as it stands. Times are TSC ticks of the lcore's clock where they are named so.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamReport {
    /// The guest's address.
    pub src: IpAddr,
    /// The guest's port.
    pub sport: u16,
    /// Where the last packet went.
    pub dst: IpAddr,
    /// To which port.
    pub dport: u16,
    /// The TURN channel that it comes through; where it goes is the server then.
    pub channel: Option<u16>,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Payload type of the last packet.
    pub payload_type: u8,
    /// Probation or promoted.
    pub state: StreamState,
    /// Packets seen, all of them.
    pub packets: u64,
    /// Packets that did not wait for a commit; those let go on promotion are among them.
    pub bypassed: u64,
    /// Packets that waited, or wait, for a commit.
    pub held: u64,
    /// Number of the packet at which the stream was promoted, from 1.
    pub promoted_at: Option<u64>,
    /// It was signalling that promoted it.
    pub named: bool,
    /// When the first packet came, in TSC ticks.
    pub first_seen_tsc: u64,
    /// When the last packet came, in TSC ticks.
    pub last_seen_tsc: u64,
    /// Media clock in units a second; `None` until a dynamic payload type has shown its own.
    pub clock_rate: Option<u32>,
    /// What left to the wire, and how evenly.
    pub quality: Quality,
}

impl StreamTable {
    /// `count` empty entries (a power of two).
    pub(crate) fn new(count: usize, arena: &mut impl Arena) -> Self {
        StreamTable { pages: arena.slice(count, Page::default) }
    }

    /// The entry `index`, for its lcore.
    #[inline(always)]
    pub(crate) fn page(&self, index: usize) -> &Page {
        &self.pages[index]
    }

    /// All entries, for their lcore.
    #[inline(always)]
    pub(crate) fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// Entries that the table has room for.
    pub fn capacity(&self) -> usize {
        self.pages.len()
    }

    /// All streams as they stand, also those that have gone silent and were not replaced yet
    /// (`last_seen_tsc` tells). `rate` is that of the lcore's clock.
    pub fn snapshot(&self, rate: TscRate) -> Vec<StreamReport> {
        self.pages.iter().filter_map(|page| page.report(rate)).collect()
    }
}

impl Page {
    fn report(&self, rate: TscRate) -> Option<StreamReport> {
        let seen = &self.seen;
        let (mark, mut report) = seen.version.read(|| {
            let (name, track) = (seen.name.get(), crate::rtp::Track(seen.track.get()));
            let (packets, held) = (seen.packets.get(), seen.held.get());
            let clock_rate = seen.clock_rate.get() as u32;
            StreamReport {
                src: address(&seen.address[0], &seen.address[1]),
                sport: (name >> 16) as u16,
                dst: address(&seen.peer_high, &seen.peer_low),
                dport: name as u16,
                channel: Some(seen.channel.get() as u16).filter(|number| *number > 0),
                ssrc: (name >> 32) as u32,
                payload_type: track.payload_type(),
                state: if track.is_promoted() { StreamState::Promoted } else { StreamState::Probation },
                packets,
                bypassed: packets.saturating_sub(held),
                held,
                promoted_at: Some(seen.promoted_at.get()).filter(|at| *at > 0),
                named: track.is_named(),
                first_seen_tsc: seen.first_seen.get(),
                last_seen_tsc: seen.last_seen.get(),
                clock_rate: Some(clock_rate).filter(|rate| *rate > 0),
                quality: Quality::default(),
            }
        })?;
        if mark == 0 {
            return None;
        }
        report.quality = self.sent.quality(mark, rate);
        Some(report)
    }
}

pub(crate) fn address(high: &Word, low: &Word) -> IpAddr {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.get().to_ne_bytes());
    bytes[8..].copy_from_slice(&low.get().to_ne_bytes());
    display_address(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;

    #[test]
    fn a_page_is_four_cache_lines_of_which_a_known_stream_needs_one() {
        assert_eq!((size_of::<Page>(), align_of::<Page>()), (256, 64));
        assert_eq!(std::mem::offset_of!(Seen, peer_low), 56);
        assert_eq!(std::mem::offset_of!(Page, sent), 128);
    }

    #[test]
    fn an_unused_table_has_no_streams() {
        let table = StreamTable::new(64, &mut Heap);
        assert_eq!((table.capacity(), table.snapshot(TscRate::new(1)).len()), (64, 0));
    }

    #[test]
    fn a_reader_never_sees_half_a_change() {
        let table = std::sync::Arc::new(StreamTable::new(8, &mut Heap));
        let writer = std::thread::spawn({
            let table = table.clone();
            move || {
                let seen = &table.page(3).seen;
                for n in 1..200_000 {
                    let change = seen.version.open();
                    seen.packets.set(n);
                    if n % 64 == 0 {
                        // The core is taken away in the middle.
                        std::thread::yield_now();
                    }
                    seen.held.set(n);
                    change.close_for(1);
                }
            }
        });
        while !writer.is_finished() {
            for report in table.snapshot(TscRate::new(1)) {
                assert_eq!(report.packets, report.held);
            }
        }
        writer.join().unwrap();
    }
}
