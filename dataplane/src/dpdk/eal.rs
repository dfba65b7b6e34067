//! EAL, DPDK's run time: made once a process, then a token that the rest of this layer asks for.
//!
//! Who runs where. Each lane runs on a *worker* lcore, a thread that EAL pins to one CPU; lcore *n* is
//! CPU *n*. The *main* lcore is the thread that called [`Eal::init`], and all it does is control. EAL pins
//! it too, and threads started later inherit that: two control threads and the vhost library's would then
//! share one CPU for ever. So the main lcore floats over every CPU that no lane owns, and the caller's own
//! affinity is put back after `init`.
//!
//! Where the lanes own every CPU that there is (a machine of one core), the control threads share with
//! them: the lanes must then use their idle back-off, for a thread that polls without a pause gives the
//! others a turn only at the end of the scheduler's slice (milliseconds).

use crate::tsc::{Clock, TscRate};
use std::ffi::{CString, c_int, c_void};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// EAL cannot be started twice in a process, not even after a clean-up.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Where mbufs and rings live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages. MiB to take at start on each NUMA node; empty: take what is needed when it is needed.
    Huge {
        /// MiB on node 0, node 1, ...
        mb_per_node: Vec<u32>,
    },
    /// Ordinary pages, for tests, demos and machines without huge pages or root. No DMA: no physical NIC.
    NoHuge {
        /// MiB, all of it taken at start.
        mb: u32,
    },
}

/// How much of DPDK's own talk reaches standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// And warnings.
    #[default]
    Warning,
    /// And every link, ring and connection that changes.
    Info,
    /// Everything that DPDK was built to say.
    Debug,
}

impl LogLevel {
    const fn word(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warning => "warning",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}

/// What EAL is started with.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// CPUs on which lanes poll, one worker lcore each. Must not be empty.
    pub lcores: Vec<u32>,
    /// CPUs over which the main lcore may float. Empty: every CPU allowed to this process that is not in
    /// `lcores`; where none is left, those in `lcores` (see the head of this file).
    pub main_cpus: Vec<u32>,
    /// Where mbufs live.
    pub memory: Memory,
    /// PCI addresses of NICs that EAL may touch. It leaves all others alone, so that two planes can run
    /// on one host. Empty: no PCI at all.
    pub pci: Vec<String>,
    /// Names this process's files where it needs any; two DPDK processes must differ.
    pub file_prefix: String,
    /// How much DPDK says.
    pub log: LogLevel,
    /// Further EAL arguments, word by word, after all others.
    pub extra: Vec<String>,
}

impl EalConfig {
    /// Lanes on `lcores`, mbufs in `memory`, no PCI, warnings only.
    pub fn new(lcores: Vec<u32>, memory: Memory) -> Self {
        Self {
            lcores,
            main_cpus: Vec::new(),
            memory,
            pci: Vec::new(),
            file_prefix: format!("tidegate-{}", std::process::id()),
            log: LogLevel::default(),
            extra: Vec::new(),
        }
    }

    /// The words of EAL's command line. `allowed`: the CPUs this process may run on.
    fn args(&self, main: u32, allowed: &[u32]) -> Vec<String> {
        // argv[0]; EAL repeats it in its messages.
        let mut args = vec!["tidegate".to_owned()];
        // One worker pinned to each lane's CPU; the main lcore, id first free, floats over the rest.
        let mut lcores = format!("{main}@({})", list(&self.float(allowed)));
        for &cpu in &self.lcores {
            lcores += &format!(",{cpu}@{cpu}");
        }
        args.push(format!("--lcores={lcores}"));
        args.push(format!("--main-lcore={main}"));
        match &self.memory {
            Memory::Huge { mb_per_node } => {
                // Pages without files: nothing is left behind when the process is killed. One segment per
                // page size: a peer that shares this memory is told of a handful of regions, not thousands.
                args.push("--in-memory".into());
                args.push("--single-file-segments".into());
                if !mb_per_node.is_empty() {
                    args.push(format!("--socket-mem={}", list(mb_per_node)));
                }
            }
            Memory::NoHuge { mb } => {
                // `--in-memory` is about huge pages and refused together with `--no-huge`; what it would
                // have implied is that no secondary process can attach.
                args.extend(["--no-huge".into(), "-m".into(), mb.to_string(), "--no-shconf".into()]);
            }
        }
        args.push(format!("--file-prefix={}", self.file_prefix));
        if self.pci.is_empty() {
            args.push("--no-pci".into());
        }
        for address in &self.pci {
            args.push(format!("--allow={address}"));
        }
        // DPDK's own telemetry is one more thread and one more socket that nobody guards.
        args.push("--no-telemetry".into());
        args.push(format!("--log-level=*:{}", self.log.word()));
        args.extend(self.extra.iter().cloned());
        args
    }

    fn float(&self, allowed: &[u32]) -> Vec<u32> {
        if !self.main_cpus.is_empty() {
            return self.main_cpus.clone();
        }
        let free: Vec<u32> = allowed.iter().copied().filter(|cpu| !self.lcores.contains(cpu)).collect();
        if free.is_empty() { self.lcores.clone() } else { free }
    }
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Why EAL did not start, or an lcore did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EalError {
    /// Started before in this process, or tried and failed.
    Once,
    /// No lcore was named.
    NoLcore,
    /// A CPU that does not exist or is not allowed to this process.
    Cpu(u32),
    /// An lcore named twice.
    Twice(u32),
    /// An argument with a NUL byte in it.
    Argument(String),
    /// Huge pages were asked for and none is free.
    NoHugePages,
    /// DPDK refused: the arguments, and its errno.
    Refused {
        /// What was asked for.
        args: Vec<String>,
        /// DPDK's errno.
        errno: i32,
    },
    /// The lcore is no worker of this process.
    NotAWorker(u32),
    /// The lcore runs something already.
    Busy(u32),
}

impl fmt::Display for EalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EalError::Once => write!(
                f,
                "DPDK was started, or failed to start, in this process before, and starts once only: restart the process"
            ),
            EalError::NoLcore => {
                write!(f, "no lcore is named: name at least one CPU on which lanes run (lcores = [1])")
            }
            EalError::Cpu(cpu) => write!(
                f,
                "CPU {cpu} does not exist or is not allowed to this process: see `taskset -cp $$` and the unit's CPUAffinity="
            ),
            EalError::Twice(cpu) => write!(f, "CPU {cpu} is named twice among the lcores: name each once"),
            EalError::Argument(arg) => write!(f, "the EAL argument {arg:?} has a NUL byte in it: remove it"),
            EalError::NoHugePages => write!(
                f,
                "no huge page is free: reserve some with `scripts/hugepages`, or run without them (memory = no-huge)"
            ),
            EalError::Refused { args, errno } => write!(
                f,
                "DPDK did not start ({}) with `{}`: its own message stands above on standard error; `tidegate doctor` checks the usual causes",
                std::io::Error::from_raw_os_error(*errno),
                args.join(" ")
            ),
            EalError::NotAWorker(lcore) => {
                write!(f, "lcore {lcore} is no worker lcore of this process: name it in lcores")
            }
            EalError::Busy(lcore) => {
                write!(f, "lcore {lcore} already runs: spread the lanes over other lcores")
            }
        }
    }
}

impl std::error::Error for EalError {}

/// DPDK is up. One a process, shared by reference; it stays up until the process ends.
#[derive(Debug)]
pub struct Eal {
    lcores: Vec<u32>,
    main: u32,
    memory: Memory,
}

impl Eal {
    /// Starts DPDK. The calling thread becomes the main lcore and keeps the CPU affinity it had.
    ///
    /// Threads that must not share the lanes' CPUs may be started before or after. A second call in a
    /// process fails, also after a failed first one: DPDK cannot be started again.
    pub fn init(config: &EalConfig) -> Result<Eal, EalError> {
        let affinity = Affinity::of_this_thread();
        let allowed = affinity.cpus();
        let main = check(config, &allowed)?;
        let args = config.args(main, &allowed);
        let mut words = Vec::new();
        for arg in &args {
            words.push(CString::new(arg.as_str()).map_err(|_| EalError::Argument(arg.clone()))?);
        }
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(EalError::Once);
        }
        // EAL keeps pointers into argv and permutes it, so it gets words that live for ever.
        let mut argv: Vec<_> = words.into_iter().map(CString::into_raw).collect();
        argv.push(std::ptr::null_mut());
        let argv = Vec::leak(argv);
        // SAFETY: argv holds argc NUL-terminated words and a final NULL, all of which live for ever; STARTED
        // makes this the only call in the process.
        let done = unsafe { dpdk_sys::rte_eal_init(args.len() as c_int, argv.as_mut_ptr()) };
        let errno = super::last_errno();
        affinity.restore();
        remove_runtime_dir();
        if done < 0 {
            return Err(EalError::Refused { args, errno });
        }
        Ok(Eal { lcores: config.lcores.clone(), main, memory: config.memory.clone() })
    }

    /// The worker lcores, as configured. Lcore *n* is pinned to CPU *n*.
    pub fn lcores(&self) -> &[u32] {
        &self.lcores
    }

    /// The id of the main lcore: no CPU number, only a name.
    pub fn main_lcore(&self) -> u32 {
        self.main
    }

    /// Where mbufs live.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Runs `f` on a worker lcore. A panic in there ends the process: an lcore that unwound would leave
    /// its lanes unserved with their guests believing otherwise.
    pub fn launch(&self, lcore: u32, f: Box<dyn FnOnce() + Send>) -> Result<(), EalError> {
        extern "C" fn trampoline(job: *mut c_void) -> c_int {
            // SAFETY: `job` is the pointer that `launch` made of a Box, handed over exactly once.
            let job = unsafe { Box::from_raw(job.cast::<Box<dyn FnOnce() + Send>>()) };
            job(); // An extern "C" function aborts when a panic reaches it.
            0
        }
        if !self.lcores.contains(&lcore) {
            return Err(EalError::NotAWorker(lcore));
        }
        let job = Box::into_raw(Box::new(f));
        // SAFETY: the lcore is one of ours (checked above) and the job stays valid until it has run.
        let done = unsafe { dpdk_sys::rte_eal_remote_launch(Some(trampoline), job.cast(), lcore) };
        if done != 0 {
            // SAFETY: the lcore refused the job, so it is still ours alone.
            drop(unsafe { Box::from_raw(job) });
            return Err(EalError::Busy(lcore));
        }
        Ok(())
    }

    /// Waits until the lcore has nothing to do; returns at once when it has not.
    pub fn wait(&self, lcore: u32) -> Result<(), EalError> {
        if !self.lcores.contains(&lcore) {
            return Err(EalError::NotAWorker(lcore));
        }
        // SAFETY: the lcore is one of ours.
        unsafe { dpdk_sys::rte_eal_wait_lcore(lcore) };
        Ok(())
    }

    /// Ticks per second of [`Tsc`], as DPDK measured them at start.
    pub fn tsc_rate(&self) -> TscRate {
        // SAFETY: reads a variable that EAL set at start.
        TscRate::new(unsafe { dpdk_sys::rte_get_tsc_hz() })
    }

    /// The version of the DPDK that runs, "DPDK 22.11.x".
    pub fn version(&self) -> String {
        version()
    }
}

/// The version of the DPDK that this process was loaded with, "DPDK 22.11.x"; EAL need not be up.
pub fn version() -> String {
    // SAFETY: returns a NUL-terminated string that lives for ever.
    unsafe { std::ffi::CStr::from_ptr(dpdk_sys::shim_version()) }.to_string_lossy().into_owned()
}

/// Refuses what EAL would refuse with less of a reason; returns the id of the main lcore.
fn check(config: &EalConfig, allowed: &[u32]) -> Result<u32, EalError> {
    if config.lcores.is_empty() {
        return Err(EalError::NoLcore);
    }
    for (n, &cpu) in config.lcores.iter().enumerate() {
        if cpu >= dpdk_sys::MAX_LCORE || !allowed.contains(&cpu) {
            return Err(EalError::Cpu(cpu));
        }
        if config.lcores[..n].contains(&cpu) {
            return Err(EalError::Twice(cpu));
        }
    }
    if let Some(&cpu) = config.main_cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        return Err(EalError::Cpu(cpu));
    }
    if matches!(config.memory, Memory::Huge { .. }) && !any_huge_page_free() {
        return Err(EalError::NoHugePages);
    }
    let main = (0..dpdk_sys::MAX_LCORE).find(|id| !config.lcores.contains(id));
    main.ok_or(EalError::Cpu(dpdk_sys::MAX_LCORE))
}

/// EAL makes a directory for files that it shares with secondary processes. There are none of either, so
/// it would only stay behind, one for each start. One with anything in it is left alone.
fn remove_runtime_dir() {
    // SAFETY: returns a NUL-terminated path, empty until EAL has chosen it, that lives for ever.
    let dir = unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_eal_get_runtime_dir()) };
    if !dir.is_empty() {
        let _ = std::fs::remove_dir(&*dir.to_string_lossy());
    }
}

/// True when the kernel has a free huge page of any size, or may make one on demand.
fn any_huge_page_free() -> bool {
    let Ok(sizes) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return false };
    sizes.flatten().any(|size| {
        ["free_hugepages", "nr_overcommit_hugepages"].iter().any(|file| {
            let text = std::fs::read_to_string(size.path().join(file)).unwrap_or_default();
            text.trim().parse::<u64>().is_ok_and(|pages| pages > 0)
        })
    })
}

/// The CPUs that a thread may run on.
struct Affinity(dpdk_sys::cpu_set_t);

impl Affinity {
    fn of_this_thread() -> Self {
        // SAFETY: a cpu_set_t is an array of integers, for which zero is a value.
        let mut set: dpdk_sys::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: writes at most the given size into `set`; thread 0 is the caller. On a machine with more
        // CPUs than the set has bits it fails and leaves the set empty.
        unsafe { dpdk_sys::sched_getaffinity(0, size_of_val(&set), &mut set) };
        Affinity(set)
    }

    fn cpus(&self) -> Vec<u32> {
        let word_bits = u64::BITS;
        let words = self.0.__bits.iter().enumerate();
        words
            .flat_map(|(n, &word)| {
                (0..word_bits).filter(move |bit| word >> bit & 1 == 1).map(move |bit| (n, bit))
            })
            .map(|(n, bit)| n as u32 * word_bits + bit)
            .collect()
    }

    fn restore(&self) {
        if self.cpus().is_empty() {
            return;
        }
        // SAFETY: reads `self.0`; thread 0 is the caller.
        unsafe { dpdk_sys::sched_setaffinity(0, size_of_val(&self.0), &self.0) };
    }
}

/// The time stamp counter of the CPU. Ticks of [`Eal::tsc_rate`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Tsc;

impl Clock for Tsc {
    #[inline]
    fn now(&self) -> u64 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has the instruction.
        unsafe {
            core::arch::x86_64::_rdtsc()
        }
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: reads the counter that DPDK uses on this architecture.
        unsafe {
            dpdk_sys::shim_rdtsc()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> EalConfig {
        EalConfig { file_prefix: "t".into(), ..EalConfig::new(vec![1, 3], Memory::NoHuge { mb: 128 }) }
    }

    #[test]
    fn lanes_are_pinned_and_control_floats_over_the_rest() {
        let args = config().args(0, &[0, 1, 2, 3]).join(" ");
        assert!(args.contains("--lcores=0@(0,2),1@1,3@3 --main-lcore=0"), "{args}");
        assert!(args.contains("--no-huge -m 128 --no-shconf"), "{args}");
        assert!(args.contains("--no-pci"), "{args}");
        let alone = EalConfig { lcores: vec![0], ..config() };
        assert_eq!(check(&alone, &[0]), Ok(1));
        assert!(alone.args(1, &[0]).join(" ").contains("--lcores=1@(0),0@0"));
    }

    #[test]
    fn huge_pages_leave_no_files_and_only_named_nics_are_touched() {
        let memory = Memory::Huge { mb_per_node: vec![512, 0] };
        let args = EalConfig { memory, pci: vec!["0000:03:00.0".into()], ..config() }.args(0, &[0]).join(" ");
        assert!(args.contains("--in-memory --single-file-segments --socket-mem=512,0"), "{args}");
        assert!(!args.contains("--no-huge") && !args.contains("--no-pci"), "{args}");
        assert!(args.contains("--allow=0000:03:00.0"), "{args}");
    }

    #[test]
    fn wrong_cpus_are_refused_before_dpdk_starts() {
        assert_eq!(check(&config(), &[0, 1, 2]), Err(EalError::Cpu(3)));
        assert_eq!(check(&EalConfig { lcores: vec![], ..config() }, &[0]), Err(EalError::NoLcore));
        assert_eq!(check(&EalConfig { lcores: vec![1, 1], ..config() }, &[1]), Err(EalError::Twice(1)));
        assert_eq!(
            check(&EalConfig { main_cpus: vec![9], ..config() }, &[0, 1, 2, 3]),
            Err(EalError::Cpu(9))
        );
    }

    #[test]
    fn this_threads_cpus_are_known() {
        let cpus = Affinity::of_this_thread().cpus();
        assert!(!cpus.is_empty() && cpus.is_sorted());
        let count = std::thread::available_parallelism().unwrap().get();
        assert!(cpus.len() >= count, "{cpus:?}");
    }
}
