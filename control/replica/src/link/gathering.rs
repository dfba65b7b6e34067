//! What a listener knows of those who dial: who is at the door, whose sessions lack a connection, whose are whole.

use crate::link::LinkError;
use crate::link::envelope::{FrameReader, FrameWriter};
use crate::link::message::{Direction, Hello, Welcome};
use crate::link::socket::{Stopper, WeakStopper};
use crate::link::wire::Wire;
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// At the door from one address; the first of them goes when one more comes.
const DOOR_PER_ADDRESS: usize = 16;
/// At the door in all.
const DOOR_MAX: usize = 64;
/// At the door, with those that were sent away and have not left yet.
const THREADS_MAX: usize = 128;
/// Sessions that lack a connection.
const FORMING_MAX: usize = 16;
/// Sessions in all: a witness serves many guests.
const WHOLE_MAX: usize = 1024;

const NO_SESSION: &str = "there is no such session, or it took too long";

/// One connection of a session.
pub(crate) enum Part {
    Up(FrameReader<Wire>),
    Down(FrameWriter<Wire>),
    Bulk(FrameReader<Wire>),
}

/// All connections of a session.
pub(crate) struct Complete {
    pub(crate) welcome: Welcome,
    pub(crate) hello: Hello,
    pub(crate) from: SocketAddr,
    pub(crate) up: FrameReader<Wire>,
    pub(crate) down: FrameWriter<Wire>,
    pub(crate) bulk: Option<FrameReader<Wire>>,
}

struct Forming {
    welcome: Welcome,
    hello: Hello,
    from: SocketAddr,
    deadline: Instant,
    up: Option<FrameReader<Wire>>,
    down: Option<FrameWriter<Wire>>,
    bulk: Option<FrameReader<Wire>>,
}

struct AtDoor {
    number: u64,
    address: IpAddr,
    stream: TcpStream,
    sent_away: bool,
}

/// See the module's head.
pub(crate) struct Gathering {
    with_bulk: bool,
    complaint_every: Duration,
    complained: Option<Instant>,
    count: u64,
    door: Vec<AtDoor>,
    forming: Vec<Forming>,
    whole: HashMap<(String, String), WeakStopper>,
}

impl Gathering {
    pub(crate) fn new(with_bulk: bool, complaint_every: Duration) -> Gathering {
        Gathering {
            with_bulk,
            complaint_every,
            complained: None,
            count: 0,
            door: Vec::new(),
            forming: Vec::new(),
            whole: HashMap::new(),
        }
    }

    /// Somebody dials: its number, or none if there are too many.
    pub(crate) fn arrived(&mut self, stream: TcpStream, address: IpAddr) -> Option<u64> {
        if self.door.len() >= THREADS_MAX {
            return None;
        }
        let waiting = |door: &&mut AtDoor| !door.sent_away;
        let same = self.door.iter().filter(|door| !door.sent_away && door.address == address).count();
        let all = self.door.iter().filter(|door| !door.sent_away).count();
        let first = if same >= DOOR_PER_ADDRESS {
            self.door.iter_mut().filter(waiting).find(|door| door.address == address)
        } else if all >= DOOR_MAX {
            self.door.iter_mut().find(waiting)
        } else {
            None
        };
        if let Some(door) = first {
            door.sent_away = true;
            let _ = door.stream.shutdown(Shutdown::Both);
        }
        self.count += 1;
        self.door.push(AtDoor { number: self.count, address, stream, sent_away: false });
        Some(self.count)
    }

    /// It is inside, or gone.
    pub(crate) fn left(&mut self, number: u64) {
        self.door.retain(|door| door.number != number);
    }

    /// Whether a refusal may be logged loudly: strangers must not fill the log.
    pub(crate) fn may_complain(&mut self, now: Instant) -> bool {
        let may = self.complained.is_none_or(|at| now.duration_since(at) >= self.complaint_every);
        if may {
            self.complained = Some(now);
        }
        may
    }

    /// A session begins; an unfinished one of the same dialer ends.
    pub(crate) fn begin(&mut self, welcome: Welcome, hello: &Hello, from: SocketAddr, deadline: Instant) {
        self.forming.retain(|other| other.hello.guest != hello.guest || other.hello.node != hello.node);
        if self.forming.len() >= FORMING_MAX {
            self.forming.remove(0);
        }
        let hello = Hello { session: welcome.session, ..hello.clone() };
        self.forming.push(Forming { welcome, hello, from, deadline, up: None, down: None, bulk: None });
    }

    /// Whether this connection belongs to a session that lacks it.
    pub(crate) fn expects(&mut self, hello: &Hello) -> Result<(), String> {
        let forming = self.of(hello).ok_or_else(|| NO_SESSION.to_owned())?.1;
        let has = match hello.direction {
            Direction::Up => forming.up.is_some(),
            Direction::Down => forming.down.is_some(),
            Direction::Bulk => forming.bulk.is_some(),
        };
        if has { Err("this session has that connection already".to_owned()) } else { Ok(()) }
    }

    fn of(&mut self, hello: &Hello) -> Option<(usize, &mut Forming)> {
        let same = |known: &Hello| {
            (&known.guest, &known.node, known.incarnation, known.role, known.session)
                == (&hello.guest, &hello.node, hello.incarnation, hello.role, hello.session)
        };
        self.forming.iter_mut().enumerate().find(|(_, forming)| same(&forming.hello))
    }

    /// One of its connections; all of them, if it was the last.
    pub(crate) fn add(&mut self, hello: &Hello, part: Part) -> Result<Option<Box<Complete>>, String> {
        self.expects(hello)?;
        let with_bulk = self.with_bulk;
        let (at, forming) = self.of(hello).ok_or_else(|| NO_SESSION.to_owned())?;
        match part {
            Part::Up(up) => forming.up = Some(up),
            Part::Down(down) => forming.down = Some(down),
            Part::Bulk(bulk) => forming.bulk = Some(bulk),
        }
        if forming.up.is_none() || forming.down.is_none() || (with_bulk && forming.bulk.is_none()) {
            return Ok(None);
        }
        let Forming { welcome, hello, from, up, down, bulk, .. } = self.forming.remove(at);
        Ok(up.zip(down).map(|(up, down)| Box::new(Complete { welcome, hello, from, up, down, bulk })))
    }

    /// A whole session takes the place of an older one.
    pub(crate) fn replace(&mut self, hello: &Hello, stopper: &Stopper) -> Result<(), LinkError> {
        self.whole.retain(|_, session| !session.is_gone());
        // A standby has one primary; a witness hears all nodes of a guest.
        let node = if self.with_bulk { String::new() } else { hello.node.clone() };
        let key = (hello.guest.clone(), node);
        if self.whole.len() >= WHOLE_MAX && !self.whole.contains_key(&key) {
            return Err(LinkError::Refused(format!("{WHOLE_MAX} sessions are served already")));
        }
        if let Some(older) = self.whole.insert(key, stopper.weak()) {
            older.stop();
        }
        Ok(())
    }

    /// Ends what took too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.forming.retain(|forming| now < forming.deadline);
    }

    /// Ends all that is not whole.
    pub(crate) fn stop_all(&mut self) {
        self.forming.clear();
        for door in &self.door {
            let _ = door.stream.shutdown(Shutdown::Both);
        }
    }
}
