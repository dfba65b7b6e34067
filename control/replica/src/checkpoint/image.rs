//! The standby's side: what it knows of the primary's VM, and the way back to life.

use std::fmt;
use std::time::{Duration, Instant};

use super::digest::{PageHashes, page_hash};
use super::ram::{GuestRam, RamError};
use super::{Checkpoint, CheckpointId, PAGE, Pages, Ram, RamDigest, stream};
use crate::qmp::{Migration, MigrationStatus, Qmp, QmpError, RunState};

/// How long a QEMU that was started just now may take until it waits.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// Nothing is known.
    Empty,
    /// The first copy comes in.
    Seeding,
    /// A complete checkpoint is held, and RAM is as it says.
    Holding,
    /// A newer one is complete, and RAM is on its way to it.
    Applying,
    /// RAM was left in the middle of that way.
    Torn,
    /// Loaded into QEMU: there is no way back.
    Loaded,
}

/// Why a step was refused. Nothing changes by a refusal.
#[derive(Debug)]
pub enum ImageError {
    /// The monitor failed, or refused.
    Qmp(QmpError),
    /// RAM cannot be written.
    Ram(RamError),
    /// Not in this state.
    State {
        /// The state.
        state: ImageState,
        /// What was wanted.
        wanted: &'static str,
    },
    /// QEMU does not wait for a state.
    NotWaiting(RunState),
    /// The checkpoint is not what can come next.
    Unfit {
        /// Which.
        id: CheckpointId,
        /// Why.
        what: String,
    },
    /// A chunk of the first copy makes no sense.
    Chunk {
        /// Why.
        what: String,
    },
    /// RAM is not what was written there: somebody else has written to it.
    Altered,
    /// QEMU did not take the state.
    Load {
        /// Why.
        what: String,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::Qmp(error) => error.fmt(f),
            ImageError::Ram(error) => error.fmt(f),
            ImageError::State { state, wanted } => write!(f, "cannot {wanted}: the image is {state:?}"),
            ImageError::NotWaiting(state) => write!(
                f,
                "the standby's QEMU is {state}: start it with -incoming defer, and once for each promotion"
            ),
            ImageError::Unfit { id, what } => {
                write!(f, "checkpoint {} of generation {:x}: {what}", id.epoch, id.generation)
            }
            ImageError::Chunk { what } => write!(f, "a chunk of the first copy: {what}"),
            ImageError::Altered => f.write_str(
                "the standby's RAM is not what was written there: does something else use its file?",
            ),
            ImageError::Load { what } => write!(f, "QEMU did not take the checkpoint: {what}"),
        }
    }
}

impl std::error::Error for ImageError {}

impl From<QmpError> for ImageError {
    fn from(error: QmpError) -> ImageError {
        ImageError::Qmp(error)
    }
}

impl From<RamError> for ImageError {
    fn from(error: RamError) -> ImageError {
        ImageError::Ram(error)
    }
}

/// How long the parts of a promotion took.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadTimings {
    /// Writing what was complete and not applied yet.
    pub apply: Duration,
    /// QEMU's reading of the state.
    pub load: Duration,
}

/// See the module's head.
pub struct Image {
    memory: Option<Memory>,
    state: ImageState,
    newest: Option<Newest>,
}

struct Memory {
    ram: GuestRam,
    hashes: PageHashes,
}

/// The newest complete checkpoint.
struct Newest {
    id: CheckpointId,
    device: Vec<u8>,
    /// Not in RAM yet: pages and their hashes.
    pending: Option<(Pages, Vec<(u32, u128)>)>,
}

impl Image {
    /// Prepares a QEMU that waits (`-incoming defer`); with `full` RAM comes in its stream. Until QEMU waits it still
    /// writes to its RAM, so nothing may be laid there before.
    pub fn prepare(qmp: &mut Qmp, full: bool) -> Result<Image, ImageError> {
        match qmp.wait_state(&[RunState::InMigrate], Instant::now() + STARTS_WITHIN)? {
            RunState::InMigrate => {}
            other => return Err(ImageError::NotWaiting(other)),
        }
        qmp.set_capabilities(&[("x-ignore-shared", !full), ("events", true)])?;
        let memory = if full { None } else { Some(GuestRam::of(qmp)?) };
        let memory = memory.map(|ram| Memory { hashes: PageHashes::zeroed(ram.pages()), ram });
        Ok(Image { memory, state: ImageState::Empty, newest: None })
    }

    #[cfg(test)]
    fn over(ram: GuestRam) -> Image {
        let memory = Some(Memory { hashes: PageHashes::zeroed(ram.pages()), ram });
        Image { memory, state: ImageState::Empty, newest: None }
    }

    /// Where it stands.
    pub fn state(&self) -> ImageState {
        self.state
    }

    /// Bytes of the waiting VM's RAM; `None` when that travels in QEMU's stream.
    pub fn ram_bytes(&self) -> Option<u64> {
        self.memory.as_ref().map(|memory| memory.ram.len() as u64)
    }

    /// The newest complete checkpoint: what a promotion would load.
    pub fn newest(&self) -> Option<CheckpointId> {
        self.newest.as_ref().map(|newest| newest.id)
    }

    /// What RAM holds, as far as it was applied.
    pub fn digest(&self) -> Option<RamDigest> {
        self.memory.as_ref().map(|memory| memory.hashes.digest())
    }

    /// Begins a first copy: RAM becomes all zero, whatever QEMU's start or an earlier primary left there. What was
    /// held is gone.
    pub fn begin(&mut self) -> Result<(), ImageError> {
        if self.state == ImageState::Loaded {
            return Err(self.not_now("begin a first copy"));
        }
        self.newest = None;
        self.state = ImageState::Empty;
        if let Some(memory) = &mut self.memory {
            memory.ram.check()?;
            memory.ram.clear()?;
            memory.hashes = PageHashes::zeroed(memory.ram.pages());
        }
        self.state = ImageState::Seeding;
        Ok(())
    }

    /// A chunk of the first copy. After a failure it begins anew.
    pub fn seed(&mut self, pages: &Pages) -> Result<(), ImageError> {
        let (ImageState::Seeding, Some(memory)) = (self.state, &mut self.memory) else {
            return Err(self.not_now("take a chunk of a first copy"));
        };
        // A torn first copy is one that nobody knows anything of.
        self.state = ImageState::Empty;
        let hashes = memory.hashes_of(pages).map_err(|what| ImageError::Chunk { what })?;
        memory.write(pages)?;
        memory.hashes.update(&hashes);
        self.state = ImageState::Seeding;
        Ok(())
    }

    /// Takes a checkpoint that came completely: verifies that it builds on what is held and gives what it says, and
    /// holds it. After this it is what a promotion loads. RAM is untouched until [`Image::apply`].
    pub fn admit(&mut self, checkpoint: Checkpoint) -> Result<(), ImageError> {
        // Where RAM comes with each checkpoint, there is no first copy.
        let whole = self.memory.is_none() && self.state == ImageState::Empty;
        if !whole && !matches!(self.state, ImageState::Seeding | ImageState::Holding) {
            return Err(self.not_now("take a checkpoint"));
        }
        let Checkpoint { id, device, ram } = checkpoint;
        let unfit = |what: String| ImageError::Unfit { id, what };
        if let Some(newest) = &self.newest
            && id.epoch <= newest.id.epoch
        {
            return Err(unfit(format!("epoch {} is held already", newest.id.epoch)));
        }
        if !device.starts_with(&stream::MAGIC) {
            return Err(unfit(format!("{} bytes that are no state of QEMU", device.len())));
        }
        let pending = match (ram, &self.memory) {
            (Ram::Streamed, None) => None,
            (Ram::Difference { base, pages, digest }, Some(memory)) => {
                if base != memory.hashes.digest() {
                    return Err(unfit("it builds on another state of RAM than the one held".to_owned()));
                }
                let hashes = memory.hashes_of(&pages).map_err(unfit)?;
                if memory.hashes.digest_with(&hashes) != Some(digest) {
                    return Err(unfit("its pages do not give the RAM that it names".to_owned()));
                }
                Some((pages, hashes))
            }
            (Ram::Streamed, Some(_)) => {
                return Err(unfit(
                    "RAM is in its stream, and this QEMU has it in a file (--full)".to_owned(),
                ));
            }
            (Ram::Difference { .. }, None) => {
                return Err(unfit(
                    "it is a difference, and this QEMU waits for all of RAM (--full)".to_owned(),
                ));
            }
        };
        self.state = if pending.is_some() { ImageState::Applying } else { ImageState::Holding };
        self.newest = Some(Newest { id, device, pending });
        Ok(())
    }

    /// Brings RAM to what was admitted, and does nothing when it is there. When this fails RAM is torn; it can be
    /// tried again, and then all of RAM is read to see that nothing else was lost.
    pub fn apply(&mut self) -> Result<Duration, ImageError> {
        let begin = Instant::now();
        if self.state == ImageState::Holding {
            return Ok(Duration::ZERO);
        }
        let was_torn = match self.state {
            ImageState::Applying => false,
            ImageState::Torn => true,
            _ => return Err(self.not_now("apply a checkpoint")),
        };
        let (Some(memory), Some(newest)) = (&mut self.memory, &mut self.newest) else {
            return Err(self.not_now("apply a checkpoint"));
        };
        self.state = ImageState::Torn;
        if let Some((pages, hashes)) = &newest.pending {
            memory.ram.check()?;
            memory.write(pages)?;
            memory.hashes.update(hashes);
            if was_torn {
                memory.verify()?;
            }
        }
        newest.pending = None;
        self.state = ImageState::Holding;
        Ok(begin.elapsed())
    }

    /// Loads the newest complete checkpoint into the waiting QEMU, which is paused afterwards. Fails loudly when there
    /// is none; never loads an older one. After a failure of QEMU itself (it exits) there is no second try.
    pub fn load(&mut self, qmp: &mut Qmp, within: Duration) -> Result<LoadTimings, ImageError> {
        let apply = self.apply()?;
        let Some(newest) = &self.newest else { return Err(self.not_now("promote")) };
        if let Some(memory) = &self.memory {
            memory.ram.check()?;
        }
        let begin = Instant::now();
        let deadline = begin + within;
        match qmp.status()? {
            RunState::InMigrate => {}
            other => return Err(ImageError::NotWaiting(other)),
        }
        qmp.forget_events("MIGRATION");
        let ours = stream::open(qmp)?;
        if let Err(refusal) = qmp.migrate_incoming(&stream::uri()) {
            if !refusal.is_final() {
                stream::abandon(qmp);
            }
            return Err(refusal.into());
        }
        self.state = ImageState::Loaded;
        let (written, ended) = std::thread::scope(|scope| {
            let writer = scope.spawn(move || stream::write(ours, &newest.device, deadline));
            let ended = qmp.wait_migration(deadline);
            (writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), ended)
        });
        let failed = |what: String| ImageError::Load { what };
        match ended {
            Ok(Some(Migration { status: MigrationStatus::Completed, .. })) => {}
            Ok(Some(ended)) => {
                return Err(failed(ended.reason.unwrap_or_else(|| format!("{:?}", ended.status))));
            }
            Ok(None) => {
                let what = written.err().unwrap_or_else(|| "it read all of it and went silent".to_owned());
                return Err(failed(what));
            }
            Err(QmpError::Gone) => {
                return Err(failed("it ended; its standard error says why".to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
        // A source that was paused gives a VM that is; `running` is one that was started without anybody's order.
        match qmp.wait_state(&[RunState::Paused, RunState::PostMigrate], deadline)? {
            RunState::Paused | RunState::PostMigrate => {}
            other => return Err(failed(format!("the VM is {other} and not paused"))),
        }
        Ok(LoadTimings { apply, load: begin.elapsed() })
    }

    /// Reads the whole of RAM and compares its digest with the one that is held.
    pub fn verify(&self) -> Result<(), ImageError> {
        self.memory.as_ref().map_or(Ok(()), Memory::verify)
    }

    fn not_now(&self, wanted: &'static str) -> ImageError {
        ImageError::State { state: self.state, wanted }
    }
}

impl Memory {
    /// The hashes of pages that came: rising numbers of pages that there are, and as many bytes as that makes.
    fn hashes_of(&self, pages: &Pages) -> Result<Vec<(u32, u128)>, String> {
        let Pages { numbers, bytes } = pages;
        if numbers.len().checked_mul(PAGE) != Some(bytes.len()) {
            return Err(format!("{} pages in {} bytes", numbers.len(), bytes.len()));
        }
        if numbers.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("its page numbers do not rise".to_owned());
        }
        if numbers.last().is_some_and(|&last| last as usize >= self.ram.pages()) {
            return Err(format!("it has pages beyond the {} of this RAM", self.ram.pages()));
        }
        let contents = bytes.chunks_exact(PAGE);
        Ok(numbers.iter().zip(contents).map(|(&number, page)| (number, page_hash(number, page))).collect())
    }

    /// Writes pages, neighbours at once.
    fn write(&self, pages: &Pages) -> Result<(), RamError> {
        let mut from = 0;
        for run in pages.numbers.chunk_by(|&one, &next| one + 1 == next) {
            let to = from + run.len() * PAGE;
            self.ram.write(run[0] as usize, &pages.bytes[from..to])?;
            from = to;
        }
        Ok(())
    }

    fn verify(&self) -> Result<(), ImageError> {
        self.ram.check()?;
        let mut page = [0; PAGE];
        let mut sum = 0_u128;
        for number in 0..self.ram.pages() {
            self.ram.read(number * PAGE, &mut page);
            sum = sum.wrapping_add(page_hash(number as u32, &page));
        }
        if RamDigest(sum) == self.hashes.digest() {
            return Ok(());
        }
        Err(ImageError::Altered)
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
