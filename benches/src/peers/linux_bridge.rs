//! The kernel's own way on this machine: a bridge whose guest side sends TCP through an IFB (u32, mirred) and lets the rest
//! pass. What would hold there is sch_plug; where this kernel has none, TCP only makes the detour.

use super::device::Device;
use super::wires::{IN, OUT, Wires};
use crate::failure::Result;
use serde_json::{Value, json};

const BRIDGE: &str = "br0";
const IFB: &str = "ifb0";

/// See the module's head.
#[derive(Default)]
pub struct LinuxBridge {
    /// Why nothing is held.
    no_plug: Option<String>,
}

impl Device for LinuxBridge {
    fn start(&mut self, wires: &Wires) -> Result<()> {
        let run = |line: &str| wires.middle.run(line);
        wires.bridge(BRIDGE)?;
        wires.join(BRIDGE, IN)?;
        wires.join(BRIDGE, OUT)?;
        run(&format!("ip link add {IFB} type ifb"))?;
        run(&format!("ip link set {IFB} up"))?;
        run(&format!("tc qdisc add dev {IN} ingress"))?;
        run(&format!(
            "tc filter add dev {IN} parent ffff: protocol ip u32 match ip protocol 6 0xff \
             action mirred egress redirect dev {IFB}"
        ))?;
        // Looked at, not used: a plug that nobody drives would hold for ever.
        self.no_plug = run(&format!("tc qdisc add dev {IFB} root plug limit 10000000"))
            .err()
            .map(|failure| failure.to_string().lines().last().unwrap_or_default().to_owned());
        if self.no_plug.is_none() {
            run(&format!("tc qdisc delete dev {IFB} root"))?;
        }
        Ok(())
    }

    fn told(&mut self) -> Value {
        let note = match &self.no_plug {
            Some(why) => {
                format!("nothing waits at its IFB: this kernel has no sch_plug ({why}); the router VM's has")
            }
            None => {
                "nothing waits at its IFB: this kernel's sch_plug is measured in the router VM".to_owned()
            }
        };
        json!({ "sch_plug_here": self.no_plug.is_none(), "note": note })
    }

    fn stop(&mut self, wires: &Wires) {
        let _ = wires.middle.run(&format!("tc qdisc delete dev {IN} ingress"));
        for port in [IN, OUT] {
            let _ = wires.middle.run(&format!("ip link set {port} nomaster"));
        }
        wires.remove(&[IFB, BRIDGE]);
    }
}
