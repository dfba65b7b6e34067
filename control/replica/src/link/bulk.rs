//! Seed and checkpoints as frames.
//!
//! ```text
//! Begin   generation u64, epoch u64, device bytes u64, pages u32, ram u8 (0 streamed, 1 difference), base u128, digest u128
//! Device  up to 1 MiB of the device stream          until all announced bytes are there
//! Pages   count u32, numbers u32 each, contents     up to 256 pages; numbers rise across the frames
//! End     length u64, xxh3-128 u128                 over the payloads from Begin to here
//! Seed    as Pages; numbers rise within the frame   never inside a checkpoint
//! SeedEnd digest u128                               of RAM, once the seed is complete
//! ```
//!
//! Numbers are big endian. Nothing is yielded that is not whole and verified.

use crate::checkpoint::{Checkpoint, CheckpointId, PAGE, Pages, Ram, RamDigest};
use crate::link::LinkError;
use crate::link::envelope::{CHUNK, FrameReader, FrameWriter, Kind};
use std::io::{Read, Write};
use std::time::Duration;
use twox_hash::XxHash3_128;

/// Pages in one frame.
pub const PAGES_A_FRAME: usize = CHUNK / PAGE;

const BEGIN: usize = 8 + 8 + 8 + 4 + 1 + 16 + 16;

/// What a reader takes; more is refused before memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkLimits {
    /// Bytes of a device stream (RAM included where that is streamed).
    pub device_max: u64,
    /// Pages of RAM: page numbers are below this.
    pub ram_pages: u32,
}

/// What was sent, to compare with the acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Which.
    pub id: CheckpointId,
    /// Payload bytes of all its frames but the last.
    pub length: u64,
    /// xxh3-128 over those.
    pub checksum: u128,
}

/// What a [`BulkReader`] yields: complete and verified things only.
#[derive(Debug, PartialEq, Eq)]
pub enum Carried {
    /// Pages of the first live copy; the same page may come again later.
    Seed(Pages),
    /// The seed is complete, and RAM must hold this.
    SeedEnd(RamDigest),
    /// A checkpoint, and what to acknowledge.
    Checkpoint(Checkpoint, Sent),
}

/// Length and checksum as they grow.
pub(super) struct Tally {
    length: u64,
    hasher: XxHash3_128,
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tally").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Tally {
    pub(super) fn new() -> Tally {
        Tally { length: 0, hasher: XxHash3_128::new() }
    }

    pub(super) fn add(&mut self, part: &[u8]) {
        self.length += part.len() as u64;
        self.hasher.write(part);
    }

    pub(super) fn sent(&self, id: CheckpointId) -> Sent {
        Sent { id, length: self.length, checksum: self.hasher.finish_128() }
    }
}

fn protocol(what: impl Into<String>) -> LinkError {
    LinkError::Protocol(what.into())
}

fn well_formed(pages: &Pages) -> Result<(), LinkError> {
    let rise = pages.numbers.is_sorted_by(|a, b| a < b);
    if rise && pages.numbers.len().checked_mul(PAGE) == Some(pages.bytes.len()) {
        return Ok(());
    }
    Err(protocol("pages whose numbers do not rise or whose contents have another length; not sent"))
}

/// Writes seed and checkpoints.
#[derive(Debug)]
pub struct BulkWriter<W> {
    frames: FrameWriter<W>,
    numbers: Vec<u8>,
}

impl<W: Write> BulkWriter<W> {
    /// On a fresh connection, where a frame must be through within `stall`.
    pub fn new(to: W, stall: Duration) -> BulkWriter<W> {
        BulkWriter::on(FrameWriter::new(to, stall))
    }

    pub(crate) fn on(frames: FrameWriter<W>) -> BulkWriter<W> {
        BulkWriter { frames, numbers: Vec::new() }
    }

    pub(super) fn into_frames(self) -> FrameWriter<W> {
        self.frames
    }

    /// What it writes to.
    pub fn get_mut(&mut self) -> &mut W {
        self.frames.get_mut()
    }

    /// Sends a checkpoint; `progress` is told the payload bytes so far after each frame. Blocks as long as the link
    /// does; an error means that the session is over.
    pub fn send(
        &mut self,
        checkpoint: &Checkpoint,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Sent, LinkError> {
        let empty = Pages::default();
        let (ram, base, digest, pages) = match &checkpoint.ram {
            Ram::Streamed => (0, 0, 0, &empty),
            Ram::Difference { base, pages, digest } => (1, base.0, digest.0, pages),
        };
        well_formed(pages)?;
        let mut begin = Vec::with_capacity(BEGIN);
        begin.extend_from_slice(&checkpoint.id.generation.to_be_bytes());
        begin.extend_from_slice(&checkpoint.id.epoch.to_be_bytes());
        begin.extend_from_slice(&(checkpoint.device.len() as u64).to_be_bytes());
        begin.extend_from_slice(&(pages.numbers.len() as u32).to_be_bytes());
        begin.push(ram);
        begin.extend_from_slice(&base.to_be_bytes());
        begin.extend_from_slice(&digest.to_be_bytes());

        let mut tally = Tally::new();
        let mut frame = |frames: &mut FrameWriter<W>, kind, parts: &[&[u8]]| {
            frames.send(kind, parts)?;
            parts.iter().for_each(|part| tally.add(part));
            progress(tally.length);
            Ok::<(), LinkError>(())
        };
        frame(&mut self.frames, Kind::Begin, &[&begin])?;
        for piece in checkpoint.device.chunks(CHUNK) {
            frame(&mut self.frames, Kind::Device, &[piece])?;
        }
        for (numbers, bytes) in in_frames(pages) {
            head(&mut self.numbers, numbers);
            frame(&mut self.frames, Kind::Pages, &[&self.numbers, bytes])?;
        }
        let sent = tally.sent(checkpoint.id);
        self.frames.send(Kind::End, &[&sent.length.to_be_bytes(), &sent.checksum.to_be_bytes()])?;
        Ok(sent)
    }

    /// Sends pages of the first live copy.
    pub fn seed(&mut self, pages: &Pages) -> Result<(), LinkError> {
        well_formed(pages)?;
        for (numbers, bytes) in in_frames(pages) {
            head(&mut self.numbers, numbers);
            self.frames.send(Kind::Seed, &[&self.numbers, bytes])?;
        }
        Ok(())
    }

    /// Ends the seed.
    pub fn seed_end(&mut self, digest: RamDigest) -> Result<(), LinkError> {
        self.frames.send(Kind::SeedEnd, &[&digest.0.to_be_bytes()])
    }
}

fn in_frames(pages: &Pages) -> impl Iterator<Item = (&[u32], &[u8])> {
    pages.numbers.chunks(PAGES_A_FRAME).zip(pages.bytes.chunks(PAGES_A_FRAME * PAGE))
}

fn head(to: &mut Vec<u8>, numbers: &[u32]) {
    to.clear();
    to.extend_from_slice(&(numbers.len() as u32).to_be_bytes());
    numbers.iter().for_each(|number| to.extend_from_slice(&number.to_be_bytes()));
}

/// A checkpoint on its way.
struct Incoming {
    checkpoint: Checkpoint,
    device_len: usize,
    page_count: usize,
    tally: Tally,
}

/// Reads them; keeps what is incomplete across [`LinkError::Quiet`].
pub struct BulkReader<R> {
    frames: FrameReader<R>,
    limits: BulkLimits,
    incoming: Option<Box<Incoming>>,
    newest_epoch: Option<u64>,
}

impl<R: std::fmt::Debug> std::fmt::Debug for BulkReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let incoming = self.incoming.as_ref().map(|incoming| incoming.checkpoint.id);
        f.debug_struct("BulkReader").field("frames", &self.frames).field("incoming", &incoming).finish()
    }
}

impl<R: Read> BulkReader<R> {
    /// On a fresh connection; see [`crate::link::socket::Patience`] for the times.
    pub fn new(from: R, limits: BulkLimits, quiet: Duration, stall: Duration) -> BulkReader<R> {
        BulkReader::on(FrameReader::new(from, quiet, stall), limits)
    }

    pub(crate) fn on(frames: FrameReader<R>, limits: BulkLimits) -> BulkReader<R> {
        BulkReader { frames, limits, incoming: None, newest_epoch: None }
    }

    pub(super) fn into_frames(self) -> FrameReader<R> {
        self.frames
    }

    /// The next complete thing. After any error but [`LinkError::Quiet`] every further call fails: the session is over
    /// and what was incomplete is gone.
    pub fn receive(&mut self) -> Result<Carried, LinkError> {
        loop {
            match self.step() {
                Ok(Some(carried)) => return Ok(carried),
                Ok(None) => {}
                Err(LinkError::Quiet) => return Err(LinkError::Quiet),
                Err(error) => {
                    self.frames.poison();
                    self.incoming = None;
                    return Err(error);
                }
            }
        }
    }

    /// The checkpoint that is on its way, if one has begun: what to name in a refusal.
    pub fn incoming(&self) -> Option<CheckpointId> {
        self.incoming.as_ref().map(|incoming| incoming.checkpoint.id)
    }

    fn step(&mut self) -> Result<Option<Carried>, LinkError> {
        let Some(incoming) = &mut self.incoming else {
            let (kind, payload) = self.frames.receive(&[Kind::Begin, Kind::Seed, Kind::SeedEnd])?;
            return match kind {
                Kind::Begin => {
                    let incoming = begin(payload, self.limits)?;
                    let epoch = incoming.checkpoint.id.epoch;
                    if self.newest_epoch.is_some_and(|newest| epoch <= newest) {
                        return Err(protocol(format!("epoch {epoch} again, or an older one")));
                    }
                    self.incoming = Some(Box::new(incoming));
                    Ok(None)
                }
                Kind::Seed => {
                    let mut pages = Pages::default();
                    take_pages(payload, &mut pages, self.limits.ram_pages)?;
                    Ok(Some(Carried::Seed(pages)))
                }
                _ => {
                    let digest = Numbers(payload).u128();
                    let digest = digest.filter(|_| payload.len() == 16);
                    let digest = digest.ok_or_else(|| protocol("a digest of another length"))?;
                    Ok(Some(Carried::SeedEnd(RamDigest(digest))))
                }
            };
        };
        let device_left = incoming.device_len - incoming.checkpoint.device.len();
        let have = match &incoming.checkpoint.ram {
            Ram::Streamed => 0,
            Ram::Difference { pages, .. } => pages.numbers.len(),
        };
        let due = match (device_left, incoming.page_count - have) {
            (0, 0) => Kind::End,
            (0, _) => Kind::Pages,
            _ => Kind::Device,
        };
        let (_, payload) = self.frames.receive(&[due])?;
        match (due, &mut incoming.checkpoint.ram) {
            (Kind::Device, _) => {
                if payload.is_empty() || payload.len() > device_left {
                    return Err(protocol("a piece of device state that is empty or more than was announced"));
                }
                incoming.checkpoint.device.extend_from_slice(payload);
                incoming.tally.add(payload);
                Ok(None)
            }
            (Kind::Pages, Ram::Difference { pages, .. }) => {
                take_pages(payload, pages, self.limits.ram_pages)?;
                if pages.numbers.len() > incoming.page_count {
                    return Err(protocol("more pages than were announced"));
                }
                incoming.tally.add(payload);
                Ok(None)
            }
            _ => {
                let sent = incoming.tally.sent(incoming.checkpoint.id);
                let mut said = Numbers(payload);
                if (said.u64(), said.u128(), said.0.len()) != (Some(sent.length), Some(sent.checksum), 0) {
                    return Err(protocol(format!(
                        "checkpoint {} is corrupt: its checksum does not match",
                        sent.id.epoch
                    )));
                }
                self.newest_epoch = Some(sent.id.epoch);
                let whole = self.incoming.take();
                Ok(whole.map(|incoming| Carried::Checkpoint(incoming.checkpoint, sent)))
            }
        }
    }
}

fn begin(payload: &[u8], limits: BulkLimits) -> Result<Incoming, LinkError> {
    let mut numbers = Numbers(payload);
    let mut read = || {
        let id = CheckpointId { generation: numbers.u64()?, epoch: numbers.u64()? };
        let (device, pages, ram) = (numbers.u64()?, numbers.u32()?, numbers.u8()?);
        let (base, digest) = (RamDigest(numbers.u128()?), RamDigest(numbers.u128()?));
        numbers.0.is_empty().then_some((id, device, pages, ram, base, digest))
    };
    let (id, device, page_count, ram, base, digest) =
        read().ok_or_else(|| protocol("the head of a checkpoint has another length"))?;
    if device > limits.device_max {
        let max = limits.device_max;
        return Err(protocol(format!(
            "a device state of {device} bytes is announced; at most {max} are taken"
        )));
    }
    if page_count > limits.ram_pages {
        let max = limits.ram_pages;
        return Err(protocol(format!(
            "{page_count} pages are announced; the VM has {max}: is -m the same on both?"
        )));
    }
    let mut checkpoint = Checkpoint { id, device: Vec::new(), ram: Ram::Streamed };
    let no_memory = |_| LinkError::Io(std::io::ErrorKind::OutOfMemory.into());
    let device_len = usize::try_from(device).map_err(|_| protocol("a device state beyond memory"))?;
    checkpoint.device.try_reserve_exact(device_len).map_err(no_memory)?;
    match ram {
        0 if page_count == 0 && base == RamDigest(0) && digest == RamDigest(0) => {}
        1 => {
            let mut pages = Pages::default();
            pages.numbers.try_reserve_exact(page_count as usize).map_err(no_memory)?;
            pages.bytes.try_reserve_exact(page_count as usize * PAGE).map_err(no_memory)?;
            checkpoint.ram = Ram::Difference { base, pages, digest };
        }
        _ => return Err(protocol("a checkpoint of an unknown make")),
    }
    let mut tally = Tally::new();
    tally.add(payload);
    Ok(Incoming { checkpoint, device_len, page_count: page_count as usize, tally })
}

/// Appends the pages of a frame; their numbers go on rising.
fn take_pages(payload: &[u8], to: &mut Pages, ram_pages: u32) -> Result<(), LinkError> {
    let mut numbers = Numbers(payload);
    let count = numbers.u32().map_or(0, |count| count as usize);
    let length = 4 + count.saturating_mul(4 + PAGE);
    if count == 0 || count > PAGES_A_FRAME || payload.len() != length {
        return Err(protocol("a frame of pages whose length does not fit its count"));
    }
    for _ in 0..count {
        let number = numbers.u32().unwrap_or(u32::MAX);
        if number >= ram_pages || to.numbers.last().is_some_and(|last| *last >= number) {
            return Err(protocol(format!(
                "page {number}: beyond RAM's {ram_pages}, repeated or out of order"
            )));
        }
        to.numbers.push(number);
    }
    to.bytes.extend_from_slice(numbers.0);
    Ok(())
}

/// Big-endian numbers off the front.
pub(super) struct Numbers<'a>(pub(super) &'a [u8]);

impl Numbers<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*front)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_be_bytes)
    }
}

#[cfg(test)]
mod tests;
