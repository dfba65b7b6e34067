//! A port: the control side's handle. The lcore's side is [`PortBurst`].

use super::courier::CourierThread;
use super::eal::Eal;
use super::link::{Link, LinkWatch};
use super::mempool::Mempool;
use super::port_error::{PortError, examine, explain, parse};
use super::portburst::PortBurst;
use super::vhost::{VhostEvents, Watch};
use std::ffi::{CStr, CString, c_int};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_devargs::Devargs;

/// Which end of a lane a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Towards the virtual machine. Its transmit never blocks.
    Guest,
    /// Towards the network.
    Wire,
}

/// What a port is opened with.
#[derive(Clone)]
pub struct PortConfig {
    /// A PCI address, or DPDK's device arguments: `net_vhost0,iface=/run/tidegate/vm1.sock,client=1`.
    /// A device without a number gets one.
    pub spec: String,
    /// Which end of a lane.
    pub role: Role,
    /// Queue pairs. A vhost device is offered as many (devarg `queues`) unless the spec says more.
    pub queues: u16,
    /// Descriptors of each receive queue; brought within what the device has. Virtual devices ignore it.
    pub rx_desc: u16,
    /// Descriptors of each transmit queue, likewise.
    pub tx_desc: u16,
    /// Bytes above the Ethernet header. The interface of a kernel device keeps its own.
    pub mtu: u16,
    /// Where received frames are stored.
    pub pool: Mempool,
    /// Receive every frame, whatever its destination.
    pub promiscuous: bool,
    /// Have the device put in the checksums of frames that ask for it (`Mbuf::ask_checksum`), where it can. A
    /// lane never asks; it is for ports that play a guest.
    pub tx_checksums: bool,
    /// Hears of a vhost port's rings; of no use for other ports.
    pub events: Option<Arc<dyn VhostEvents>>,
}

impl PortConfig {
    /// One queue pair, 1024 descriptors, MTU 1500, promiscuous.
    pub fn new(spec: &str, role: Role, pool: Mempool) -> Self {
        let spec = spec.to_owned();
        Self {
            spec,
            role,
            queues: 1,
            rx_desc: 1024,
            tx_desc: 1024,
            mtu: 1500,
            pool,
            promiscuous: true,
            tx_checksums: false,
            events: None,
        }
    }
}

/// Bytes of data room that a pool's mbufs must have for a port of this spec and MTU: 2048, or more for
/// drivers that do not chain mbufs. To be asked before the pool is made.
pub fn data_room_for(spec: &str, mtu: u16) -> Result<u16, PortError> {
    let needs = parse(spec)?.data_room(mtu);
    u16::try_from(needs).map_err(|_| PortError::Spec {
        spec: spec.to_owned(),
        why: format!("an MTU of {mtu} needs mbufs of {needs} bytes, which do not exist"),
    })
}

/// The driver's own counters since the port was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames transmitted.
    pub tx_frames: u64,
    /// Bytes transmitted.
    pub tx_bytes: u64,
    /// Frames the device dropped because nobody fetched them.
    pub rx_missed: u64,
    /// Frames received broken.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames dropped because the mempool was empty.
    pub rx_no_mbuf: u64,
}

/// An open port. Closed by [`EthPort::close`] or when dropped.
pub struct EthPort {
    id: u16,
    name: String,
    driver: String,
    queues: u16,
    virtual_device: bool,
    interface: Option<String>,
    /// The port has been made promiscuous, and its kernel interface, if it has one, was not so before.
    made_promiscuous: bool,
    /// The driver tells a link's real speed.
    knows_speed: bool,
    device: *mut dpdk_sys::rte_device,
    vhost: bool,
    watch: Option<Watch>,
    courier: Option<CourierThread>,
    lent: Arc<AtomicBool>,
    open: bool,
    /// Kept alive: the driver takes its mbufs from here.
    pool: Mempool,
}

// SAFETY: `device` is only handed back to DPDK, by `close` with `&mut self`; DPDK's control calls take its own
// locks and may come from any thread.
unsafe impl Send for EthPort {}
// SAFETY: as above; the shared methods only read.
unsafe impl Sync for EthPort {}

impl EthPort {
    /// Attaches the device (DPDK's hot-plug), configures and starts it. Control thread only: a NIC takes
    /// seconds to bring its link up. A vhost port is open before its guest is there.
    pub fn open(_eal: &Eal, config: PortConfig) -> Result<EthPort, PortError> {
        let mut devargs = parse(&config.spec)?;
        devargs.complete(config.queues, config.mtu);
        if !devargs.is_pci() && port_named(&devargs.name).is_some() {
            return Err(PortError::Exists(devargs.name));
        }
        let (needs, has) = (devargs.data_room(config.mtu), config.pool.config().data_room);
        if u32::from(has) < needs {
            return Err(PortError::DataRoom { name: devargs.name, needs, has });
        }
        examine(&devargs)?;
        let id = attach(&devargs)?;
        let mut port = EthPort {
            id,
            name: devargs.name.clone(),
            driver: String::new(),
            queues: config.queues,
            virtual_device: !devargs.is_pci(),
            interface: None,
            made_promiscuous: false,
            knows_speed: devargs.is_pci(),
            device: std::ptr::null_mut(),
            vhost: devargs.kind() == "vhost",
            watch: None,
            courier: None,
            lent: Arc::new(AtomicBool::new(false)),
            open: true,
            pool: config.pool.clone(),
        };
        // From here on an early return closes the port.
        port.bring_up(&devargs, &config)?;
        Ok(port)
    }

    fn bring_up(&mut self, devargs: &Devargs, config: &PortConfig) -> Result<(), PortError> {
        let info = self.info()?;
        self.device = info.device;
        self.driver = text(info.driver_name);
        self.interface = name_of_interface(info.if_index);
        let has = info.max_rx_queues.min(info.max_tx_queues);
        if config.queues == 0 || config.queues > has {
            return Err(PortError::Queues { name: self.name.clone(), asked: config.queues, has });
        }
        if self.vhost {
            // Before the socket exists, so that no start of a guest is missed.
            let watch = Watch::new(self.id, config.events.clone());
            self.watch = Some(watch.map_err(|errno| self.failed("listening to its events", -errno))?);
        }
        self.configure(&info, config)?;
        if let (Some(watch), Some(path)) = (&self.watch, devargs.get("iface")) {
            watch.refuse_features(path).map_err(|errno| self.failed("limiting its features", -errno))?;
        }
        self.set_up_queues(config)?;
        if config.role == Role::Guest && devargs.kind() == "tap" {
            self.quiet_tap();
        }
        // Asked before the start, which puts the flag out.
        let before = self.interface.as_deref().is_some_and(is_promiscuous);
        // SAFETY: the port is configured.
        self.step("start", unsafe { dpdk_sys::rte_eth_dev_start(self.id) })?;
        if config.promiscuous {
            // Drivers without the notion receive everything anyway, and say "not supported".
            // SAFETY: the port is started.
            let done = unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.id) };
            self.made_promiscuous = done == 0 && !before;
        }
        if let Some(watch) = &self.watch {
            watch.port_started();
        }
        if config.role == Role::Guest && devargs.kind() == "af_packet" {
            let courier = CourierThread::start(self.id, self.queues);
            self.courier = Some(courier.map_err(|error| {
                self.failed("starting its transmit thread", -error.raw_os_error().unwrap_or(11))
            })?);
        }
        Ok(())
    }

    /// The driver has just made this interface, so nobody could yet take IPv6 from it, with which the kernel would
    /// speak there by itself. Where it may not be written, the caller sees the address and refuses.
    fn quiet_tap(&self) {
        if let Some(interface) = &self.interface {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1");
        }
    }

    fn configure(&self, info: &dpdk_sys::rte_eth_dev_info, config: &PortConfig) -> Result<(), PortError> {
        // SAFETY: a struct of integers, for which zero means "the default".
        let mut conf: dpdk_sys::rte_eth_conf = unsafe { std::mem::zeroed() };
        let most = largest_mtu(info);
        if !self.virtual_device && u32::from(config.mtu) > most {
            return Err(PortError::Mtu { name: self.name.clone(), asked: config.mtu, has: most });
        }
        // Some virtual devices name a limit of 1500 that they do not have (af_packet); none needs to be told.
        conf.rxmode.mtu = most.min(config.mtu.into());
        if self.vhost && config.role == Role::Guest {
            // A guest's partial checksums are left to us, with a mark: otherwise the driver completes them, and the
            // lane sums up the same bytes again.
            conf.rxmode.offloads = info.rx_offload_capa & dpdk_sys::RX_CHECKSUMS;
        }
        let longest = u32::from(config.mtu) + 26; // Ethernet header, two VLAN tags, FCS.
        if longest > u32::from(config.pool.config().data_room) {
            conf.rxmode.offloads |= info.rx_offload_capa & dpdk_sys::RX_SCATTER;
        }
        // Frames from a guest may be chains.
        let checksums = if config.tx_checksums { dpdk_sys::TX_CHECKSUMS } else { 0 };
        conf.txmode.offloads = info.tx_offload_capa & (dpdk_sys::TX_MULTI_SEGS | checksums);
        let hashes = info.flow_type_rss_offloads & dpdk_sys::RSS_IP_L4;
        if config.queues > 1 && hashes != 0 {
            conf.rxmode.mq_mode = dpdk_sys::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = hashes;
        }
        // SAFETY: the port exists, `conf` is read only.
        self.step("configure", unsafe {
            dpdk_sys::rte_eth_dev_configure(self.id, config.queues, config.queues, &conf)
        })
    }

    fn set_up_queues(&self, config: &PortConfig) -> Result<(), PortError> {
        let (mut rx, mut tx) = (config.rx_desc, config.tx_desc);
        // SAFETY: the port is configured; adjusts two numbers.
        self.step("number of descriptors", unsafe {
            dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.id, &mut rx, &mut tx)
        })?;
        // SAFETY: the port exists. The result is -1 for any node.
        let node = unsafe { dpdk_sys::rte_eth_dev_socket_id(self.id) } as u32;
        for queue in 0..config.queues {
            // SAFETY: NULL takes the driver's defaults; the pool lives as long as this port.
            self.step("receive queue", unsafe {
                dpdk_sys::rte_eth_rx_queue_setup(
                    self.id,
                    queue,
                    rx,
                    node,
                    std::ptr::null(),
                    config.pool.as_ptr(),
                )
            })?;
            // SAFETY: as above.
            self.step("transmit queue", unsafe {
                dpdk_sys::rte_eth_tx_queue_setup(self.id, queue, tx, node, std::ptr::null())
            })?;
        }
        Ok(())
    }

    /// The lcore's end. One at a time: `None` while another exists.
    pub fn lane_port(&self) -> Option<PortBurst> {
        if self.lent.swap(true, Ordering::AcqRel) {
            return None;
        }
        let couriers = self.courier.as_ref().map(CourierThread::couriers).unwrap_or_default();
        Some(PortBurst::new(self.id, self.queues, couriers, self.pool.clone(), Arc::clone(&self.lent)))
    }

    /// DPDK's number of the port.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The device: "net_vhost0", "0000:03:00.0".
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver: "net_vhost", "net_e1000_em".
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Queue pairs.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// Where received frames are stored.
    pub fn pool(&self) -> &Mempool {
        &self.pool
    }

    /// True for a vhost-user port: its rings tell when the guest stops.
    pub fn is_vhost(&self) -> bool {
        self.vhost
    }

    /// True while a vhost guest's rings are attached. A ring that only its driver disabled counts as
    /// running; so does everything for ports whose rings do not tell.
    pub fn rings_running(&self) -> bool {
        !self.vhost || self.watch.as_ref().is_some_and(Watch::running)
    }

    /// The kernel's interface behind an af_packet, af_xdp or tap port.
    pub fn kernel_interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    /// The MAC address of the device; drivers of virtual devices make one up.
    pub fn mac(&self) -> [u8; 6] {
        let mut mac = [0u8; 6];
        let mut address = dpdk_sys::rte_ether_addr { _bindgen_opaque_blob: [0; 3] };
        // SAFETY: the port is open; writes six bytes.
        if unsafe { dpdk_sys::rte_eth_macaddr_get(self.id, &mut address) } == 0 {
            for (bytes, pair) in mac.chunks_exact_mut(2).zip(address._bindgen_opaque_blob) {
                bytes.copy_from_slice(&pair.to_ne_bytes());
            }
        }
        mac
    }

    /// The link.
    pub fn link(&self) -> Link {
        self.link_watch().link()
    }

    /// Tells the link from any thread, as long as it is asked.
    pub fn link_watch(&self) -> LinkWatch {
        LinkWatch::new(self.id, self.interface.clone(), self.knows_speed)
    }

    /// The driver's counters.
    pub fn stats(&self) -> PortStats {
        // SAFETY: a struct of integers.
        let mut stats: dpdk_sys::rte_eth_stats = unsafe { std::mem::zeroed() };
        // SAFETY: the port is open; fills `stats`, or leaves it zero.
        unsafe { dpdk_sys::rte_eth_stats_get(self.id, &mut stats) };
        PortStats {
            rx_frames: stats.ipackets,
            rx_bytes: stats.ibytes,
            tx_frames: stats.opackets,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            tx_errors: stats.oerrors,
            rx_no_mbuf: stats.rx_nombuf,
        }
    }

    /// Stops and closes the port and lets the device go: its name, socket or interface is free again.
    /// Refused while a lane has its [`PortBurst`], and while its driver blocks in transmit. A second call does
    /// nothing.
    pub fn close(&mut self) -> Result<(), PortError> {
        if !self.open {
            return Ok(());
        }
        // Taking the lane's place also keeps a new one from being lent.
        if self.lent.swap(true, Ordering::AcqRel) {
            return Err(PortError::Lent(self.name.clone()));
        }
        if let Some(courier) = &mut self.courier
            && !courier.stop()
        {
            self.lent.store(false, Ordering::Release);
            return Err(PortError::Stuck(self.name.clone()));
        }
        self.open = false;
        if let Some(watch) = &self.watch {
            watch.unregister();
        }
        // SAFETY: the port is ours, no lcore has its PortBurst, its transmit thread has ended. Each step is
        // harmless when an earlier one was not reached or failed.
        unsafe {
            if self.made_promiscuous {
                // Drivers of kernel interfaces set the interface's own flag, which outlives them.
                dpdk_sys::rte_eth_promiscuous_disable(self.id);
            }
            dpdk_sys::rte_eth_dev_stop(self.id);
            dpdk_sys::rte_eth_dev_close(self.id);
            if self.virtual_device && !self.device.is_null() {
                dpdk_sys::rte_dev_remove(self.device);
            }
        }
        self.watch = None; // Tells a guest that was attached until now.
        Ok(())
    }

    fn info(&self) -> Result<dpdk_sys::rte_eth_dev_info, PortError> {
        // SAFETY: a struct of integers and pointers, filled below.
        let mut info: dpdk_sys::rte_eth_dev_info = unsafe { std::mem::zeroed() };
        // SAFETY: the port exists.
        self.step("asking the driver", unsafe { dpdk_sys::rte_eth_dev_info_get(self.id, &mut info) })?;
        Ok(info)
    }

    fn step(&self, step: &'static str, result: c_int) -> Result<(), PortError> {
        if result < 0 { Err(self.failed(step, result)) } else { Ok(()) }
    }

    fn failed(&self, step: &'static str, result: c_int) -> PortError {
        PortError::Step { name: self.name.clone(), step, errno: -result }
    }
}

impl Drop for EthPort {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            // The driver goes on using the pool, so the pool must outlive this handle.
            log::warn!("{error}");
            Box::leak(Box::new((self.pool.clone(), self.watch.take(), self.courier.take())));
        }
    }
}

impl fmt::Debug for EthPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, driver, queues, interface, .. } = self;
        write!(f, "EthPort {{ id: {id}, name: {name:?}, driver: {driver:?}, queues: {queues}, ")?;
        write!(f, "interface: {interface:?}, vhost: {} }}", self.is_vhost())
    }
}

/// Hot-plugs a virtual device, or finds the NIC that EAL took at start.
fn attach(devargs: &Devargs) -> Result<u16, PortError> {
    if let Some(id) = port_named(&devargs.name) {
        return Ok(id);
    }
    let text = devargs.text();
    let Ok(arg) = CString::new(text.as_str()) else {
        return Err(PortError::Spec { spec: text, why: "it has a NUL byte in it".into() });
    };
    // SAFETY: reads a NUL-terminated string.
    let done = unsafe { dpdk_sys::rte_dev_probe(arg.as_ptr()) };
    if done < 0 {
        return Err(explain(devargs, -done));
    }
    port_named(&devargs.name).ok_or_else(|| explain(devargs, 19))
}

fn port_named(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: reads a NUL-terminated name, writes one number.
    let done = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut id) };
    (done == 0).then_some(id)
}

/// The largest MTU that the driver names.
fn largest_mtu(info: &dpdk_sys::rte_eth_dev_info) -> u32 {
    const FRAMING: u32 = 18; // Ethernet header and FCS.
    let by_length = info.max_rx_pktlen.saturating_sub(FRAMING);
    if info.max_mtu == 0 { by_length } else { by_length.min(info.max_mtu.into()) }
}

fn name_of_interface(index: u32) -> Option<String> {
    let mut name = [0u8; 16]; // IF_NAMESIZE
    // SAFETY: writes at most IF_NAMESIZE bytes, NUL-terminated.
    let found = unsafe { dpdk_sys::if_indextoname(index, name.as_mut_ptr().cast()) };
    let name = CStr::from_bytes_until_nul(&name).ok()?;
    (!found.is_null()).then(|| name.to_string_lossy().into_owned())
}

/// Somebody has set the kernel's interface promiscuous.
fn is_promiscuous(interface: &str) -> bool {
    let Ok(name) = CString::new(interface) else { return false };
    // SAFETY: reads a NUL-terminated name.
    unsafe { dpdk_sys::shim_promiscuous(name.as_ptr()) == 1 }
}

fn text(pointer: *const std::ffi::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: a driver's name, NUL-terminated, which lives as long as the driver.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
