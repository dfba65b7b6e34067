//! The generator's lcore: a source of frames for each device under test.

use crate::cpu_time::CpuTimes;
use crate::failure::{Failure, Result};
use crate::frames::{self, Checksums, HEAD, Load};
use crate::generator::{Answer, Measure, Order, Window};
use crate::stream;
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{L4, Mbuf, Mempool, PortBurst, Tsc};
use tidegate_dataplane::port::{BURST, Port};
use tidegate_dataplane::tsc::{Clock, TscRate};

/// Frames that must have been taken before the warm-up counts: more than all rings hold.
const FLOWING: u64 = 10_000;
/// How long a full ring is left alone: one or two per cent of it drain meanwhile, and the device's lcore is not slowed
/// by somebody who keeps asking for the cache lines that it writes.
const PAUSE_NS: u64 = 2_000;
/// How long a device may take until frames flow, or a single frame may take, ns.
const PATIENCE_NS: u64 = 15_000_000_000;

/// Sends to one device, and swallows what comes out of its wire port if that leads here.
pub struct Source {
    guest: PortBurst,
    wire: Option<PortBurst>,
    pool: Mempool,
    load: Load,
    checksums: Checksums,
    rate: TscRate,
    waiting: Burst<Mbuf>,
    sent: u64,
    received: u64,
    refused: u64,
    /// Ticks to leave a full ring alone, and until when.
    pause: u64,
    not_before: u64,
    /// The first call of the next plan.
    next_call: u16,
}

impl Source {
    /// `pool`: cleared, see [`HEAD`].
    pub fn new(
        guest: PortBurst,
        wire: Option<PortBurst>,
        pool: Mempool,
        order: &Order,
        rate: TscRate,
    ) -> Source {
        Source {
            guest,
            wire,
            pool,
            load: Load::new(order.mix, order.checksums),
            checksums: order.checksums,
            rate,
            waiting: Burst::new(),
            sent: 0,
            received: 0,
            refused: 0,
            pause: rate.ticks(PAUSE_NS),
            not_before: 0,
            next_call: stream::FIRST_CALL,
        }
    }

    /// Carries one request out.
    pub fn measure(&mut self, what: Measure) -> Result<Answer> {
        match what {
            Measure::Rate { pid, warmup_ms, window_ms } => {
                self.window(pid, warmup_ms, window_ms).map(Answer::Rate)
            }
            Measure::Delay { frames, silence_us } => self.delays(frames, silence_us).map(Answer::Delay),
            Measure::Stream(plan) => {
                let no_wire = || Failure::new("a stream needs a wire port that leads back here");
                let wire = self.wire.as_mut().ok_or_else(no_wire)?;
                let first = self.next_call;
                self.next_call = stream::next(first, plan);
                stream::run(plan, first, &mut self.guest, wire, &self.pool, self.checksums, self.rate)
                    .map(Answer::Stream)
            }
        }
    }

    fn window(&mut self, dut: u32, warmup_ms: u64, window_ms: u64) -> Result<Window> {
        let (flowing, deadline) = (self.sent + FLOWING, Tsc.now() + self.rate.ticks(PATIENCE_NS));
        while self.sent < flowing {
            self.poll();
            if Tsc.now() > deadline {
                return Err(Failure::new(format!(
                    "only {} frames were taken within {} s: the device under test does not forward",
                    self.sent + FLOWING - flowing,
                    PATIENCE_NS / 1_000_000_000,
                )));
            }
        }
        self.until(Tsc.now() + self.rate.ticks(warmup_ms * 1_000_000));
        let pids = [dut, std::process::id()];
        let before = CpuTimes::of(&pids);
        let (start, sent, received, refused) = (Tsc.now(), self.sent, self.received, self.refused);
        self.until(start + self.rate.ticks(window_ms * 1_000_000));
        let (end, frames, received) = (Tsc.now(), self.sent - sent, self.received - received);
        let after = CpuTimes::of(&pids);
        let wall_ns = self.rate.ns(end - start);
        Ok(Window {
            frames,
            received,
            seconds: wall_ns as f64 / 1e9,
            ring_full: ((self.refused - refused) * self.pause) as f64 / (end - start) as f64,
            dut_cpu: after.busiest_since(&before, pids[0], wall_ns),
            generator_cpu: after.busiest_since(&before, pids[1], wall_ns),
        })
    }

    fn until(&mut self, deadline: u64) {
        while Tsc.now() < deadline {
            for _ in 0..16 {
                self.poll();
            }
        }
    }

    #[inline]
    fn poll(&mut self) {
        if let Some(wire) = &mut self.wire {
            let mut arrived = Burst::new();
            self.received += wire.receive(0, &mut arrived) as u64;
        }
        if Tsc.now() < self.not_before {
            return std::hint::spin_loop();
        }
        while self.waiting.len() < BURST {
            let frame = self.load.frame();
            // An empty pool means that every mbuf lies in the ring: as good as full.
            let Some(mut mbuf) = Mbuf::recycled(&self.pool, frame.len() as u16) else { break };
            mbuf.head_mut()[..HEAD].copy_from_slice(&frame[..HEAD]);
            if self.checksums == Checksums::Device {
                mbuf.ask_checksum(14, 20, false, if frame[23] == 17 { L4::Udp } else { L4::Tcp });
            }
            if self.waiting.push(mbuf).is_err() {
                break;
            }
        }
        let taken = self.guest.transmit(0, &mut self.waiting) as u64;
        self.sent += taken;
        if taken == 0 {
            self.refused += 1;
            self.not_before = Tsc.now() + self.pause;
        }
    }

    /// One ARP request at a time, each after a silence in which the device's lcore may fall asleep.
    fn delays(&mut self, frames: u32, silence_us: u64) -> Result<Vec<u64>> {
        let Some(mut wire) = self.wire.take() else {
            return Err(Failure::new("a delay needs a wire port that leads back here"));
        };
        let delays = (0..frames).map(|n| {
            // Silences of different lengths, so that they keep no step with the sleeps.
            let silence = silence_us * 1_000 * u64::from(100 + n * 37 % 100) / 100;
            let end = Tsc.now() + self.rate.ticks(silence);
            while Tsc.now() < end {
                std::hint::spin_loop();
            }
            self.delay(&mut wire)
        });
        let delays = delays.collect();
        self.wire = Some(wire);
        delays
    }

    fn delay(&mut self, wire: &mut PortBurst) -> Result<u64> {
        let lost = || Failure::new("a frame did not come out of the device's wire port");
        let mut arrived = Burst::new();
        while wire.receive(0, &mut arrived) > 0 {
            while arrived.pop().is_some() {}
        }
        let mut burst = Burst::new();
        let frame = Mbuf::from_parts(&self.pool, &[&frames::arp_request()]).ok_or_else(lost)?;
        burst.push(frame).map_err(|_| lost())?;
        let start = Tsc.now();
        let deadline = start + self.rate.ticks(PATIENCE_NS);
        while !burst.is_empty() {
            self.guest.transmit(0, &mut burst);
            if Tsc.now() > deadline {
                return Err(lost());
            }
        }
        while wire.receive(0, &mut arrived) == 0 {
            if Tsc.now() > deadline {
                return Err(lost());
            }
        }
        Ok(self.rate.ns(Tsc.now() - start))
    }
}
