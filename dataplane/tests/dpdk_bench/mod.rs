//! What the tests with real DPDK ports share: a started EAL, a pool, a directory for sockets, and frames
//! that carry a number.
#![allow(dead_code, missing_docs)] // Each test binary uses some of it.

pub mod hypervisor;

/// Says that a test, or a part of it, does not run here: past the test harness, which swallows what a test
/// that passes prints.
#[allow(unused_macros)]
macro_rules! skipped {
    ($($words:tt)*) => {
        std::io::Write::write_all(&mut std::io::stderr(), format!("SKIPPED: {}\n", format!($($words)*)).as_bytes())
            .unwrap()
    };
}

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{
    Eal, EalConfig, EthPort, Mbuf, Memory, Mempool, MempoolConfig, PortBurst, PortConfig, PortError, Role,
    VhostEvents,
};
use tidegate_dataplane::port::Port;

pub struct Bench {
    pub eal: Eal,
    pub pool: Mempool,
    pub dir: PathBuf,
}

/// The last CPU that this process may use: lanes take it, the test keeps the others.
pub fn last_cpu() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().rsplit([',', '-']).next().unwrap().parse().unwrap()
}

impl Bench {
    pub fn start() -> Bench {
        let eal = Eal::init(&EalConfig::new(vec![last_cpu()], Memory::NoHuge { mb: 128 })).unwrap();
        let pool = Mempool::new(&eal, MempoolConfig::new("frames", 16 * 1024 - 1)).unwrap();
        let dir = std::env::temp_dir().join(format!("tidegate-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Bench { eal, pool, dir }
    }

    pub fn try_open(&self, spec: &str, role: Role) -> Result<EthPort, PortError> {
        EthPort::open(&self.eal, PortConfig::new(spec, role, self.pool.clone()))
    }

    pub fn try_open_wide(&self, spec: &str, queues: u16) -> Result<EthPort, PortError> {
        let config = PortConfig { queues, ..PortConfig::new(spec, Role::Wire, self.pool.clone()) };
        EthPort::open(&self.eal, config)
    }

    pub fn open(&self, spec: &str, role: Role) -> EthPort {
        self.try_open(spec, role).unwrap_or_else(|error| panic!("{spec}: {error}"))
    }

    pub fn socket(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{n}.sock")).display().to_string()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// An Ethernet frame of `len` bytes (at least 18) with a number behind its header.
pub fn frame(pool: &Mempool, number: u32, len: usize) -> Mbuf {
    let mut bytes = vec![0xabu8; len];
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    Mbuf::from_bytes(pool, &bytes).unwrap()
}

/// The number of such a frame.
pub fn payload(head: &[u8]) -> u32 {
    u32::from_be_bytes(head[14..18].try_into().unwrap())
}

/// A UDP/IPv4 frame whose UDP checksum holds the sum of the pseudo-header only, as virtio wants it of a
/// driver that leaves the rest to the device.
pub fn udp(pool: &Mempool, number: u32, payload_len: usize) -> Mbuf {
    let udp_len = (8 + 4 + payload_len) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
    let sum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = fold(sum_pseudo(&ip, udp_len));
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    bytes.extend(ip);
    for word in [4000u16, 4002, udp_len, pseudo] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(number.to_be_bytes());
    bytes.extend((0..payload_len).map(|n| n as u8));
    Mbuf::from_bytes(pool, &bytes).unwrap()
}

/// True when the UDP checksum of a frame made by [`udp`] is complete and right.
pub fn udp_checksum_is_right(frame: &[u8]) -> bool {
    let (ip, udp) = frame[14..].split_at(20);
    fold(sum_pseudo(ip, udp.len() as u16) + sum(udp)) == 0xffff
}

fn sum_pseudo(ip: &[u8], udp_len: u16) -> u32 {
    sum(&ip[12..20]) + 17 + u32::from(udp_len)
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Waits up to five seconds for `done`.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Everything that a queue has now.
pub fn receive_all(lane: &mut PortBurst, queue: u16) -> Vec<Mbuf> {
    let mut all = Vec::new();
    let mut burst = Burst::new();
    for _ in 0..10_000 {
        if lane.receive(queue, &mut burst) == 0 {
            break;
        }
        while let Some(frame) = burst.pop() {
            all.push(frame);
        }
    }
    all
}

type Hook = Box<dyn Fn() + Send>;

/// Writes down what a vhost port tells, in order.
#[derive(Default)]
pub struct Diary {
    lines: Mutex<Vec<&'static str>>,
    negotiated: Mutex<(u64, u64)>,
    hook: Mutex<Option<Hook>>,
}

impl Diary {
    pub fn lines(&self) -> Vec<&'static str> {
        self.lines.lock().unwrap().clone()
    }

    pub fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }

    pub fn says(&self, line: &str) -> bool {
        self.lines.lock().unwrap().contains(&line)
    }

    pub fn features(&self) -> u64 {
        self.negotiated.lock().unwrap().0
    }

    pub fn refused(&self) -> u64 {
        self.negotiated.lock().unwrap().1
    }

    pub fn on_stopping(&self, hook: Hook) {
        *self.hook.lock().unwrap() = Some(hook);
    }

    fn write(&self, line: &'static str) {
        self.lines.lock().unwrap().push(line);
    }
}

impl VhostEvents for Diary {
    fn ring_stopping(&self) {
        self.write("stopping");
        if let Some(hook) = &*self.hook.lock().unwrap() {
            hook();
        }
    }

    fn started(&self) {
        self.write("started");
    }

    fn stopped(&self) {
        self.write("stopped");
    }

    fn negotiated(&self, features: u64, refused: u64) {
        *self.negotiated.lock().unwrap() = (features, refused);
        self.write("negotiated");
    }
}
