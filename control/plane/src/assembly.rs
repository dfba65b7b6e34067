//! Puts the plane together: pools, ports, lanes, lcores, guests, in that order's least surprising form.

use crate::events::Hub;
use crate::generation::Generations;
use crate::guest::{GuestPlane, LaneSeat, mode};
use crate::links;
use crate::plane::Plane;
use crate::tapcheck;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_control::config::{self, Config, PolicySpec, node_of};
use tidegate_control::quantity::Pace;
use tidegate_dataplane::classify::Classifier;
use tidegate_dataplane::dpdk::*;
use tidegate_dataplane::ear::Ear;
use tidegate_dataplane::guest::{Guest, Rings};
use tidegate_dataplane::hold::Quota;
use tidegate_dataplane::lane::{Lane, LaneConfig, LaneShared};
use tidegate_dataplane::lcore::{Idle, Lcore, LcoreShared};
use tidegate_dataplane::tsc::Clock;

type PortLane = Lane<PortBurst, PortBurst, Tsc>;

/// Everything that runs, and what must be given back at the end.
pub struct Assembly {
    /// What the control side works on.
    pub plane: Arc<Plane>,
    /// The ports, to be looked at.
    pub links: Vec<links::Seat>,
    eal: Eal,
    ports: Vec<EthPort>,
}

/// Tells a guest's ledger what one lane's rings do. Called by the vhost library's thread.
struct RingEvents {
    guest: Arc<GuestPlane>,
    lane: usize,
}

impl VhostEvents for RingEvents {
    fn ring_stopping(&self) {
        self.guest.ring_stopping();
    }

    fn started(&self) {
        self.guest.ring_started(self.lane);
    }

    fn stopped(&self) {
        self.guest.ring_stopped(self.lane);
    }

    fn negotiated(&self, features: u64, refused: u64) {
        let (name, lane) = (self.guest.name(), self.lane);
        log::info!("guest {name}, lane {lane}: connected, features {features:#x}");
        if refused != 0 {
            log::warn!(
                "guest {name}, lane {lane}: it connected before its offloads could be refused ({refused:#x}); \
                 frames that need them are dropped until it connects again"
            );
        }
    }
}

/// Bytes of huge pages for what an lcore's lanes take beside mbufs: hold rings, histograms, stream tables.
fn arena_bytes(lanes: &[&config::Lane]) -> usize {
    let ring = |lane: &&config::Lane| lane.hold_frames as usize * 5 / 4 * 64 + (4 << 20);
    (lanes.iter().map(ring).sum::<usize>() + (1 << 20)).next_multiple_of(2 << 20)
}

struct Builder<'c> {
    config: &'c Config,
    eal: Eal,
    hub: Arc<Hub>,
    arenas: BTreeMap<usize, HugeArena>,
    lanes: BTreeMap<usize, Vec<PortLane>>,
    ports: Vec<EthPort>,
    links: Vec<links::Seat>,
    /// Each port's pool has a name of its own.
    pools: usize,
}

/// Builds everything and sets the lcores going. Errors name the guest and the lane.
pub fn assemble(config: &Config, eal: Eal, hub: Arc<Hub>) -> Result<Assembly, String> {
    let rate = eal.tsc_rate();
    let generations = Generations::default();
    let huge = matches!(eal.memory(), Memory::Huge { .. });
    let lanes = || config.guests.iter().flat_map(|guest| &guest.lanes);
    let arena = |cpu: usize| {
        let own: Vec<&config::Lane> = lanes().filter(|lane| lane.lcore == cpu).collect();
        HugeArena::new(if huge { arena_bytes(&own) } else { 0 })
    };
    let used = lanes().map(|lane| lane.lcore);
    let arenas = used.map(|cpu| (cpu, arena(cpu))).collect();
    let mut builder = Builder {
        config,
        eal,
        hub,
        arenas,
        lanes: BTreeMap::new(),
        ports: Vec::new(),
        links: Vec::new(),
        pools: 0,
    };
    let mut guests = Vec::new();
    for guest in &config.guests {
        let generation = generations.next().map_err(|e| format!("no random bytes from the kernel: {e}"))?;
        let built = builder.guest(guest, generation);
        guests.push(built.map_err(|problem| format!("guest {}{problem}", guest.name))?);
    }
    let lcores = builder.launch()?;
    let started = Instant::now();
    let plane = Plane { guests, lcores, rate, hub: builder.hub, generations, started };
    Ok(Assembly { plane: Arc::new(plane), links: builder.links, eal: builder.eal, ports: builder.ports })
}

impl Builder<'_> {
    fn guest(&mut self, guest: &config::Guest, generation: u64) -> Result<Arc<GuestPlane>, String> {
        let mut ledger = Guest::new(mode(guest.mode), guest.leased, generation, guest.max_epochs_in_flight);
        let mut seats = Vec::new();
        let mut classifiers = Vec::new();
        for lane in &guest.lanes {
            let arena = arena_of(&mut self.arenas, lane.lcore);
            let policy = PolicySpec::of(guest).compile().map_err(|e| format!(": policy: {e}"))?;
            let mut classifier = Classifier::new(policy, lane.streams as usize, self.eal.tsc_rate(), arena);
            classifier.set_srtcp(guest.srtcp());
            let gate = ledger.gate();
            let ear = Ear::new(&guest.sip_ports, guest.learn_turn, lane.mtu.into());
            let shared = LaneShared::with_ear(Arc::clone(&gate), classifier.table(), ear, arena);
            let vhost = lane.guest_port.trim_start_matches("vdev:").starts_with("net_vhost");
            ledger.add(gate, if vhost { Rings::Stopped } else { Rings::Untold });
            seats.push(LaneSeat { config: lane.clone(), shared });
            classifiers.push(classifier);
        }
        let now = Arc::new(|| Tsc.now());
        let plane = Arc::new(GuestPlane::new(guest.clone(), ledger, seats, Arc::clone(&self.hub), now));
        for (n, classifier) in classifiers.into_iter().enumerate() {
            self.lane(&plane, n, classifier).map_err(|problem| format!(", lane {n}: {problem}"))?;
        }
        Ok(plane)
    }

    fn lane(&mut self, guest: &Arc<GuestPlane>, n: usize, classifier: Classifier) -> Result<(), String> {
        let seat = &guest.lanes[n];
        let lane = &seat.config;
        if let Some(interface) = tapcheck::interface(&lane.guest_port) {
            refuse(&tapcheck::problems(interface))?;
            tapcheck::cut(interface).map_err(|e| format!("guest_port: {e}"))?;
        }
        let events = Arc::new(RingEvents { guest: Arc::clone(guest), lane: n });
        let guest_port =
            self.port(lane, Role::Guest, Some(events)).map_err(|e| format!("guest_port: {e}"))?;
        // A tap has its interface only now. What is written to one the kernel has segmented and summed before.
        if tapcheck::interface(&lane.guest_port).is_none()
            && let Some(interface) = guest_port.kernel_interface()
        {
            refuse(&tapcheck::leaks(interface))?;
        }
        let wire_port = self.port(lane, Role::Wire, None).map_err(|e| format!("wire_port: {e}"))?;
        let pace = match lane.pace {
            Pace::None => None,
            Pace::Bits(bits) => Some(bits),
            Pace::Share(share) => Some(share_of(&wire_port, share)?),
        };
        let config = LaneConfig {
            quota: Quota { mbufs: lane.hold_frames.into(), bytes: lane.hold_bytes.0 },
            pace_bits_per_s: pace,
            mtu: lane.mtu.into(),
            verify_checksums: lane.verify_checksums,
            histograms: lane.histograms,
            mode: mode(guest.config.mode),
            rings_tell: guest_port.is_vhost(),
            ..LaneConfig::default()
        };
        let ends = guest_port.lane_port().zip(wire_port.lane_port());
        let (guest_end, wire_end) = ends.ok_or("its ports are in use")?;
        let arena = arena_of(&mut self.arenas, lane.lcore);
        let shared = Arc::clone(&seat.shared);
        let built =
            Lane::new(guest_end, wire_end, Tsc, self.eal.tsc_rate(), shared, classifier, config, arena);
        self.lanes.entry(lane.lcore).or_default().push(built);
        log::info!(
            "guest {}, lane {n}: {} ({}) <-> {} ({}) on lcore {}",
            guest.name(),
            guest_port.name(),
            guest_port.driver(),
            wire_port.name(),
            wire_port.driver(),
            lane.lcore
        );
        let seat = |port, of: &EthPort| links::Seat {
            guest: guest.name().to_owned(),
            lane: n,
            port,
            watch: of.link_watch(),
            tap: tapcheck::interface(&lane.guest_port).filter(|_| port == "guest").map(str::to_owned),
        };
        self.links.extend([seat("guest", &guest_port), seat("wire", &wire_port)]);
        self.ports.extend([guest_port, wire_port]);
        Ok(())
    }

    fn port(
        &mut self,
        lane: &config::Lane,
        role: Role,
        events: Option<Arc<dyn VhostEvents>>,
    ) -> Result<EthPort, String> {
        let (spec, mbufs) = match role {
            Role::Guest => (&lane.guest_port, lane.guest_pool()),
            Role::Wire => (&lane.wire_port, lane.wire_pool()),
        };
        self.pools += 1;
        let huge = matches!(self.eal.memory(), Memory::Huge { .. });
        let node = u32::try_from(node_of(lane.lcore, Path::new("/"))).ok().filter(|_| huge);
        let data_room = data_room_for(spec, lane.mtu).map_err(|e| e.to_string())?;
        // What a guest sent, its lane's lcore alone gives back; what came from the wire, perhaps a guest port's own thread.
        let one_lcore = role == Role::Guest;
        let pool = MempoolConfig {
            node,
            data_room,
            one_lcore,
            ..MempoolConfig::new(&format!("pool{}", self.pools), mbufs)
        };
        let pool = Mempool::new(&self.eal, pool).map_err(|e| e.to_string())?;
        let config = PortConfig {
            queues: lane.queues,
            rx_desc: lane.rx_desc,
            tx_desc: lane.tx_desc,
            mtu: lane.mtu,
            events,
            ..PortConfig::new(spec, role, pool)
        };
        EthPort::open(&self.eal, config).map_err(|e| e.to_string())
    }

    fn launch(&mut self) -> Result<Vec<(usize, Arc<LcoreShared>)>, String> {
        let idle = match self.config.eal.idle {
            config::Idle::Spin => Idle::Spin,
            config::Idle::Backoff => {
                Idle::BackOff { max_sleep: Duration::from_micros(self.config.eal.max_sleep_us) }
            }
        };
        let mut running = Vec::new();
        for (cpu, lanes) in std::mem::take(&mut self.lanes) {
            let shared = LcoreShared::new(arena_of(&mut self.arenas, cpu));
            let mut lcore = Lcore::new(lanes, Tsc, idle, Arc::clone(&shared));
            let number = u32::try_from(cpu).map_err(|_| format!("lcore {cpu} is no CPU"))?;
            let job = move || {
                // A sleep ends when it should, not up to 50 us later, which is what the kernel allows itself.
                if let Err(e) = nix::sys::prctl::set_timerslack(1) {
                    log::warn!("lcore {cpu}: sleeps may take 50 us longer: {e}");
                }
                lcore.run();
            };
            self.eal.launch(number, Box::new(job)).map_err(|e| e.to_string())?;
            running.push((cpu, shared));
        }
        Ok(running)
    }
}

fn arena_of(arenas: &mut BTreeMap<usize, HugeArena>, cpu: usize) -> &mut HugeArena {
    arenas.entry(cpu).or_insert_with(|| HugeArena::new(0))
}

fn refuse(problems: &[String]) -> Result<(), String> {
    if problems.is_empty() { Ok(()) } else { Err(format!("guest_port: {}", problems.join("; "))) }
}

fn share_of(wire: &EthPort, share: u8) -> Result<u64, String> {
    let mbit = wire.link().mbit.ok_or_else(|| {
        format!(
            "pace: the link of {} tells no speed; write the pace in bits per second, \"800M\"",
            wire.name()
        )
    })?;
    Ok(u64::from(mbit) * 1_000_000 * u64::from(share) / 100)
}

impl Assembly {
    /// Stops the lcores, which drop what they hold (I4), then gives the ports back.
    pub fn stop(self) {
        for (_, lcore) in &self.plane.lcores {
            lcore.stop();
        }
        for (cpu, _) in &self.plane.lcores {
            if let Ok(cpu) = u32::try_from(*cpu)
                && let Err(e) = self.eal.wait(cpu)
            {
                log::warn!("lcore {cpu}: {e}");
            }
        }
        for mut port in self.ports {
            if let Err(e) = port.close() {
                log::warn!("{}: {e}", port.name());
            }
        }
    }
}
