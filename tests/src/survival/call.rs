//! A G.711 call: sipp outside calls the teller in the guest; the media of the peer comes from here, 20 ms a packet.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::mark::voice;
use crate::failure::{Context, Result};
use crate::namespace::Namespace;
use crate::process::{Program, Running};
use crate::scratch::Scratch;

const SCENARIO: &str = include_str!("../../guest/voice.xml");
const TICK: Duration = Duration::from_millis(20);
/// The end of a call may meet a failover.
const ENDS_WITHIN: Duration = Duration::from_secs(40);

/// A call under way.
pub struct Call {
    sipp: Running,
    end: Arc<AtomicBool>,
    heard: Arc<AtomicU32>,
    reached: Arc<AtomicU32>,
    length: Duration,
}

impl Call {
    /// Calls; the caller hangs up after `length`.
    pub fn start(outside: &Namespace, scratch: &Scratch, length: Duration) -> Result<Call> {
        let file = scratch.file("voice.xml");
        std::fs::write(&file, SCENARIO).context(|| format!("cannot write {}", file.display()))?;
        let end = Arc::new(AtomicBool::new(false));
        let (heard, reached) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let socket = outside.enter(|| {
            UdpSocket::bind("10.9.0.1:6300").context(|| "cannot open the peer's media port".to_owned())
        })?;
        socket.set_nonblocking(true).context(|| "the peer's media port cannot wait".to_owned())?;
        let told = (Arc::clone(&end), Arc::clone(&heard), Arc::clone(&reached));
        std::thread::spawn(move || talk(&socket, &told.0, &told.1, &told.2));
        let sipp = Program::new("sipp")
            .args("-i 10.9.0.1 -p 5090 -m 1 -nostdin -sf")
            .arg(file.display().to_string())
            .args(&format!("-d {} 10.9.0.2:5070", length.as_millis()))
            .inside(outside)
            .directory(scratch.path())
            .start(scratch, "sipp")?;
        Ok(Call { sipp, end, heard, reached, length })
    }

    /// Packets that the peer has heard.
    pub fn heard(&self) -> u32 {
        self.heard.load(Ordering::SeqCst)
    }

    /// Packets of the peer that the guest has heard, by its own account.
    pub fn reached(&self) -> u32 {
        self.reached.load(Ordering::SeqCst)
    }

    /// Waits for the end of the call; a failure when it was none that a person would call whole.
    pub fn finish(&mut self) -> Result<()> {
        self.sipp.succeed(self.length + ENDS_WITHIN)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
    }
}

fn talk(socket: &UdpSocket, end: &AtomicBool, heard: &AtomicU32, reached: &AtomicU32) {
    let (mut sequence, mut timestamp) = (0u16, 0u32);
    let mut due = Instant::now();
    let mut packet = [0; 2048];
    while !end.load(Ordering::SeqCst) {
        while let Ok((length, _)) = socket.recv_from(&mut packet) {
            if length >= 16 {
                heard.fetch_add(1, Ordering::SeqCst);
                let told = u32::from_be_bytes([packet[12], packet[13], packet[14], packet[15]]);
                reached.store(told, Ordering::SeqCst);
            }
        }
        // Nobody may listen yet.
        let _ = socket.send_to(&voice(0x7045_4552, sequence, timestamp, 0), "10.9.0.2:6400");
        sequence = sequence.wrapping_add(1);
        timestamp = timestamp.wrapping_add(160);
        due += TICK;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
