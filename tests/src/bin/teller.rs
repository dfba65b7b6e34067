//! The program in the guest whose death is looked at: it keeps accounts over TCP, marks time with numbered datagrams,
//! and answers a call with a voice of its own.
//!
//! Words: `tcp=ADDRESS:PORT` (accounts), `sip=ADDRESS:PORT` (one call at a time, by UDP), `media=PORT`,
//! `pbx=ADDRESS:PORT` (many calls, by TCP), `marks=ADDRESS:PORT` (to whom), `every_us=N` (from one mark to the next, default 10000).

#[path = "../survival/account.rs"]
#[allow(dead_code)]
mod account;
#[path = "../survival/mark.rs"]
#[allow(dead_code)]
mod mark;
#[path = "../../guest/pbx.rs"]
mod pbx;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use account::{LINE_MAX, Ledger, Request, link};
use mark::{Mark, voice};

const TICK: Duration = Duration::from_millis(20);

/// Numbers that two runs of one restored state do not share. The kernel's own would be the same in both until it is
/// seeded again; the clock, in nanoseconds, is not.
struct Draws {
    last: AtomicU64,
}

impl Draws {
    fn new() -> std::io::Result<Draws> {
        let mut seed = [0; 8];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
        Ok(Draws { last: AtomicU64::new(u64::from_ne_bytes(seed)) })
    }

    fn draw(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let next = link(self.last.load(Ordering::Relaxed), now, 0);
        self.last.store(next, Ordering::Relaxed);
        next
    }
}

fn keep_accounts(listener: &TcpListener, draws: &Arc<Draws>) {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    for stream in listener.incoming().flatten() {
        let (ledger, draws) = (Arc::clone(&ledger), Arc::clone(draws));
        std::thread::spawn(move || {
            let _ = serve(&stream, &ledger, &draws);
        });
    }
}

fn serve(stream: &TcpStream, ledger: &Mutex<Ledger>, draws: &Draws) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut lines, mut writer) = (BufReader::new(stream), stream);
    loop {
        let mut line = String::new();
        if lines.by_ref().take(LINE_MAX as u64).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let Some(request) = Request::parse(&line) else { return Ok(()) };
        let answer = ledger.lock().unwrap_or_else(PoisonError::into_inner).answer(request, draws.draw());
        writer.write_all(format!("{answer}\n").as_bytes())?;
    }
}

fn mark_time(to: SocketAddr, every: Duration, draws: &Draws) -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for number in 1.. {
        let mark = Mark { number, draw: draws.draw() };
        // A refusal of the far end's kernel comes back as an error of the next one.
        let _ = socket.send_to(&mark.to_bytes(), to);
        std::thread::sleep(every);
    }
    Ok(())
}

/// Answers calls, one at a time.
fn answer_calls(own: SocketAddr, media: u16, draws: &Draws) -> std::io::Result<()> {
    let sip = UdpSocket::bind(own)?;
    let rtp = UdpSocket::bind((own.ip(), media))?;
    rtp.set_nonblocking(true)?;
    let mut call: Option<Voice> = None;
    let mut message = [0; 4096];
    loop {
        let next = call.as_ref().map_or(Duration::from_millis(500), |call| {
            call.due.saturating_duration_since(Instant::now()).max(Duration::from_micros(100))
        });
        sip.set_read_timeout(Some(next))?;
        if let Ok((length, from)) = sip.recv_from(&mut message) {
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            let method = text.split(' ').next().unwrap_or("");
            match method {
                "INVITE" => {
                    let body = session(own.ip(), media);
                    let _ = sip.send_to(response(&text, own, &body).as_bytes(), from);
                    if call.is_none() {
                        call = media_address(&text).map(|to| Voice::new(to, draws));
                    }
                }
                "BYE" => {
                    call = None;
                    let _ = sip.send_to(response(&text, own, "").as_bytes(), from);
                }
                _ => {}
            }
        }
        if let Some(call) = &mut call {
            call.speak(&rtp);
        }
    }
}

/// What is said in a call.
struct Voice {
    to: SocketAddr,
    due: Instant,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    heard: u32,
}

impl Voice {
    fn new(to: SocketAddr, draws: &Draws) -> Voice {
        let (start, ssrc) = (draws.draw(), draws.draw() as u32);
        Voice {
            to,
            due: Instant::now(),
            ssrc,
            sequence: start as u16,
            timestamp: (start >> 16) as u32,
            heard: 0,
        }
    }

    fn speak(&mut self, rtp: &UdpSocket) {
        let mut packet = [0; 2048];
        while rtp.recv_from(&mut packet).is_ok() {
            self.heard += 1;
        }
        let now = Instant::now();
        if now < self.due {
            return;
        }
        let _ = rtp.send_to(&voice(self.ssrc, self.sequence, self.timestamp, self.heard), self.to);
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(160);
        self.due += TICK;
        if now > self.due + 5 * TICK {
            self.due = now;
        }
    }
}

fn header<'a>(message: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let name = name.to_owned();
    message.split("\r\n").take_while(|line| !line.is_empty()).filter(move |line| {
        line.split_once(':').is_some_and(|(key, _)| key.trim().eq_ignore_ascii_case(&name))
    })
}

/// RFC 3261, 8.2.6: Via, From, To, Call-ID and CSeq are the request's.
fn response(request: &str, own: SocketAddr, body: &str) -> String {
    let mut text = "SIP/2.0 200 OK\r\n".to_owned();
    for name in ["Via", "From", "Call-ID", "CSeq"] {
        for line in header(request, name) {
            text.push_str(line);
            text.push_str("\r\n");
        }
    }
    for line in header(request, "To") {
        text.push_str(line);
        text.push_str(if line.contains(";tag=") { "\r\n" } else { ";tag=teller\r\n" });
    }
    text.push_str(&format!("Contact: <sip:teller@{own}>\r\n"));
    if !body.is_empty() {
        text.push_str("Content-Type: application/sdp\r\n");
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text
}

fn session(own: IpAddr, media: u16) -> String {
    format!(
        "v=0\r\no=teller 1 1 IN IP4 {own}\r\ns=-\r\nc=IN IP4 {own}\r\nt=0 0\r\nm=audio {media} RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"
    )
}

/// Where the caller wants its media.
fn media_address(invite: &str) -> Option<SocketAddr> {
    let line = |prefix: &str| invite.split("\r\n").find_map(|line| line.strip_prefix(prefix));
    let address: IpAddr = line("c=IN IP4 ")?.trim().parse().ok()?;
    let port: u16 = line("m=audio ")?.split(' ').next()?.parse().ok()?;
    Some(SocketAddr::new(address, port))
}

fn usage(word: &str) -> ! {
    eprintln!(
        "teller: {word:?} is none of tcp=ADDRESS:PORT sip=ADDRESS:PORT media=PORT pbx=ADDRESS:PORT marks=ADDRESS:PORT every_us=N"
    );
    std::process::exit(2);
}

fn main() -> std::io::Result<()> {
    let draws = Arc::new(Draws::new()?);
    let (mut tcp, mut sip, mut marks): (Option<SocketAddr>, Option<SocketAddr>, Option<SocketAddr>) =
        (None, None, None);
    let mut pbx: Option<SocketAddr> = None;
    let (mut media, mut every) = (6400, Duration::from_millis(10));
    for word in std::env::args().skip(1) {
        let Some((key, value)) = word.split_once('=') else { usage(&word) };
        match key {
            "tcp" => tcp = Some(value.parse().unwrap_or_else(|_| usage(&word))),
            "sip" => sip = Some(value.parse().unwrap_or_else(|_| usage(&word))),
            "pbx" => pbx = Some(value.parse().unwrap_or_else(|_| usage(&word))),
            "marks" => marks = Some(value.parse().unwrap_or_else(|_| usage(&word))),
            "media" => media = value.parse().unwrap_or_else(|_| usage(&word)),
            "every_us" => every = Duration::from_micros(value.parse().unwrap_or_else(|_| usage(&word))),
            _ => usage(&word),
        }
    }
    let mut threads = Vec::new();
    if let Some(address) = tcp {
        let (listener, draws) = (TcpListener::bind(address)?, Arc::clone(&draws));
        threads.push(std::thread::spawn(move || {
            keep_accounts(&listener, &draws);
            Ok(())
        }));
    }
    if let Some(to) = marks {
        let draws = Arc::clone(&draws);
        threads.push(std::thread::spawn(move || mark_time(to, every, &draws)));
    }
    if let Some(own) = pbx {
        let draws = Arc::clone(&draws);
        threads.push(std::thread::spawn(move || pbx::serve(own, &draws)));
    }
    if let Some(own) = sip {
        threads.push(std::thread::spawn(move || answer_calls(own, media, &draws)));
    }
    for thread in threads {
        thread.join().unwrap_or(Ok(()))?;
    }
    Ok(())
}
