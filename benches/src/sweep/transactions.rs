//! Transactions with the accounts in the VM, over one TCP connection, at intended moments.

use super::open_loop::{Sample, Ticks};
use crate::failure::{Context, Failure, Result};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidegate_tests::namespace::Namespace;
use tidegate_tests::survival::account::{Account, LINE_MAX, Request};
use tidegate_tests::survival::client::TELLER;
use tidegate_tests::wall_clock::now_ns;

/// From one to the next.
const EVERY: Duration = Duration::from_millis(25);
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
/// How long the last ones are waited for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    asked: Mutex<VecDeque<u64>>,
    done: Mutex<Vec<Sample>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Under way.
pub struct Transactions {
    shared: Arc<Shared>,
    stream: TcpStream,
    asks: Option<JoinHandle<()>>,
}

impl Transactions {
    /// Begins, with an account of this number.
    pub fn start(outside: &Namespace, number: u64) -> Result<Transactions> {
        let stream = outside.enter(|| {
            tidegate_tests::failure::Context::context(
                TcpStream::connect_timeout(&TELLER, CONNECTS_WITHIN),
                || "the accounts in the VM".to_owned(),
            )
        })?;
        let what = || "the accounts in the VM".to_owned();
        stream.set_nodelay(true).context(what)?;
        let mut account = Account::new(number);
        let read = stream.try_clone().context(what)?;
        let mut write = stream.try_clone().context(what)?;
        let mut lines = BufReader::new(read);
        // There has to be something to ask for.
        write.write_all(format!("{}\n", account.next()).as_bytes()).context(what)?;
        let mut line = String::new();
        lines.by_ref().take(LINE_MAX as u64).read_line(&mut line).context(what)?;
        let answer = tidegate_tests::survival::account::Answer::parse(&line);
        answer
            .map(|answer| account.read(answer))
            .ok_or_else(|| Failure::new(format!("an answer {line:?}")))?;
        let again = account.again().unwrap_or(Request::Again { client: number, number: 1 });
        let shared = Arc::new(Shared::default());
        let (asking, hearing) = (Arc::clone(&shared), Arc::clone(&shared));
        let asks = std::thread::spawn(move || ask(&mut write, again, &asking));
        std::thread::spawn(move || hear(lines, &hearing));
        Ok(Transactions { shared, stream, asks: Some(asks) })
    }

    /// Asks no more, waits for the last answers; all of them.
    pub fn finish(mut self) -> Vec<Sample> {
        self.shared.end.store(true, Ordering::SeqCst);
        let _ = self.asks.take().map(JoinHandle::join);
        let until = Instant::now() + ANSWERS_WITHIN;
        while Instant::now() < until && !lock(&self.shared.asked).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut samples = std::mem::take(&mut *lock(&self.shared.done));
        let unanswered = lock(&self.shared.asked).drain(..).collect::<Vec<_>>();
        samples.extend(unanswered.into_iter().map(|intended_ns| Sample { intended_ns, answered_ns: None }));
        samples
    }
}

impl Drop for Transactions {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn ask(write: &mut TcpStream, request: Request, shared: &Shared) {
    let mut ticks = Ticks::every(EVERY);
    let line = format!("{request}\n");
    while !shared.end.load(Ordering::SeqCst) {
        let intended_ns = ticks.wait();
        lock(&shared.asked).push_back(intended_ns);
        if write.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

fn hear(mut lines: BufReader<TcpStream>, shared: &Shared) {
    let mut line = String::new();
    loop {
        line.clear();
        match lines.by_ref().take(LINE_MAX as u64).read_line(&mut line) {
            Ok(n) if n > 0 => {}
            _ => return,
        }
        let answered_ns = Some(now_ns());
        // TCP keeps the order: each answer is the oldest request's.
        if let Some(intended_ns) = lock(&shared.asked).pop_front() {
            lock(&shared.done).push(Sample { intended_ns, answered_ns });
        }
    }
}
