//! What the vhost-user library tells of a guest: its rings start, are about to stop, have stopped.
//!
//! The in-band barrier. A hypervisor that pauses a VM asks for each ring's position (GET_VRING_BASE) and
//! waits for the answer. DPDK stops the rings while it handles that message, and by the time it says so
//! (`destroy_device`, the port's link goes down) the driver has already turned its receive off. But before
//! each message it calls a hook, and there the rings are still on: the lcore can drain them while the
//! hypervisor waits. That hook is [`VhostEvents::ring_stopping`].
//!
//! What the hook does not see: a guest's driver that disables a single ring (SET_VRING_ENABLE), a new
//! memory table, a connection that breaks. A disabled ring is not taken as a stopped guest
//! (`rings_running` stays true until the library has let the device go), and the other two end in
//! [`VhostEvents::stopped`] without `ring_stopping` before it.
//!
//! All calls come from the one thread `vhost-events`, which serves every guest of the process (`stopped`
//! also from the thread that closes the port): whatever an implementation waits for, it waits bounded.

use std::ffi::{CString, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Virtio-net features that a guest is never offered (bits, virtio 1.2 section 5.1.3): large frames in
/// either direction. What a guest may hand us is what a wire carries: one frame, its checksum complete
/// (the driver completes a partial one).
pub const REFUSED_FEATURES: u64 = 1 << 7 // GUEST_TSO4
    | 1 << 8 // GUEST_TSO6
    | 1 << 9 // GUEST_ECN
    | 1 << 10 // GUEST_UFO
    | 1 << 11 // HOST_TSO4
    | 1 << 12 // HOST_TSO6
    | 1 << 13 // HOST_ECN
    | 1 << 14 // HOST_UFO
    | 1 << 54 // GUEST_USO4
    | 1 << 55 // GUEST_USO6
    | 1 << 56; // HOST_USO

/// Hears of the rings of one port.
pub trait VhostEvents: Send + Sync {
    /// The hypervisor is stopping the rings and waits for us. They are still on: what the guest made
    /// available before now can still be received by the lcore. Once for each start. May block, bounded.
    fn ring_stopping(&self);

    /// The rings run.
    fn started(&self);

    /// The rings have stopped and receive is off, whether the hypervisor asked, broke the connection, or
    /// the port was closed.
    fn stopped(&self);

    /// What the guest negotiated, told before `started`. `refused`: those of [`REFUSED_FEATURES`] among
    /// them, 0 unless the guest connected before they could be withdrawn; frames that need them are
    /// `unfinished`.
    fn negotiated(&self, features: u64, refused: u64);
}

/// Requests that stop rings, by their number in the vhost-user protocol.
const RESET_OWNER: u32 = 4;
const GET_VRING_BASE: u32 = 11;

const MAX_PORTS: usize = dpdk_sys::MAX_PORTS as usize;
/// RTE_MAX_VHOST_DEVICE of the library, which no header exports: device numbers are below it.
const MAX_VIDS: usize = 1024;
const NO_PORT: u16 = u16::MAX;

/// Who listens on which port, and which port a device number belongs to. Static, because DPDK's hooks
/// carry a number and nothing of ours.
static PORTS: [Mutex<Option<Arc<Listener>>>; MAX_PORTS] = [const { Mutex::new(None) }; MAX_PORTS];
static VIDS: [AtomicU16; MAX_VIDS] = [const { AtomicU16::new(NO_PORT) }; MAX_VIDS];

static OPS: dpdk_sys::rte_vhost_user_extern_ops =
    dpdk_sys::rte_vhost_user_extern_ops { pre_msg_handle: Some(before_message), post_msg_handle: None };

struct Listener {
    port: u16,
    events: Option<Arc<dyn VhostEvents>>,
    /// The device number while the rings run. Held over each change, so that changes come one by one.
    vid: Mutex<Option<usize>>,
    running: AtomicBool,
    /// The port has been started: before, the driver answers 0 for any device number.
    port_started: AtomicBool,
}

/// A port's place among the listeners; gone when dropped.
pub(super) struct Watch(Arc<Listener>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic aborts the process, so there is no poison to see.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Listens on a port that is not yet configured.
    pub(super) fn new(port: u16, events: Option<Arc<dyn VhostEvents>>) -> Result<Watch, i32> {
        let listener = Arc::new(Listener {
            port,
            events,
            vid: Mutex::new(None),
            running: AtomicBool::new(false),
            port_started: AtomicBool::new(false),
        });
        *lock(&PORTS[usize::from(port)]) = Some(Arc::clone(&listener));
        // SAFETY: `link_changed` fits the event and needs no argument of ours.
        let done = unsafe {
            dpdk_sys::rte_eth_dev_callback_register(
                port,
                dpdk_sys::RTE_ETH_EVENT_INTR_LSC,
                Some(link_changed),
                std::ptr::null_mut(),
            )
        };
        let watch = Watch(listener);
        if done == 0 { Ok(watch) } else { Err(-done) }
    }

    /// Withdraws [`REFUSED_FEATURES`]. To be called as soon as the socket exists, that is after
    /// configure: a guest that connects in between is told of by [`VhostEvents::negotiated`].
    pub(super) fn refuse_features(&self, path: &str) -> Result<(), i32> {
        let path = CString::new(path).map_err(|_| 22)?;
        // SAFETY: reads a NUL-terminated path.
        let done = unsafe { dpdk_sys::rte_vhost_driver_disable_features(path.as_ptr(), REFUSED_FEATURES) };
        if done == 0 { Ok(()) } else { Err(5) }
    }

    /// The port has been started: a guest that connected before that is up now.
    pub(super) fn port_started(&self) {
        self.0.port_started.store(true, Ordering::SeqCst);
        self.0.look();
    }

    /// True until the library has let the guest's rings go.
    pub(super) fn running(&self) -> bool {
        self.0.running.load(Ordering::Acquire)
    }
}

impl Watch {
    /// No more link events. While the port still exists: DPDK forgets a port, but not its callbacks.
    pub(super) fn unregister(&self) {
        const EAGAIN: c_int = -11; // The callback is running.
        for _ in 0..1000 {
            // SAFETY: as registered.
            let done = unsafe {
                dpdk_sys::rte_eth_dev_callback_unregister(
                    self.0.port,
                    dpdk_sys::RTE_ETH_EVENT_INTR_LSC,
                    Some(link_changed),
                    std::ptr::null_mut(),
                )
            };
            if done != EAGAIN {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

impl Drop for Watch {
    /// After the port has been closed: the end of a guest that was still attached is told here.
    fn drop(&mut self) {
        *lock(&PORTS[usize::from(self.0.port)]) = None;
        self.0.down(&mut lock(&self.0.vid));
    }
}

impl Listener {
    /// Compares the link with what was told last, and tells what changed.
    fn look(&self) {
        if !self.port_started.load(Ordering::SeqCst) {
            return;
        }
        let mut vid = lock(&self.vid);
        // SAFETY: the port exists while it is in PORTS.
        let now = unsafe { dpdk_sys::rte_eth_vhost_get_vid_from_port_id(self.port) };
        let now = usize::try_from(now).ok().filter(|&now| now < MAX_VIDS && link_is_up(self.port));
        if *vid == now {
            return;
        }
        // Another device in place of the one we knew: it stopped, whether we were told or not.
        self.down(&mut vid);
        if let Some(now) = now {
            self.up(&mut vid, now);
        }
    }

    fn up(&self, vid: &mut Option<usize>, now: usize) {
        *vid = Some(now);
        VIDS[now].store(self.port, Ordering::SeqCst);
        let number = now as c_int;
        // SAFETY: OPS is static; the library copies it into the device.
        unsafe { dpdk_sys::rte_vhost_extern_callback_register(number, &OPS, std::ptr::null_mut()) };
        let mut features = 0;
        // SAFETY: writes one u64.
        unsafe { dpdk_sys::rte_vhost_get_negotiated_features(number, &mut features) };
        self.running.store(true, Ordering::Release);
        if let Some(events) = &self.events {
            events.negotiated(features, features & REFUSED_FEATURES);
            events.started();
        }
    }

    fn down(&self, vid: &mut Option<usize>) {
        let Some(was) = vid.take() else { return };
        VIDS[was].store(NO_PORT, Ordering::SeqCst);
        self.running.store(false, Ordering::Release);
        if let Some(events) = &self.events {
            events.stopped();
        }
    }
}

fn listener(port: u16) -> Option<Arc<Listener>> {
    // Cloned out, so that no lock is held while an event handler waits for an lcore.
    lock(PORTS.get(usize::from(port))?).clone()
}

fn link_is_up(port: u16) -> bool {
    super::link::link_of(port).is_some_and(|link| link.up)
}

unsafe extern "C" fn link_changed(
    port: u16,
    _event: dpdk_sys::rte_eth_event_type,
    _ours: *mut c_void,
    _result: *mut c_void,
) -> c_int {
    if let Some(listener) = listener(port) {
        listener.look();
    }
    0
}

/// The library's hook before each message.
unsafe extern "C" fn before_message(vid: c_int, message: *mut c_void) -> dpdk_sys::rte_vhost_msg_result {
    // SAFETY: a message starts with its request number, a u32 (`struct VhostUserMsg`), and the library
    // passes a whole one.
    let request = unsafe { message.cast::<u32>().read_unaligned() };
    if matches!(request, GET_VRING_BASE | RESET_OWNER) {
        let port =
            usize::try_from(vid).ok().and_then(|vid| VIDS.get(vid)).map(|port| port.load(Ordering::SeqCst));
        // The first GET_VRING_BASE stops all rings, and with them the entry in VIDS goes: one call a start.
        if let Some(listener) = port.and_then(listener)
            && let Some(events) = &listener.events
        {
            events.ring_stopping();
        }
    }
    dpdk_sys::RTE_VHOST_MSG_RESULT_NOT_HANDLED
}
