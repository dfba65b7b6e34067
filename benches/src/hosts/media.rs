//! Synthetic calls: RTP of 20 ms each, sent at intended moments whatever happens, each packet with its moment in it; and
//! the other end, which keeps every one with the kernel's stamp of its arrival.

use crate::failure::{Context, Failure, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use std::fs::File;
use std::io::{BufWriter, IoSliceMut, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidegate_tests::survival::mark::{VOICE, voice};
use tidegate_tests::wall_clock::now_ns;

/// From one packet of a call to its next.
pub const PACKET: Duration = Duration::from_millis(20);
/// The first call's port at its sender; the others' follow, two apart.
const FIRST_PORT: u16 = 10_000;
/// Where all calls arrive.
const ARRIVES: u16 = 40_000;
/// Behind the RTP header: this, the call, the packet's number, its moment.
const MAGIC: [u8; 4] = *b"tgmc";
/// Packets that are taken from the kernel at once.
const BURST: usize = 64;
/// The receiving socket's room: half a second of the most calls there are.
const ROOM: usize = 128 << 20;
/// Bytes of a record in the files.
pub const RECORD: usize = 24;

/// A packet, as it was received or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which call.
    pub call: u32,
    /// Its number in the call, from 0.
    pub number: u32,
    /// When it was meant to be sent, nanoseconds since 1970 by the sender's clock.
    pub intended_ns: u64,
    /// When it was sent by that clock, or received by the receiver's.
    pub at_ns: u64,
}

impl Record {
    /// As it is kept: little endian.
    pub fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..4].copy_from_slice(&self.call.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.intended_ns.to_le_bytes());
        bytes[16..].copy_from_slice(&self.at_ns.to_le_bytes());
        bytes
    }

    /// All of a file; a rest that is not whole is left out.
    pub fn all(bytes: &[u8]) -> Vec<Record> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let short = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap_or_default());
        let record = |bytes: &[u8]| Record {
            call: short(&bytes[..4]),
            number: short(&bytes[4..8]),
            intended_ns: word(&bytes[8..16]),
            at_ns: word(&bytes[16..24]),
        };
        bytes.chunks_exact(RECORD).map(record).collect()
    }
}

/// The packet of a call at its moment.
fn packet(call: u32, number: u32, intended_ns: u64) -> [u8; VOICE] {
    let mut bytes = voice(0x7443_0000 ^ call, number as u16, number.wrapping_mul(160), 0);
    bytes[12..16].copy_from_slice(&MAGIC);
    bytes[16..20].copy_from_slice(&call.to_be_bytes());
    bytes[20..24].copy_from_slice(&number.to_be_bytes());
    bytes[24..32].copy_from_slice(&intended_ns.to_be_bytes());
    bytes
}

/// What came, if it is a packet of a call.
fn arrived(bytes: &[u8], at_ns: u64) -> Option<Record> {
    (bytes.get(12..16)? == MAGIC).then_some(())?;
    let short = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let intended_ns = u64::from_be_bytes(bytes.get(24..32)?.try_into().ok()?);
    Some(Record { call: short(16)?, number: short(20)?, intended_ns, at_ns })
}

/// A thread that sends or receives; it ends with its value.
pub struct Work {
    end: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Work {
    fn start(task: impl FnOnce(&AtomicBool, &AtomicU64) -> std::io::Result<()> + Send + 'static) -> Work {
        let (end, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let told = (Arc::clone(&end), Arc::clone(&count));
        let thread = std::thread::spawn(move || task(&told.0, &told.1));
        Work { end, count, thread: Some(thread) }
    }

    /// Packets so far.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Ends it; a failure when its file could not be written.
    pub fn finish(&mut self) -> Result<u64> {
        self.end.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().map_err(|_| Failure::new("a thread of the media panicked"))?;
            ended.context(|| "the media".into())?;
        }
        Ok(self.count())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// One socket a call.
fn sockets(own: Ipv4Addr, peer: Ipv4Addr, calls: u32) -> Result<Vec<UdpSocket>> {
    let wanted = u64::from(calls) + 256;
    if let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE)
        && now < wanted
    {
        setrlimit(Resource::RLIMIT_NOFILE, wanted.max(now), most.max(wanted))
            .context(|| format!("{calls} calls need as many sockets, and this process may not have them"))?;
    }
    let open = |call: u32| {
        let port = FIRST_PORT + 2 * call as u16;
        let what = || format!("media port {own}:{port}");
        let socket = UdpSocket::bind((own, port)).context(what)?;
        socket.connect((peer, ARRIVES)).context(what)?;
        socket.set_nonblocking(true).context(what)?;
        Ok(socket)
    };
    (0..calls).map(open).collect()
}

/// Sends the calls until it is ended: [`Record`]s of what was sent go to `log`.
pub fn send(own: Ipv4Addr, peer: Ipv4Addr, calls: u32, log: &Path) -> Result<Work> {
    let sockets = sockets(own, peer, calls)?;
    let mut log = BufWriter::with_capacity(1 << 20, create(log)?);
    Ok(Work::start(move |end, count| {
        let (begin, begin_ns) = (Instant::now(), now_ns());
        'calls: for number in 0u32.. {
            for (call, socket) in sockets.iter().enumerate() {
                // The calls share out the 20 ms; what is late is sent at once, and nothing is left out.
                let due = PACKET * number + PACKET.mul_f64(call as f64 / sockets.len() as f64);
                let left = (begin + due).saturating_duration_since(Instant::now());
                if left > Duration::from_micros(60) {
                    std::thread::sleep(left - Duration::from_micros(55));
                }
                if end.load(Relaxed) {
                    break 'calls;
                }
                let intended_ns = begin_ns + due.as_nanos() as u64;
                // A full queue loses it, as it would any sender's: the other side sees that.
                let _ = socket.send(&packet(call as u32, number, intended_ns));
                let record = Record { call: call as u32, number, intended_ns, at_ns: now_ns() };
                log.write_all(&record.to_bytes())?;
                count.fetch_add(1, Relaxed);
            }
        }
        log.flush()
    }))
}

/// Receives calls until it is ended: [`Record`]s go to `log`.
pub fn receive(own: Ipv4Addr, log: &Path) -> Result<Work> {
    let what = || format!("media port {own}:{ARRIVES}");
    let socket = UdpSocket::bind((own, ARRIVES)).context(what)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).context(what)?;
    // As much as the kernel allows: more with root's rights.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &ROOM)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &ROOM));
    socket.set_read_timeout(Some(PACKET)).context(what)?;
    let mut log = BufWriter::with_capacity(1 << 20, create(log)?);
    Ok(Work::start(move |end, count| {
        let mut buffers = vec![[0u8; 256]; BURST];
        while !end.load(Relaxed) {
            let room = Some(nix::cmsg_space!(TimeSpec));
            let mut heads = MultiHeaders::<SockaddrIn>::preallocate(BURST, room);
            let mut came = [(0, None); BURST];
            {
                let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                    buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
                let burst = recvmmsg(
                    socket.as_raw_fd(),
                    &mut heads,
                    slices.iter_mut(),
                    MsgFlags::MSG_WAITFORONE,
                    None,
                );
                match burst {
                    Ok(burst) => {
                        for (slot, message) in came.iter_mut().zip(burst) {
                            *slot = (message.bytes, stamp(&message));
                        }
                    }
                    Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            for (buffer, (length, at_ns)) in buffers.iter().zip(came) {
                let record = at_ns.and_then(|at_ns| arrived(&buffer[..length], at_ns));
                if let Some(record) = record {
                    log.write_all(&record.to_bytes())?;
                    count.fetch_add(1, Relaxed);
                }
            }
        }
        log.flush()
    }))
}

/// The kernel's stamp: taken when the driver handed the frame up.
fn stamp(message: &nix::sys::socket::RecvMsg<'_, '_, SockaddrIn>) -> Option<u64> {
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(at) => {
            Some(at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64)
        }
        _ => None,
    })
}

fn create(path: &Path) -> Result<File> {
    File::create(path).context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_packets_are_read_as_they_were_written() {
        let records = [1, 2].map(|n| Record { call: n, number: 9, intended_ns: u64::MAX - 1, at_ns: 7 });
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.to_bytes()).chain([1, 2, 3]).collect();
        assert_eq!(Record::all(&bytes), records);
        let sent = packet(3, 70_000, 55);
        assert_eq!(arrived(&sent, 60), Some(Record { call: 3, number: 70_000, intended_ns: 55, at_ns: 60 }));
        for noise in [&sent[..20], &[0u8; 172], &[]] {
            assert_eq!(arrived(noise, 0), None);
        }
    }

    #[test]
    fn calls_arrive_with_their_moment_and_a_stamp() {
        let log = |name: &str| {
            std::env::temp_dir().join(format!("tidegate-bench-media-{}-{name}", std::process::id()))
        };
        let own = Ipv4Addr::new(127, 0, 7, 1);
        let mut receiver = receive(own, &log("in")).unwrap();
        let mut sender = send(own, own, 3, &log("out")).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let sent = sender.finish().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let received = receiver.finish().unwrap();
        assert!(sent >= 12 && received == sent, "{sent} {received}");
        let records = Record::all(&std::fs::read(log("in")).unwrap());
        assert_eq!(records.len() as u64, received);
        assert!(
            records
                .iter()
                .all(|record| record.call < 3 && record.at_ns > record.intended_ns.saturating_sub(1_000_000))
        );
        ["in", "out"].iter().for_each(|name| std::fs::remove_file(log(name)).unwrap());
    }
}
