//! What a user of stock QEMU has: the object `filter-buffer` on a netdev, by its own clock. Here on a hub of a QEMU without a
//! machine, so that no guest's CPU is measured with it.

use super::device::{Device, Rhythm};
use super::wires::{IN, OUT, Wires};
use crate::failure::Result;
use std::time::Duration;
use tidegate_tests::process::{Program, Running};
use tidegate_tests::wall_clock::wait_until;

const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// The taps and the bridges that tie them to the wires.
const ENDS: [(&str, &str, &str); 2] = [("fb-in", "br-in", IN), ("fb-out", "br-out", OUT)];

/// See the module's head.
pub struct FilterBuffer {
    interval: Duration,
    running: Option<Running>,
}

impl FilterBuffer {
    /// It is told nothing of commits: only the interval counts.
    pub fn new(rhythm: Rhythm) -> FilterBuffer {
        FilterBuffer { interval: rhythm.interval, running: None }
    }
}

impl Device for FilterBuffer {
    fn start(&mut self, wires: &Wires) -> Result<()> {
        let mut program =
            Program::new("qemu-system-x86_64").args("-M none -nodefaults -display none -no-user-config");
        for (number, (tap, bridge, wire)) in ENDS.into_iter().enumerate() {
            wires.middle.run(&format!("ip tuntap add dev {tap} mode tap"))?;
            wires.plain(&wires.middle, tap)?;
            wires.middle.run(&format!("ip link set {tap} up"))?;
            wires.bridge(bridge)?;
            wires.join(bridge, tap)?;
            wires.join(bridge, wire)?;
            program = program
                .args(&format!("-netdev tap,id=t{number},ifname={tap},script=no,downscript=no,vnet_hdr=off"))
                .args(&format!("-netdev hubport,id=h{number},hubid=0,netdev=t{number}"));
        }
        // `rx` is what a netdev receives from the guest's side: its output.
        let interval = self.interval.as_micros();
        let mut running = program
            .args(&format!("-object filter-buffer,id=hold,netdev=t1,queue=rx,interval={interval}"))
            .inside(&wires.middle)
            .start(&wires.scratch, "filter-buffer")?;
        let carried = || {
            let state = wires.middle.run("cat /sys/class/net/fb-out/carrier");
            state.is_ok_and(|state| state.trim() == "1")
        };
        let up =
            wait_until(STARTS_WITHIN, Duration::from_millis(20), || carried() || running.ended().is_some());
        if !up || running.ended().is_some() {
            return Err(running.failure("did not start").into());
        }
        self.running = Some(running);
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        match self.running.as_mut().map(|running| (running.ended(), running)) {
            Some((Some(status), running)) => {
                Err(running.failure(&format!("ended with {status} by itself")).into())
            }
            _ => Ok(()),
        }
    }

    fn stop(&mut self, wires: &Wires) {
        self.running = None;
        for (tap, bridge, wire) in ENDS {
            let _ = wires.middle.run(&format!("ip link set {wire} nomaster"));
            wires.remove(&[tap, bridge]);
        }
    }
}
