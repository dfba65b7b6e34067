//! Generator's and sink's part of a run: what waits, what sends, what measures, and the files that come of it.

use super::media::{self, Work};
use super::message::{Port, Role};
use super::scenario::Run;
use crate::failure::{Context, Failure, Result};
use crate::sweep::open_loop::{Sample, Ticks, to_csv};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tidegate_tests::process::{Program, Running, run as command};
use tidegate_tests::scratch::Scratch;
use tidegate_tests::wall_clock::{now_ns, wait_until};

/// Where transactions are answered.
const ANSWERS: u16 = 7421;
/// A transaction's length each way.
const TRANSACTION: usize = 64;
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
/// What is on its way at the end is waited for.
const DRAINS: Duration = Duration::from_millis(600);
const SIPP_ENDS: Duration = Duration::from_secs(3);

/// One end of a run.
pub struct Traffic {
    role: Role,
    port: Port,
    own: Ipv4Addr,
    interface: String,
    run: Run,
    answers: Option<Answers>,
    waits: Vec<Running>,
    works: Vec<(&'static str, Running)>,
    receiver: Option<Work>,
    sender: Option<Work>,
    asks: Option<Asks>,
    sent: u64,
    overflows: u64,
}

impl Traffic {
    /// Puts the address on the port and starts what waits.
    pub fn prepare(role: Role, port: Port, run: Run, scratch: &Scratch) -> Result<Traffic> {
        port.check().and_then(|()| run.check()).map_err(Failure::new)?;
        let own = port.own().map_err(Failure::new)?;
        let interface = interface(&port.port)?;
        command(&format!("ip address replace {} dev {interface}", port.address))?;
        command(&format!("ip link set {interface} up"))?;
        let mut traffic = Traffic {
            role,
            own,
            interface,
            answers: None,
            waits: Vec::new(),
            works: Vec::new(),
            receiver: None,
            sender: None,
            asks: None,
            sent: 0,
            overflows: overflows(),
            port,
            run,
        };
        traffic.wait(scratch)?;
        Ok(traffic)
    }

    fn wait(&mut self, scratch: &Scratch) -> Result<()> {
        let own = self.own;
        if self.run.calls > 0 {
            self.receiver = Some(media::receive(own, &scratch.file("received.bin"))?);
        }
        match self.role {
            Role::Generator => {
                if self.run.transactions > 0 {
                    self.answers = Some(Answers::start(own)?);
                }
                if self.run.sip > 0 {
                    for (transport, label) in [("t1", "sipp-server-tcp"), ("u1", "sipp-server-udp")] {
                        let words = format!("-sn uas -t {transport} -i {own} -p 5060 -nostdin");
                        self.waits.push(sipp(&words, scratch, label)?);
                    }
                    listens("5060")?;
                }
            }
            _ if self.run.tcp != "none" => {
                let words = format!("-s -B {own} -p 5201");
                self.waits.push(Program::new("iperf3").args(&words).start(scratch, "iperf3-server")?);
                listens("5201")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Begins to send and to ask.
    pub fn start(&mut self, scratch: &Scratch) -> Result<()> {
        let (own, peer) = (self.own, self.port.peer);
        match self.role {
            Role::Generator if self.run.tcp != "none" => {
                let rate =
                    if self.run.tcp == "full" { String::new() } else { format!("-b {}", self.run.tcp) };
                let words = format!(
                    "-c {peer} -B {own} -p 5201 -t {} -i 0.1 --forceflush {rate}",
                    self.run.span().as_secs() + 5
                );
                self.works
                    .push(("tcp.log", Program::new("iperf3").args(&words).start(scratch, "iperf3-client")?));
            }
            Role::Sink => {
                if self.run.transactions > 0 {
                    self.asks = Some(Asks::start((peer, ANSWERS), self.run.transactions)?);
                }
                if self.run.sip > 0 {
                    for (transport, port, label) in [("t1", 5070, "sip-tcp"), ("u1", 5072, "sip-udp")] {
                        let words = format!(
                            "-sn uac -t {transport} -i {own} -p {port} -r {} -l 4000 -trace_rtt -rtt_freq 1 -nostdin {peer}:5060",
                            self.run.sip
                        );
                        std::fs::create_dir_all(scratch.file(label)).context(|| label.to_owned())?;
                        let program = Program::new("sipp").args(&words).directory(&scratch.file(label));
                        self.works.push((label, program.start(scratch, label)?));
                    }
                }
            }
            _ => {}
        }
        if self.run.calls > 0 {
            self.sender = Some(media::send(own, peer, self.run.calls, &scratch.file("sent.bin"))?);
        }
        Ok(())
    }

    /// How far it is.
    pub fn progress(&mut self) -> Result<Value> {
        for (label, running) in &mut self.works {
            if let Some(status) = running.ended() {
                return Err(running.failure(&format!("({label}) ended with {status}")).into());
            }
        }
        let count = |work: &Option<Work>| work.as_ref().map_or(0, Work::count);
        Ok(json!({
            "sent": count(&self.sender), "received": count(&self.receiver),
            "transactions": self.asks.as_ref().map_or(0, Asks::count),
        }))
    }

    /// Sends and asks no more.
    pub fn quiet(&mut self, scratch: &Scratch) -> Result<()> {
        self.sent = self.sender.as_mut().map_or(Ok(0), Work::finish)?;
        if let Some(asks) = self.asks.take() {
            let file = scratch.file("transactions.csv");
            std::fs::write(&file, to_csv(&asks.finish()))
                .context(|| format!("cannot write {}", file.display()))?;
        }
        for (label, running) in &mut self.works {
            if label.starts_with("sip") {
                // In order: what it measured last is in its file then.
                let _ = running.stop(Signal::SIGTERM, SIPP_ENDS);
                keep_rtt(&scratch.file(label), &scratch.file(&format!("{label}.csv")))?;
            } else {
                running.kill();
                std::fs::copy(running.log(), scratch.file(label))
                    .context(|| format!("cannot keep {label}"))?;
            }
        }
        self.works.clear();
        Ok(())
    }

    /// Ends it, after [`Traffic::quiet`] on both sides; what is known, and the names of the files.
    pub fn stop(&mut self, scratch: &Scratch) -> Result<Value> {
        std::thread::sleep(DRAINS);
        let received = self.receiver.as_mut().map_or(Ok(0), Work::finish)?;
        let sent = self.sent;
        let known = ["received.bin", "sent.bin", "transactions.csv", "tcp.log", "sip-tcp.csv", "sip-udp.csv"];
        let files: Vec<&str> = known.into_iter().filter(|name| scratch.file(name).is_file()).collect();
        Ok(json!({
            "sent": sent, "received": received, "files": files,
            "overflows": overflows().saturating_sub(self.overflows),
            "conditions": conditions(&self.interface),
        }))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = command(&format!("ip address delete {} dev {}", self.port.address, self.interface));
    }
}

/// The interface of a port that was named by its PCI address, or by itself.
fn interface(port: &str) -> Result<String> {
    if Path::new("/sys/class/net").join(port).exists() {
        return Ok(port.to_owned());
    }
    let full = if port.matches(':').count() == 1 { format!("0000:{port}") } else { port.to_owned() };
    let net = Path::new("/sys/bus/pci/devices").join(&full).join("net");
    let found = std::fs::read_dir(&net).ok().and_then(|mut entries| entries.next()?.ok());
    found.map(|entry| entry.file_name().to_string_lossy().into_owned()).ok_or_else(|| {
        Failure::new(format!(
            "{port} is no interface here, and no PCI device whose kernel driver has one; scripts/nic unbind gives it back to \
             the kernel"
        ))
    })
}

/// Datagrams that the kernel had no room for since it booted: what a receiver loses by itself.
fn overflows() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let at = names.split(' ').position(|name| name == "RcvbufErrors");
    at.and_then(|at| values.split(' ').nth(at)?.parse().ok()).unwrap_or(0)
}

/// What a figure means nothing without.
pub fn conditions(interface: &str) -> Value {
    let first =
        |line: &str| command(line).unwrap_or_default().lines().next().unwrap_or_default().trim().to_owned();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    json!({
        "kernel": first("uname -sr"),
        "cpu": model.map(|(_, name)| name.trim()),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "port": interface,
        "driver": first(&format!("ethtool -i {interface}")),
        "stamps": "software stamps: the kernel's, when the port's driver hands the frame up (SO_TIMESTAMPNS)",
    })
}

fn sipp(words: &str, scratch: &Scratch, label: &str) -> Result<Running> {
    Ok(Program::new("sipp").args(words).directory(scratch.path()).start(scratch, label)?)
}

fn listens(port: &str) -> Result<()> {
    let sought = format!(":{port} ");
    let listening = wait_until(CONNECTS_WITHIN, Duration::from_millis(20), || {
        command("ss -ltnH").unwrap_or_default().contains(&sought)
    });
    if listening { Ok(()) } else { Err(Failure::new(format!("nobody listens at port {port}"))) }
}

/// sipp names its file by its process id.
fn keep_rtt(dir: &Path, to: &Path) -> Result<()> {
    let entries = std::fs::read_dir(dir).context(|| format!("cannot read {}", dir.display()))?;
    let file =
        entries.flatten().map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with("_rtt.csv"));
    match file {
        Some(file) => {
            std::fs::copy(&file, to).context(|| format!("cannot keep {}", file.display())).map(drop)
        }
        None => Err(Failure::new(format!("sipp wrote no response times in {}", dir.display()))),
    }
}

/// Answers transactions: what comes goes back. Its threads end with their connections.
struct Answers {
    end: Arc<AtomicBool>,
}

impl Answers {
    fn start(own: Ipv4Addr) -> Result<Answers> {
        let listener = TcpListener::bind((own, ANSWERS)).context(|| format!("{own}:{ANSWERS}"))?;
        listener.set_nonblocking(true).context(|| format!("{own}:{ANSWERS}"))?;
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        std::thread::spawn(move || {
            while !ends.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(std::thread::spawn(move || echo(stream))),
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(Answers { end })
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_nodelay(true);
    let mut bytes = [0; TRANSACTION];
    while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Asked {
    end: AtomicBool,
    waiting: Mutex<VecDeque<u64>>,
    done: Mutex<Vec<Sample>>,
}

/// Asks over one connection at intended moments.
struct Asks {
    asked: Arc<Asked>,
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Asks {
    fn start((peer, port): (Ipv4Addr, u16), a_second: u32) -> Result<Asks> {
        let what = || format!("the transactions of {peer}:{port}");
        let stream = TcpStream::connect_timeout(&(peer, port).into(), CONNECTS_WITHIN).context(what)?;
        stream.set_nodelay(true).context(what)?;
        let (mut write, mut read) = (stream.try_clone().context(what)?, stream.try_clone().context(what)?);
        let asked = Arc::new(Asked::default());
        let (asking, hearing) = (Arc::clone(&asked), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            let mut ticks = Ticks::every(Duration::from_secs(1) / a_second.max(1));
            while !asking.end.load(Relaxed) {
                // Waited for without the lock: answers come meanwhile.
                let intended_ns = ticks.wait();
                lock(&asking.waiting).push_back(intended_ns);
                if write.write_all(&[0x55; TRANSACTION]).is_err() {
                    return;
                }
            }
        });
        std::thread::spawn(move || {
            let mut bytes = [0; TRANSACTION];
            while read.read_exact(&mut bytes).is_ok() {
                let answered_ns = Some(now_ns());
                if let Some(intended_ns) = lock(&hearing.waiting).pop_front() {
                    lock(&hearing.done).push(Sample { intended_ns, answered_ns });
                }
            }
        });
        Ok(Asks { asked, stream, thread: Some(thread) })
    }

    fn count(&self) -> usize {
        lock(&self.asked.done).len()
    }

    fn finish(mut self) -> Vec<Sample> {
        self.asked.end.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        wait_until(DRAINS * 3, Duration::from_millis(5), || lock(&self.asked.waiting).is_empty());
        let mut samples = std::mem::take(&mut *lock(&self.asked.done));
        let left: Vec<u64> = lock(&self.asked.waiting).drain(..).collect();
        samples.extend(left.into_iter().map(|intended_ns| Sample { intended_ns, answered_ns: None }));
        samples
    }
}

impl Drop for Asks {
    fn drop(&mut self) {
        self.asked.end.store(true, Relaxed);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// A file that a coordinator may fetch: one of the run's own.
pub fn file(scratch: &Scratch, name: &str) -> Result<PathBuf> {
    let known = ["received.bin", "sent.bin", "transactions.csv", "tcp.log", "sip-tcp.csv", "sip-udp.csv"];
    match known.contains(&name) {
        true => Ok(scratch.file(name)),
        false => Err(Failure::new(format!("there is no file {name:?}; there are {}", known.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_run_are_handed_out_and_ports_are_found() {
        let scratch = Scratch::new().unwrap();
        assert!(file(&scratch, "sent.bin").is_ok());
        for name in ["../../etc/passwd", "/etc/passwd", "", "plane.log"] {
            assert!(file(&scratch, name).is_err(), "{name}");
        }
        assert_eq!(interface("lo").unwrap(), "lo");
        assert!(interface("0000:ff:1f.7").unwrap_err().to_string().contains("scripts/nic"));
        scratch.passed();
    }

    #[test]
    fn transactions_are_answered_and_counted_from_their_moment() {
        let own = Ipv4Addr::new(127, 0, 7, 3);
        let answers = Answers::start(own).unwrap();
        let asks = Asks::start((own, ANSWERS), 100).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let samples = asks.finish();
        assert!(samples.len() >= 10 && samples.iter().all(|sample| sample.ms().is_some()), "{samples:?}");
        // An answer is taken when it comes, not when the next is asked for.
        assert!(samples.iter().filter_map(Sample::ms).fold(f64::MAX, f64::min) < 5.0, "{samples:?}");
        drop(answers);
    }
}
