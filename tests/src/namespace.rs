//! A network namespace that plays the world outside: the wire's far end.
//!
//! ```text
//! root namespace                      Namespace
//!   wire (no address, no IPv6) --veth-- eth0 (addresses, captures, sipp, iperf3, ping)
//! ```
//! The near end belongs to the plane, which opens it as a packet socket. That is a tap, not a cut, so
//! the kernel must have no reason of its own to answer there: no address, no IPv6. Both ends have their
//! offloads off: a packet socket would pass on checksums that nobody ever completes.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use crate::failure::{Context, Failure, Result};
use crate::process::run;
use crate::scratch::owner_is_gone;

/// For `ethtool -K`: nobody leaves a checksum or a division into segments to a device that is none.
pub const OFFLOADS_OFF: &str = "rx off tx off sg off tso off gso off gro off rxvlan off txvlan off";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace and its veth pair; both go when it is dropped.
pub struct Namespace {
    name: String,
    /// Empty without a pair.
    wire: String,
}

impl Namespace {
    /// Makes the namespace `tg-PID-N` with `eth0` up, and the pair's near end up in the root namespace.
    /// Namespaces of test processes that are no more are removed first.
    pub fn new() -> Result<Namespace> {
        let mut namespace = Namespace::add()?;
        // An interface's name may have 15 characters.
        namespace.wire = namespace.name.replacen("tg-", "tg", 1).replace('-', "w");
        namespace.furnish()?;
        Ok(namespace)
    }

    /// Makes one that has its own loopback and nothing else.
    pub fn bare() -> Result<Namespace> {
        let namespace = Namespace::add()?;
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    fn add() -> Result<Namespace> {
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tg-{}-{number}", std::process::id());
        run(&format!("ip netns add {name}"))
            .context(|| "cannot make a network namespace (are you root?)".to_owned())?;
        Ok(Namespace { name, wire: String::new() })
    }

    fn furnish(&self) -> Result<()> {
        let (name, wire) = (&self.name, &self.wire);
        run(&format!("ip link add {wire} type veth peer name eth0 netns {name}"))?;
        let ipv6 = format!("/proc/sys/net/ipv6/conf/{wire}/disable_ipv6");
        if Path::new(&ipv6).exists() {
            fs::write(&ipv6, "1").context(|| format!("cannot write {ipv6}"))?;
        }
        run(&format!("ethtool -K {wire} {OFFLOADS_OFF}"))?;
        self.run(&format!("ethtool -K eth0 {OFFLOADS_OFF}"))?;
        run(&format!("ip link set {wire} up"))?;
        self.run("ip link set lo up")?;
        self.run("ip link set eth0 up")?;
        Ok(())
    }

    /// The name `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface in the root namespace that is the plane's wire.
    pub fn wire(&self) -> &str {
        &self.wire
    }

    /// Runs a short command inside; its output.
    pub fn run(&self, line: &str) -> Result<String> {
        run(&format!("ip netns exec {} {line}", self.name))
    }

    /// Does something in the namespace. A socket stays where it was made, so a thread that goes there and ends is
    /// enough.
    pub fn enter<T: Send + 'static>(&self, task: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.name);
        let inside = move || {
            let file = fs::File::open(&path).context(|| format!("cannot open {}", path.display()))?;
            setns(&file, CloneFlags::CLONE_NEWNET).context(|| format!("cannot enter {}", path.display()))?;
            task()
        };
        std::thread::spawn(inside).join().map_err(|_| Failure::new("a thread in a namespace panicked"))?
    }

    /// A thread whose sockets are the namespace's. It is not waited for.
    pub fn thread(&self, task: impl FnOnce() + Send + 'static) -> Result<()> {
        let path = Path::new("/run/netns").join(&self.name);
        let file = fs::File::open(&path).context(|| format!("cannot open {}", path.display()))?;
        std::thread::spawn(move || match setns(&file, CloneFlags::CLONE_NEWNET) {
            Ok(()) => task(),
            Err(error) => eprintln!("cannot enter {}: {error}", path.display()),
        });
        Ok(())
    }

    /// Gives `eth0` an address, e.g. `10.9.0.1/24` or `fd09::1/64`; usable at once.
    pub fn address(&self, address: &str) -> Result<()> {
        let at_once = if address.contains(':') { " nodad" } else { "" };
        self.run(&format!("ip address add {address} dev eth0{at_once}")).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The near end first: it takes the far end along at once, the namespace only some time later.
        if !self.wire.is_empty() {
            let _ = run(&format!("ip link delete {}", self.wire));
        }
        let _ = run(&format!("ip netns delete {}", self.name));
    }
}

/// Removes what test processes left that were killed before they could.
fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner_is_gone(&name) {
            let _ = run(&format!("ip netns delete {name}"));
        }
    }
}
