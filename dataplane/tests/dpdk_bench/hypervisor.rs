//! A hypervisor's end of vhost-user, small enough to do exactly what a test asks of it: one queue pair of
//! split rings in a shared file, messages one by one. DPDK's own virtio_user disables its rings before it
//! asks for their position; a QEMU that pauses its VM does not, and that is the case that matters here.

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

pub const F_CSUM: u64 = 1 << 0;
pub const F_VERSION_1: u64 = 1 << 32;
pub const GET_VRING_BASE: u32 = 11;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const NO_FD: u64 = 1 << 8;

/// Where the guest's memory seems to be in the hypervisor.
const BASE: u64 = 0x7000_0000;
const SIZE: u64 = 8 << 20;
/// Descriptors of a ring.
pub const RING: u16 = 256;
const BUFFER: u64 = 4096;
const HEADER: usize = 12;

fn desc(queue: u32) -> u64 {
    u64::from(queue) * 0x10000
}
fn avail(queue: u32) -> u64 {
    desc(queue) + 0x2000
}
fn used(queue: u32) -> u64 {
    desc(queue) + 0x4000
}
fn buffer(queue: u32, slot: u16) -> u64 {
    0x100000 + (u64::from(queue) * u64::from(RING) + u64::from(slot)) * BUFFER
}

/// A virtio-net header's offload part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offload {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

pub struct Hypervisor {
    socket: UnixStream,
    memory: File,
    pub offered: u64,
    sent: u16,
    received: u16,
}

impl Hypervisor {
    pub fn connect(path: &str, dir: &Path) -> Hypervisor {
        Hypervisor::over(UnixStream::connect(path).unwrap(), dir)
    }

    pub fn accept(listener: &UnixListener, dir: &Path) -> Hypervisor {
        Hypervisor::over(listener.accept().unwrap().0, dir)
    }

    /// Says hello: features are known, nothing is set up.
    fn over(socket: UnixStream, dir: &Path) -> Hypervisor {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let path = dir.join("guest-memory");
        let memory = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        memory.set_len(SIZE).unwrap();
        let mut it = Hypervisor { socket, memory, offered: 0, sent: 0, received: 0 };
        it.offered = it.ask(GET_FEATURES, &[]);
        it.tell(SET_OWNER, &[]);
        it
    }

    /// Brings both rings up, receive buffers posted.
    pub fn start(&mut self, features: u64) {
        self.tell(SET_FEATURES, &(features | F_VERSION_1).to_le_bytes());
        let mut table = Vec::new();
        table.extend(1u32.to_le_bytes());
        table.extend(0u32.to_le_bytes());
        for word in [0, SIZE, BASE, 0] {
            table.extend(u64::to_le_bytes(word));
        }
        self.tell_with_memory(SET_MEM_TABLE, &table);
        self.memory.write_all_at(&vec![0; 0x20000], 0).unwrap();
        (self.sent, self.received) = (0, 0);
        for slot in 0..RING {
            self.write_desc(0, slot, BUFFER as u32, 2);
            self.write(avail(0) + 4 + u64::from(slot) * 2, &slot.to_le_bytes());
        }
        self.write(avail(0) + 2, &RING.to_le_bytes());
        for queue in [0u32, 1] {
            self.start_ring(queue, 0);
        }
    }

    /// Brings the rings up where they stood, as a VM that resumes does.
    pub fn resume(&mut self, bases: [u32; 2]) {
        for queue in [0u32, 1] {
            self.start_ring(queue, bases[queue as usize]);
        }
    }

    fn start_ring(&mut self, queue: u32, base: u32) {
        self.tell(SET_VRING_NUM, &state(queue, RING.into()));
        self.tell(SET_VRING_BASE, &state(queue, base));
        let mut addr = Vec::new();
        addr.extend(queue.to_le_bytes());
        addr.extend(0u32.to_le_bytes());
        for at in [desc(queue), used(queue), avail(queue)] {
            addr.extend((BASE + at).to_le_bytes());
        }
        addr.extend(0u64.to_le_bytes());
        self.tell(SET_VRING_ADDR, &addr);
        self.tell(SET_VRING_CALL, &(u64::from(queue) | NO_FD).to_le_bytes());
        self.tell(SET_VRING_KICK, &(u64::from(queue) | NO_FD).to_le_bytes());
    }

    /// What QEMU does when its VM is paused: asks for each ring's position. Returns them.
    pub fn pause(&mut self) -> [u32; 2] {
        [0, 1].map(|queue| (self.ask(GET_VRING_BASE, &state(queue, 0)) >> 32) as u32)
    }

    /// Sends the request of `pause` for the first ring without waiting for the answer.
    pub fn begin_pause(&mut self) {
        self.tell(GET_VRING_BASE, &state(0, 0));
    }

    /// The answer to `begin_pause`, then the second ring; the transmit ring's position.
    pub fn end_pause(&mut self) -> u32 {
        self.answer();
        (self.ask(GET_VRING_BASE, &state(1, 0)) >> 32) as u32
    }

    /// The guest makes a frame available on its transmit ring; at most RING before they are taken.
    pub fn send(&mut self, frame: &[u8], offload: Offload) {
        let slot = self.sent % RING;
        let mut bytes = vec![offload.flags, offload.gso_type];
        for word in [offload.hdr_len, offload.gso_size, offload.csum_start, offload.csum_offset, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
        assert!(bytes.len() as u64 <= BUFFER);
        self.write(buffer(1, slot), &bytes);
        self.write_desc(1, slot, bytes.len() as u32, 0);
        self.write(avail(1) + 4 + u64::from(slot) * 2, &slot.to_le_bytes());
        self.sent = self.sent.wrapping_add(1);
        self.write(avail(1) + 2, &self.sent.to_le_bytes());
    }

    /// Frames of the transmit ring that the plane has taken.
    pub fn taken(&self) -> u16 {
        self.read_u16(used(1) + 2)
    }

    /// Frames made available so far.
    pub fn made_available(&self) -> u16 {
        self.sent
    }

    /// The next frame that the plane gave to the guest.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        if self.read_u16(used(0) + 2) == self.received {
            return None;
        }
        let at = used(0) + 4 + u64::from(self.received % RING) * 8;
        let slot = self.read_u16(at);
        let mut len = [0; 4];
        self.memory.read_exact_at(&mut len, at + 4).unwrap();
        let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
        self.memory.read_exact_at(&mut bytes, buffer(0, slot)).unwrap();
        self.received = self.received.wrapping_add(1);
        Some(bytes.split_off(HEADER))
    }

    /// Sends a message that has no answer.
    pub fn tell(&mut self, request: u32, payload: &[u8]) {
        self.socket.write_all(&message(request, payload)).unwrap();
    }

    fn tell_with_memory(&mut self, request: u32, payload: &[u8]) {
        let bytes = message(request, payload);
        let fds = [self.memory.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let socket = self.socket.as_raw_fd();
        sendmsg::<()>(socket, &[IoSlice::new(&bytes)], &rights, MsgFlags::empty(), None).unwrap();
    }

    /// Sends a message and waits for its answer, a u64.
    pub fn ask(&mut self, request: u32, payload: &[u8]) -> u64 {
        self.tell(request, payload);
        self.answer()
    }

    fn answer(&mut self) -> u64 {
        let mut answer = [0; 20];
        self.socket.read_exact(&mut answer).unwrap();
        u64::from_le_bytes(answer[12..].try_into().unwrap())
    }

    /// True once the other side has closed the connection.
    pub fn is_cut_off(&mut self) -> bool {
        matches!(self.socket.read(&mut [0; 1]), Ok(0) | Err(_))
    }

    fn write_desc(&self, queue: u32, slot: u16, len: u32, flags: u16) {
        let mut bytes = buffer(queue, slot).to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(0u16.to_le_bytes());
        self.write(desc(queue) + u64::from(slot) * 16, &bytes);
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    fn read_u16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u16::from_le_bytes(bytes)
    }
}

fn state(queue: u32, number: u32) -> Vec<u8> {
    [queue.to_le_bytes(), number.to_le_bytes()].concat()
}

fn message(request: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [request, 1, payload.len() as u32] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(payload);
    bytes
}
