//! The hosts on one machine: a namespace each, veths for cables, an agent in each. What the harness itself is tested
//! with, and what somebody tries who has no testbed yet.
//!
//! ```text
//! generator [data0] ==veth== [guest0] plane [wire0] ==veth== [data0] sink
//!   eth0 10.254.N.2 --- control ports --- 10.254.N.1 of this namespace, one pair a host
//! ```

use super::coordinate::Hosts;
use super::door::Secret;
use super::scenario::Scenario;
use crate::failure::{Context, Failure, Result};
use std::path::Path;
use std::time::Duration;
use tidegate_tests::namespace::{Namespace, OFFLOADS_OFF};
use tidegate_tests::process::{Program, Running, run};
use tidegate_tests::scratch::Scratch;

const LISTENS_WITHIN: Duration = Duration::from_secs(10);
const PORT: u16 = 7420;
const ROLES: [&str; 3] = ["generator", "plane", "sink"];

/// What is run when no scenario is named.
pub const RUNS: &str = include_str!("../../hosts-local.toml");

/// See the module's head. The fields go in this order.
pub struct Local {
    agents: Vec<Running>,
    namespaces: Vec<Namespace>,
    scratch: Scratch,
    net: u8,
}

impl Local {
    /// Makes the hosts and starts their agents.
    pub fn open(tidegate: &Path) -> Result<Local> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Failure::new("namespaces are made by root: run it as root"));
        }
        let scratch = Scratch::new()?;
        let namespaces = (0..3).map(|_| Namespace::new()).collect::<std::result::Result<Vec<_>, _>>()?;
        // Networks of several of these at once differ by their process.
        let net = (std::process::id() % 80) as u8;
        let mut local = Local { agents: Vec::new(), namespaces, scratch, net };
        local.cable(0, "data0", 1, "guest0")?;
        local.cable(2, "data0", 1, "wire0")?;
        let secret = local.scratch.file("secret");
        write_secret(&secret)?;
        let own = std::env::current_exe().context(|| "this program's own name".into())?;
        for (n, role) in ROLES.iter().enumerate() {
            let (here, there) = (local.control(n, 1), local.control(n, 2));
            let namespace = &local.namespaces[n];
            run(&format!("ip address add {here}/30 dev {}", namespace.wire()))?;
            namespace.address(&format!("{there}/30"))?;
            let mut agent = Program::new(&own)
                .args(&format!("hosts agent --listen {there}:{PORT} --secret"))
                .arg(secret.display().to_string())
                .arg("--tidegate")
                .arg(tidegate.display().to_string())
                .inside(namespace)
                .start(&local.scratch, role)?;
            agent.wait_for_line("listening", LISTENS_WITHIN)?;
            local.agents.push(agent);
        }
        Ok(local)
    }

    fn control(&self, host: usize, end: u8) -> String {
        format!("10.254.{}.{end}", usize::from(self.net) * 3 + host)
    }

    fn cable(&self, a: usize, near: &str, b: usize, far: &str) -> Result<()> {
        let (a, b) = (&self.namespaces[a], &self.namespaces[b]);
        run(&format!("ip link add {near} netns {} type veth peer name {far} netns {}", a.name(), b.name()))?;
        for (namespace, interface) in [(a, near), (b, far)] {
            namespace.run(&format!("sysctl -q -e -w net.ipv6.conf.{interface}.disable_ipv6=1"))?;
            namespace.run(&format!("ethtool -K {interface} {OFFLOADS_OFF}"))?;
            namespace.run(&format!("ip link set {interface} up"))?;
        }
        Ok(())
    }

    /// These hosts with those runs.
    pub fn scenario(&self, runs: &str, file: &str) -> Result<Scenario> {
        let at = |host| format!("{}:{PORT}", self.control(host, 2));
        let hosts = format!(
            "[generator]\ncontrol = \"{}\"\nport = \"data0\"\naddress = \"10.9.0.2/24\"\n\
             [plane]\ncontrol = \"{}\"\nguest_port = \"net_af_packet0,iface=guest0\"\n\
             wire_port = \"net_af_packet1,iface=wire0\"\nlcore = 1\n\
             [sink]\ncontrol = \"{}\"\nport = \"data0\"\naddress = \"10.9.0.1/24\"\n",
            at(0),
            at(1),
            at(2)
        );
        Scenario::parse(&format!("{hosts}{runs}"), file)
    }

    /// Connects to their agents.
    pub fn enter(&self, scenario: &Scenario) -> Result<Hosts> {
        Hosts::enter(scenario, &Secret::read(&self.scratch.file("secret"))?)
    }

    /// All went as it should: nobody will want to read the logs.
    pub fn passed(mut self) {
        self.scratch.forget();
    }
}

fn write_secret(path: &Path) -> Result<()> {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let what = || format!("cannot write {}", path.display());
    let mut bytes = [0u8; 24];
    let mut random = std::fs::File::open("/dev/urandom").context(what)?;
    random.read_exact(&mut bytes).context(what)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).context(what)?;
    file.write_all(text.as_bytes()).context(what)
}
