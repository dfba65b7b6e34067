//! The clients outside that keep accounts with the guest: one connection for everything, or a new one each time.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::account::{Account, Answer, LINE_MAX, Reading, Request};
use crate::failure::Result;
use crate::namespace::Namespace;

/// Where the teller keeps accounts.
pub const TELLER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 2)), 5100);
/// A connection that does not go on for so long is broken.
pub const GOES_ON_WITHIN: Duration = Duration::from_secs(30);
/// How often a blocked read looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);
/// From an answer to the next request: a guest that holds nothing would answer thousands a second.
const REST: Duration = Duration::from_millis(10);
/// Every so many transactions the newest is asked for again.
const AGAIN_EVERY: u64 = 4;

/// How a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// One connection.
    Keeps,
    /// A new one for each transaction.
    Renews,
}

/// What a client has met.
#[derive(Debug, Clone)]
pub struct Record {
    /// Acknowledged transactions.
    pub acknowledged: u64,
    /// Acknowledgements that the server has forgotten, or answers differently.
    pub lost: u64,
    /// Connections that were reset, closed, or refused, and why.
    pub broken: Vec<String>,
    /// When the last answer came.
    pub last_answer: Instant,
}

struct Shared {
    end: AtomicBool,
    record: Mutex<Record>,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client at work. Its thread ends soon after its value.
pub struct Client {
    shared: Arc<Shared>,
    /// How it connects.
    pub habit: Habit,
}

impl Client {
    /// Begins, with an account of this number.
    pub fn start(outside: &Namespace, number: u64, habit: Habit) -> Result<Client> {
        let record = Record { acknowledged: 0, lost: 0, broken: Vec::new(), last_answer: Instant::now() };
        let shared = Arc::new(Shared { end: AtomicBool::new(false), record: Mutex::new(record) });
        let own = Arc::clone(&shared);
        outside.thread(move || Work { account: Account::new(number), number, habit, shared: own }.run())?;
        Ok(Client { shared, habit })
    }

    /// How it stands.
    pub fn record(&self) -> Record {
        self.shared.record().clone()
    }

    /// How it stands at the end: a connection that has been silent for too long is broken too.
    pub fn finish(self) -> Record {
        self.shared.end.store(true, Ordering::SeqCst);
        let mut record = self.record();
        if record.last_answer.elapsed() >= GOES_ON_WITHIN {
            record.broken.push(format!("no answer within {GOES_ON_WITHIN:?}"));
        }
        record
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
    }
}

struct Work {
    account: Account,
    number: u64,
    habit: Habit,
    shared: Arc<Shared>,
}

impl Work {
    fn ends(&self) -> bool {
        self.shared.end.load(Ordering::SeqCst)
    }

    fn run(mut self) {
        while !self.ends() {
            if let Err(why) = self.connection()
                && !self.ends()
            {
                self.shared.record().broken.push(why);
                // A dead host's neighbour answers at once.
                std::thread::sleep(LOOK);
            }
        }
    }

    /// From its beginning to its end.
    fn connection(&mut self) -> std::result::Result<(), String> {
        let stream =
            TcpStream::connect_timeout(&TELLER, GOES_ON_WITHIN).map_err(|e| format!("connecting: {e}"))?;
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(LOOK)))
            .map_err(|e| e.to_string())?;
        let mut lines = BufReader::new(&stream);
        loop {
            self.ask(&stream, &mut lines, self.account.next())?;
            if self.account.acknowledged().is_multiple_of(AGAIN_EVERY)
                && let Some(again) = self.account.again()
            {
                self.ask(&stream, &mut lines, again)?;
            }
            std::thread::sleep(REST);
            if self.ends() || self.habit == Habit::Renews {
                return Ok(());
            }
        }
    }

    fn ask(
        &mut self,
        mut stream: &TcpStream,
        lines: &mut BufReader<&TcpStream>,
        request: Request,
    ) -> std::result::Result<(), String> {
        stream.write_all(format!("{request}\n").as_bytes()).map_err(|e| format!("asking: {e}"))?;
        let mut line = String::new();
        while !line.ends_with('\n') {
            if self.ends() {
                return Ok(());
            }
            let room = LINE_MAX.saturating_sub(line.len()) as u64;
            match lines.by_ref().take(room).read_line(&mut line) {
                Ok(0) => return Err("the guest closed the connection".to_owned()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(format!("waiting for an answer: {e}")),
            }
        }
        let answer = Answer::parse(&line).ok_or_else(|| format!("the answer {line:?}"))?;
        let reading = self.account.read(answer);
        let mut record = self.shared.record();
        record.last_answer = Instant::now();
        match reading {
            Reading::Acknowledged => record.acknowledged += 1,
            Reading::Known => {}
            Reading::Stray => return Err(format!("an answer to something else: {line:?}")),
            Reading::Lost(count) => {
                record.lost += count;
                // Each loss is counted once: what follows is another account.
                self.number += 1 << 32;
                self.account = Account::new(self.number);
            }
        }
        Ok(())
    }
}
