//! The simulator's frame, ports and clock. Each call lets the world move first.

use crate::world::World;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::port::{Frame, Port};
use tidegate_dataplane::tsc::Clock;

/// What a frame is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP: must wait for its checkpoint.
    Tcp,
    /// RTP of one stream, in order: may leave at once when promoted.
    Rtp,
    /// ARP: leaves at once.
    Arp,
}

/// What the VM knew when it made the frame available.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// The run of the VM: pauses it had been through.
    pub run: u64,
    /// Number within its lane and kind, rising.
    pub number: u64,
    pub lane: usize,
    pub kind: Kind,
}

#[derive(Debug)]
pub struct SimFrame {
    pub made: Made,
    pub bytes: Vec<u8>,
    alive: Arc<AtomicI64>,
    /// The guest was open when it was dequeued: it takes the way of what bypasses.
    pub in_open: bool,
    /// Counts those of its kind that the plane has; set when it is dequeued.
    inside: Option<Arc<AtomicI64>>,
}

impl SimFrame {
    pub fn new(made: Made, bytes: Vec<u8>, alive: &Arc<AtomicI64>) -> Self {
        alive.fetch_add(1, Relaxed);
        Self { made, bytes, alive: alive.clone(), in_open: false, inside: None }
    }

    /// The plane has it from now on, until it leaves or is dropped.
    pub fn goes_in(&mut self, inside: &Arc<AtomicI64>) {
        inside.fetch_add(1, Relaxed);
        self.inside = Some(inside.clone());
    }
}

impl Drop for SimFrame {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Relaxed);
        if let Some(inside) = &self.inside {
            inside.fetch_sub(1, Relaxed);
        }
    }
}

impl Frame for SimFrame {
    fn head(&self) -> &[u8] {
        &self.bytes
    }

    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn segments(&self) -> u16 {
        1
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        see(&self.bytes);
    }
}

#[derive(Debug, Clone)]
pub struct SimClock(pub Rc<RefCell<World>>);

impl Clock for SimClock {
    fn now(&self) -> u64 {
        let mut world = self.0.borrow_mut();
        world.moves();
        world.now
    }
}

/// The guest's NIC: its transmit ring is the world's.
#[derive(Debug)]
pub struct GuestPort {
    pub world: Rc<RefCell<World>>,
    pub lane: usize,
}

impl Port for GuestPort {
    type Frame = SimFrame;

    fn queues(&self) -> u16 {
        1
    }

    fn receive(&mut self, _queue: u16, burst: &mut Burst<SimFrame>) -> usize {
        let mut world = self.world.borrow_mut();
        // Now and then the core is taken away just here: whole pauses pass between what the lane looked at before
        // and what it finds in the ring (I2).
        let moves = if world.random.once_in(20) { 150 } else { 1 };
        (0..moves).for_each(|_| world.moves());
        let mut got = 0;
        while !burst.is_full() {
            let Some(frame) = world.dequeue(self.lane) else { break };
            burst.push(frame).expect("there is room");
            got += 1;
        }
        // What happens between the dequeue and the next look at anything.
        world.moves();
        got
    }

    fn transmit(&mut self, _queue: u16, burst: &mut Burst<SimFrame>) -> usize {
        let mut world = self.world.borrow_mut();
        world.moves();
        let mut sent = 0;
        while !burst.is_empty() && world.guest_takes(self.lane) {
            burst.queued()[0] = None;
            burst.sent(1);
            sent += 1;
        }
        sent
    }
}

/// The wire: the world judges each frame that leaves.
#[derive(Debug)]
pub struct WirePort {
    pub world: Rc<RefCell<World>>,
    pub lane: usize,
}

impl Port for WirePort {
    type Frame = SimFrame;

    fn queues(&self) -> u16 {
        1
    }

    fn receive(&mut self, _queue: u16, burst: &mut Burst<SimFrame>) -> usize {
        let mut world = self.world.borrow_mut();
        world.moves();
        match world.arrives(self.lane) {
            Some(frame) => burst.push(frame).map_or(0, |()| 1),
            None => 0,
        }
    }

    fn transmit(&mut self, _queue: u16, burst: &mut Burst<SimFrame>) -> usize {
        // The lease was compared just before; the world does not move in between, as no driver could
        // be made to forget a frame that it was given in time.
        let mut world = self.world.borrow_mut();
        let mut sent = 0;
        while !burst.is_empty() && world.wire_takes(self.lane) {
            let frame = burst.queued()[0].take().expect("a queued slot is full");
            burst.sent(1);
            world.judge(&frame);
            sent += 1;
        }
        sent
    }
}
