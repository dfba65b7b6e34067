//! A telephone exchange in the guest for many calls at once: SIP over TCP (RFC 3261, 18.3: a message ends where its
//! Content-Length says), and a voice of its own a call, from a port of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Draws, Voice, header, media_address, response, session};

/// Calls at once; one more is busy.
const CALLS: u16 = 256;
/// The media port of the first call; the others' follow, two apart.
const FIRST_PORT: u16 = 7000;
/// Longest head of a message, and longest body.
const HEAD: usize = 4096;
const BODY: usize = 8192;
/// How soon a new call speaks.
const LOOK: Duration = Duration::from_millis(5);

struct Talk {
    voice: Voice,
    rtp: UdpSocket,
    port: u16,
}

#[derive(Default)]
struct Calls(Mutex<HashMap<String, Talk>>);

impl Calls {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Talk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port of a call's media; it begins here unless it has begun.
    fn begin(&self, id: &str, own: SocketAddr, to: SocketAddr, draws: &Draws) -> Option<u16> {
        let mut calls = self.lock();
        if let Some(talk) = calls.get(id) {
            return Some(talk.port);
        }
        let taken: Vec<u16> = calls.values().map(|talk| talk.port).collect();
        let port = (0..CALLS).map(|n| FIRST_PORT + 2 * n).find(|port| !taken.contains(port))?;
        let rtp = UdpSocket::bind((own.ip(), port)).ok()?;
        rtp.set_nonblocking(true).ok()?;
        calls.insert(id.to_owned(), Talk { voice: Voice::new(to, draws), rtp, port });
        Some(port)
    }
}

/// Serves until the process ends.
pub fn serve(own: SocketAddr, draws: &Arc<Draws>) -> std::io::Result<()> {
    let listener = TcpListener::bind(own)?;
    let calls = Arc::new(Calls::default());
    let talking = Arc::clone(&calls);
    std::thread::spawn(move || talk(&talking));
    for stream in listener.incoming().flatten() {
        let (calls, draws) = (Arc::clone(&calls), Arc::clone(draws));
        std::thread::spawn(move || {
            let _ = converse(&stream, own, &calls, &draws);
        });
    }
    Ok(())
}

/// Speaks in all calls.
fn talk(calls: &Calls) {
    loop {
        let next = {
            let mut calls = calls.lock();
            calls.values_mut().for_each(|talk| talk.voice.speak(&talk.rtp));
            calls.values().map(|talk| talk.voice.due).min()
        };
        let soon = Instant::now() + LOOK;
        let next = next.map_or(soon, |due| due.min(soon));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn converse(stream: &TcpStream, own: SocketAddr, calls: &Calls, draws: &Draws) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut lines, mut writer) = (BufReader::new(stream), stream);
    while let Some(message) = message(&mut lines)? {
        let id = header(&message, "Call-ID").next().unwrap_or_default().to_owned();
        match message.split(' ').next().unwrap_or_default() {
            "INVITE" => {
                // Without an offer it is the offer that is asked for; nobody speaks.
                let port = match media_address(&message) {
                    Some(to) => calls.begin(&id, own, to, draws),
                    None => Some(FIRST_PORT),
                };
                let body = port.map_or_else(String::new, |port| session(own.ip(), port));
                let mut text = response(&message, own, &body);
                if port.is_none() {
                    text = text.replacen("200 OK", "486 Busy Here", 1);
                }
                writer.write_all(text.as_bytes())?;
            }
            "BYE" => {
                calls.lock().remove(&id);
                writer.write_all(response(&message, own, "").as_bytes())?;
            }
            "OPTIONS" => writer.write_all(response(&message, own, "").as_bytes())?,
            _ => {}
        }
    }
    Ok(())
}

/// The next message; nothing at the end, and an error for one that is too long.
fn message(lines: &mut BufReader<&TcpStream>) -> std::io::Result<Option<String>> {
    let too_long = || std::io::Error::other("a message that is too long");
    let mut text = String::new();
    loop {
        let before = text.len();
        let room = HEAD.saturating_sub(before) as u64;
        if lines.by_ref().take(room).read_line(&mut text)? == 0 {
            return if before == 0 { Ok(None) } else { Err(too_long()) };
        }
        // Between messages empty lines are a keep-alive (RFC 5626, 3.5.1).
        match &text[before..] {
            "\r\n" if before == 0 => text.clear(),
            "\r\n" => break,
            _ => {}
        }
    }
    let length =
        header(&text, "Content-Length").next().and_then(|line| line.split(':').nth(1)?.trim().parse().ok());
    let length: usize = length.unwrap_or(0);
    if length > BODY {
        return Err(too_long());
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body)?;
    text.push_str(&String::from_utf8_lossy(&body));
    Ok(Some(text))
}
