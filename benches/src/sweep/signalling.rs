//! SIP over one TCP connection to the exchange in the VM: the calls of a cell, and INVITEs at intended moments whose
//! answer is waited for.

use super::open_loop::{Sample, Ticks};
use crate::failure::{Context, Failure, Result};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidegate_tests::namespace::Namespace;
use tidegate_tests::wall_clock::{now_ns, wait_until};

/// The exchange.
const EXCHANGE: &str = "10.9.0.2:5060";
/// The peer's first media port; calls are two apart.
pub const MEDIA: u16 = 7300;
/// From one INVITE of the measurement to the next.
const EVERY: Duration = Duration::from_millis(200);
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
const SET_UP_WITHIN: Duration = Duration::from_secs(20);
/// How long the last answers are waited for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Longest line, and longest body, that is read.
const LINE: u64 = 2048;
const BODY: usize = 8192;

/// What was asked for.
#[derive(Default)]
struct Shared {
    end: AtomicBool,
    /// INVITEs without an answer: by Call-ID, when each was intended.
    asked: Mutex<HashMap<String, u64>>,
    done: Mutex<Vec<(String, Sample)>>,
    refused: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection to the exchange, and the calls over it.
pub struct Signalling {
    shared: Arc<Shared>,
    write: Arc<Mutex<TcpStream>>,
    asks: Option<JoinHandle<()>>,
    calls: u16,
}

impl Signalling {
    /// Connects and sets up so many calls; returns when all are answered.
    pub fn start(outside: &Namespace, calls: u16) -> Result<Signalling> {
        let at: SocketAddr = EXCHANGE.parse().context(|| EXCHANGE.to_owned())?;
        let stream = outside.enter(move || {
            tidegate_tests::failure::Context::context(
                TcpStream::connect_timeout(&at, CONNECTS_WITHIN),
                || "the exchange in the VM".to_owned(),
            )
        })?;
        let what = || "the exchange in the VM".to_owned();
        stream.set_nodelay(true).context(what)?;
        let lines = BufReader::new(stream.try_clone().context(what)?);
        let shared = Arc::new(Shared::default());
        let write = Arc::new(Mutex::new(stream));
        let (hearing, answering) = (Arc::clone(&shared), Arc::clone(&write));
        std::thread::spawn(move || hear(lines, &hearing, &answering));
        let signalling = Signalling { shared, write, asks: None, calls };
        for call in 0..calls {
            signalling.invite(&call_id(call), Some(MEDIA + 2 * call), now_ns()).context(what)?;
        }
        let answered =
            wait_until(SET_UP_WITHIN, Duration::from_millis(5), || lock(&signalling.shared.asked).is_empty());
        if let Some(answer) = lock(&signalling.shared.refused).take() {
            return Err(Failure::new(format!("the exchange in the VM refused a call: {answer}")));
        }
        match answered {
            true => {
                lock(&signalling.shared.done).clear();
                Ok(signalling)
            }
            false => Err(Failure::new(format!("calls were not answered within {SET_UP_WITHIN:?}"))),
        }
    }

    fn invite(&self, id: &str, media: Option<u16>, intended_ns: u64) -> std::io::Result<()> {
        invite(&self.shared, &self.write, id, media, intended_ns)
    }

    /// Begins to measure: one INVITE after the other.
    pub fn measure(&mut self, first: u64) {
        let (shared, write) = (Arc::clone(&self.shared), Arc::clone(&self.write));
        self.asks = Some(std::thread::spawn(move || {
            let mut ticks = Ticks::every(EVERY);
            for n in first.. {
                if shared.end.load(Ordering::SeqCst) {
                    return;
                }
                let intended_ns = ticks.wait();
                if invite(&shared, &write, &format!("asked-{n}"), None, intended_ns).is_err() {
                    return;
                }
            }
        }));
    }

    /// Asks no more, waits for the last answers, ends the calls; all that was measured.
    pub fn finish(mut self) -> Vec<Sample> {
        self.shared.end.store(true, Ordering::SeqCst);
        let _ = self.asks.take().map(JoinHandle::join);
        let until = Instant::now() + ANSWERS_WITHIN;
        while Instant::now() < until && !lock(&self.shared.asked).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        for call in 0..self.calls {
            let _ = lock(&self.write).write_all(request("BYE", &call_id(call), 2, "").as_bytes());
        }
        // What was sent is there, or on its way, when the connection ends behind it.
        let mut samples: Vec<Sample> = lock(&self.shared.done).drain(..).map(|(_, sample)| sample).collect();
        let asked = lock(&self.shared.asked).drain().map(|(_, at)| at).collect::<Vec<_>>();
        samples.extend(asked.into_iter().map(|intended_ns| Sample { intended_ns, answered_ns: None }));
        samples.sort_by_key(|sample| sample.intended_ns);
        samples
    }
}

impl Drop for Signalling {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        let _ = lock(&self.write).shutdown(std::net::Shutdown::Write);
    }
}

fn call_id(call: u16) -> String {
    format!("call-{call}")
}

fn invite(
    shared: &Shared,
    write: &Mutex<TcpStream>,
    id: &str,
    media: Option<u16>,
    intended_ns: u64,
) -> std::io::Result<()> {
    lock(&shared.asked).insert(id.to_owned(), intended_ns);
    let body = media.map_or_else(String::new, |port| {
        format!(
            "v=0\r\no=peer 1 1 IN IP4 10.9.0.1\r\ns=-\r\nc=IN IP4 10.9.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 8\r\n\
             a=rtpmap:8 PCMA/8000\r\n"
        )
    });
    lock(write).write_all(request("INVITE", id, 1, &body).as_bytes())
}

/// RFC 3261, 8.1.1.
fn request(method: &str, id: &str, sequence: u32, body: &str) -> String {
    let content = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    let number = if method == "ACK" { 1 } else { sequence };
    format!(
        "{method} sip:pbx@10.9.0.2:5060;transport=tcp SIP/2.0\r\nVia: SIP/2.0/TCP 10.9.0.1:5060;branch=z9hG4bK-{id}-{method}\r\n\
         From: <sip:peer@10.9.0.1>;tag={id}\r\nTo: <sip:pbx@10.9.0.2>\r\nCall-ID: {id}\r\nCSeq: {number} {method}\r\n\
         Contact: <sip:peer@10.9.0.1:5060;transport=tcp>\r\nMax-Forwards: 70\r\n{content}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The head of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    status: u16,
    id: String,
    method: String,
}

/// Reads one; nothing at the end of the connection, or when it is none.
fn answer(lines: &mut impl BufRead) -> Option<Answer> {
    let (mut found, mut length, mut first) = (Answer::default(), 0usize, true);
    loop {
        let mut line = String::new();
        if lines.by_ref().take(LINE).read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if first {
            found.status = line.strip_prefix("SIP/2.0 ")?.split(' ').next()?.parse().ok()?;
            first = false;
            continue;
        }
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "call-id" => value.clone_into(&mut found.id),
            "cseq" => value.split(' ').nth(1)?.clone_into(&mut found.method),
            "content-length" => length = value.parse().ok().filter(|length| *length <= BODY)?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    Some(found)
}

fn hear(mut lines: BufReader<TcpStream>, shared: &Shared, write: &Mutex<TcpStream>) {
    while let Some(answer) = answer(&mut lines) {
        let answered_ns = Some(now_ns());
        if answer.status < 200 || answer.method != "INVITE" {
            continue;
        }
        let Some(intended_ns) = lock(&shared.asked).remove(&answer.id) else { continue };
        if answer.status >= 300 {
            *lock(&shared.refused) = Some(format!("{} to {}", answer.status, answer.id));
        }
        let mut text = request("ACK", &answer.id, 1, "");
        if answer.id.starts_with("asked-") {
            text.push_str(&request("BYE", &answer.id, 2, ""));
        }
        lock(&shared.done).push((answer.id, Sample { intended_ns, answered_ns }));
        let _ = lock(write).write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_one_behind_the_other() {
        let text = "SIP/2.0 180 Ringing\r\nCall-ID: a\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n\
                    SIP/2.0 200 OK\r\nCALL-ID: b\r\nCSeq: 1 INVITE\r\nContent-Length: 4\r\n\r\nv=0\nSIP/2.0 481 x\r\n\
                    Call-ID: c\r\nCSeq: 2 BYE\r\n\r\n";
        let mut lines = text.as_bytes();
        let read: Vec<_> =
            std::iter::from_fn(|| answer(&mut lines)).map(|a| (a.status, a.id, a.method)).collect();
        let is = |status: u16, id: &str, method: &str| (status, id.to_owned(), method.to_owned());
        assert_eq!(read, [is(180, "a", "INVITE"), is(200, "b", "INVITE"), is(481, "c", "BYE")]);
    }

    #[test]
    fn what_is_no_answer_or_endless_ends_the_reading() {
        for text in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "SIP/2.0 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            "SIP/2.0 x\r\n\r\n",
        ] {
            assert_eq!(answer(&mut text.as_bytes()), None, "{text}");
        }
        assert!(request("INVITE", "a", 1, "v=0\r\n").ends_with("Content-Length: 5\r\n\r\nv=0\r\n"));
    }
}
