//! A call that nobody can listen to: a phone outside and the one in the guest, both baresip, signal by TLS and speak by
//! DTLS-SRTP. The dialog is set up before anything dies; from then on the phone outside sends one re-INVITE after the
//! other, and at the end its BYE. Every one must be answered, over the one connection, and the voice that comes back
//! must go on to be decrypted.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::GOES_ON_WITHIN;
use crate::failure::Result;
use crate::namespace::Namespace;
use crate::phone::{Model, Phone, Transport};
use crate::scratch::Scratch;

const PEER: Model = Model {
    name: "peer",
    number: 0,
    transport: Transport::Tls,
    account: "audio_codecs=PCMA;mediaenc=dtls_srtp",
    video: false,
    registers: false,
    interface: "br0",
};
/// The phone in the guest.
const CALLEE: &str = "sip:voice@10.9.0.2:5081;transport=tls";
/// Both ends start at once, and a first message that comes too early is said again a second later.
const AGREES_WITHIN: Duration = Duration::from_secs(30);
/// From an answer to the next request.
const REST: Duration = Duration::from_millis(60);
const LOOK: Duration = Duration::from_millis(5);

const GOES_ON: u8 = 0;
const HANGS_UP: u8 = 1;
const ABANDONED: u8 = 2;

/// How the dialog stands.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Requests that were answered.
    pub answered: u64,
    /// What the phone has decrypted and decoded, milliseconds of sound.
    pub decoded_ms: u64,
    /// Why the dialog is none any more.
    pub broken: Option<String>,
}

#[derive(Default)]
struct Shared {
    wanted: AtomicU8,
    record: Mutex<Record>,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants(&self, what: u8) -> bool {
        self.wanted.load(Ordering::SeqCst) == what
    }
}

/// A dialog under way.
pub struct Dialog {
    shared: Arc<Shared>,
    work: Option<JoinHandle<()>>,
}

impl Dialog {
    /// Calls; returns when the call is answered and the keys of its media are agreed upon.
    pub fn start(outside: &Namespace, scratch: &Scratch) -> Result<Dialog> {
        let mut phone = Phone::start(&PEER, outside, scratch)?;
        phone.dial(CALLEE)?;
        phone.wait_for("CALL_MENC", AGREES_WITHIN)?;
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let work =
            std::thread::spawn(move || Work { phone, read: 0, trace: Trace::default(), shared: own }.run());
        Ok(Dialog { shared, work: Some(work) })
    }

    /// How it stands.
    pub fn record(&self) -> Record {
        self.shared.record().clone()
    }

    /// Hangs up, if there is anybody left to answer it; why the dialog was broken.
    pub fn finish(&mut self, answers: bool) -> Option<String> {
        self.shared.wanted.store(if answers { HANGS_UP } else { ABANDONED }, Ordering::SeqCst);
        let ended = self.work.take().is_none_or(|work| work.join().is_ok());
        self.record().broken.or((!ended).then(|| "its thread panicked".to_owned()))
    }
}

impl Drop for Dialog {
    fn drop(&mut self) {
        self.shared.wanted.store(ABANDONED, Ordering::SeqCst);
    }
}

struct Work {
    phone: Phone,
    /// Bytes of the log that have been read.
    read: usize,
    trace: Trace,
    shared: Arc<Shared>,
}

impl Work {
    fn run(mut self) {
        if let Err(why) = self.dialog() {
            self.shared.record().broken = Some(why);
        }
    }

    fn dialog(&mut self) -> std::result::Result<(), String> {
        while self.shared.wants(GOES_ON) {
            self.ask("reinvite", "INVITE")?;
            let told = self.phone.command("audio_debug", "").map_err(|failure| failure.to_string())?;
            let mut record = self.shared.record();
            record.answered += 1;
            record.decoded_ms = decoded_ms(&told).unwrap_or(record.decoded_ms);
            drop(record);
            std::thread::sleep(REST);
        }
        if self.shared.wants(HANGS_UP) {
            self.ask("hangup", "BYE")?;
        }
        Ok(())
    }

    /// Has the phone send a request, and waits for its answer.
    fn ask(&mut self, command: &str, method: &str) -> std::result::Result<(), String> {
        self.phone.command(command, "").map_err(|failure| failure.to_string())?;
        let deadline = Instant::now() + GOES_ON_WITHIN;
        loop {
            let output = self.phone.output();
            self.read += self.trace.read(output.get(self.read..).unwrap_or_default());
            if self.trace.connections.len() > 1 {
                return Err(format!("it took another connection: {:?}", self.trace.connections));
            }
            match self.trace.answer_to(method) {
                Some(200) => return Ok(()),
                Some(status) => return Err(format!("{method} was answered with {status}")),
                None if self.shared.wants(ABANDONED) => return Ok(()),
                None => {}
            }
            // Who hangs up is told so at once.
            if method != "BYE" && self.phone.happened("CALL_CLOSED") {
                return Err(format!("the call was closed before its {method} was answered"));
            }
            if Instant::now() >= deadline {
                return Err(format!("no answer to its {method} within {GOES_ON_WITHIN:?}"));
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// What a phone's trace of its signalling says, read as it grows.
#[derive(Debug, Default)]
struct Trace {
    /// The phone's own ends of the connections that it used.
    connections: BTreeSet<String>,
    /// The request that was sent last, and its final answer.
    asked: Option<(String, Option<u16>)>,
    /// Of the message that is being read: its status, 0 for a request.
    status: Option<u16>,
    outward: bool,
}

impl Trace {
    /// Reads whole lines; how many bytes these are.
    fn read(&mut self, text: &str) -> usize {
        let whole = text.rfind('\n').map_or(0, |last| last + 1);
        text[..whole].lines().for_each(|line| self.line(line.trim()));
        whole
    }

    fn line(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("TLS"), Some(from), Some("->"), Some(to)) => {
                let callee = |end: &str| end == "10.9.0.2:5081";
                self.outward = callee(to);
                if callee(to) || callee(from) {
                    self.connections.insert(if callee(to) { from } else { to }.to_owned());
                }
            }
            (Some("SIP/2.0"), Some(status), ..) => self.status = status.parse().ok(),
            (Some(_), Some(_), Some("SIP/2.0"), None) => self.status = Some(0),
            (Some("CSeq:"), Some(_), Some(method), None) => self.message(method),
            _ => {}
        }
    }

    /// One whose method is known: the request, or what it was answered with.
    fn message(&mut self, method: &str) {
        match (self.status.take(), &mut self.asked) {
            (Some(0), asked) if self.outward && method != "ACK" => *asked = Some((method.to_owned(), None)),
            (Some(status @ 200..), Some((asked, answer))) if asked == method => *answer = Some(status),
            _ => {}
        }
    }

    /// The final answer to the request of this method that was sent last; it is told once.
    fn answer_to(&mut self, method: &str) -> Option<u16> {
        let answered = matches!(&self.asked, Some((asked, Some(_))) if asked == method);
        self.asked.take_if(|_| answered)?.1
    }
}

/// How much sound a phone has decoded, by its own account (`audio_debug`).
fn decoded_ms(told: &str) -> Option<u64> {
    let (_, receiving) = told.split_once(" rx: ")?;
    let (_, time) = receiving.split_once("time = ")?;
    let seconds: f64 = time.split_whitespace().next()?.parse().ok()?;
    Some((seconds * 1e3) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(from: &str, to: &str, first: &str, sequence: &str) -> String {
        format!(
            "\u{1b}[36;1m#\nTLS {from} -> {to}\n{first}\r\nVia: SIP/2.0/TLS x\r\nCSeq: {sequence}\r\n\r\n"
        )
    }

    #[test]
    fn a_trace_tells_which_request_was_answered_with_what() {
        let (own, callee) = ("10.9.0.1:60242", "10.9.0.2:5081");
        let mut trace = Trace::default();
        let mut hear = |text: &str| assert_eq!(trace.read(text), text.len());
        hear(&message(own, callee, "INVITE sip:voice@x SIP/2.0", "7 INVITE"));
        hear(&message(callee, own, "SIP/2.0 180 Ringing", "7 INVITE"));
        assert_eq!(trace.answer_to("INVITE"), None, "provisional");
        let text = message(callee, own, "SIP/2.0 200 OK", "7 INVITE");
        let half = text.find("CSeq").expect("it is there");
        assert_eq!(trace.read(&text[..half + 5]), half, "half a line");
        trace.read("CSeq: 7 INVITE\r\n");
        trace.read(&message(own, callee, "ACK sip:voice@x SIP/2.0", "7 ACK"));
        assert_eq!(trace.answer_to("INVITE"), Some(200));
        assert_eq!(trace.answer_to("INVITE"), None, "once");
        trace.read(&message(own, callee, "BYE sip:voice@x SIP/2.0", "8 BYE"));
        // A late one to what was asked before.
        trace.read(&message(callee, own, "SIP/2.0 200 OK", "7 INVITE"));
        assert_eq!(trace.answer_to("BYE"), None);
        trace.read(&message(callee, own, "SIP/2.0 481 Call Does Not Exist", "8 BYE"));
        assert_eq!(trace.answer_to("BYE"), Some(481));
        assert_eq!(trace.connections.len(), 1);
        trace.read(&message("10.9.0.1:60244", callee, "BYE sip:voice@x SIP/2.0", "9 BYE"));
        assert_eq!(trace.connections.len(), 2);
    }

    #[test]
    fn what_was_decoded_is_what_was_received() {
        let told = " tx:   encode: PCMA\n       time = 4.299 sec\n rx:   decode: PCMA\n       n_discard:0\n       time = 4.179 sec\n";
        assert_eq!(decoded_ms(told), Some(4179));
        assert_eq!(decoded_ms(" tx:  time = 1.0 sec\n rx: \n time = (not started)\n"), None);
    }
}
