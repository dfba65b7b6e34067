//! What a configuration that parses may still get wrong. All problems at once, each with its key and remedy.

use super::{Config, Guest, Hugepages, Idle, Lane, Pages, Source};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use tidegate_dataplane::streams::MAX_STREAMS;
use tidegate_devargs::Devargs;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as one would say it: `guest pbx, lane 0: wire_port`.
    pub key: String,
    /// What is wrong, and what to do.
    pub what: String,
}

/// Everything that is wrong, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            let end = if n + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "{}: {}{end}", problem.key, problem.what)?;
        }
        Ok(())
    }
}

/// What the host has, as far as a configuration depends on it.
#[derive(Clone, Debug)]
pub struct Host {
    /// CPUs this process may run on.
    pub cpus: Vec<usize>,
    /// Where its `/sys` is.
    pub root: PathBuf,
}

impl Host {
    /// The host we run on.
    pub fn this() -> Host {
        let own = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
        let has = |cpu: &usize| own.as_ref().is_ok_and(|set| set.is_set(*cpu).unwrap_or(false));
        Host { cpus: (0..nix::sched::CpuSet::count()).filter(has).collect(), root: "/".into() }
    }
}

/// The most bytes that a Unix socket's path can have.
const LONGEST_PATH: usize = 107;
/// The most bytes of room that an mbuf can have, in front of which lie 128 more.
const LARGEST_ROOM: u32 = u16::MAX as u32 - 128;

/// The part of devargs that must be unique in a process: the device, and what it is bound to.
fn identities(port: &str) -> Vec<String> {
    // What cannot be understood is told elsewhere; a device without a number has been given one of its own.
    let Ok(devargs) = Devargs::parse(port) else { return Vec::new() };
    let bound = devargs.args.into_iter().filter(|(key, _)| matches!(&**key, "iface" | "path" | "remote"));
    std::iter::once(devargs.name).chain(bound.map(|(_, value)| format!("iface={value}"))).collect()
}

#[derive(Default)]
struct Checker {
    problems: Vec<Problem>,
}

impl Checker {
    fn say(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem { key: key.into(), what: what.into() });
    }

    fn require(&mut self, good: bool, key: impl Into<String>, what: impl Into<String>) {
        if !good {
            self.say(key, what);
        }
    }

    fn done(self) -> Result<(), Problems> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }
}

impl Config {
    /// Checks what can be said without looking at the host.
    pub fn check(&self) -> Result<(), Problems> {
        let mut checker = Checker::default();
        self.check_process(&mut checker);
        let mut names = HashMap::new();
        let mut ports: HashMap<String, String> = HashMap::new();
        for (n, guest) in self.guests.iter().enumerate() {
            let at = format!("guest {}", guest.name);
            if let Some(other) = names.insert(&guest.name, n) {
                checker.say(&at, format!("guests {other} and {n} have this name; give each its own"));
            }
            check_guest(&mut checker, guest, &at);
            for (m, lane) in guest.lanes.iter().enumerate() {
                let at = format!("{at}, lane {m}");
                self.check_lane(&mut checker, lane, &at);
                for (key, port) in [("guest_port", &lane.guest_port), ("wire_port", &lane.wire_port)] {
                    for identity in identities(port) {
                        let here = format!("{at}: {key}");
                        if let Some(there) = ports.insert(identity.clone(), here.clone()) {
                            checker.say(
                                here,
                                format!(
                                    "`{identity}` is used by {there} too; a port serves one side of one lane"
                                ),
                            );
                        }
                    }
                }
            }
        }
        checker.done()
    }

    /// Checks what depends on the host.
    pub fn check_host(&self, host: &Host) -> Result<(), Problems> {
        let mut checker = Checker::default();
        for (key, cpus) in [("lcore", self.lcores()), ("eal.control_cpus", self.eal.control_cpus.clone())] {
            for cpu in cpus {
                checker.require(
                    host.cpus.contains(&cpu),
                    key,
                    format!("CPU {cpu} is not one this process may use; it may use {:?}", host.cpus),
                );
            }
        }
        let free = host.cpus.iter().any(|cpu| !self.lcores().contains(cpu));
        checker.require(
            free || self.eal.idle == Idle::Backoff,
            "lcore",
            "every CPU runs a lane that never sleeps, so the control thread would starve; \
             leave one CPU free, or set eal.idle = \"backoff\"",
        );
        checker.done()
    }

    fn check_process(&self, checker: &mut Checker) {
        checker.require(
            !self.guests.is_empty(),
            "guest",
            "no guest; add a [[guest]] with a name and a [[guest.lane]]",
        );
        let named = &self.eal.lcores;
        for lcore in self.lcores() {
            checker.require(
                named.is_empty() || named.contains(&lcore),
                "eal.lcores",
                format!(
                    "a lane names lcore {lcore}; add it to eal.lcores = {named:?}, or leave that key out"
                ),
            );
            let shared = self.eal.control_cpus.contains(&lcore) && self.eal.idle == Idle::Spin;
            checker.require(
                !shared,
                "eal.control_cpus",
                format!(
                    "CPU {lcore} runs a lane that never sleeps; name another CPU, or set eal.idle = \"backoff\""
                ),
            );
        }
        let longest = (1..=1_000_000).contains(&self.eal.max_sleep_us);
        checker.require(longest, "eal.max_sleep_us", "must be 1 to 1000000 microseconds");
        let socket = &self.control.socket;
        checker.require(
            socket.is_absolute() && socket.parent().is_some_and(|dir| dir != Path::new("/")),
            "control.socket",
            format!("{} must be an absolute path in a directory of its own", socket.display()),
        );
        checker.require(
            socket.as_os_str().len() < 108,
            "control.socket",
            "a socket's path has at most 107 bytes; choose a shorter one",
        );
        checker.require(self.control.hlog_interval_s > 0, "control.hlog_interval_s", "must be at least 1");
        checker.require(self.eal.memory_mb <= 1 << 20, "eal.memory_mb", "must be at most 1048576 MiB");
        let pages = if self.eal.hugepages == Hugepages::No { Pages::Plain } else { Pages::Huge };
        let (needed, has) = (self.needed_mb(pages), self.eal.memory_mb);
        checker.require(
            needed <= has,
            "eal.memory_mb",
            format!(
                "the lanes need {needed} MiB of {} pages (hold_frames, descriptors, mtu), memory_mb is {has}; \
                 set eal.memory_mb = {needed} (--memory-mb {needed}) or hold fewer frames",
                pages.name()
            ),
        );
    }

    fn check_lane(&self, checker: &mut Checker, lane: &Lane, at: &str) {
        let key = |key: &str| format!("{at}: {key}");
        for (name, port) in [("guest_port", &lane.guest_port), ("wire_port", &lane.wire_port)] {
            match Devargs::parse(port) {
                Ok(devargs) => check_port(checker, &devargs, lane.mtu, at, name),
                Err(why) => checker.say(key(name), format!("`{port}`: {why}")),
            }
        }
        checker.require((1..=16).contains(&lane.queues), key("queues"), "must be 1 to 16");
        checker.require(
            (64..=1 << 22).contains(&lane.hold_frames),
            key("hold_frames"),
            "must be 64 to 4194304 mbufs",
        );
        checker.require(lane.hold_bytes.0 >= 64 << 10, key("hold_bytes"), "must be at least 64KiB");
        checker.require(
            (64..=MAX_STREAMS as u32).contains(&lane.streams),
            key("streams"),
            "must be 64 to 1048576",
        );
        checker.require((576..=9000).contains(&lane.mtu), key("mtu"), "must be 576 to 9000 bytes");
        for (name, desc) in [("rx_desc", lane.rx_desc), ("tx_desc", lane.tx_desc)] {
            let good = desc.is_power_of_two() && (64..=8192).contains(&desc);
            checker.require(good, key(name), "must be a power of two from 64 to 8192");
        }
    }
}

fn check_port(checker: &mut Checker, devargs: &Devargs, mtu: u16, at: &str, name: &str) {
    let key = |key: &str| format!("{at}: {key}");
    let wanted = match devargs.kind() {
        _ if devargs.is_pci() => None,
        "vhost" => Some(("iface", "a socket: add ,iface=/run/tidegate/NAME.sock")),
        "virtio_user" => Some(("path", "a socket: add ,path=/run/NAME.sock")),
        "af_packet" | "af_xdp" => Some(("iface", "an interface of the kernel: add ,iface=eth1")),
        _ => None,
    };
    if let Some((argument, what)) = wanted {
        let value = devargs.get(argument).unwrap_or_default();
        checker.require(!value.is_empty(), key(name), format!("net_{} needs {what}", devargs.kind()));
        checker.require(
            what.starts_with("an ") || value.len() <= LONGEST_PATH,
            key(name),
            format!("a socket's path has at most {LONGEST_PATH} bytes, {value} has {}", value.len()),
        );
    }
    if let Some(most) = devargs.largest_mtu() {
        let what = format!("net_{} has {most} at most; lower it", devargs.kind());
        checker.require(mtu <= most, key("mtu"), what);
    }
    let room = devargs.data_room(mtu);
    let what = format!("wants mbufs of {room} bytes; {LARGEST_ROOM} is the most, so lower mtu or framesz");
    checker.require(room <= LARGEST_ROOM, key(name), what);
}

fn check_guest(checker: &mut Checker, guest: &Guest, at: &str) {
    let key = |key: &str| format!("{at}: {key}");
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    checker.require(
        (1..=64).contains(&guest.name.len()) && guest.name.chars().all(plain),
        key("name"),
        "must be 1 to 64 letters, digits, `_`, `-` or `.`",
    );
    checker.require(!guest.lanes.is_empty(), key("lane"), "no lane; add a [[guest.lane]] with its two ports");
    checker.require(
        (1..=65536).contains(&guest.max_epochs_in_flight),
        key("max_epochs_in_flight"),
        "must be 1 to 65536",
    );
    checker.require(
        (1..=10_000).contains(&guest.close_timeout_ms),
        key("close_timeout_ms"),
        "must be 1 to 10000 milliseconds",
    );
    let sip = &guest.sip_ports;
    let distinct = sip.iter().enumerate().all(|(n, port)| *port != 0 && !sip[..n].contains(port));
    checker.require(
        sip.len() <= tidegate_dataplane::ear::MAX_PORTS && distinct,
        key("sip_ports"),
        "at most 8 ports from 1 to 65535, each once; [] turns learning off",
    );
    if let Some(problem) = guest.announce_problem() {
        checker.say(key("announce_ms"), problem);
    }
    match (guest.source, guest.timer) {
        (Source::Timer, None) => {
            checker.say(
                key("timer"),
                "source is \"timer\"; add timer = { interval_ms = 200, commit_delay_ms = 20 }",
            );
        }
        (Source::Socket, Some(_)) => {
            checker.say(
                key("timer"),
                "source is \"socket\", so nothing ticks; set source = \"timer\" or remove it",
            );
        }
        (_, Some(timer)) => {
            checker.require(
                (1..=3_600_000).contains(&timer.interval_ms) && timer.commit_delay_ms <= 3_600_000,
                key("timer"),
                "interval_ms must be 1 to 3600000, commit_delay_ms at most 3600000",
            );
        }
        (Source::Socket, None) => {}
    }
    for (n, rule) in guest.rules.iter().enumerate() {
        if let Some(problem) = rule.problem() {
            checker.say(format!("{at}, rule {}", n + 1), problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"
        [[guest]]
        name = "a"
        [[guest.lane]]
        guest_port = "net_vhost0,iface=/run/tidegate/a.sock"
        wire_port = "net_af_packet0,iface=eth1"
        lcore = 1
        [[guest]]
        name = "b"
        [[guest.lane]]
        guest_port = "net_vhost1,iface=/run/tidegate/b.sock"
        wire_port = "0000:03:00.0"
        lcore = 1
    "#;

    fn refused(text: &str) -> String {
        Config::parse(text, "t.toml").unwrap_err()
    }

    #[test]
    fn what_is_wrong_is_said_with_its_key_and_a_remedy() {
        assert!(Config::parse(TWO, "t.toml").is_ok());
        let long = format!("/run/{}.sock", "b".repeat(98));
        let rules = "name = \"b\"\nrules = [{ verdict = \"hold\" }, { verdict = \"hold\", dscp = 64 }]";
        for (from, to, key, what) in [
            ("net_vhost1", "net_vhost0", "guest b, lane 0: guest_port", "guest a, lane 0: guest_port"),
            ("b.sock", "a.sock", "guest b, lane 0: guest_port", "iface=/run/tidegate/a.sock"),
            (
                "0000:03:00.0",
                "net_af_packet1,iface=eth1",
                "guest b, lane 0: wire_port",
                "one side of one lane",
            ),
            ("name = \"b\"", "name = \"a\"", "guest a", "each its own"),
            ("0000:03:00.0", "eth7", "guest b, lane 0: wire_port", "PCI address"),
            ("0000:03:00.0", "net_vhost7", "guest b, lane 0: wire_port", "needs a socket"),
            ("name = \"b\"", "name = \"b\"\nsource = \"timer\"", "guest b: timer", "interval_ms = 200"),
            ("name = \"b\"", "name = \"b/../x\"", "name", "letters"),
            ("name = \"b\"", "name = \"b\"\nsip_ports = [5060, 5060]", "guest b: sip_ports", "each once"),
            (
                "name = \"b\"",
                "name = \"b\"\nsip_ports = [1,2,3,4,5,6,7,8,9]",
                "guest b: sip_ports",
                "at most 8",
            ),
            ("lcore = 1", "lcore = 1\nmtu = 20", "guest a, lane 0: mtu", "576"),
            ("lcore = 1", "lcore = 1\nhold_frames = 1000000", "eal.memory_mb", "set eal.memory_mb ="),
            ("lcore = 1", "lcore = 1\nstreams = 0", "streams", "64 to 1048576"),
            ("lcore = 1", "lcore = 1\nrx_desc = 1000", "rx_desc", "power of two"),
            ("lcore = 1", "lcore = 1\nqueues = 65535\nrx_desc = 65535", "queues", "1 to 16"),
            ("iface=/run/tidegate/b.sock", "iface", "guest b, lane 0: guest_port", "not key=value"),
            (",iface=eth1", "", "guest a, lane 0: wire_port", "needs an interface"),
            ("/run/tidegate/b.sock", &long, "guest b, lane 0: guest_port", "at most 107 bytes"),
            ("0000:03:00.0\"", "net_af_xdp0,iface=e\"\nmtu = 9000", "guest b, lane 0: mtu", "3430 at most"),
            ("iface=eth1", "iface=eth1,framesz=65536", "guest a, lane 0: wire_port", "65407 is the most"),
            ("name = \"b\"", rules, "guest b, rule 2", "a DSCP is 0 to 63"),
        ] {
            let error = refused(&TWO.replacen(from, to, 1));
            assert!(error.contains("t.toml") && error.contains(key) && error.contains(what), "{to}: {error}");
        }
    }

    #[test]
    fn a_spinning_lane_and_the_control_thread_do_not_share_a_cpu() {
        let shared = format!("[eal]\ncontrol_cpus = [1]\n{TWO}");
        assert!(refused(&shared).contains("eal.control_cpus"));
        assert!(Config::parse(&shared.replace("[eal]", "[eal]\nidle = \"backoff\""), "t").is_ok());
    }

    /// A host with these CPUs, all on a node with so many free huge pages of 2 MiB.
    fn host(cpus: &[usize], pages: u32) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().expect("a directory");
        let node = dir.path().join("sys/kernel/mm/hugepages/hugepages-2048kB");
        std::fs::create_dir_all(&node).expect("made");
        std::fs::write(node.join("free_hugepages"), pages.to_string()).expect("written");
        let root = dir.path().to_owned();
        (dir, Host { cpus: cpus.to_vec(), root })
    }

    #[test]
    fn an_lcore_that_the_host_does_not_have_is_refused() {
        let config = Config::parse(TWO, "t.toml").expect("good");
        let on = |cpus: &[usize]| config.check_host(&host(cpus, 128).1).map_err(|e| e.to_string());
        assert!(on(&[0, 1]).is_ok());
        let error = on(&[0]).unwrap_err();
        assert!(error.contains("CPU 1") && error.contains("[0]"), "{error}");
        assert!(on(&[1]).unwrap_err().contains("starve"));
        assert!(!Host::this().cpus.is_empty(), "this test runs somewhere");
    }

    #[test]
    fn memory_that_does_not_hold_the_frames_is_refused_with_what_would() {
        let wide = TWO.replace("0000:03:00.0\"", "net_af_xdp0,iface=eth2\"\nqueues = 4");
        let with =
            |mb: u32, pages: &str| Config::parse(&format!("[eal]\nmemory_mb = {mb}\n{pages}\n{wide}"), "t");
        let fits = with(278, "").expect("good");
        assert_eq!((fits.needed_mb(Pages::Huge), fits.needed_mb(Pages::Plain)), (278, 249));
        assert!(with(277, "").unwrap_err().contains("set eal.memory_mb = 278 (--memory-mb 278)"));
        assert!(with(249, "hugepages = \"no\"").is_ok());
        assert!(with(248, "hugepages = \"no\"").unwrap_err().contains("249 MiB of plain pages"));
    }
}
