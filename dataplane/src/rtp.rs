//! Telling RTP streams from what merely looks like them: probation, promotion, sequence windows.
//!
//! A header check alone mistakes hundreds of other flows for media; three packets of one SSRC with
//! consecutive numbers have never been anything else (two where STUN, DTLS or RTCP came before). So a
//! stream is on *probation* until a run of that length (RFC 3550, A.1), all to one peer. After that a
//! number must lie within (-100, +3000) of the highest; one outside begins a run of its own while the
//! stream goes on, and a proven run moves the window there.
//!
//! What is kept for each stream and may be read by others is in [`crate::streams`]; here is what only the
//! lcore needs: where an entry is found, and which frames of a run wait where.

use crate::arena::{Arena, Slice};
use crate::channels::Channels;
use crate::class::{Media, StreamRef};
use crate::endpoints::{Endpoint, Endpoints};
use crate::lessons::Lessons;
use crate::quality::{MAX_DROPOUT, MAX_MISORDER, Sent};
use crate::streams::{MAX_STREAMS, Page, StreamTable};
use crate::tsc::TscRate;
use crate::wire::Headers;
use crate::wire::rtp::Rtp;
use std::sync::Arc;

mod aim;
mod channel;
mod clock;
mod companion;
mod guard;
mod look;
mod origin;
mod run;
mod sighting;
mod track;
mod trust;

pub(crate) use aim::{Aim, Scout};
pub use channel::Through;
use guard::Past;
pub use guard::{GoneOut, Guard, Inherited, MAX_MARGIN};
pub use look::{Look, Standing};
pub(crate) use origin::is_host;
use origin::{is_eligible, is_source, is_tunnel};
use run::Run;
pub use run::{MAX_WAITING, Waiting};
pub(crate) use sighting::Sighting;
use sighting::{endpoint, name, place, words};
use track::Step;
pub(crate) use track::Track;

/// Packets in a row that prove a stream.
const RUN: u8 = 3;
/// The same on a port where STUN, DTLS or RTCP was seen.
const RUN_AFTER_SET_UP: u8 = 2;
/// A stream silent for so long must prove itself again, and may be displaced.
pub const IDLE_NS: u64 = 30_000_000_000;
const WAYS: usize = 8;
/// Streams that began last and are looked at when signalling names their port.
const BEGUN: usize = 64;

/// What a packet is to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Of a promoted stream, within its window.
    Media,
    /// Of a run that proves nothing yet.
    Run,
    /// The one that proves it.
    Proof,
    /// A duplicate within a run, or a fragment of a stream that has not proven itself.
    Idle,
    /// Of a guarded stream, and the dead primary may have sent it before.
    Replayed,
}

/// Where the streams of one set are. The first line is all that a lookup needs.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Set {
    /// SSRC, port, and 16 bits of the address's hash; 0 for a free way.
    tags: [u64; WAYS],
}

/// The streams of one lane, for its lcore.
#[derive(Debug)]
pub(crate) struct Streams {
    table: Arc<StreamTable>,
    sets: Slice<Set>,
    runs: Slice<Run>,
    endpoints: Endpoints,
    lessons: Lessons,
    channels: Channels,
    /// Marks of the streams that began last, in a circle.
    begun: [u32; BEGUN],
    next_begun: usize,
    index_bits: u32,
    idle: u64,
    rate: TscRate,
    /// Positions noted in an earlier era are forgotten.
    era: u32,
}

impl Streams {
    /// Room for `count` streams, rounded up to a power of two between 8 and [`MAX_STREAMS`].
    pub fn new(count: usize, rate: TscRate, arena: &mut impl Arena) -> Self {
        let count = count.clamp(WAYS, MAX_STREAMS).next_power_of_two();
        Streams {
            table: Arc::new(StreamTable::new(count, arena)),
            sets: arena.slice(count / WAYS, Set::default),
            runs: arena.slice(count, Run::default),
            endpoints: Endpoints::new(count, arena),
            lessons: Lessons::new(count, rate, arena),
            channels: Channels::new(count, rate, arena),
            begun: [0; BEGUN],
            next_begun: 0,
            index_bits: count.trailing_zeros(),
            idle: rate.ticks(IDLE_NS),
            rate,
            era: 1,
        }
    }

    pub fn table(&self) -> Arc<StreamTable> {
        self.table.clone()
    }

    /// The usual packet: its stream is proven, its clock known, its peer the same, its number in the
    /// window. `None`, and nothing changed, if it is another: that is for [`Streams::see`].
    #[inline(always)]
    pub fn see_usual(&mut self, headers: &Headers, rtp: &Rtp, now: u64) -> Option<StreamRef> {
        let address = words(&headers.src);
        let index =
            self.find_usual(address, name(headers, rtp), words(&headers.dst)[1], rtp.sequence, now)?;
        Some(self.note_usual(index, rtp, now))
    }

    #[inline(always)]
    fn find_usual(
        &self,
        address: [u64; 2],
        name: u64,
        peer_low: u64,
        sequence: u16,
        now: u64,
    ) -> Option<usize> {
        let (set, tag) = place(self.sets.len(), address, name);
        let way = self.sets[set].tags.iter().position(|found| *found == tag)?;
        let index = set * WAYS + way;
        self.is_usual(index, address, name, peer_low, sequence, now).then_some(index)
    }

    #[inline(always)]
    pub(super) fn is_usual(
        &self,
        index: usize,
        address: [u64; 2],
        name: u64,
        peer_low: u64,
        sequence: u16,
        now: u64,
    ) -> bool {
        let seen = &self.table.page(index).seen;
        let track = Track(seen.track.get());
        let silent = now.wrapping_sub(seen.last_seen.get()) as i64;
        seen.name.get() == name
            && seen.address[0].get() == address[0]
            && seen.address[1].get() == address[1]
            && seen.peer_low.get() == peer_low
            && track.is_settled()
            && track.is_within(sequence)
            && silent <= self.idle as i64
    }

    /// The usual packet goes out: its stream, found before at `index`, goes on.
    #[inline(always)]
    pub fn note_usual(&mut self, index: usize, rtp: &Rtp, now: u64) -> StreamRef {
        let Page { seen, sent } = self.table.page(index);
        let change = seen.version.open();
        seen.track.set(Track(seen.track.get()).advanced(rtp).0);
        seen.last_seen.set(now);
        seen.packets.bump();
        change.close();
        // The same mark as this page's; asked there, the line is near when the packet departs.
        StreamRef(sent.mark())
    }

    /// Any packet that passed the header check. `None`: no stream was, or can be, made of it.
    #[inline(never)]
    pub fn see(&mut self, sighting: &Sighting<'_>) -> Option<(StreamRef, Stage)> {
        let address = words(&sighting.headers.src);
        let (set, tag) = self.place_of(sighting);
        match self.known(set, tag, address, sighting.channel) {
            Some(way) => Some(self.see_unusual(set * WAYS + way, sighting)),
            None => self.see_new(set, tag, sighting),
        }
    }

    fn known(&self, set: usize, tag: u64, address: [u64; 2], channel: u16) -> Option<usize> {
        (0..WAYS).find(|way| {
            let seen = &self.table.page(set * WAYS + way).seen;
            self.sets[set].tags[*way] == tag
                && seen.address[0].get() == address[0]
                && seen.address[1].get() == address[1]
                && seen.channel.get() == u64::from(channel)
        })
    }

    /// A packet of a known stream.
    fn see_unusual(&mut self, index: usize, sighting: &Sighting<'_>) -> (StreamRef, Stage) {
        let page = self.table.page(index);
        let seen = &page.seen;
        let mut track = Track(seen.track.get());
        let silent = sighting.now.saturating_sub(seen.last_seen.get());
        let whole = !sighting.headers.is_fragment();
        if silent > self.idle && whole {
            return self.begin(index, sighting);
        }
        let mark = StreamRef(self.runs[index].mark);
        if track.is_guarded() {
            match Guard(seen.guard.get()).judge(sighting.rtp.sequence) {
                Past::Replayed => return (mark, Stage::Replayed),
                Past::Beyond => track = track.unguarded(),
                Past::Elsewhere => {}
            }
        }
        let trusted = self.is_trusted(sighting);
        // What only its port vouched for ends when neither policy nor signalling name the port any more.
        let promoted = track.is_proven() || track.is_promoted() && trusted;
        let within = promoted && silent <= self.idle && track.is_within(sighting.rtp.sequence);
        if !within && !whole {
            return (mark, Stage::Idle);
        }
        let peer = words(&sighting.headers.dst);
        let same_peer = seen.name.get() == sighting.name()
            && seen.peer_low.get() == peer[1]
            && seen.peer_high.get() == peer[0];
        let needed = if self.endpoints.is_set_up(sighting.endpoint(), sighting.now, self.idle) {
            RUN_AFTER_SET_UP
        } else {
            RUN
        };
        let packets = seen.packets.get() + 1;
        let (mut track, stage) = if within {
            let track = track.advanced(&sighting.rtp);
            (
                if packets - seen.promoted_at.get() >= RUN as u64 { track.proven() } else { track },
                Stage::Media,
            )
        } else if trusted && !promoted {
            // What came before the lesson goes first.
            let run = &self.runs[index];
            let waits = run.era == self.era && !run.waiting.positions().is_empty();
            let track = self.vouch(track.promoted(&sighting.rtp), sighting);
            (track, if waits { Stage::Proof } else { Stage::Media })
        } else {
            let run = &mut self.runs[index];
            // A run goes on only to the same peer, and not across a change of policy.
            let unbroken = same_peer && run.era == self.era;
            match track.step(&sighting.rtp, unbroken, needed) {
                (track, Step::Again) => (track, Stage::Idle),
                (track, Step::Next) => (track, Stage::Run),
                (track, Step::Start) => {
                    run.waiting = Waiting::default();
                    run.era = self.era;
                    (track, Stage::Run)
                }
                (track, Step::Proof) => (track.proven(), Stage::Proof),
            }
        };
        if stage == Stage::Proof && self.endpoints.is_secure(sighting.endpoint()) {
            track = track.secure();
        }
        let clock = if track.has_clock() { None } else { clock::of(seen, sighting, packets, self.rate) };
        if clock.is_some() {
            track = track.with_clock();
        }
        let change = seen.version.open();
        seen.track.set(track.0);
        seen.name.set(sighting.name());
        seen.peer_low.set(peer[1]);
        seen.peer_high.set(peer[0]);
        seen.last_seen.set(sighting.now);
        seen.packets.set(packets);
        if packets == 1 {
            // The first one here of a stream that was the dead primary's: its clock is measured from now on.
            seen.first_seen.set(sighting.now);
            seen.first_timestamp.set(sighting.rtp.timestamp as u64);
        }
        if track.is_promoted() && seen.promoted_at.get() == 0 {
            seen.promoted_at.set(packets);
        }
        if let Some(clock) = clock {
            seen.clock_rate.set(clock as u64);
        }
        change.close();
        if let Some(clock) = clock {
            page.sent.set_unit(Sent::unit(self.rate, clock));
        }
        if stage == Stage::Proof || trusted {
            self.remember(sighting.endpoint(), mark, sighting.now);
        }
        (mark, stage)
    }

    /// A packet of no known stream.
    fn see_new(&mut self, set: usize, tag: u64, sighting: &Sighting<'_>) -> Option<(StreamRef, Stage)> {
        let headers = sighting.headers;
        if headers.is_fragment() || !is_eligible(headers) || is_tunnel(sighting) && !self.is_trusted(sighting)
        {
            return None;
        }
        let way = self.room(set, sighting.now)?;
        self.sets[set].tags[way] = tag;
        Some(self.begin(set * WAYS + way, sighting))
    }

    /// A way for a new stream: a free one, else that of a stream long silent, else of the one longest on
    /// probation, else of one that only its port vouches for. A proven stream is never displaced.
    fn room(&self, set: usize, now: u64) -> Option<usize> {
        if let Some(free) = self.sets[set].tags.iter().position(|tag| *tag == 0) {
            return Some(free);
        }
        let rank = |way: usize| {
            let seen = &self.table.page(set * WAYS + way).seen;
            let (track, last) = (Track(seen.track.get()), seen.last_seen.get());
            let rank = match track {
                _ if now.saturating_sub(last) > self.idle => 0,
                _ if !track.is_promoted() => 1,
                _ if !track.is_proven() => 2,
                _ => 3,
            };
            (rank, last)
        };
        let ((rank, _), way) = (0..WAYS).map(|way| (rank(way), way)).min()?;
        (rank < 3).then_some(way)
    }

    /// The entry `index` begins anew with this packet.
    fn begin(&mut self, index: usize, sighting: &Sighting<'_>) -> (StreamRef, Stage) {
        let trusted = self.is_trusted(sighting);
        let mark = self.next_mark(index);
        self.runs[index] = Run { waiting: Waiting::default(), era: self.era, mark };
        self.begun[self.next_begun % BEGUN] = mark;
        self.next_begun = self.next_begun.wrapping_add(1);
        let clock = clock::by_payload_type(sighting.rtp.payload_type);
        let mut track = Track::new(&sighting.rtp, trusted);
        if trusted {
            track = self.vouch(track, sighting);
        }
        if clock.is_some() {
            track = track.with_clock();
        }
        if self.endpoints.is_secure(sighting.endpoint()) {
            track = track.secure();
        }
        let (address, peer) = (words(&sighting.headers.src), words(&sighting.headers.dst));
        let Page { seen, sent } = self.table.page(index);
        sent.reset(mark, clock.map_or(0, |clock| Sent::unit(self.rate, clock)));
        let change = seen.version.open();
        seen.address[0].set(address[0]);
        seen.address[1].set(address[1]);
        seen.name.set(sighting.name());
        seen.track.set(track.0);
        seen.last_seen.set(sighting.now);
        seen.packets.set(1);
        seen.peer_low.set(peer[1]);
        seen.peer_high.set(peer[0]);
        seen.held.set(0);
        seen.promoted_at.set(trusted as u64);
        seen.first_seen.set(sighting.now);
        seen.first_timestamp.set(sighting.rtp.timestamp as u64);
        seen.clock_rate.set(clock.unwrap_or(0) as u64);
        seen.channel.set(sighting.channel.into());
        change.close_for(mark);
        if trusted {
            self.remember(sighting.endpoint(), StreamRef(mark), sighting.now);
        }
        (StreamRef(mark), if trusted { Stage::Media } else { Stage::Run })
    }

    /// Index and a count of how often it was used, so that a reference to an earlier stream is told apart.
    fn next_mark(&self, index: usize) -> u32 {
        let times = (self.runs[index].mark >> self.index_bits).wrapping_add(1);
        let mark = times << self.index_bits | index as u32;
        // 0 is the mark of an entry never used.
        if mark >> self.index_bits == 0 { 1 << self.index_bits | index as u32 } else { mark }
    }

    fn index(&self, mark: u32) -> usize {
        mark as usize & (self.runs.len() - 1)
    }

    fn lives(&self, mark: u32, now: u64) -> bool {
        lives(&self.table, &self.runs, self.idle, mark, now)
    }

    fn remember(&mut self, endpoint: Endpoint, stream: StreamRef, now: u64) {
        let Streams { table, runs, endpoints, idle, .. } = self;
        endpoints.note_promoted(endpoint, stream.0, now, |mark| lives(table, runs, *idle, mark, now));
    }

    /// The frame of a run waits at `position` of the hold queue.
    pub fn waiting(&mut self, stream: StreamRef, position: u64) {
        let (index, era) = (self.index(stream.0), self.era);
        self.runs[index].note(stream.0, era, position);
    }

    /// Where the frames of the run wait that has just proven the stream; they are forgotten here.
    pub fn take_waiting(&mut self, stream: StreamRef) -> Waiting {
        let (index, era) = (self.index(stream.0), self.era);
        let Some(waiting) = self.runs[index].take(stream.0, era) else { return Waiting::default() };
        let seen = &self.table.page(index).seen;
        let change = seen.version.open();
        seen.held.set(seen.held.get().saturating_sub(waiting.positions().len() as u64));
        change.close();
        waiting
    }

    /// A packet of the stream waits for its commit.
    #[inline(never)]
    pub fn held(&self, stream: StreamRef) {
        let index = self.index(stream.0);
        if self.runs[index].mark == stream.0 {
            let seen = &self.table.page(index).seen;
            let change = seen.version.open();
            seen.held.bump();
            change.close();
        }
    }

    /// Forgets which frames wait, in one step.
    pub fn forget_waiting(&mut self) {
        self.era = self.era.wrapping_add(1);
    }

    /// These packets left to the wire.
    #[inline]
    pub fn departed(&self, media: impl Iterator<Item = Media>, now: u64) {
        let pages = self.table.pages();
        for Media { stream, sequence, timestamp } in media {
            if let Some(page) = pages.get(stream.0 as usize & pages.len().wrapping_sub(1)) {
                page.sent.departed(stream.0, sequence, timestamp, now);
            }
        }
    }
}

fn lives(table: &StreamTable, runs: &[Run], idle: u64, mark: u32, now: u64) -> bool {
    let index = mark as usize & (runs.len() - 1);
    let seen = &table.page(index).seen;
    mark != 0
        && runs[index].mark == mark
        && Track(seen.track.get()).is_promoted()
        && now.saturating_sub(seen.last_seen.get()) <= idle
}

/// Both bounds of the window as one: how far behind, and how far ahead.
pub(crate) const WINDOW: (u16, u16) = (MAX_MISORDER, MAX_DROPOUT);

#[cfg(test)]
mod tests;
