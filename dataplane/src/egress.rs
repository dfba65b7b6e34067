//! The way out: what leaves for the wire, bypass first, released frames behind it in small chunks.
//!
//! Every frame that reaches the wire passes [`send`], and there a moment of the lease is compared with the
//! clock before each burst (I9): no other thread need be alive for the fence to fall. Bypassed frames are compared with
//! the earlier of its two moments, and wait when that has come.

use crate::arena::{Arena, Slice};
use crate::burst::Burst;
use crate::class::{Class, Media, StreamRef};
use crate::hold::Held;
use crate::port::{BURST, Port};
use crate::tsc::TscRate;

/// Bypassed frames that may wait for a wire that takes nothing, or for a lease that is renewed late, beyond the burst
/// in hand.
pub const BYPASS_BACKLOG: usize = 512;

/// What is known of a frame whose body is in a [`Burst`].
#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    /// Its stamp.
    pub epoch: u64,
    /// When its burst was taken from the guest, TSC.
    pub received_tsc: u64,
    /// Set for RTP of a known stream.
    pub media: Option<Media>,
    /// What it is.
    pub class: Class,
}

/// Stamp, and when the burst was taken from the guest.
type Age = (u64, u64);

impl Leaving {
    #[inline(always)]
    fn parts(self) -> (Note, Age, Class) {
        let Leaving { epoch, received_tsc, media, class } = self;
        (media.into(), (epoch, received_tsc), class)
    }

    /// Of a packet's stream and timestamp, its number and the rest.
    fn whole((stream, timestamp): (u32, u32), sequence: u16, age: Age, class: Class) -> Leaving {
        let media = Note { stream, timestamp, sequence }.into();
        Leaving { epoch: age.0, received_tsc: age.1, media, class }
    }
}

impl<F> From<&Held<F>> for Leaving {
    #[inline(always)]
    fn from(held: &Held<F>) -> Leaving {
        let &Held { epoch, received_tsc, media, class, .. } = held;
        Leaving { epoch, received_tsc, media, class }
    }
}

/// Frames one behind the other that share class, age and epoch: noted and counted together.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Their stamp.
    pub epoch: u64,
    /// When their burst was taken from the guest, TSC.
    pub received_tsc: u64,
    frames: u64,
    /// What they are.
    pub class: Class,
}

const NO_RUN: Run = Run { epoch: 0, received_tsc: 0, frames: 0, class: Class::Other };

/// What the quality of a stream needs of a packet, in a stage; stream 0 for what is no media.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    stream: u32,
    timestamp: u32,
    sequence: u16,
}

impl From<Option<Media>> for Note {
    #[inline(always)]
    fn from(media: Option<Media>) -> Note {
        media.map_or(Note::default(), |Media { stream, sequence, timestamp }| Note {
            stream: stream.0,
            timestamp,
            sequence,
        })
    }
}

impl From<Note> for Option<Media> {
    #[inline(always)]
    fn from(note: Note) -> Option<Media> {
        let Note { stream, timestamp, sequence } = note;
        (stream != 0).then_some(Media { stream: StreamRef(stream), sequence, timestamp })
    }
}

/// What has left a [`Stage`].
#[derive(Debug)]
pub struct Gone<'a> {
    notes: &'a [Note],
    runs: &'a [Run],
}

impl<'a> Gone<'a> {
    /// Its packets of RTP of known streams.
    #[inline(always)]
    pub fn media(&self) -> impl Iterator<Item = Media> {
        self.notes.iter().filter_map(|note| (*note).into())
    }

    /// Its runs, and how many frames of each have left.
    #[inline(always)]
    pub fn runs(&self) -> impl Iterator<Item = (&'a Run, u64)> {
        let mut left = self.notes.len() as u64;
        self.runs.iter().map_while(move |run| {
            let frames = run.frames.min(left);
            left -= frames;
            (frames > 0).then_some((run, frames))
        })
    }
}

/// A burst about to be sent, and what is known of its frames, in the same order.
#[derive(Debug)]
pub struct Stage<F> {
    burst: Burst<F>,
    /// In the slots of their frames in `burst`.
    notes: [Note; BURST],
    /// All but the last have frames, and that one too if there is any.
    runs: [Run; BURST],
    first_run: usize,
    last_run: usize,
}

impl<F> Stage<F> {
    pub(crate) const fn new() -> Self {
        Self {
            burst: Burst::new(),
            notes: [Note { stream: 0, timestamp: 0, sequence: 0 }; BURST],
            runs: [NO_RUN; BURST],
            first_run: 0,
            last_run: 0,
        }
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.burst.len()
    }

    /// True without frames.
    pub fn is_empty(&self) -> bool {
        self.burst.is_empty()
    }

    /// Its frames by what they have in common, oldest first.
    fn runs(&self) -> &[Run] {
        &self.runs[self.first_run..=self.last_run]
    }

    /// Appends, or gives back when full.
    #[inline(always)]
    pub(crate) fn push(&mut self, frame: F, about: Leaving) -> Result<(), F> {
        let (note, (epoch, received_tsc), class) = about.parts();
        match self.burst.push_in_place(frame) {
            Ok(at) => {
                self.notes[at] = note;
                let run = &mut self.runs[self.last_run % BURST];
                if run.class == class && run.received_tsc == received_tsc && run.epoch == epoch {
                    run.frames += 1;
                } else {
                    self.begin_run(epoch, received_tsc, class);
                }
                Ok(())
            }
            Err(frame) => self.push_at_the_end(
                frame,
                (note.stream, note.timestamp),
                note.sequence,
                (epoch, received_tsc),
                class,
            ),
        }
    }

    /// There are never more runs than frames, and room for a frame was made before.
    #[inline(never)]
    fn begin_run(&mut self, epoch: u64, received_tsc: u64, class: Class) {
        if self.runs[self.last_run].frames > 0 {
            self.last_run += 1;
        }
        self.runs[self.last_run] = Run { epoch, received_tsc, frames: 1, class };
    }

    /// Appends when only the slots of frames that have left are free, if there are any. What is known of the frame comes
    /// in parts that fit in registers.
    #[cold]
    fn push_at_the_end(
        &mut self,
        frame: F,
        packet: (u32, u32),
        sequence: u16,
        age: Age,
        class: Class,
    ) -> Result<(), F> {
        if self.burst.is_full() {
            return Err(frame);
        }
        self.notes.copy_within(self.burst.first().., 0);
        self.burst.compact();
        self.runs.copy_within(self.first_run..=self.last_run, 0);
        (self.first_run, self.last_run) = (0, self.last_run - self.first_run);
        self.push(frame, Leaving::whole(packet, sequence, age, class))
    }

    /// The front `n` have left the burst.
    #[inline]
    fn gone(&mut self, n: usize) {
        if self.burst.is_empty() {
            (self.first_run, self.last_run) = (0, 0);
            self.runs[0].frames = 0;
            return;
        }
        let mut left = n as u64;
        while left > 0 {
            let run = &mut self.runs[self.first_run];
            let frames = run.frames.min(left);
            run.frames -= frames;
            left -= frames;
            // The burst is not empty, so there is a run behind this one.
            self.first_run += usize::from(run.frames == 0);
        }
    }

    fn pop(&mut self) -> Option<(F, Leaving)> {
        let media = (*self.notes.get(self.burst.first())?).into();
        let frame = self.burst.pop()?;
        let Run { epoch, received_tsc, class, .. } = self.runs[self.first_run];
        self.gone(1);
        Some((frame, Leaving { epoch, received_tsc, media, class }))
    }
}

/// A FIFO of fixed length, taken at start.
#[derive(Debug)]
pub struct Backlog<T: 'static> {
    slots: Slice<Option<T>>,
    first: usize,
    len: usize,
}

impl<T: Send + 'static> Backlog<T> {
    /// Room for `n`, at least one.
    pub fn new(n: usize, arena: &mut impl Arena) -> Self {
        Self { slots: arena.slice(n.max(1), || None), first: 0, len: 0 }
    }

    /// Appends, or gives back when full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.len == self.slots.len() {
            return Err(item);
        }
        let at = (self.first + self.len) % self.slots.len();
        self.slots[at] = Some(item);
        self.len += 1;
        Ok(())
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        let item = self.slots[self.first].take();
        self.first = (self.first + 1) % self.slots.len();
        self.len -= 1;
        item
    }

    /// Items in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without items.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The items, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len).filter_map(|n| self.slots[(self.first + n) % self.slots.len()].as_ref())
    }
}

/// How fast released frames may leave: a bucket of wire time that fills at a given rate.
#[derive(Debug)]
pub struct Pace {
    ticks_per_bit_x1024: u64,
    ready_at: u64,
    depth: u64,
}

/// Preamble, start delimiter, FCS and the gap between frames: bytes a frame takes on the wire beyond its own.
const WIRE_OVERHEAD: u64 = 24;

impl Pace {
    /// `bits_per_s`: of wire time, framing included. `None` for as fast as the wire takes them.
    /// The bucket holds 50 us of wire time, so that a late poll makes good without a burst that an RTP
    /// frame would have to wait behind.
    pub fn new(bits_per_s: Option<u64>, rate: TscRate) -> Self {
        let ticks = bits_per_s.map_or(0, |bits| (rate.hz() as u128 * 1024 / bits.max(1) as u128) as u64);
        Self { ticks_per_bit_x1024: ticks, ready_at: 0, depth: rate.ticks(50_000) }
    }

    /// True when another frame may leave at `now`.
    #[inline]
    pub fn ready(&self, now: u64) -> bool {
        self.ticks_per_bit_x1024 == 0 || now >= self.ready_at
    }

    /// A frame of `len` bytes leaves.
    #[inline]
    pub fn spend(&mut self, len: u32, now: u64) {
        if self.ticks_per_bit_x1024 != 0 {
            let bits = (u64::from(len) + WIRE_OVERHEAD) * 8;
            let ticks = (bits as u128 * self.ticks_per_bit_x1024 as u128 / 1024) as u64;
            self.ready_at = self.ready_at.max(now.saturating_sub(self.depth)) + ticks;
        }
    }
}

/// What [`send`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// So many frames are with the wire port's driver.
    Frames(usize),
    /// The moment has come: nothing was sent.
    Late,
}

/// See the module's head.
#[derive(Debug)]
pub struct Egress<F: 'static> {
    /// Bypassed frames, next to go.
    pub bypass: Stage<F>,
    /// Bypassed frames behind those.
    pub backlog: Backlog<(F, Leaving)>,
    /// Released frames, next to go.
    pub release: Stage<F>,
    /// The pace of released frames.
    pub pace: Pace,
}

impl<F: Send + 'static> Egress<F> {
    /// An empty way out; the backlog lives in `arena`.
    pub fn new(pace: Pace, arena: &mut impl Arena) -> Self {
        Self {
            bypass: Stage::new(),
            backlog: Backlog::new(BYPASS_BACKLOG, arena),
            release: Stage::new(),
            pace,
        }
    }

    /// Queues a bypassed frame; gives it back when nothing could leave for too long.
    #[inline(always)]
    pub fn bypass(&mut self, frame: F, about: Leaving) -> Result<(), F> {
        let staged = if self.backlog.is_empty() { self.bypass.push(frame, about) } else { Err(frame) };
        match staged {
            Ok(()) => Ok(()),
            Err(frame) => {
                let (note, age, class) = about.parts();
                self.wait(frame, (note.stream, note.timestamp), note.sequence, age, class)
            }
        }
    }

    /// Behind the stage. In parts, as there.
    #[cold]
    fn wait(&mut self, frame: F, packet: (u32, u32), sequence: u16, age: Age, class: Class) -> Result<(), F> {
        self.backlog.push((frame, Leaving::whole(packet, sequence, age, class))).map_err(|(frame, _)| frame)
    }

    /// Moves the released frames of a stream, which a full wire keeps waiting, to those that bypass: what the stream
    /// sends next must not overtake them. `full` is told of a frame for which there is no room.
    #[cold]
    pub fn hasten(&mut self, stream: StreamRef, mut full: impl FnMut(&Leaving)) {
        for _ in 0..self.release.len() {
            let Some((frame, about)) = self.release.pop() else { return };
            let hastened = about.media.is_some_and(|media| media.stream == stream);
            let there = if hastened { self.bypass(frame, about) } else { self.release.push(frame, about) };
            if there.is_err() {
                full(&about);
            }
        }
    }

    /// Stages a released frame; only called when [`Egress::release_room`] says so.
    #[inline]
    pub fn release(&mut self, held: Held<F>, now: u64) -> Result<(), F> {
        let about = Leaving::from(&held);
        self.release.push(held.frame, about)?;
        self.pace.spend(held.len, now);
        Ok(())
    }

    /// True when another released frame may be staged at `now`.
    pub fn release_room(&self, now: u64) -> bool {
        self.release.len() < BURST && self.pace.ready(now)
    }

    /// Moves what fits from the backlog to the stage.
    pub fn refill(&mut self) {
        while self.bypass.len() < BURST {
            let Some((frame, about)) = self.backlog.pop() else { return };
            if self.bypass.push(frame, about).is_err() {
                unreachable!("a stage with less than a burst has room");
            }
        }
    }

    /// Frames that wait here, by [`Class`].
    pub fn waiting(&self) -> [u64; Class::ALL.len()] {
        let mut waiting = [0; Class::ALL.len()];
        for run in self.bypass.runs().iter().chain(self.release.runs()) {
            waiting[run.class as usize] += run.frames;
        }
        for (_, about) in self.backlog.iter() {
            waiting[about.class as usize] += 1;
        }
        waiting
    }

    /// True when nothing waits here.
    pub fn is_empty(&self) -> bool {
        self.bypass.is_empty() && self.release.is_empty() && self.backlog.is_empty()
    }

    /// Drops everything that waits here, telling `each` of every frame.
    pub fn discard(&mut self, mut each: impl FnMut(&Leaving)) {
        loop {
            self.refill();
            match self.bypass.pop().or_else(|| self.release.pop()) {
                Some((_, about)) => each(&about),
                None => return,
            }
        }
    }
}

/// Hands the front of `stage` to the wire, unless `until` has come at `now`. `see` is told what left, in order,
/// if anything did.
#[inline]
pub fn send<P: Port>(
    stage: &mut Stage<P::Frame>,
    wire: &mut P,
    now: u64,
    until: u64,
    see: impl FnOnce(Gone<'_>),
) -> Sent {
    if now >= until {
        return Sent::Late;
    }
    let first = stage.burst.first();
    let n = wire.transmit(0, &mut stage.burst);
    if n > 0 {
        see(Gone { notes: &stage.notes[first..first + n], runs: stage.runs() });
        stage.gone(n);
    }
    Sent::Frames(n)
}
