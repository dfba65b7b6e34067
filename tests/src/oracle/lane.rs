//! One lane between two ports of the generator: the guest's end, and the end behind the wire.

use super::capture::{Capture, Seen};
use super::frames::FrameMaker;
use super::kind::Policy;
use super::label::Label;
use crate::virtio::{RingPath, VirtioPort};
use std::io::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{Eal, Mbuf, Mempool, PortError};
use tidegate_dataplane::port::{BURST, Frame};

/// A port that is not up by then stays down.
const UP_WITHIN: Duration = Duration::from_secs(10);

/// The wires' devices are numbered from here, the guests' from 0.
const WIRES: u16 = 100;

/// The clock of log and capture: nanoseconds since it was made (CLOCK_MONOTONIC).
#[derive(Clone, Copy, Debug)]
pub struct LabClock(Instant);

impl LabClock {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since then.
    pub fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// Where a lane's ports are.
#[derive(Clone, Debug)]
pub struct LanePorts {
    /// The vhost-user socket of the plane's guest port.
    pub guest_socket: PathBuf,
    /// The vhost-user socket of its wire port.
    pub wire_socket: PathBuf,
}

/// Both ends of a lane.
pub struct LabLane {
    lane: u8,
    guest_socket: PathBuf,
    rings: RingPath,
    guest: Option<VirtioPort>,
    wire: VirtioPort,
    pool: Mempool,
    maker: FrameMaker,
    pending: Burst<Mbuf>,
    arrived: Burst<Mbuf>,
}

impl LabLane {
    /// Opens both ports.
    pub fn open(
        eal: &Eal,
        pool: &Mempool,
        ports: &LanePorts,
        rings: RingPath,
        maker: FrameMaker,
        lane: u8,
    ) -> Result<LabLane, PortError> {
        let wire_number = WIRES + u16::from(lane);
        let wire = VirtioPort::connect(eal, pool, wire_number, &ports.wire_socket, rings)?;
        let mut lane = LabLane {
            lane,
            guest_socket: ports.guest_socket.clone(),
            rings,
            guest: None,
            wire,
            pool: pool.clone(),
            maker,
            pending: Burst::new(),
            arrived: Burst::new(),
        };
        lane.connect(eal)?;
        Ok(lane)
    }

    /// Gives the guest its device (again).
    pub fn connect(&mut self, eal: &Eal) -> Result<(), PortError> {
        let number = u16::from(self.lane);
        self.guest = Some(VirtioPort::connect(eal, &self.pool, number, &self.guest_socket, self.rings)?);
        Ok(())
    }

    /// Takes the guest's device away: its rings stop before this returns.
    pub fn disconnect(&mut self) -> Result<(), PortError> {
        self.guest.take().map_or(Ok(()), VirtioPort::close)
    }

    /// Waits until both ports can pass frames.
    pub fn wait_up(&self) -> bool {
        self.guest.as_ref().is_some_and(|guest| guest.wait_up(UP_WITHIN)) && self.wire.wait_up(UP_WITHIN)
    }

    /// Frames made so far.
    pub fn made(&self) -> u64 {
        self.maker.made()
    }

    /// Makes frames of `run`, up to `most`, as far as the burst has room; returns how many were made and how
    /// many of these `policy` holds. `None` when the pool is empty.
    pub fn make(&mut self, run: u32, most: u32, policy: Policy) -> Option<(u32, u32)> {
        let (mut made, mut must_hold) = (0, 0);
        while made < most && self.pending.len() < BURST {
            let (kind, bytes) = self.maker.mixed(run);
            let frame = Mbuf::from_parts(&self.pool, &[bytes])?;
            self.pending.push(frame).ok()?;
            made += 1;
            must_hold += u32::from(policy.holds(kind));
        }
        Some((made, must_hold))
    }

    /// Hands what was made to the plane; returns how many frames it has no room for yet.
    pub fn send(&mut self) -> usize {
        if let Some(guest) = &mut self.guest {
            guest.send(&mut self.pending);
        }
        self.pending.len()
    }

    /// Lets go of what was made and not taken, at the end.
    pub fn abandon(&mut self) {
        self.pending = Burst::new();
    }

    /// Records what has come out of the wire; returns how many frames.
    pub fn watch(&mut self, clock: LabClock, capture: &mut Capture) -> Result<usize, Error> {
        // What comes the other way is nobody's: this guest receives nothing.
        let count = self.wire.receive(&mut self.arrived);
        if count == 0 {
            return Ok(0);
        }
        // Read after the receive call: by now the frames had come out for certain.
        let at = clock.now_ns();
        while let Some(frame) = self.arrived.pop() {
            // A frame that came in pieces has its label in the last one; ours are in one.
            let label = Label::read(frame.head());
            capture.write(&Seen { at, wire: self.lane, label })?;
        }
        Ok(count)
    }
}
