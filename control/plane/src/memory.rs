//! Which memory DPDK gets: huge pages or plain ones, and how much on which NUMA node.

use std::path::Path;
use tidegate_control::config::{Config, Hugepages};
use tidegate_dataplane::dpdk::Memory;

/// What the configuration and the host say together. `auto` takes huge pages when enough are free.
pub fn choose(config: &Config, root: &Path) -> Result<Memory, String> {
    let mb = u32::try_from(config.eal.memory_mb).map_err(|_| "eal.memory_mb is too large".to_owned())?;
    match (config.eal.hugepages, config.lacking(root)) {
        (Hugepages::No, _) => Ok(Memory::NoHuge { mb }),
        (_, None) => Ok(Memory::Huge { mb_per_node: config.mb_per_node(root) }),
        (Hugepages::Yes, Some(lack)) => Err(format!(
            "eal.hugepages is \"yes\" and NUMA node {} has {} MiB free of {} MiB; reserve them with \
             scripts/hugepages, or set \"auto\"",
            lack.node, lack.free_mb, lack.wanted_mb
        )),
        (Hugepages::Auto, Some(lack)) => {
            log::info!(
                "NUMA node {} has fewer than {} MiB of free huge pages: plain pages, no physical NIC",
                lack.node,
                lack.wanted_mb
            );
            Ok(Memory::NoHuge { mb })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn config(hugepages: &str, lcores: [usize; 2]) -> Config {
        let lane = |n: usize, lcore: usize| {
            format!(
                "[[guest.lane]]\nguest_port = \"net_vhost{n},iface=/r/{n}\"\nwire_port = \"net_null{n}\"\n\
                 lcore = {lcore}\nhold_frames = 8192\n"
            )
        };
        let text = format!(
            "[eal]\nhugepages = \"{hugepages}\"\n[[guest]]\nname = \"a\"\n{}{}",
            lane(0, lcores[0]),
            lane(1, lcores[1])
        );
        Config::parse(&text, "t").expect("good")
    }

    fn host(free: &[(usize, u64)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (node, pages) in free {
            let sys = root.path().join("sys/devices/system");
            let pages_dir = sys.join(format!("node/node{node}/hugepages/hugepages-2048kB"));
            let cpu = sys.join(format!("cpu/cpu{}/node{node}", node + 1));
            fs::create_dir_all(&pages_dir).and_then(|()| fs::create_dir_all(&cpu)).expect("made");
            fs::write(pages_dir.join("free_hugepages"), pages.to_string()).expect("written");
        }
        root
    }

    #[test]
    fn huge_pages_are_taken_where_the_lanes_are_and_only_if_enough_are_free() {
        let two = host(&[(0, 64), (1, 64)]);
        let both = choose(&config("auto", [1, 2]), two.path());
        assert_eq!(both, Ok(Memory::Huge { mb_per_node: vec![128, 128] }));
        let second = choose(&config("auto", [2, 2]), two.path());
        assert_eq!(second, Ok(Memory::NoHuge { mb: 256 }), "128 MiB are not 256");
        let refused = choose(&config("yes", [2, 2]), two.path()).unwrap_err();
        assert!(refused.contains("node 1") && refused.contains("scripts/hugepages"), "{refused}");
        let rich = host(&[(0, 512)]);
        assert_eq!(choose(&config("no", [1, 1]), rich.path()), Ok(Memory::NoHuge { mb: 256 }));
        assert_eq!(choose(&config("yes", [1, 1]), rich.path()), Ok(Memory::Huge { mb_per_node: vec![256] }));
    }
}
