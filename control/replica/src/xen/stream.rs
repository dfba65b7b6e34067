//! What `xl remus` writes: the framing of a Xen migration stream, followed closely enough to find where checkpoints end.
//!
//! ```text
//! xl header 48 | data | libxl header 16 | LIBXC_CONTEXT | libxc headers 40 |
//!    libxc records ... CHECKPOINT | libxl records ... CHECKPOINT_END |      checkpoint 1, with the live copy in it
//!    libxc records ... CHECKPOINT | libxl records ... CHECKPOINT_END |      checkpoint 2, and so on
//! ```
//!
//! A record is `u32 type, u32 length, body`, the body padded to 8. Sources: `docs/specs/libxl-migration-stream.pandoc`
//! and `libxc-migration-stream.pandoc` of Xen, `tools/xl/xl.h` for the first header. Contents are not looked into; lengths,
//! versions and the order of records are. Whatever is not known to be right is a [`Fault`], for a boundary that is guessed
//! would be a commit that is guessed. Nothing is allocated, and no length is believed beyond its bound.

/// Most bytes of one record's body (`REC_LENGTH_MAX` of libxc).
pub const RECORD_MAX: u32 = 128 << 20;
/// Most bytes of the domain's configuration in front.
pub const CONFIG_MAX: u32 = 1 << 20;
/// Most pages in one record (`MAX_BATCH_SIZE` of libxc is 1024).
const PAGES_MAX: u32 = 1 << 14;
const PAGE: u64 = 4096;

const XL_MAGIC: &[u8; 32] = b"Xen saved domain, xl format\n \0 \r";
const XL_BYTE_ORDER: u32 = 0x0102_0304;
/// JSON configuration and stream version 2: the mandatory flags that are known.
const XL_FLAGS: u32 = 3;
const XL_FLAG_V2: u32 = 2;
const LIBXL_IDENT: &[u8; 8] = b"LibxlFmt";
const LIBXC_IDENT: u32 = 0x5845_4e46;

/// Longest header that is looked at whole.
const HEAD_MAX: usize = 48;
const RECORD: usize = 8;

/// Types of libxl records.
mod libxl {
    pub const END: u32 = 0;
    pub const LIBXC_CONTEXT: u32 = 1;
    pub const EMULATOR_XENSTORE_DATA: u32 = 2;
    pub const EMULATOR_CONTEXT: u32 = 3;
    pub const CHECKPOINT_END: u32 = 4;
    pub const CHECKPOINT_STATE: u32 = 5;
}

/// Types of libxc records.
mod libxc {
    pub const END: u32 = 0;
    pub const PAGE_DATA: u32 = 1;
    pub const X86_TSC_INFO: u32 = 8;
    pub const HVM_CONTEXT: u32 = 9;
    pub const HVM_PARAMS: u32 = 10;
    pub const VERIFY: u32 = 13;
    pub const CHECKPOINT: u32 = 14;
    pub const CHECKPOINT_DIRTY_PFN_LIST: u32 = 15;
    pub const STATIC_DATA_END: u32 = 16;
    pub const X86_CPUID_POLICY: u32 = 17;
    pub const X86_MSR_POLICY: u32 = 18;
}

/// Set in the type of a record that whoever does not know it may skip.
const OPTIONAL: u32 = 1 << 31;

/// Why a stream is not followed any further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Bytes of the stream that were right.
    pub at: u64,
    /// What is wrong there.
    pub what: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the stream of xl, at byte {}: {}", self.at, self.what)
    }
}

impl std::error::Error for Fault {}

/// A place in the stream that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// CHECKPOINT was read: memory and processors are complete, the guest is about to run again.
    Saved {
        /// Which checkpoint, from 1.
        number: u64,
        /// Its bytes so far, this record among them.
        bytes: u64,
    },
    /// CHECKPOINT_END was read: what follows is the next one, and nothing follows until the guest is suspended for it.
    Ended {
        /// Which checkpoint, from 1.
        number: u64,
        /// Its bytes.
        bytes: u64,
    },
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Xl,
    Libxl,
    LibxlRecord,
    Libxc,
    LibxcRecord,
    /// The first bytes of PAGE_DATA, whose body has this length.
    Pages(u32),
}

impl Due {
    fn bytes(self) -> usize {
        match self {
            Due::Xl => 48,
            Due::Libxl => 16,
            Due::Libxc => 40,
            Due::LibxlRecord | Due::LibxcRecord | Due::Pages(_) => RECORD,
        }
    }
}

/// What was seen of a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    static_end: bool,
    tsc: bool,
    context: bool,
    params: bool,
}

/// Follows the stream. See the module's head.
#[derive(Clone, Debug)]
pub struct Follower {
    due: Due,
    head: [u8; HEAD_MAX],
    have: usize,
    /// Bytes of a body and its padding that are still to come, before the next header.
    body: u64,
    /// Judged already: bytes of the stream.
    at: u64,
    /// Where the checkpoint began.
    from: u64,
    checkpoints: u64,
    /// The libxc part of the stream has begun once.
    has_libxc: bool,
    /// Between CHECKPOINT and CHECKPOINT_END.
    saved: bool,
    seen: Seen,
    fault: Option<Fault>,
}

impl Default for Follower {
    fn default() -> Self {
        Follower::new()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    u32::from_le_bytes(word.unwrap_or_default())
}

fn big_u32_at(bytes: &[u8], at: usize) -> u32 {
    u32_at(bytes, at).swap_bytes()
}

fn padded(length: u32) -> u64 {
    u64::from(length).next_multiple_of(8)
}

impl Follower {
    /// At the first byte.
    pub fn new() -> Follower {
        Follower {
            due: Due::Xl,
            head: [0; HEAD_MAX],
            have: 0,
            body: 0,
            at: 0,
            from: 0,
            checkpoints: 0,
            has_libxc: false,
            saved: false,
            seen: Seen::default(),
            fault: None,
        }
    }

    /// How many bytes may be read without reading past the end of a checkpoint. Never 0.
    pub fn appetite(&self) -> usize {
        let head = self.due.bytes().saturating_sub(self.have).max(1);
        usize::try_from(self.body).unwrap_or(usize::MAX).saturating_add(head)
    }

    /// Bytes at the end of what was fed that may be the beginning of anything.
    pub fn undecided(&self) -> usize {
        self.have
    }

    /// Checkpoints that have ended.
    pub fn checkpoints(&self) -> u64 {
        self.checkpoints
    }

    /// Whether the stream may end here without a checkpoint being cut in two.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.body == 0 && self.at == self.from && self.checkpoints > 0
    }

    /// Follows `bytes` to the next mark; how many of them that took: all, where there is none. After a fault every call
    /// returns the same one.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Mark>), Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.body > 0 {
                let step = usize::try_from(self.body).map_or(rest.len(), |body| body.min(rest.len()));
                self.body -= step as u64;
                self.at += step as u64;
                rest = rest.get(step..).unwrap_or_default();
                continue;
            }
            let want = self.due.bytes();
            let step = want.saturating_sub(self.have).min(rest.len());
            let (now, later) = rest.split_at(step);
            if let Some(room) = self.head.get_mut(self.have..self.have + step) {
                room.copy_from_slice(now);
            }
            self.have += step;
            rest = later;
            if self.have < want {
                break;
            }
            match self.judge() {
                Ok(mark) => {
                    self.at += want as u64;
                    self.have = 0;
                    if let Some(mark) = mark.map(|mark| self.mark(mark)) {
                        return Ok((bytes.len() - rest.len(), Some(mark)));
                    }
                }
                Err(what) => {
                    let fault = Fault { at: self.at, what };
                    self.fault = Some(fault.clone());
                    return Err(fault);
                }
            }
        }
        Ok((bytes.len(), None))
    }

    fn mark(&mut self, ends: bool) -> Mark {
        let (number, bytes) = (self.checkpoints + 1, self.at - self.from);
        if !ends {
            return Mark::Saved { number, bytes };
        }
        self.checkpoints = number;
        self.from = self.at;
        Mark::Ended { number, bytes }
    }

    /// Judges the header that is whole: `Some(false)` is CHECKPOINT, `Some(true)` CHECKPOINT_END.
    fn judge(&mut self) -> Result<Option<bool>, String> {
        let head = self.head;
        match self.due {
            Due::Xl => self.xl(&head),
            Due::Libxl => self.libxl(&head),
            Due::Libxc => self.libxc(&head),
            Due::LibxlRecord => return self.libxl_record(u32_at(&head, 0), u32_at(&head, 4)),
            Due::LibxcRecord => return self.libxc_record(u32_at(&head, 0), u32_at(&head, 4)),
            Due::Pages(length) => self.pages(u32_at(&head, 0), length),
        }
        .map(|()| None)
    }

    fn xl(&mut self, head: &[u8]) -> Result<(), String> {
        if head.get(..32) != Some(&XL_MAGIC[..]) {
            return Err(
                "this is no stream of xl: start it as the command of `xl remus -s '' DOM COMMAND`".into()
            );
        }
        let (order, mandatory, data) = (u32_at(head, 32), u32_at(head, 36), u32_at(head, 44));
        if order != XL_BYTE_ORDER {
            return Err(format!("xl writes in a byte order that is not this machine's ({order:#010x})"));
        }
        if mandatory & !XL_FLAGS != 0 {
            return Err(format!("xl says that it needs what is not known here (flags {mandatory:#x})"));
        }
        if mandatory & XL_FLAG_V2 == 0 {
            return Err("this is the stream of a Xen before 4.6 (version 1): install Xen 4.17".into());
        }
        if data > CONFIG_MAX {
            return Err(format!(
                "a configuration of {data} bytes is announced; at most {CONFIG_MAX} are taken"
            ));
        }
        (self.body, self.due) = (u64::from(data), Due::Libxl);
        Ok(())
    }

    fn libxl(&mut self, head: &[u8]) -> Result<(), String> {
        if head.get(..8) != Some(&LIBXL_IDENT[..]) {
            return Err("no header of libxl where one is due".into());
        }
        let (version, options) = (big_u32_at(head, 8), big_u32_at(head, 12));
        if version != 2 {
            return Err(format!(
                "version {version} of libxl's stream; version 2 is known (Xen 4.6 and later)"
            ));
        }
        if options != 0 {
            return Err(format!(
                "options {options:#x} of libxl's stream: big endian or converted is not known"
            ));
        }
        self.due = Due::LibxlRecord;
        Ok(())
    }

    fn libxc(&mut self, head: &[u8]) -> Result<(), String> {
        if head.get(..8) != Some(&[0xff; 8][..]) || big_u32_at(head, 8) != LIBXC_IDENT {
            return Err("no header of libxc where one is due".into());
        }
        let version = big_u32_at(head, 12);
        if !(2..=3).contains(&version) {
            return Err(format!("version {version} of libxc's stream; 2 and 3 are known"));
        }
        if head.get(16..18) != Some(&[0, 0][..]) {
            return Err("options of libxc's stream that are not known (big endian?)".into());
        }
        let (kind, shift) = (u32_at(head, 24), head.get(28).copied().unwrap_or(0));
        match kind {
            // PVH says HVM in Xen's code and has a number of its own in the specification.
            2 | 3 => {}
            1 => {
                return Err("this is a PV guest, and Xen replicates none without shadow paging: set type = \
                    \"pvh\" in the domain's configuration"
                    .into());
            }
            kind => return Err(format!("a domain of kind {kind}: only x86 PVH is known")),
        }
        if shift != 12 {
            return Err(format!("pages of 2^{shift} bytes; 4096 is known"));
        }
        (self.due, self.has_libxc) = (Due::LibxcRecord, true);
        Ok(())
    }

    fn libxl_record(&mut self, kind: u32, length: u32) -> Result<Option<bool>, String> {
        let empty = |name: &str| match length {
            0 => Ok(()),
            _ => Err(format!("{name} with {length} bytes in it; it has none")),
        };
        match kind {
            libxl::LIBXC_CONTEXT if !self.has_libxc => {
                empty("LIBXC_CONTEXT")?;
                self.due = Due::Libxc;
                Ok(None)
            }
            libxl::LIBXC_CONTEXT => Err("LIBXC_CONTEXT again".into()),
            libxl::CHECKPOINT_END if self.saved => {
                empty("CHECKPOINT_END")?;
                (self.due, self.saved, self.seen) = (Due::LibxcRecord, false, Seen::default());
                Ok(Some(true))
            }
            libxl::CHECKPOINT_END => Err("CHECKPOINT_END before any checkpoint".into()),
            libxl::EMULATOR_XENSTORE_DATA | libxl::EMULATOR_CONTEXT => Err(
                "an HVM guest with a device model (an EMULATOR record), whose state is not followed: set type = \"pvh\" \
                 in the domain's configuration"
                    .into(),
            ),
            libxl::CHECKPOINT_STATE => Err("a stream of COLO; start `xl remus` without -c".into()),
            libxl::END => Err("the stream ends as a migration does, not as Remus".into()),
            kind if kind & OPTIONAL != 0 => self.skip(length).map(|()| None),
            kind => Err(format!("a libxl record of unknown type {kind:#x}: this Xen is newer than what is known")),
        }
    }

    fn libxc_record(&mut self, kind: u32, length: u32) -> Result<Option<bool>, String> {
        let exactly = |name: &str, is: u32| match length == is {
            true => Ok(()),
            false => Err(format!("{name} of {length} bytes; it has {is}")),
        };
        let first = self.checkpoints == 0;
        let seen = &mut self.seen;
        match kind {
            libxc::PAGE_DATA if seen.tsc || seen.context || seen.params => {
                return Err("pages after the state of the processors: the stream is out of order".into());
            }
            libxc::PAGE_DATA => {
                let max = 8 + u64::from(PAGES_MAX) * (8 + PAGE);
                if length < 16 || u64::from(length) > max {
                    return Err(format!("PAGE_DATA of {length} bytes; 16 to {max} make sense"));
                }
                self.due = Due::Pages(length);
                return Ok(None);
            }
            libxc::X86_TSC_INFO if !seen.tsc => {
                exactly("X86_TSC_INFO", 24)?;
                seen.tsc = true;
            }
            libxc::HVM_CONTEXT if !seen.context => {
                if length == 0 {
                    return Err("HVM_CONTEXT with nothing in it".into());
                }
                seen.context = true;
            }
            libxc::HVM_PARAMS if !seen.params => {
                if length < 8 || length % 16 != 8 {
                    return Err(format!("HVM_PARAMS of {length} bytes; it has 8 and 16 for each"));
                }
                seen.params = true;
            }
            libxc::CHECKPOINT => {
                exactly("CHECKPOINT", 0)?;
                if !(seen.tsc && seen.context && seen.params) {
                    return Err("a checkpoint without the state of its processors".into());
                }
                (self.due, self.saved) = (Due::LibxlRecord, true);
                return Ok(Some(false));
            }
            libxc::STATIC_DATA_END if first && !seen.static_end => {
                exactly("STATIC_DATA_END", 0)?;
                seen.static_end = true;
            }
            libxc::X86_CPUID_POLICY | libxc::X86_MSR_POLICY if first && !seen.static_end => {}
            libxc::X86_TSC_INFO | libxc::HVM_CONTEXT | libxc::HVM_PARAMS => {
                return Err(format!("a second libxc record of type {kind} in one checkpoint"));
            }
            libxc::STATIC_DATA_END | libxc::X86_CPUID_POLICY | libxc::X86_MSR_POLICY => {
                return Err(format!("a libxc record of type {kind} out of its place at the start"));
            }
            2..=7 | 12 => {
                return Err(format!("a record of PV guests (type {kind}) in the stream of another"));
            }
            libxc::END => {
                return Err("this is a migration, which ends, and not Remus: start `xl remus`".into());
            }
            libxc::VERIFY => return Err("a stream with VERIFY in it, which is for debugging".into()),
            libxc::CHECKPOINT_DIRTY_PFN_LIST => {
                return Err("a stream of COLO; start `xl remus` without -c".into());
            }
            kind if kind & OPTIONAL != 0 => {}
            kind => {
                return Err(format!(
                    "a libxc record of unknown type {kind:#x}: this Xen is newer than what is known"
                ));
            }
        }
        self.skip(length).map(|()| None)
    }

    /// PAGE_DATA says how many pages it is about; not all of them have contents.
    fn pages(&mut self, count: u32, length: u32) -> Result<(), String> {
        let rest = u64::from(length) - 8;
        let numbers = u64::from(count) * 8;
        let contents = rest.checked_sub(numbers);
        let whole = contents.is_some_and(|bytes| bytes % PAGE == 0 && bytes / PAGE <= u64::from(count));
        if count == 0 || count > PAGES_MAX || !whole {
            return Err(format!("PAGE_DATA about {count} pages in {length} bytes: these do not fit"));
        }
        (self.body, self.due) = (rest, Due::LibxcRecord);
        Ok(())
    }

    fn skip(&mut self, length: u32) -> Result<(), String> {
        if length > RECORD_MAX {
            return Err(format!("a record of {length} bytes; at most {RECORD_MAX} are taken"));
        }
        self.body = padded(length);
        Ok(())
    }
}
