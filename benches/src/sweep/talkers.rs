//! The peer's ends of the calls: a media port each, and 20 ms of G.711 from each at its moment.

use super::signalling::MEDIA;
use crate::failure::Result;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate_tests::failure::Context as _;
use tidegate_tests::namespace::Namespace;
use tidegate_tests::survival::mark::voice;

const PACKET: Duration = Duration::from_millis(20);
/// The exchange's first media port; calls are two apart.
const EXCHANGE: u16 = 7000;

/// Under way; they end with the value.
pub struct Talkers {
    end: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
}

impl Talkers {
    /// Opens the ports and speaks.
    pub fn start(outside: &Namespace, calls: u16) -> Result<Talkers> {
        let sockets = outside.enter(move || {
            let open = |call: u16| {
                let port = MEDIA + 2 * call;
                let socket = UdpSocket::bind(("10.9.0.1", port)).context(|| format!("media port {port}"))?;
                socket.set_nonblocking(true).context(|| format!("media port {port}"))?;
                Ok(socket)
            };
            (0..calls).map(open).collect::<tidegate_tests::failure::Result<Vec<_>>>()
        })?;
        let (end, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let told = (Arc::clone(&end), Arc::clone(&heard));
        std::thread::spawn(move || talk(&sockets, &told.0, &told.1));
        Ok(Talkers { end, heard })
    }

    /// Packets that came.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Talkers {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn talk(sockets: &[UdpSocket], end: &AtomicBool, heard: &AtomicU64) {
    let begin = Instant::now();
    let mut packet = [0; 2048];
    // The calls share out the 20 ms.
    for turn in 0u32.. {
        for (call, socket) in sockets.iter().enumerate() {
            let due = begin + PACKET * turn + PACKET.mul_f64(call as f64 / sockets.len() as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            while socket.recv(&mut packet).is_ok() {
                heard.fetch_add(1, Ordering::Relaxed);
            }
            let said = voice(0x7045_0000 + call as u32, turn as u16, turn.wrapping_mul(160), 0);
            // Nobody may listen yet.
            let _ = socket.send_to(&said, ("10.9.0.2", EXCHANGE + 2 * call as u16));
        }
        if end.load(Ordering::Relaxed) {
            return;
        }
    }
}
