//! Numbered transactions: what the server in the guest keeps, what client and server say, and how a client notices that
//! something it was told has been forgotten.
//!
//! Each answer is a link of a chain: `hash(last link, number, draw)`, the draw made in the guest. A restored guest that
//! does not know an answer makes another one, and the client, which names the last link with its next number, finds out.

use std::collections::HashMap;
use std::fmt::{self, Write};

/// Longest line either side takes.
pub const LINE_MAX: usize = 128;

/// The link that follows `last`.
pub fn link(last: u64, number: u64, draw: u64) -> u64 {
    // splitmix64's finisher: a changed bit changes half of them.
    let mix = |mut word: u64| {
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    };
    mix(mix(mix(last).wrapping_add(number)).wrapping_add(draw))
}

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Transaction `number`, after the one that was answered with `last`.
    Next {
        /// Whose account.
        client: u64,
        /// From 1.
        number: u64,
        /// The answer to `number - 1`; 0 to the first.
        last: u64,
    },
    /// What was `number` answered with?
    Again {
        /// Whose account.
        client: u64,
        /// One that was acknowledged.
        number: u64,
    },
}

/// What the server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The transaction's link.
    Link {
        /// Whose account.
        client: u64,
        /// The transaction.
        number: u64,
        /// Its link.
        link: u64,
    },
    /// The request does not go with what the server has.
    Forgotten {
        /// Whose account.
        client: u64,
        /// The newest transaction that the server knows.
        newest: u64,
    },
}

fn words(line: &str) -> Option<(&str, Vec<u64>)> {
    let (kind, rest) = line.trim_end_matches(['\r', '\n']).split_once(' ')?;
    let numbers = rest.split(' ').map(|word| u64::from_str_radix(word, 16).ok()).collect::<Option<_>>()?;
    Some((kind, numbers))
}

fn said(f: &mut fmt::Formatter<'_>, kind: char, numbers: &[u64]) -> fmt::Result {
    f.write_char(kind)?;
    numbers.iter().try_for_each(|number| write!(f, " {number:x}"))
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Request::Next { client, number, last } => said(f, 'T', &[client, number, last]),
            Request::Again { client, number } => said(f, 'Q', &[client, number]),
        }
    }
}

impl Request {
    /// Reads a line.
    pub fn parse(line: &str) -> Option<Request> {
        match (words(line)?.0, words(line)?.1.as_slice()) {
            ("T", &[client, number, last]) => Some(Request::Next { client, number, last }),
            ("Q", &[client, number]) => Some(Request::Again { client, number }),
            _ => None,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Answer::Link { client, number, link } => said(f, 'A', &[client, number, link]),
            Answer::Forgotten { client, newest } => said(f, 'F', &[client, newest]),
        }
    }
}

impl Answer {
    /// Reads a line.
    pub fn parse(line: &str) -> Option<Answer> {
        match (words(line)?.0, words(line)?.1.as_slice()) {
            ("A", &[client, number, link]) => Some(Answer::Link { client, number, link }),
            ("F", &[client, newest]) => Some(Answer::Forgotten { client, newest }),
            _ => None,
        }
    }
}

/// The server's side: every link of every account.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: HashMap<u64, Vec<u64>>,
}

impl Ledger {
    /// Answers a request; `draw` is used when it makes a new transaction.
    pub fn answer(&mut self, request: Request, draw: u64) -> Answer {
        match request {
            Request::Next { client, number, last } => {
                let links = self.accounts.entry(client).or_default();
                let newest = links.len() as u64;
                let before = match number.checked_sub(2) {
                    None => Some(0),
                    Some(at) => links.get(at as usize).copied(),
                };
                if number == 0 || before != Some(last) {
                    return Answer::Forgotten { client, newest };
                }
                if number == newest + 1 {
                    links.push(link(last, number, draw));
                }
                // Asked again: the answer may have been lost with a host.
                Answer::Link { client, number, link: links[number as usize - 1] }
            }
            Request::Again { client, number } => {
                let links = self.accounts.get(&client).map(Vec::as_slice).unwrap_or_default();
                match number.checked_sub(1).and_then(|at| links.get(at as usize)) {
                    Some(&link) => Answer::Link { client, number, link },
                    None => Answer::Forgotten { client, newest: links.len() as u64 },
                }
            }
        }
    }
}

/// A client's side: every answer it was given.
#[derive(Debug, Clone, Default)]
pub struct Account {
    client: u64,
    links: Vec<u64>,
}

/// What an answer means to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A new acknowledgement.
    Acknowledged,
    /// What was known.
    Known,
    /// So many acknowledged transactions are not what they were: the server has lost them.
    Lost(u64),
    /// An answer to something else.
    Stray,
}

impl Account {
    /// An empty account.
    pub fn new(client: u64) -> Account {
        Account { client, links: Vec::new() }
    }

    /// Acknowledged transactions.
    pub fn acknowledged(&self) -> u64 {
        self.links.len() as u64
    }

    /// The next transaction.
    pub fn next(&self) -> Request {
        let last = self.links.last().copied().unwrap_or(0);
        Request::Next { client: self.client, number: self.acknowledged() + 1, last }
    }

    /// A question about the newest one.
    pub fn again(&self) -> Option<Request> {
        (!self.links.is_empty()).then(|| Request::Again { client: self.client, number: self.acknowledged() })
    }

    /// Takes an answer.
    pub fn read(&mut self, answer: Answer) -> Reading {
        match answer {
            Answer::Link { client, .. } | Answer::Forgotten { client, .. } if client != self.client => {
                Reading::Stray
            }
            Answer::Link { number, link, .. } if number == self.acknowledged() + 1 => {
                self.links.push(link);
                Reading::Acknowledged
            }
            Answer::Link { number, link, .. } => {
                match number.checked_sub(1).and_then(|at| self.links.get(at as usize)) {
                    Some(&known) if known == link => Reading::Known,
                    Some(_) => Reading::Lost(self.acknowledged() + 1 - number),
                    None => Reading::Stray,
                }
            }
            // One at least: a server that has as many has others.
            Answer::Forgotten { newest, .. } => {
                Reading::Lost(self.acknowledged().saturating_sub(newest).max(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledge(account: &mut Account, ledger: &mut Ledger, draw: u64) {
        assert_eq!(account.read(ledger.answer(account.next(), draw)), Reading::Acknowledged);
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        for request in
            [Request::Next { client: 1, number: 2, last: u64::MAX }, Request::Again { client: 3, number: 4 }]
        {
            assert_eq!(Request::parse(&format!("{request}\n")), Some(request));
        }
        for answer in
            [Answer::Link { client: 1, number: 2, link: 3 }, Answer::Forgotten { client: 4, newest: 5 }]
        {
            let line = answer.to_string();
            assert!(line.len() < LINE_MAX);
            assert_eq!(Answer::parse(&line), Some(answer));
        }
        for wrong in ["", "T", "T 1 2", "T 1 2 3 4", "A x 1 2", "X 1 2 3"] {
            assert_eq!((Request::parse(wrong), Answer::parse(wrong)), (None, None), "{wrong}");
        }
    }

    #[test]
    fn a_server_that_forgets_nothing_is_never_accused() {
        let (mut account, mut ledger) = (Account::new(7), Ledger::default());
        for draw in 0..20 {
            acknowledge(&mut account, &mut ledger, draw);
            let again = account.again().expect("there is one");
            assert_eq!(account.read(ledger.answer(again, 99)), Reading::Known);
        }
        // An answer that never arrived, and the same asked again: the draw is not made a second time.
        let first = ledger.answer(account.next(), 1);
        assert_eq!(ledger.answer(account.next(), 2), first);
        assert_eq!(account.read(first), Reading::Acknowledged);
    }

    /// The server of a checkpoint taken `before` transactions ago.
    fn restored(kept: u64) -> (Account, Ledger) {
        let (mut account, mut ledger) = (Account::new(7), Ledger::default());
        for draw in 0..10 {
            acknowledge(&mut account, &mut ledger, draw);
        }
        ledger.accounts.get_mut(&7).expect("known").truncate(kept as usize);
        (account, ledger)
    }

    #[test]
    fn a_forgotten_acknowledgement_is_found_with_the_next_number_and_by_asking_again() {
        for kept in [0, 7, 9] {
            let (mut account, mut ledger) = restored(kept);
            assert_eq!(account.read(ledger.answer(account.next(), 50)), Reading::Lost(10 - kept));
            let again = account.again().expect("there is one");
            assert_eq!(account.read(ledger.answer(again, 50)), Reading::Lost(10 - kept));
        }
    }

    #[test]
    fn the_same_number_with_another_answer_is_found() {
        let (mut account, mut ledger) = restored(9);
        let Request::Next { last, .. } = restored(9).0.next() else { panic!() };
        assert_ne!(last, 0);
        // Somebody else's request makes the tenth anew.
        let mut other = account.clone();
        other.links.pop();
        assert_eq!(other.read(ledger.answer(other.next(), 77)), Reading::Acknowledged);
        let again = account.again().expect("there is one");
        assert_eq!(account.read(ledger.answer(again, 0)), Reading::Lost(1));
        assert_eq!(account.read(ledger.answer(account.next(), 0)), Reading::Lost(1));
    }

    #[test]
    fn two_draws_make_two_links() {
        assert_ne!(link(1, 2, 3), link(1, 2, 4));
        assert_ne!(link(1, 2, 3), link(1, 3, 3));
        assert_ne!(link(1, 2, 3), link(2, 2, 3));
    }
}
