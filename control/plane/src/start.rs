//! The process from its first line to its last.

use crate::assembly::{Assembly, assemble};
use crate::events::Hub;
use crate::memory;
use crate::notify;
use crate::plane::Plane;
use crate::recorder::Recorder;
use crate::server::Server;
use crate::signalling::Listening;
use crate::socket::ControlSocket;
use crate::{links, timer, watch};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tidegate_control::config::{Config, Host};
use tidegate_dataplane::dpdk::{Eal, EalConfig};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;

/// What ends the process in an orderly way.
const SIGNALS: [SignalKind; 3] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];

/// Why the plane did not start, and with which exit code.
#[derive(Debug)]
pub enum StartError {
    /// The configuration does not fit this host.
    Configuration(String),
    /// Something that was tried failed.
    Failed(String),
}

/// Runs the plane until somebody ends it.
pub fn run(config: &Config) -> Result<(), StartError> {
    // Before EAL starts: it moves threads about.
    let cpus: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|c| c.id).collect();
    let host = Host { cpus, root: "/".into() };
    config.check_host(&host).map_err(|e| StartError::Configuration(e.to_string()))?;
    serve(config, &host).map_err(StartError::Failed)
}

fn serve(config: &Config, host: &Host) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the control thread: {e}"))?;
    let entered = runtime.enter();
    // From here on a signal is remembered; before EAL, which may take seconds.
    let signals = SIGNALS.map(signal).into_iter().collect::<Result<Vec<_>, _>>();
    let signals = signals.map_err(|e| format!("cannot listen to signals: {e}"))?;
    // Early, so that a second plane on the same socket harms nothing.
    let socket = ControlSocket::bind(&config.control.socket, !config.control.allow_uids.is_empty())
        .map_err(|e| format!("control.socket: {e}"))?;
    drop(entered);
    let eal = Eal::init(&eal_config(config)?).map_err(|e| e.to_string())?;
    log::info!("{}, {:?}", eal.version(), eal.memory());
    stay_off_the_lanes(config, host);
    let mut assembly = assemble(config, eal, Arc::new(Hub::default()))?;
    lock_memory();
    let recorder = match &config.control.hlog_dir {
        Some(dir) => {
            let interval = Duration::from_secs(config.control.hlog_interval_s);
            Some(Recorder::start(Arc::clone(&assembly.plane), dir, interval)?)
        }
        None => None,
    };
    let listening = Listening::start(&assembly.plane)?;
    control(&runtime, config, &mut assembly, &socket, signals);
    notify::stopping();
    drop((recorder, listening));
    drop(socket);
    assembly.stop();
    log::info!("stopped; what was held has been discarded");
    Ok(())
}

/// The control thread's life.
fn control(
    runtime: &Runtime,
    config: &Config,
    assembly: &mut Assembly,
    socket: &ControlSocket,
    signals: Vec<Signal>,
) {
    let links = std::mem::take(&mut assembly.links);
    let plane = &assembly.plane;
    let server = Server::new(Arc::clone(plane), config.control.allow_uids.clone());
    let local = LocalSet::new();
    for guest in &plane.guests {
        if let Some(timer) = guest.config.timer {
            log::warn!("guest {}: the timer pauses nothing: epochs are no consistent states", guest.name());
            local.spawn_local(timer::run(Arc::clone(guest), timer));
        }
    }
    local.spawn_local(watch::run(Arc::clone(plane)));
    local.spawn_local(links::run(Arc::clone(plane), links));
    local.spawn_local(notify::watchdog(Arc::clone(plane)));
    for signal in signals {
        local.spawn_local(stop_on(signal, Rc::clone(&server)));
    }
    log::info!("ready at {}", config.control.socket.display());
    announce(plane);
    notify::ready();
    local.block_on(runtime, server.serve(socket));
}

fn announce(plane: &Plane) {
    for guest in &plane.guests {
        let (mode, generation) = guest.with(|ledger| (ledger.mode().name(), ledger.generation()));
        log::info!("guest {}: {mode}, generation {generation}, {} lanes", guest.name(), guest.lanes.len());
    }
}

async fn stop_on(mut signal: Signal, server: Rc<Server>) {
    if signal.recv().await.is_some() {
        log::info!("a signal says stop");
        server.stop();
    }
}

fn eal_config(config: &Config) -> Result<EalConfig, String> {
    let memory = memory::choose(config, Path::new("/"))?;
    let number = |cpus: &[usize]| cpus.iter().filter_map(|cpu| u32::try_from(*cpu).ok()).collect();
    let mut eal = EalConfig::new(number(&config.lcores()), memory);
    eal.main_cpus = number(&config.eal.control_cpus);
    let lanes = config.guests.iter().flat_map(|guest| &guest.lanes);
    let ports = lanes.flat_map(|lane| [&lane.guest_port, &lane.wire_port]);
    eal.pci = ports.filter(|port| !port.contains("net_")).map(|port| address(port)).collect();
    if let Some(prefix) = &config.eal.file_prefix {
        eal.file_prefix.clone_from(prefix);
    }
    eal.extra.clone_from(&config.eal.args);
    Ok(eal)
}

/// The PCI address of a port, without its arguments.
fn address(port: &str) -> String {
    port.trim_start_matches("pci:").split(',').next().unwrap_or_default().to_owned()
}

/// The control thread, and the threads it starts, leave the lanes' CPUs alone.
fn stay_off_the_lanes(config: &Config, host: &Host) {
    let lanes = config.lcores();
    let own = match config.eal.control_cpus.is_empty() {
        true => host.cpus.iter().copied().filter(|cpu| !lanes.contains(cpu)).collect(),
        false => config.eal.control_cpus.clone(),
    };
    let mut set = CpuSet::new();
    let known = own.iter().all(|cpu| set.set(*cpu).is_ok());
    if own.is_empty() || !known {
        return;
    }
    if let Err(e) = sched_setaffinity(Pid::from_raw(0), &set) {
        log::warn!("cannot move the control thread to CPUs {own:?}: {e}");
    }
}

/// A page fault on an lcore is a gap of microseconds to milliseconds: what the plane has by now is there and stays there.
/// What is mapped later, a guest's memory above all, stays from its first touch on. Read in as a whole it would keep a VM
/// waiting that is being promoted, 40 ms for each 128 MB, and what the guest has never touched would be made.
fn lock_memory() {
    use nix::sys::mman::{MlockAllFlags, mlockall};
    let on_fault = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
    let locked =
        mlockall(MlockAllFlags::MCL_CURRENT).and_then(|()| mlockall(MlockAllFlags::MCL_FUTURE | on_fault));
    if let Err(e) = locked {
        log::warn!("memory is not locked ({e}): set LimitMEMLOCK=infinity, or run as root");
    }
}
