//! A sch_plug in a router VM, driven by the signals that drive a plane: "epoch closed" and "committed".
//!
//! sch_plug remembers one finished epoch: told twice to begin a new one before it may release the first, it loses count
//! for good. So an epoch that closes while another travels is merged into the next, which holds its frames longer and is safe.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure, Result};
use crate::wall_clock::now_ns;

/// An emulated router, on a busy machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// More of them are counted and not kept.
const KEPT: usize = 100_000;

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Frames that come from now on belong to the next epoch.
    Buffer,
    /// Those of the finished epoch may leave.
    Release,
    /// All that is there and all that comes may leave.
    Pass,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Order::Buffer => "buffer",
            Order::Release => "release",
            Order::Pass => "pass",
        }
    }
}

/// An order that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Which.
    pub order: Order,
    /// When it was given, nanoseconds since 1970.
    pub told_ns: u64,
    /// When the router's answer was there.
    pub done_ns: u64,
}

/// Which epoch is finished and not yet released, for something that remembers one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Memory(Option<u64>);

impl Memory {
    fn close(&mut self, epoch: u64) -> Option<Order> {
        if self.0.is_some() {
            return None;
        }
        self.0 = Some(epoch);
        Some(Order::Buffer)
    }

    fn commit(&mut self, epoch: u64) -> Option<Order> {
        self.0.filter(|finished| *finished <= epoch)?;
        self.0 = None;
        Some(Order::Release)
    }
}

/// See the module's head.
pub struct Plug {
    line: BufReader<UnixStream>,
    memory: Memory,
    number: u64,
    /// What it did.
    pub done: Vec<Done>,
    /// Epochs that were merged into the next one.
    pub merged: u64,
}

impl Plug {
    /// At the socket that is the router's second serial line; `ready` has been said there, or will be.
    pub fn connect(socket: &Path) -> Result<Plug> {
        let stream =
            UnixStream::connect(socket).context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN)).context(|| "the line cannot wait".to_owned())?;
        Ok(Plug {
            line: BufReader::new(stream),
            memory: Memory::default(),
            number: 0,
            done: Vec::new(),
            merged: 0,
        })
    }

    /// An epoch is closed.
    pub fn close(&mut self, epoch: u64) -> Result<()> {
        match self.memory.close(epoch) {
            Some(order) => self.order(order).map(drop),
            None => {
                self.merged += 1;
                Ok(())
            }
        }
    }

    /// An epoch, and all before it, is committed.
    pub fn commit(&mut self, epoch: u64) -> Result<()> {
        self.memory.commit(epoch).map_or(Ok(()), |order| self.order(order).map(drop))
    }

    /// Nothing is held any more.
    pub fn pass(&mut self) -> Result<()> {
        self.memory = Memory::default();
        self.order(Order::Pass).map(drop)
    }

    /// Gives an order and waits until it is carried out.
    pub fn order(&mut self, order: Order) -> Result<Done> {
        self.number += 1;
        let what = || format!("the router does not {}", order.word());
        let told_ns = now_ns();
        writeln!(self.line.get_mut(), "{} {}", self.number, order.word()).context(what)?;
        let own = self.number.to_string();
        let deadline = Instant::now() + ANSWERS_WITHIN;
        let mut answer = String::new();
        loop {
            answer.clear();
            self.line.read_line(&mut answer).context(what)?;
            match answer.trim_end().split_once(' ') {
                Some((number, "done")) if number == own => break,
                Some((number, why)) if number == own => {
                    return Err(Failure::new(format!("{}: {why}", what())));
                }
                // `ready`, or noise on the line while it was opened.
                _ if answer.ends_with('\n') && Instant::now() < deadline => {}
                _ => return Err(Failure::new(format!("{}: it gave no answer", what()))),
            }
        }
        let done = Done { order, told_ns, done_ns: now_ns() };
        if self.done.len() < KEPT {
            self.done.push(done);
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plug_is_never_told_of_a_second_finished_epoch() {
        let mut memory = Memory::default();
        assert_eq!(memory.commit(1), None, "nothing is finished");
        assert_eq!(memory.close(1), Some(Order::Buffer));
        assert_eq!(memory.close(2), None, "epoch 2 is merged into the next one");
        assert_eq!(memory.commit(1), Some(Order::Release));
        assert_eq!(memory.commit(2), None, "its frames are not finished for the plug");
        assert_eq!(memory.close(3), Some(Order::Buffer));
        assert_eq!(memory.commit(2), None, "an older commit releases nothing");
        assert_eq!(memory.commit(3), Some(Order::Release));
    }
}
