//! The sink in a network namespace: the kernel's TCP behind a veth, and a capture with the kernel's stamps.

use super::capture::Capture;
use super::cli::Stdin;
use super::clock::{ms, now_ns, wall_ns};
use super::pattern::{self, Check};
use super::reports::{SinkProgress, SinkReport, WORD_EVERY_NS, write_seen};
use super::{
    ANSWER_LEN, DOWNLOAD_PORT, LOOKUP_PORT, MEDIA_PORT, REQUEST_LEN, SINK, TRANSACTION_PORT, UPLOAD_PORT,
};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io::{IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What waits for us at most, bytes: a second of a busy demo.
const CAPTURE_BYTES: usize = 16 << 20;
/// How soon the capture notices that it is to end, milliseconds.
const LOOK_MS: i64 = 50;
/// linux/if_packet.h: a frame that this host sends.
const PACKET_OUTGOING: u8 = 4;
const SECOND_NS: u64 = 1_000_000_000;

/// The upload, as the thread that receives it counts it.
static UPLOADED: AtomicU64 = AtomicU64::new(0);
static UPLOADED_WRONG: AtomicU64 = AtomicU64::new(0);

/// Serves until standard input ends, then reports.
pub(super) fn run(calls: u16, frames: &Path) -> Result<(), String> {
    let mut tap = Tap::open()?;
    serve_tcp(UPLOAD_PORT, take_upload)?;
    serve_tcp(DOWNLOAD_PORT, give_download)?;
    serve_tcp(TRANSACTION_PORT, answer_requests)?;
    serve_lookups()?;
    // Bound and never read: the capture has seen the packets, and nobody answers "port unreachable".
    let _media = (0..calls).map(|n| bind(MEDIA_PORT + 2 * n)).collect::<Result<Vec<_>, _>>()?;
    let stdin = Stdin::watch();
    super::cli::say(&SinkProgress::default())?; // Ready.
    let mut capture = Capture::default();
    let mut next_word_ns = now_ns() + WORD_EVERY_NS;
    while !stdin.has_ended() {
        tap.receive(&mut capture)?;
        if now_ns() >= next_word_ns {
            next_word_ns += WORD_EVERY_NS;
            let gap_ms = ms(capture.meter.take_recent_gap());
            super::cli::say(&SinkProgress { gap_ms, frames: capture.seen.len() as u64 })?;
        }
    }
    write_seen(frames, &capture.seen)?;
    super::cli::say(&SinkReport {
        streams: capture.meter.streams(),
        uploaded: UPLOADED.load(Relaxed),
        uploaded_wrong: UPLOADED_WRONG.load(Relaxed),
    })
}

/// Every frame that comes into this namespace.
struct Tap {
    socket: OwnedFd,
    buffer: Vec<u8>,
    control: Vec<u8>,
}

impl Tap {
    fn open() -> Result<Tap, String> {
        let failed =
            |what: &str, e: nix::Error| format!("capture: {what}: {e}; it needs root in its namespace");
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(SockProtocol::EthAll))
                .map_err(|e| failed("packet socket", e))?;
        setsockopt(&socket, sockopt::RcvBufForce, &CAPTURE_BYTES).map_err(|e| failed("its buffer", e))?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).map_err(|e| failed("time stamps", e))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK_MS))
            .map_err(|e| failed("time-out", e))?;
        Ok(Tap { socket, buffer: vec![0; 65536], control: nix::cmsg_space!(nix::sys::time::TimeSpec) })
    }

    /// Waits shortly for a frame.
    fn receive(&mut self, capture: &mut Capture) -> Result<(), String> {
        let mut room = [IoSliceMut::new(&mut self.buffer)];
        let fd = self.socket.as_raw_fd();
        let message = match recvmsg::<LinkAddr>(fd, &mut room, Some(&mut self.control), MsgFlags::empty()) {
            Ok(message) => message,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(()),
            Err(e) => return Err(format!("capture: {e}")),
        };
        if message.address.is_none_or(|from| from.pkttype() == PACKET_OUTGOING) {
            return Ok(());
        }
        // The kernel stamps with the wall clock; how long ago that was is the same on every clock.
        let stamp = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|message| match message {
                ControlMessageOwned::ScmTimestampns(at) => {
                    Some(at.tv_sec() as u64 * SECOND_NS + at.tv_nsec() as u64)
                }
                _ => None,
            })
        });
        let (mono, wall) = (now_ns(), wall_ns());
        let at_ns = mono - stamp.map_or(0, |stamp| wall.saturating_sub(stamp));
        let len = message.bytes;
        capture.take(&self.buffer[..len], at_ns);
        Ok(())
    }
}

fn serve_tcp(port: u16, serve: fn(TcpStream) -> std::io::Result<()>) -> Result<(), String> {
    let listener = TcpListener::bind((SINK, port)).map_err(|e| format!("TCP {SINK}:{port}: {e}"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A guest that goes away in the middle is how the demo ends.
            std::thread::spawn(move || serve(stream));
        }
    });
    Ok(())
}

fn take_upload(mut stream: TcpStream) -> std::io::Result<()> {
    let mut check = Check::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let received = stream.read(&mut buffer)?;
        if received == 0 {
            return Ok(());
        }
        check.take(&buffer[..received]);
        UPLOADED.store(check.bytes, Relaxed);
        UPLOADED_WRONG.store(check.wrong, Relaxed);
    }
}

fn give_download(mut stream: TcpStream) -> std::io::Result<()> {
    let mut place = 0;
    let mut buffer = vec![0; 16 << 10];
    loop {
        pattern::fill(&mut buffer, place);
        stream.write_all(&buffer)?;
        place += buffer.len() as u64;
    }
}

fn answer_requests(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST_LEN];
    loop {
        stream.read_exact(&mut request)?;
        stream.write_all(&[b'!'; ANSWER_LEN])?;
    }
}

fn bind(port: u16) -> Result<UdpSocket, String> {
    UdpSocket::bind((SINK, port)).map_err(|e| format!("UDP {SINK}:{port}: {e}"))
}

fn serve_lookups() -> Result<(), String> {
    let socket = bind(LOOKUP_PORT)?;
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&question[..len], from);
        }
    });
    Ok(())
}
