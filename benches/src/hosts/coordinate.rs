//! The coordinator: leads the agents through one run after the other and fetches the raw samples.
//!
//! | file of a run | what |
//! |---|---|
//! | `generator-sent.bin`, `sink-received.bin` | calls out of the guest: [`Record`](super::media::Record)s |
//! | `sink-sent.bin`, `generator-received.bin` | calls towards it |
//! | `sink-transactions.csv` | each transaction: intended, answered |
//! | `sink-sip-tcp.csv`, `sink-sip-udp.csv` | sipp's response times |
//! | `generator-tcp.log` | iperf3, every tenth of a second |
//! | `run.json` | [`Kept`]; written last, so a directory that has it is complete |

use super::clock::{Offset, Reading};
use super::door::{Secret, enters};
use super::message::{Answer, FILE_MAX, Request, Role, receive, send};
use super::scenario::{Run, Scenario};
use crate::failure::{Context, Failure, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidegate_tests::wall_clock::now_ns;

const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
/// An agent starts a plane, or keeps files, before it answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// Questions for a clock.
const ASKS: usize = 20;
/// How often it is told how far a run is.
const TELL_EVERY: Duration = Duration::from_secs(2);
const KEPT: &str = "run.json";

/// What is known of a run beside its samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What was run.
    pub run: Run,
    /// What each host answered at the end.
    pub hosts: BTreeMap<String, Value>,
    /// What is to be added to the generator's moments to have them on the sink's clock, nanoseconds.
    pub offset_ns: i64,
    /// It may be wrong by so much.
    pub unsure_ns: u64,
}

/// Where a run's samples are.
pub fn directory(run: &Run, out: &Path) -> PathBuf {
    out.join(&run.name)
}

/// What was kept of a run, if it is complete.
pub fn kept(run: &Run, out: &Path) -> Result<Option<Kept>> {
    let path = directory(run, out).join(KEPT);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.context(|| format!("cannot read {}", path.display()))?,
    };
    let kept: Kept = serde_json::from_str(&text).context(|| {
        format!("{}: not what this program writes; take another --out, or --again", path.display())
    })?;
    if kept.run != *run {
        return Err(Failure::new(format!(
            "{} is of another run of that name: take another --out, or --again to measure anew",
            path.display()
        )));
    }
    Ok(Some(kept))
}

/// A connection to an agent.
struct Agent {
    name: &'static str,
    stream: TcpStream,
    from: BufReader<TcpStream>,
}

impl Agent {
    fn enter(role: Role, at: SocketAddr, secret: &Secret) -> Result<Agent> {
        let what = || format!("the {}'s agent at {at}", role.name());
        let stream = TcpStream::connect_timeout(&at, CONNECTS_WITHIN).context(what)?;
        stream.set_nodelay(true).context(what)?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN)).context(what)?;
        stream.set_write_timeout(Some(ANSWERS_WITHIN)).context(what)?;
        let mut from = BufReader::new(stream.try_clone().context(what)?);
        enters(secret, &mut from, &mut &stream).context(what)?;
        Ok(Agent { name: role.name(), stream, from })
    }

    fn ask(&mut self, request: &Request) -> Result<Value> {
        send(&mut &self.stream, request).context(|| self.name.into())?;
        match receive(&mut self.from).context(|| self.name.into())? {
            Some(Answer::Done(value)) => Ok(value),
            Some(Answer::Refused(why)) => Err(Failure::new(format!("{}: {why}", self.name))),
            None => Err(Failure::new(format!(
                "{}: the agent has ended, or serves another coordinator",
                self.name
            ))),
        }
    }

    fn offset(&mut self) -> Result<Offset> {
        let mut asked = Vec::new();
        for _ in 0..ASKS {
            let before = now_ns();
            let told = self.ask(&Request::Clock)?;
            let after = now_ns();
            let reading: Reading =
                serde_json::from_value(told).context(|| format!("{}: its clock", self.name))?;
            asked.push((before, reading, after));
        }
        Ok(Offset::of(asked))
    }

    fn fetch(&mut self, file: &str, to: &Path) -> Result<()> {
        let name = self.name;
        let what = || format!("{name}: {file}");
        let told = self.ask(&Request::Fetch { file: file.to_owned() })?;
        let length = told["length"].as_u64().filter(|length| *length <= FILE_MAX);
        let length =
            length.ok_or_else(|| Failure::new(format!("{}: a file of no length that is taken", what())))?;
        let mut target = fs::File::create(to).context(|| format!("cannot write {}", to.display()))?;
        let copied = std::io::copy(&mut (&mut self.from).take(length), &mut target).context(what)?;
        if copied == length { Ok(()) } else { Err(Failure::new(format!("{} ended too early", what()))) }
    }
}

/// The agents of a scenario.
pub struct Hosts {
    generator: Agent,
    plane: Option<Agent>,
    sink: Agent,
}

impl Hosts {
    /// Connects to all of them.
    pub fn enter(scenario: &Scenario, secret: &Secret) -> Result<Hosts> {
        let plane = scenario.plane.as_ref();
        Ok(Hosts {
            generator: Agent::enter(Role::Generator, scenario.generator.control, secret)?,
            plane: plane.map(|plane| Agent::enter(Role::Plane, plane.control, secret)).transpose()?,
            sink: Agent::enter(Role::Sink, scenario.sink.control, secret)?,
        })
    }

    /// One run; `tell` gets a line now and then.
    pub fn run(&mut self, scenario: &Scenario, run: &Run, out: &Path, tell: &dyn Fn(&str)) -> Result<()> {
        let dir = directory(run, out);
        let _ = fs::remove_file(dir.join(KEPT));
        fs::create_dir_all(&dir).context(|| format!("cannot make {}", dir.display()))?;
        let (offset_ns, unsure_ns) = self.generator.offset()?.to(&self.sink.offset()?);
        if let (Some(agent), Some(plane)) = (&mut self.plane, &scenario.plane) {
            agent.ask(&Request::Plane { ports: plane.ports.clone(), run: run.clone() })?;
        }
        let [generator, sink] = scenario.ports().map_err(Failure::new)?;
        let traffic = |role, port| Request::Traffic { role, port, run: run.clone() };
        self.generator.ask(&traffic(Role::Generator, generator))?;
        self.sink.ask(&traffic(Role::Sink, sink))?;
        self.generator.ask(&Request::Start)?;
        self.sink.ask(&Request::Start)?;
        let end = Instant::now() + run.span();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(TELL_EVERY));
            let (sent, received) =
                (self.generator.ask(&Request::Progress)?, self.sink.ask(&Request::Progress)?);
            if let Some(plane) = &mut self.plane {
                plane.ask(&Request::Progress)?;
            }
            if left <= TELL_EVERY {
                break;
            }
            let left = (left - TELL_EVERY).as_secs_f64();
            tell(&format!(
                "{} packets sent, {} received, {left:.0} s left",
                sent["sent"], received["received"]
            ));
        }
        self.sink.ask(&Request::Quiet)?;
        self.generator.ask(&Request::Quiet)?;
        let mut hosts = BTreeMap::new();
        for agent in [&mut self.generator, &mut self.sink].into_iter().chain(&mut self.plane) {
            let told = agent.ask(&Request::Stop)?;
            for file in told["files"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                // The name is the other side's word: it becomes a file of this directory and no other.
                if file.contains('/') || file.starts_with('.') {
                    return Err(Failure::new(format!("{}: a file named {file:?}", agent.name)));
                }
                agent.fetch(file, &dir.join(format!("{}-{file}", agent.name)))?;
            }
            hosts.insert(agent.name.to_owned(), told);
        }
        let kept = Kept { run: run.clone(), hosts, offset_ns, unsure_ns };
        let (path, aside) = (dir.join(KEPT), dir.join("run.part"));
        let text = serde_json::to_string(&kept).context(|| "the run cannot be written".into())?;
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .context(|| format!("cannot write {}", path.display()))
    }
}
