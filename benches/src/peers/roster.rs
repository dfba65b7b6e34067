//! Who takes part.

use super::contest::Peer;
use super::device::{Device, Holds, Programs, Rhythm};
use super::filter_buffer::FilterBuffer;
use super::linux_bridge::LinuxBridge;
use super::plane::Plane;
use super::plug::PlugRouter;
use super::testpmd::Testpmd;
use super::vswitch::Vswitch;
use super::wires::Wires;
use crate::failure::{Failure, Result};
use tidegate_tests::router::Takes;

/// How tidegate's own names begin.
pub const OWN: &str = "tidegate";
const NO_CLOCK: &str = "none";
const COMMITS: &str = "close and commit";
const PLANE_LIMIT: &str = "32768 frames, 48 MiB; the newest is dropped and counted";
const PLUG_LIMIT: &str = "10 MB; the newest is dropped";
const NO_LIMIT: &str = "nothing waits";

const fn peer(
    name: &'static str,
    title: &'static str,
    holds: Holds,
    clock: &'static str,
    limit: &'static str,
) -> Peer {
    Peer { name, title, holds, clock, limit }
}

/// All of them, in the order of their turns.
pub const ALL: [Peer; 11] = [
    peer("testpmd-io", "DPDK testpmd, io", Holds::Nothing, NO_CLOCK, NO_LIMIT),
    peer("testpmd-mac", "DPDK testpmd, mac", Holds::Nothing, NO_CLOCK, NO_LIMIT),
    peer("linux-bridge", "Linux bridge, TCP by u32 through an IFB", Holds::Nothing, NO_CLOCK, NO_LIMIT),
    peer("ovs-dpdk", "Open vSwitch with DPDK", Holds::Nothing, NO_CLOCK, "it has no hold queue"),
    peer(
        "filter-buffer",
        "QEMU filter-buffer",
        Holds::All,
        "its own timer, whatever the backup has",
        "10000 packets; the newest is dropped",
    ),
    peer("sch-plug-all", "sch_plug on an IFB, all IPv4 (router VM)", Holds::All, COMMITS, PLUG_LIMIT),
    peer("sch-plug-tcp", "sch_plug on an IFB, TCP by u32 (router VM)", Holds::Tcp, COMMITS, PLUG_LIMIT),
    peer("tidegate-hold-all", "tidegate, hold-all", Holds::All, COMMITS, PLANE_LIMIT),
    peer("tidegate-non-tcp", "tidegate, non-tcp", Holds::Tcp, COMMITS, PLANE_LIMIT),
    peer("tidegate-realtime", "tidegate, realtime", Holds::AllButMedia, COMMITS, PLANE_LIMIT),
    peer("tidegate-bypass-all", "tidegate, bypass-all", Holds::Nothing, COMMITS, NO_LIMIT),
];

/// Those of these names, all when there is none.
pub fn chosen(names: &[String]) -> Result<Vec<Peer>> {
    if let Some(unknown) = names.iter().find(|name| ALL.iter().all(|peer| peer.name != **name)) {
        let known = ALL.map(|peer| peer.name).join(", ");
        return Err(Failure::new(format!("there is no peer {unknown:?}; there are {known}")));
    }
    let wanted = |peer: &Peer| names.is_empty() || names.iter().any(|name| name == peer.name);
    Ok(ALL.into_iter().filter(wanted).collect())
}

/// A peer between wires of its own, not yet started; a failure where it cannot run.
pub fn ready(peer: &Peer, programs: &Programs, rhythm: Rhythm) -> Result<(Wires, Box<dyn Device>)> {
    let wires = Wires::new()?;
    let plug = |takes: Takes| -> Result<Box<dyn Device>> {
        let plugger = programs.tidegate.with_file_name("plugger");
        Ok(Box::new(PlugRouter::new(&plugger, takes, rhythm, &wires)?))
    };
    let device: Box<dyn Device> = match peer.name {
        "testpmd-io" => Box::new(Testpmd::new("io")),
        "testpmd-mac" => Box::new(Testpmd::new("mac")),
        "linux-bridge" => Box::new(LinuxBridge::default()),
        "ovs-dpdk" => Box::new(Vswitch::new(programs)?),
        "filter-buffer" => Box::new(FilterBuffer::new(rhythm)),
        "sch-plug-all" => plug(Takes::All)?,
        "sch-plug-tcp" => plug(Takes::Tcp)?,
        name => match name.strip_prefix("tidegate-") {
            Some(policy) => Box::new(Plane::new(programs, policy, rhythm)),
            None => return Err(Failure::new(format!("nobody knows how to run {name:?}"))),
        },
    };
    Ok((wires, device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tidegate_dataplane::policy::PolicyName;

    #[test]
    fn names_are_unique_and_tidegates_are_its_policies() {
        let names: BTreeSet<&str> = ALL.iter().map(|peer| peer.name).collect();
        assert_eq!(names.len(), ALL.len());
        let policies = ALL.iter().filter_map(|peer| peer.name.strip_prefix("tidegate-"));
        assert!(
            policies.clone().count() == 4 && policies.clone().all(|name| name.parse::<PolicyName>().is_ok())
        );
    }

    #[test]
    fn one_can_choose_and_is_told_the_names() {
        assert_eq!(chosen(&[]).unwrap().len(), ALL.len());
        assert_eq!(chosen(&["ovs-dpdk".into()]).unwrap()[0].title, "Open vSwitch with DPDK");
        let refusal = chosen(&["xen".into()]).unwrap_err().to_string();
        assert!(refusal.contains("filter-buffer"), "{refusal}");
    }
}
