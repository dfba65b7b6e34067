//! The network card of a user-space stack: a virtio-user port that smoltcp drives.

use super::capture::{self, Capture};
use super::clock::now_ns;
use super::label;
use super::reports::Made;
use crate::virtio::{RingPath, VirtioPort, cpus, start_eal};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{Mbuf, Mempool, MempoolConfig};
use tidegate_dataplane::port::Frame;

/// Frames that the stack may have waiting for the ring.
const TX_QUEUE: usize = 2048;
/// Memory of such a process, MiB.
const MEMORY_MB: u32 = 96;
/// How long the other side may take to bring the link up.
const LINK_WITHIN: Duration = Duration::from_secs(10);

/// What is noted of the frames that pass.
#[derive(Debug)]
pub(super) enum Notes {
    /// The guest: labels what it sends.
    Made {
        /// By label.
        frames: Vec<Made>,
        /// The run that the guest is in.
        run: u64,
    },
    /// The sink: keeps what it receives.
    Seen(Capture),
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Nic {
    port: VirtioPort,
    pool: Mempool,
    rx: Burst<Mbuf>,
    /// When the frames of `rx` were fetched.
    rx_ns: u64,
    tx: VecDeque<Vec<u8>>,
    /// Frames on their way into the ring, with labels; their kinds beside them.
    burst: Burst<Mbuf>,
    burst_kinds: VecDeque<super::reports::Kind>,
    next_label: u64,
    /// What is noted.
    pub notes: Notes,
}

impl Nic {
    /// Starts DPDK in this process and connects to the vhost-user socket at `socket`.
    pub(super) fn connect(socket: &Path, notes: Notes) -> Result<Nic, String> {
        let cpu = cpus().first().copied().unwrap_or(0);
        let eal = start_eal(MEMORY_MB, cpu).map_err(|e| e.to_string())?;
        let pool =
            Mempool::new(&eal, MempoolConfig::new("frames", 16 * 1024 - 1)).map_err(|e| e.to_string())?;
        let port =
            VirtioPort::connect(&eal, &pool, 0, socket, RingPath::default()).map_err(|e| e.to_string())?;
        if !port.wait_up(LINK_WITHIN) {
            return Err(format!("{}: the plane did not start the rings", socket.display()));
        }
        Ok(Nic {
            port,
            pool,
            rx: Burst::new(),
            rx_ns: 0,
            tx: VecDeque::new(),
            burst: Burst::new(),
            burst_kinds: VecDeque::new(),
            next_label: 0,
            notes,
        })
    }

    /// Hands what the stack made to the ring; what the ring does not take waits.
    pub(super) fn flush(&mut self) {
        loop {
            while !self.burst.is_full() {
                let Some(mut frame) = self.tx.pop_front() else { break };
                let kind = capture::kind(&frame);
                if matches!(self.notes, Notes::Made { .. }) {
                    label::append(&mut frame, self.next_label);
                }
                let Some(mbuf) = Mbuf::from_bytes(&self.pool, &frame) else { break }; // As on a full ring: lost.
                if self.burst.push(mbuf).is_ok() {
                    self.next_label += 1;
                    self.burst_kinds.push_back(kind);
                }
            }
            if self.burst.is_empty() {
                return;
            }
            let sent = self.port.send(&mut self.burst);
            if let Notes::Made { frames, run } = &mut self.notes {
                // The run in which the ring took it, not the one in which the stack thought of it (I2).
                frames.extend(self.burst_kinds.drain(..sent).map(|kind| Made { run: *run, kind }));
            } else {
                self.burst_kinds.drain(..sent);
            }
            if sent == 0 {
                return;
            }
        }
    }

    /// Takes the device away; its rings stop.
    pub(super) fn close(self) -> Result<Notes, String> {
        drop((self.rx, self.burst));
        self.port.close().map_err(|e| e.to_string())?;
        Ok(self.notes)
    }
}

/// A received frame.
pub(super) struct Received(Mbuf);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        if self.0.segments() == 1 {
            return f(self.0.head());
        }
        let mut bytes = Vec::with_capacity(self.0.len() as usize);
        self.0.each_segment(&mut |part| bytes.extend(part));
        f(&bytes)
    }
}

/// Room for a frame to be made.
pub(super) struct Room<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Room<'_>)> {
        if self.rx.is_empty() {
            self.port.receive(&mut self.rx);
            self.rx_ns = now_ns();
        }
        let frame = self.rx.pop()?;
        if let Notes::Seen(capture) = &mut self.notes {
            capture.take(frame.head(), self.rx_ns);
        }
        Some((Received(frame), Room(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        (self.tx.len() < TX_QUEUE).then_some(Room(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut has = DeviceCapabilities::default();
        has.medium = Medium::Ethernet;
        has.max_transmission_unit = 1514 - label::LEN;
        has
    }
}
