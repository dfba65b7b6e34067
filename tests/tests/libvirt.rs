//! A domain of libvirt, defined and started from `scripts/libvirt/pbx.xml`, is replicated to its waiting twin under
//! another libvirt; its QEMU dies, and the guest answers from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tidegate_tests::ensure;
use tidegate_tests::failure::{Context, Failure, Result};
use tidegate_tests::guest_image::{GuestImage, Service};
use tidegate_tests::laboratory::tidegate;
use tidegate_tests::libvirt::{Libvirt, missing};
use tidegate_tests::plane::{GUEST, Kind};
use tidegate_tests::process::{Program, Running};
use tidegate_tests::survival::network::{Network, Side, wire};
use tidegate_tests::survival::telling::Telling;
use tidegate_tests::wall_clock::wait_until;

const BOOTS_WITHIN: Duration = Duration::from_secs(90);
const TELLS_WITHIN: Duration = Duration::from_secs(20);
const LISTEN: &str = "127.0.0.1:7411";
/// Whoever is late on a busy machine is not dead.
const PATIENT: &str = "--dead-after 1s";
const WORDS: &str = "console=ttyS0 quiet mitigations=off no_timer_check tg.nic0=10.9.0.2/24";

/// A host: libvirt, a plane, one side of the replication.
struct Host {
    libvirt: Libvirt,
    plane: Running,
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/libvirt")
}

fn program() -> Result<PathBuf> {
    match tidegate()? {
        Kind::Tidegate(path) => Ok(path),
        Kind::Forwarder => Err(Failure::new("the laboratory has no tidegate")),
    }
}

impl Host {
    /// The plane connects to the socket that QEMU makes, with no more rights than `scripts/tidegate.service` leaves it.
    fn open(mut libvirt: Libvirt, network: &Network, side: Side) -> Result<Host> {
        libvirt.ready()?;
        let scratch = libvirt.scratch();
        let configuration = format!(
            "[eal]\nlcores = [1]\ncontrol_cpus = [0]\nmemory_mb = 128\nhugepages = \"no\"\nidle = \"backoff\"\n\
             file_prefix = \"{}\"\n\n[control]\nsocket = \"{}\"\n\n\
             [[guest]]\nname = \"{GUEST}\"\nmode = \"{}\"\nreplay_guard = \"all\"\nclose_timeout_ms = 250\n\n\
             [[guest.lane]]\nguest_port = \"net_vhost0,iface={},client=1\"\n\
             wire_port = \"net_af_packet0,iface={}\"\nlcore = 1\n",
            scratch.path().file_name().unwrap_or_default().to_string_lossy(),
            control(&libvirt).display(),
            ["open", "muted"][side],
            libvirt.socket("pbx.sock").display(),
            wire(side),
        );
        let file = scratch.file("tidegate.toml");
        fs::write(&file, configuration).context(|| format!("cannot write {}", file.display()))?;
        let plane = Program::new("setpriv")
            .args("--bounding-set -all,+net_raw,+net_admin,+ipc_lock --inh-caps -all")
            .arg(program()?.display().to_string())
            .args("run --config")
            .arg(file.display().to_string())
            .inside(&network.hosts[side])
            .start(scratch, "plane")?;
        Ok(Host { libvirt, plane })
    }

    /// What a person would do on each host: the kernel in its place, the sample defined. The guest's address is ours.
    fn define(&self, image: &GuestImage) -> Result<()> {
        for (from, to) in [(&image.kernel, "boot/pbx.vmlinuz"), (&image.initramfs, "boot/pbx.initrd")] {
            let to = self.libvirt.state(to);
            fs::copy(from, &to).context(|| format!("cannot write {}", to.display()))?;
        }
        let sample = scripts().join("pbx.xml");
        let xml = fs::read_to_string(&sample).context(|| format!("cannot read {}", sample.display()))?;
        ensure!(xml.contains("<cmdline>console=ttyS0</cmdline>"), "the sample has another command line");
        let xml = xml.replace("<cmdline>console=ttyS0<", &format!("<cmdline>{WORDS}<"));
        let file = self.libvirt.scratch().file("pbx.xml");
        fs::write(&file, xml).context(|| format!("cannot write {}", file.display()))?;
        self.libvirt.virsh(&format!("define --validate {}", file.display()))?;
        let said = self.libvirt.script(&scripts().join("standby-domain"), "--check pbx")?;
        ensure!(said.contains("nothing stands in the way"), "{said}");
        Ok(())
    }

    fn state(&self) -> Result<String> {
        self.libvirt.virsh("domstate --reason pbx")
    }

    /// `tidegate VERB`, as README.md of scripts/libvirt has it.
    fn replication(&self, verb: &str, words: &str, network: &Network) -> Result<(Running, Telling)> {
        let scratch = self.libvirt.scratch();
        let (running, told) = Program::new(program()?)
            .args(verb)
            .args(&format!("--guest {GUEST} --json {words} --socket"))
            .arg(control(&self.libvirt).display().to_string())
            .arg("--qmp")
            .arg(self.libvirt.socket("pbx.qmp").display().to_string())
            .arg("--desk")
            .arg(scratch.file("desk.sock").display().to_string())
            // The link is the first host's loopback.
            .inside(&network.hosts[0])
            .start_telling(scratch, verb)?;
        let telling = Telling::read(told, &scratch.file(&format!("{verb}.jsonl")));
        Ok((running, telling))
    }
}

fn control(libvirt: &Libvirt) -> PathBuf {
    libvirt.scratch().file("control.sock")
}

fn ping(network: &Network) -> Result<String> {
    network.outside.run("ping -c 1 -W 1 10.9.0.2")
}

fn answers(network: &Network, who: &str, host: &Host) -> Result<()> {
    let up = wait_until(TELLS_WITHIN, Duration::from_millis(100), || ping(network).is_ok());
    ensure!(up, "{who} does not answer\n{}", host.plane.output());
    Ok(())
}

fn booted(libvirt: &Libvirt) -> Result<()> {
    let ready = || libvirt.serial("pbx").contains("GUEST-READY");
    ensure!(
        wait_until(BOOTS_WITHIN, Duration::from_millis(50), ready),
        "the guest did not boot:\n{}",
        libvirt.serial("pbx")
    );
    Ok(())
}

/// A state that libvirt saves is whole.
fn saved_and_restored(network: &Network, host: &Host) -> Result<()> {
    let saved = host.libvirt.state("saved");
    host.libvirt.virsh(&format!("save pbx {}", saved.display()))?;
    ensure!(ping(network).is_err(), "a saved domain answers");
    host.libvirt.virsh(&format!("restore {}", saved.display()))?;
    answers(network, "the saved domain", host)
}

#[test]
fn a_domain_is_replicated_and_survives_the_death_of_its_qemu() -> Result<()> {
    if let Some(what) = missing() {
        println!("SKIPPED: {what}");
        return Ok(());
    }
    let image = GuestImage::build(Path::new(env!("CARGO_BIN_EXE_beacon")), Service::Echo)?;
    let network = Network::new()?;
    let [first, second] = [Libvirt::start(&network.hosts[0])?, Libvirt::start(&network.hosts[1])?];
    let (a, b) = (Host::open(first, &network, 0)?, Host::open(second, &network, 1)?);
    a.define(&image)?;
    b.define(&image)?;
    a.libvirt.virsh("start pbx")?;
    b.libvirt.script(&scripts().join("standby-domain"), "pbx")?;
    ensure!(b.state()?.starts_with("paused"), "the twin is {}", b.state()?);
    let twice = b.libvirt.script(&scripts().join("standby-domain"), "pbx");
    ensure!(twice.is_err_and(|no| no.to_string().contains("already")), "a second twin was not refused");
    booted(&a.libvirt)?;
    answers(&network, "the domain", &a)?;
    // A replication that has ended leaves QEMU as it was.
    let (mut lonely, told) = a.replication("replicate", &format!("{PATIENT} --to {LISTEN}"), &network)?;
    ensure!(told.wait("unreachable", TELLS_WITHIN).is_some(), "{}", lonely.failure("found a standby"));
    lonely.stop(Signal::SIGTERM, TELLS_WITHIN)?;
    saved_and_restored(&network, &a)?;

    let (mut standby, backup) =
        b.replication("standby", &format!("{PATIENT} --term 900ms --listen {LISTEN}"), &network)?;
    ensure!(backup.wait("waiting", TELLS_WITHIN).is_some(), "{}", standby.failure("does not wait"));
    let (replicate, primary) = a.replication("replicate", &format!("{PATIENT} --to {LISTEN}"), &network)?;
    ensure!(primary.wait("protected", TELLS_WITHIN).is_some(), "{}", replicate.failure("does not protect"));
    let several = wait_until(TELLS_WITHIN, Duration::from_millis(50), || primary.count("checkpoint") >= 10);
    ensure!(several, "{}", replicate.failure("takes no checkpoints"));
    answers(&network, "the protected domain", &a)?;
    // Somebody else stops and starts the VM: libvirt follows, and goes on following when it starts anew.
    let running = wait_until(TELLS_WITHIN, Duration::from_millis(10), || {
        a.state().is_ok_and(|state| state.starts_with("running"))
    });
    ensure!(running, "libvirt says {} of a VM that runs", a.state()?);

    signal::kill(Pid::from_raw(a.libvirt.qemu()? as i32), Signal::SIGKILL)
        .context(|| "cannot kill QEMU".to_owned())?;
    let promoted = backup.wait("promoted", TELLS_WITHIN);
    let promoted = promoted.ok_or_else(|| standby.failure("was not promoted"))?;
    answers(&network, "the restored domain", &b)?;
    ensure!(b.state()?.starts_with("running"), "libvirt says {} of the restored VM", b.state()?);
    ensure!(a.state()?.starts_with("shut off"), "libvirt says {} of the dead VM", a.state()?);
    println!("promoted after {} ms: {promoted}", promoted["all_ms"]);

    // It is an ordinary domain now: a state that libvirt saves is whole, and it boots, where its twin only waited.
    saved_and_restored(&network, &b)?;
    b.libvirt.virsh("reset pbx")?;
    booted(&b.libvirt)?;
    answers(&network, "the restored domain after a reset", &b)?;
    drop((replicate, primary));
    standby.stop(Signal::SIGTERM, TELLS_WITHIN)?;
    b.libvirt.virsh("destroy pbx")?;
    ensure!(b.state()?.starts_with("shut off"), "the definition went with the twin: {}", b.state()?);
    for host in [&a, &b] {
        host.libvirt.virsh("undefine pbx")?;
        let ram = host.libvirt.ram()?;
        ensure!(ram.is_empty(), "RAM was left behind: {ram}");
    }
    for mut host in [a, b] {
        host.plane.stop(Signal::SIGTERM, TELLS_WITHIN)?;
        host.libvirt.passed();
    }
    Ok(())
}
