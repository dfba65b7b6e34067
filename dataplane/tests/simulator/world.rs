//! Everything around the plane: the VM, its rings, the wire's judge. Ground truth, not the plane's words.

use crate::ports::{Kind, Made, SimFrame};
use crate::random::Random;
use crate::source::Source;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use tidegate_dataplane::gate::Lease;

pub const LANES: usize = 2;

/// How often the interesting things happened.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub held_left: u64,
    pub promoted_left: u64,
    pub announcements_left: u64,
    pub crashes: u64,
    pub closes: u64,
    pub merged: u64,
    pub commits: u64,
    pub commits_refused: u64,
    pub old_generation_refused: u64,
    pub voids: u64,
    pub fences: u64,
    pub leases_lifted: u64,
    pub resets: u64,
    pub joins: u64,
    pub full: u64,
    pub unprotected: u64,
    pub mutes: u64,
    pub guestward: u64,
}

impl Tally {
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("a held frame that left", self.held_left),
            ("a promoted frame that left", self.promoted_left),
            ("an announcement that left", self.announcements_left),
            ("a crash", self.crashes),
            ("a close", self.closes),
            ("a merged epoch", self.merged),
            ("a commit", self.commits),
            ("a refused commit", self.commits_refused),
            ("a commit of an older generation", self.old_generation_refused),
            ("a void checkpoint", self.voids),
            ("a fence", self.fences),
            ("a fence lifted", self.leases_lifted),
            ("a driver reset", self.resets),
            ("a lane that joined late", self.joins),
            ("a full hold queue", self.full),
            ("an unprotect", self.unprotected),
            ("a mute", self.mutes),
            ("a frame for the guest", self.guestward),
        ]
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, o: Self) {
        self.held_left += o.held_left;
        self.promoted_left += o.promoted_left;
        self.announcements_left += o.announcements_left;
        self.crashes += o.crashes;
        self.closes += o.closes;
        self.merged += o.merged;
        self.commits += o.commits;
        self.commits_refused += o.commits_refused;
        self.old_generation_refused += o.old_generation_refused;
        self.voids += o.voids;
        self.fences += o.fences;
        self.leases_lifted += o.leases_lifted;
        self.resets += o.resets;
        self.joins += o.joins;
        self.full += o.full;
        self.unprotected += o.unprotected;
        self.mutes += o.mutes;
        self.guestward += o.guestward;
    }
}

/// The guest's side of one lane.
#[derive(Debug, Default)]
pub struct Ring {
    pub frames: VecDeque<SimFrame>,
    /// The driver has set it up and it is not stopped.
    pub on: bool,
    /// Announcements that the plane has and that are not out yet.
    announcements: Arc<AtomicI64>,
    made: [u64; 3],
    last_out: [u64; 3],
}

#[derive(Debug)]
pub struct World {
    pub seed: u64,
    pub random: Random,
    pub now: u64,
    /// The VM executes.
    pub running: bool,
    /// Pauses the VM has been through: the run that frames made now belong to.
    pub run: u64,
    pub rings: Vec<Ring>,
    /// Everything made in a run up to this one is in a checkpoint that the backup has acknowledged, or
    /// was let go by an explicit `unprotect release` / made while the guest was open.
    pub acknowledged_run: u64,
    /// Held frames may leave whatever their run (mode open, as the operator said).
    pub open: bool,
    /// Nothing may leave: the standby's VM is muted.
    pub muted: bool,
    /// The truth about the lease: after this moment nothing may leave.
    pub fence_at: u64,
    /// After this moment nothing may bypass.
    pub media_until: u64,
    pub source: Source,
    pub wire_blocked: bool,
    /// The control side stands still: the source does nothing for a while.
    pub control_stalls: u64,
    pub quiet: bool,
    /// Say what happens: `TIDEGATE_SIM_TRACE=1`.
    pub trace: bool,
    pub tally: Tally,
    alive: Arc<AtomicI64>,
    depth: u32,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let leased = random.once_in(3);
        Self {
            seed,
            now: 1000,
            running: true,
            run: 1,
            rings: (0..LANES).map(|_| Ring { on: true, ..Ring::default() }).collect(),
            acknowledged_run: 0,
            open: false,
            muted: false,
            fence_at: if leased { 0 } else { u64::MAX },
            media_until: u64::MAX,
            source: Source::new(leased, &mut random),
            wire_blocked: false,
            control_stalls: 0,
            quiet: false,
            trace: std::env::var_os("TIDEGATE_SIM_TRACE").is_some(),
            tally: Tally::default(),
            alive: Arc::default(),
            depth: 0,
            random,
        }
    }

    /// The plane was given this lease.
    pub fn leased_until(&mut self, lease: Lease) {
        (self.media_until, self.fence_at) = (lease.media, lease.end);
    }

    pub fn frames_alive(&self) -> i64 {
        self.alive.load(Relaxed)
    }

    pub fn frames_in_rings(&self) -> i64 {
        self.rings.iter().map(|ring| ring.frames.len() as i64).sum()
    }

    pub fn crash_now(&mut self) -> bool {
        !self.quiet && self.random.once_in(700)
    }

    /// Time passes and the others act; called inside each of the plane's own calls.
    pub fn moves(&mut self) {
        self.now += 1 + self.random.below(4);
        if self.depth > 0 {
            return;
        }
        self.depth += 1;
        match self.random.below(10) {
            0..=2 => self.guest_makes(),
            3 if !self.quiet => self.wire_blocked = self.random.once_in(4),
            4 if !self.quiet && self.random.once_in(60) => self.reset_a_driver(),
            5 if !self.quiet && self.random.once_in(300) => self.control_stalls = self.random.below(400),
            _ => {}
        }
        if self.control_stalls > 0 {
            self.control_stalls -= 1;
        } else {
            Source::act(self);
        }
        self.depth -= 1;
    }

    fn guest_makes(&mut self) {
        if !self.running || self.quiet {
            return;
        }
        let lane = self.random.below(LANES as u64) as usize;
        if !self.rings[lane].on || self.rings[lane].frames.len() > 40 {
            return;
        }
        let kind = match self.random.below(10) {
            0..=5 => Kind::Tcp,
            6..=8 => Kind::Rtp,
            _ => Kind::Arp,
        };
        let ring = &mut self.rings[lane];
        ring.made[kind as usize] += 1;
        let made = Made { run: self.run, number: ring.made[kind as usize], lane, kind };
        ring.frames.push_back(SimFrame::new(made, bytes(made), &self.alive));
    }

    /// The guest's driver resets its NIC: rings stop and start while the VM runs; the frames are gone.
    fn reset_a_driver(&mut self) {
        if !self.running {
            return;
        }
        let lane = self.random.below(LANES as u64) as usize;
        self.tally.resets += 1;
        Source::driver_reset(self, lane);
    }

    pub fn dequeue(&mut self, lane: usize) -> Option<SimFrame> {
        let ring = &mut self.rings[lane];
        let mut frame = if ring.on { ring.frames.pop_front() } else { None };
        if let Some(frame) = &mut frame {
            frame.in_open = self.open;
            if frame.made.kind == Kind::Arp {
                frame.goes_in(&ring.announcements);
            }
        }
        frame
    }

    pub fn guest_takes(&mut self, lane: usize) -> bool {
        let takes = self.rings[lane].on && !self.random.once_in(8);
        self.tally.guestward += u64::from(takes);
        takes
    }

    pub fn arrives(&mut self, lane: usize) -> Option<SimFrame> {
        if self.quiet || !self.random.once_in(6) {
            return None;
        }
        let made = Made { run: 0, number: 0, lane, kind: Kind::Tcp };
        Some(SimFrame::new(made, bytes(made), &self.alive))
    }

    pub fn wire_takes(&mut self, _lane: usize) -> bool {
        !self.wire_blocked
    }

    /// The wire's judge: I1, I2, I3, I8, I9, by what the VM and the backup know.
    pub fn judge(&mut self, frame: &SimFrame) {
        let (made, seed, now) = (frame.made, self.seed, self.now);
        assert!(
            now < self.fence_at,
            "seed {seed}: I9: {made:?} left at {now}, the lease ended {}",
            self.fence_at
        );
        assert!(
            made.kind != Kind::Arp || now < self.media_until,
            "seed {seed}: {made:?} bypassed at {now}, which it might until {}",
            self.media_until
        );
        assert!(!self.muted, "seed {seed}: {made:?} left a muted guest");
        if made.kind == Kind::Tcp {
            assert!(
                self.open || made.run <= self.acknowledged_run,
                "seed {seed}: I1: {made:?} left, the backup knows run {} only",
                self.acknowledged_run
            );
            let before = self.rings[made.lane].announcements.load(Relaxed);
            assert!(
                self.open || frame.in_open || before == 0,
                "seed {seed}: I8: {made:?} left before {before} announcements that need not wait"
            );
            self.tally.held_left += 1;
        } else if made.kind == Kind::Rtp {
            self.tally.promoted_left += 1;
        } else {
            self.tally.announcements_left += 1;
        }
        let last = &mut self.rings[made.lane].last_out[made.kind as usize];
        // RTP that was held for good (no promotion) may follow what was promoted later: probation only
        // promises the order of what it lets go.
        if made.kind != Kind::Rtp {
            assert!(made.number > *last, "seed {seed}: I3: {made:?} left after number {last}");
        }
        *last = made.number;
    }
}

/// A real frame: Ethernet, IPv4, and TCP or UDP with an RTP header; or ARP.
fn bytes(made: Made) -> Vec<u8> {
    let mac = [0x02, 0, 0, 0, 0, made.lane as u8];
    let mut frame = vec![0x02, 0xff, 0, 0, 0, 1];
    frame.extend(mac);
    let ip = |protocol: u8, len: u16| {
        let mut header = vec![0x45, 0];
        header.extend((20 + len).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
        header
    };
    match made.kind {
        Kind::Tcp => {
            frame.extend([0x08, 0x00]);
            frame.extend(ip(6, 20));
            frame.extend([0x13, 0xc4, 0x13, 0xc4]);
            frame.extend((made.number as u32).to_be_bytes());
            frame.extend([0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        }
        Kind::Rtp => {
            frame.extend([0x08, 0x00]);
            frame.extend(ip(17, 8 + 12 + 20));
            frame.extend([0x4e, 0x20, 0x4e, 0x22, 0, 40, 0, 0]);
            // Now and then a jump, so that the stream goes back to probation.
            let sequence = made.number.wrapping_add(made.number / 97 * 5000) as u16;
            frame.extend([0x80, 8]);
            frame.extend(sequence.to_be_bytes());
            frame.extend((made.number as u32 * 160).to_be_bytes());
            frame.extend([0, 0, 0, made.lane as u8 + 1]);
            frame.extend([0xd5; 20]);
        }
        Kind::Arp => {
            frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(mac);
            frame.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        }
    }
    frame.resize(frame.len().max(60), 0);
    frame
}
