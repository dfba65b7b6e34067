//! A plane without DPDK: the shipped lanes, lcore loop, ledger and server over ports in memory. The lcore is a
//! thread that the test can stop and let go on.
#![allow(dead_code)] // each test file uses its part

pub mod call;

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidegate_control::config::{Config, PolicySpec};
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::classify::Classifier;
use tidegate_dataplane::ear::Ear;
use tidegate_dataplane::guest::{Guest, Rings};
use tidegate_dataplane::hold::Quota;
use tidegate_dataplane::lane::{Lane, LaneConfig, LaneShared};
use tidegate_dataplane::lcore::{Idle, Lcore, LcoreShared};
use tidegate_dataplane::port::{Frame, Port};
use tidegate_dataplane::tsc::{Clock, TscRate};
use tidegate_plane::events::Hub;
use tidegate_plane::generation::Generations;
use tidegate_plane::guest::{GuestPlane, LaneSeat, mode};
use tidegate_plane::plane::Plane;
use tidegate_plane::server::Server;
use tidegate_plane::signalling::Listening;
use tidegate_plane::socket::ControlSocket;
use tidegate_plane::{timer, watch};

/// Nanoseconds as ticks.
#[derive(Clone, Copy)]
pub struct Nanos(Instant);

impl Clock for Nanos {
    fn now(&self) -> u64 {
        1 + u64::try_from(self.0.elapsed().as_nanos()).expect("not for 584 years")
    }
}

/// A frame in memory.
pub struct Bytes(Vec<u8>);

impl Frame for Bytes {
    fn head(&self) -> &[u8] {
        &self.0
    }
    fn len(&self) -> u32 {
        self.0.len() as u32
    }
    fn segments(&self) -> u16 {
        1
    }
    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        see(&self.0);
    }
}

/// What is on its way to a lane, and what came out of it.
#[derive(Clone, Default)]
pub struct Pipe {
    pub to_lane: Arc<Mutex<VecDeque<Vec<u8>>>>,
    pub from_lane: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Port for Pipe {
    type Frame = Bytes;
    fn queues(&self) -> u16 {
        1
    }
    fn receive(&mut self, _queue: u16, burst: &mut Burst<Bytes>) -> usize {
        let mut queue = self.to_lane.lock().expect("sound");
        let mut got = 0;
        while got < 32
            && let Some(frame) = queue.pop_front()
        {
            burst.push(Bytes(frame)).ok().expect("room for 32");
            got += 1;
        }
        got
    }
    fn transmit(&mut self, _queue: u16, burst: &mut Burst<Bytes>) -> usize {
        let mut sent = 0;
        while let Some(frame) = burst.pop() {
            self.from_lane.lock().expect("sound").push(frame.0);
            sent += 1;
        }
        sent
    }
    fn compose(&mut self, bytes: &[u8]) -> Option<Bytes> {
        Some(Bytes(bytes.to_vec()))
    }
}

/// A frame of a protocol that is neither IP nor an announcement: held under every policy but `bypass-all`.
pub fn frame(n: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.resize(60, n);
    frame
}

/// A running plane. Ends when dropped.
pub struct Rig {
    pub plane: Arc<Plane>,
    pub path: PathBuf,
    pub guest_ends: Vec<Pipe>,
    pub wires: Vec<Pipe>,
    frozen: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _listening: Option<Listening>,
    _dir: tempfile::TempDir,
}

/// One guest `pbx` with one lane; `keys` go into its section.
pub fn guest(name: &str, n: usize, keys: &str) -> String {
    format!(
        "[[guest]]\nname = \"{name}\"\n{keys}\n[[guest.lane]]\nguest_port = \"net_vhost{n},iface=/r/{n}\"\n\
         wire_port = \"net_null{n}\"\nlcore = 1\nhold_frames = 64\n"
    )
}

impl Rig {
    /// A plane of one guest `pbx`.
    pub fn one(keys: &str) -> Rig {
        Rig::new(&guest("pbx", 0, keys), &[])
    }

    pub fn new(config: &str, allow_uids: &[u32]) -> Rig {
        Rig::behind(Rings::Stopped, config, allow_uids)
    }

    /// The same behind ports whose rings stand so.
    pub fn behind(rings: Rings, config: &str, allow_uids: &[u32]) -> Rig {
        let config = Config::parse(config, "rig").expect("a good configuration");
        let (clock, rate) = (Nanos(Instant::now()), TscRate::new(1_000_000_000));
        let hub = Arc::new(Hub::default());
        let generations = Generations::default();
        let (mut guests, mut lanes, mut guest_ends, mut wires) = (vec![], vec![], vec![], vec![]);
        for guest in &config.guests {
            let generation = generations.next().expect("random bytes");
            let mut ledger =
                Guest::new(mode(guest.mode), guest.leased, generation, guest.max_epochs_in_flight);
            let mut seats = vec![];
            for lane in &guest.lanes {
                let policy = PolicySpec::of(guest).compile().expect("a good policy");
                let mut classifier = Classifier::new(policy, 64.max(lane.streams as usize), rate, &mut Heap);
                classifier.set_srtcp(guest.srtcp());
                let shared = LaneShared::with_ear(
                    ledger.gate(),
                    classifier.table(),
                    Ear::new(&guest.sip_ports, guest.learn_turn, 1500),
                    &mut Heap,
                );
                ledger.add(Arc::clone(&shared.gate), rings);
                let lane_config = LaneConfig {
                    quota: Quota { mbufs: lane.hold_frames.into(), bytes: lane.hold_bytes.0 },
                    mode: mode(guest.mode),
                    ..LaneConfig::default()
                };
                let (end, wire) = (Pipe::default(), Pipe::default());
                lanes.push(Lane::new(
                    end.clone(),
                    wire.clone(),
                    clock,
                    rate,
                    Arc::clone(&shared),
                    classifier,
                    lane_config,
                    &mut Heap,
                ));
                guest_ends.push(end);
                wires.push(wire);
                seats.push(LaneSeat { config: lane.clone(), shared });
            }
            let now = Arc::new(move || clock.now());
            guests.push(Arc::new(GuestPlane::new(guest.clone(), ledger, seats, Arc::clone(&hub), now)));
        }
        let lcore = LcoreShared::new(&mut Heap);
        let frozen = Arc::new(AtomicBool::new(false));
        let idle = Idle::BackOff { max_sleep: Duration::from_micros(50) };
        let running = Lcore::new(lanes, clock, idle, Arc::clone(&lcore));
        let stop = Arc::new(AtomicBool::new(false));
        let lcore_thread = run_lcore(running, clock, [&frozen, &stop].map(Arc::clone), Arc::clone(&lcore));
        let started = Instant::now();
        let plane = Arc::new(Plane { guests, lcores: vec![(1, lcore)], rate, hub, generations, started });
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/t.sock");
        let listening = Listening::start(&plane).expect("a thread");
        let server = serve(Arc::clone(&plane), path.clone(), allow_uids.to_vec());
        let threads = vec![server, lcore_thread];
        let rig =
            Rig { plane, path, guest_ends, wires, frozen, stop, threads, _listening: listening, _dir: dir };
        assert!(within(Duration::from_secs(5), || UnixStream::connect(&rig.path).is_ok()), "it listens");
        rig
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.path)
    }

    /// The lcore stops polling, as one would that hangs.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, SeqCst);
        std::thread::sleep(Duration::from_millis(if frozen { 20 } else { 0 }));
    }

    /// The guest of lane `n` sends a frame; returns once the lane has taken it.
    pub fn send(&self, lane: usize, n: u8) {
        self.guest_ends[lane].to_lane.lock().expect("sound").push_back(frame(n));
        let taken = || self.guest_ends[lane].to_lane.lock().expect("sound").is_empty();
        assert!(within(Duration::from_secs(5), taken), "the lane takes it");
        std::thread::sleep(Duration::from_millis(2));
    }

    /// Last bytes of the frames made by [`frame`] that the wire of lane `n` saw; the plane's own announcements are none.
    pub fn on_wire(&self, lane: usize) -> Vec<u8> {
        let wire = self.wires[lane].from_lane.lock().expect("sound");
        wire.iter().filter(|frame| frame[12..14] == [0x88, 0xb5]).map(|frame| frame[59]).collect()
    }

    /// The same, once there are `count` of them.
    pub fn wire_sees(&self, lane: usize, count: usize) -> Vec<u8> {
        within(Duration::from_secs(5), || self.on_wire(lane).len() >= count);
        self.on_wire(lane)
    }

    /// Ends the server and the lcore, waits for both.
    pub fn stop(&mut self) {
        self.freeze(false);
        // After a panic there may be more sessions than are taken in, until the server sees them end.
        let told = || {
            let Ok(mut stream) = UnixStream::connect(&self.path) else { return true };
            let mut lines = String::new();
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.write_all(b"{\"execute\":\"shutdown\"}\n");
            let _ = stream.read_to_string(&mut lines);
            !lines.contains("too-many-sessions")
        };
        within(Duration::from_secs(20), told);
        self.stop.store(true, SeqCst);
        self.threads.drain(..).for_each(|thread| thread.join().expect("ends well"));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

fn run_lcore(
    mut lcore: Lcore<Pipe, Pipe, Nanos>,
    clock: Nanos,
    [frozen, stop]: [Arc<AtomicBool>; 2],
    shared: Arc<LcoreShared>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(120);
        while !stop.load(SeqCst) && Instant::now() < end {
            if !frozen.load(SeqCst) {
                lcore.poll(clock.now());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        shared.stop();
        lcore.run(); // Drops what is held.
    })
}

fn serve(plane: Arc<Plane>, path: PathBuf, allow_uids: Vec<u32>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        let socket = {
            let _entered = runtime.enter();
            ControlSocket::bind(&path, !allow_uids.is_empty()).expect("binds")
        };
        for guest in &plane.guests {
            if let Some(timer) = guest.config.timer {
                local.spawn_local(timer::run(Arc::clone(guest), timer));
            }
        }
        local.spawn_local(watch::run(Arc::clone(&plane)));
        let server = Server::new(plane, allow_uids);
        local.block_on(&runtime, server.serve(&socket));
    })
}

/// True once `done`, false when it is not in time.
pub fn within(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A connection that shares no code with the shipped client.
pub struct Client {
    pub lines: BufReader<UnixStream>,
    pub events: VecDeque<Value>,
    id: u64,
}

impl Client {
    pub fn connect(path: &Path) -> Client {
        Client::admitted(path).expect("a greeting")
    }

    /// None when all seats are taken.
    pub fn seated(path: &Path) -> Option<Client> {
        let mut client = Client::admitted(path)?;
        client.ask("hello", json!({})).is_ok().then_some(client)
    }

    /// None when it is turned away at once.
    pub fn admitted(path: &Path) -> Option<Client> {
        let stream = UnixStream::connect(path).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        let mut client = Client { lines: BufReader::new(stream), events: VecDeque::new(), id: 0 };
        let greeting = client.read().expect("a greeting or a refusal");
        greeting["tidegate"]["version"].is_string().then_some(client)
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.lines.get_mut().write_all(bytes).expect("written");
    }

    pub fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("JSON")),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(e) => panic!("{e}"),
        }
    }

    /// `Ok` with what was returned, `Err` with the reason.
    pub fn ask(&mut self, verb: &str, arguments: Value) -> Result<Value, String> {
        self.id += 1;
        let id = self.id;
        self.write(format!("{}\n", json!({"id": id, "execute": verb, "arguments": arguments})).as_bytes());
        loop {
            let message = self.read().expect("an answer");
            if message["event"].is_string() {
                self.events.push_back(message);
                continue;
            }
            assert_eq!(message["id"], id, "{message}");
            if let Some(value) = message.get("return") {
                return Ok(value.clone());
            }
            assert!(message["error"]["desc"].is_string(), "{message}");
            return Err(message["error"]["reason"].as_str().expect("a reason").to_owned());
        }
    }

    pub fn grant(&mut self, verb: &str, arguments: Value) -> Value {
        self.ask(verb, arguments.clone()).unwrap_or_else(|reason| panic!("{verb} {arguments}: {reason}"))
    }

    pub fn refuse(&mut self, verb: &str, arguments: Value) -> String {
        match self.ask(verb, arguments.clone()) {
            Ok(value) => panic!("{verb} {arguments} was granted: {value}"),
            Err(reason) => reason,
        }
    }

    /// The next event of this name; others before it are passed over.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.read().expect("an event"),
            };
            if event["event"] == name {
                assert!(event["timestamp"]["seconds"].is_u64(), "{event}");
                return event["data"].clone();
            }
        }
    }

    /// Closes; returns generation and epoch.
    pub fn close(&mut self) -> (u64, u64) {
        let closed = self.grant("close", json!({}));
        (closed["generation"].as_u64().expect("a number"), closed["epoch"].as_u64().expect("a number"))
    }
}
