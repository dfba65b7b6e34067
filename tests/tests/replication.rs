//! Replication between two hosts, step by step: who decides, what the operator's choice does when the standby is lost, a
//! new standby for a running VM, an orderly end. That no peer notices a death is `survival.rs`.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tidegate_tests::control_client::ControlClient;
use tidegate_tests::ensure;
use tidegate_tests::failure::{Failure, Result};
use tidegate_tests::process::Running;
use tidegate_tests::prompter::Prompter;
use tidegate_tests::qmp::Qmp;
use tidegate_tests::scratch::Scratch;
use tidegate_tests::survival::blow::signal_all;
use tidegate_tests::survival::call::Call;
use tidegate_tests::survival::client::{Client, Habit};
use tidegate_tests::survival::host::{Host, save};
use tidegate_tests::survival::pair::{Link, Pair, Wish, World, guests};
use tidegate_tests::survival::telling::Telling;

/// Longer than anything needs that would happen if it did.
const A_WHILE: Duration = Duration::from_millis(1500);

fn world() -> Result<World> {
    World::open(Path::new(env!("CARGO_BIN_EXE_teller")))
}

/// `decide = witness`: a QEMU that died, a link that was cut, a host that froze and comes back, a standby that died.
#[test]
fn a_witness_lends_the_lease_to_one_of_two() -> Result<()> {
    let world = world()?;
    let scratch = Scratch::new()?;
    // Each pair has its own: a witness lends the lease of a host that took over to no other VM of that name.
    let witness = |number: u32| -> Result<(Running, String)> {
        let address = world.address()?;
        let mut witness = world
            .tidegate(&format!("witness --listen {address} --term-ms 150 --json"))
            .start(&scratch, &format!("witness{number}"))?;
        witness.wait_for_line("listening", Duration::from_secs(10))?;
        Ok((witness, format!("--decide witness --witness {address}")))
    };

    let (_first, both) = witness(1)?;
    let wish = Wish { both: &both, primary: "--node a", standby: "--node b", ..Wish::default() };
    let mut pair = Pair::start(&world, wish)?;
    pair.hosts[0].guest.process().kill();
    pair.told(1, "promoted", 0)?;
    pair.goes_on()?;
    ensure!(pair.ends(0)? == Some(1), "the primary's end is no failure");
    pair.finish()?;

    // Both reach the witness: the primary goes on, and its standby, which cannot be told anything, is refused.
    let guest = "on_backup_lost = \"release\"\n";
    let (_second, both) = witness(2)?;
    let mut pair = Pair::start(&world, Wish { both: &both, link: Link::Cuttable, guest, ..wish })?;
    let mark = pair.mark();
    pair.cut()?.stand_still();
    let refused = pair.told(1, "refused-by-witness", mark[1])?;
    let lost = pair.told(0, "backup-lost", mark[0])?;
    ensure!(lost["mode"] == "open", "release did not open the gate: {lost}");
    ensure!(refused["reason"].as_str().is_some_and(|why| why.contains('a')), "no reason: {refused}");
    pair.goes_on()?;
    ensure!(pair.backup.count("promoted") == 0, "both went on");
    // The link is whole again, and the guest protected: now the primary freezes, and comes back late.
    pair.cut()?.heal();
    pair.told(0, "protected", mark[0])?;
    pair.goes_on()?;
    let first = pair.first_host();
    signal_all(&first, Signal::SIGSTOP);
    pair.told(1, "promoted", 0)?;
    pair.goes_on()?;
    signal_all(&first, Signal::SIGCONT);
    pair.told(0, "superseded", mark[0])?;
    ensure!(pair.ends(0)? == Some(1), "a late primary's end is no failure");
    let late = pair.pulse(0)?;
    ensure!(
        late["mode"] == "muted" && late["held_frames"] == 0,
        "the late primary has not discarded all: {late}"
    );
    pair.goes_on()?;
    pair.finish()?;

    // The standby dies: the witness goes on lending to a primary that names nobody, and that is the evidence.
    let (_third, both) = witness(3)?;
    let mut pair = Pair::start(&world, Wish { both: &both, guest: "on_backup_lost = \"drop\"\n", ..wish })?;
    let mark = pair.mark();
    pair.standby.kill();
    let lost = pair.told(0, "backup-lost", mark[0])?;
    ensure!(lost["mode"] == "open", "drop did not open the gate: {lost}");
    pair.goes_on()?;
    pair.take_in()?;
    pair.told(0, "protected", mark[0])?;
    pair.goes_on()?;
    pair.kill_first_host();
    pair.told(1, "promoted", 0)?;
    pair.goes_on()?;
    pair.finish()?;
    scratch.passed();
    Ok(())
}

/// `decide = manager`: nobody takes over without an order, and an order without a lease needs somebody who vouches.
#[test]
fn a_manager_orders_and_vouches() -> Result<()> {
    let world = world()?;
    let mut pair = Pair::start(&world, Wish { both: "--decide manager", ..Wish::default() })?;
    let (done, said) = pair.desk(1, "failover")?;
    ensure!(!done && said.contains("--primary-is-off"), "a failover of a living primary: {said}");
    pair.kill_first_host();
    std::thread::sleep(A_WHILE);
    ensure!(pair.backup.count("promoted") == 0, "silence promoted");
    let (done, said) = pair.desk(1, "failover")?;
    ensure!(!done && said.contains("--primary-is-off"), "nobody vouched: {said}");
    let (done, said) = pair.desk(1, "failover --primary-is-off")?;
    ensure!(done, "{said}");
    pair.goes_on()?;
    let (done, said) = pair.desk(1, "failover --primary-is-off")?;
    ensure!(!done && said.contains("taken over already"), "twice: {said}");
    pair.finish()?;
    Ok(())
}

/// Whole states through QEMU restore the same VM as differences do.
#[test]
fn a_vm_that_is_sent_whole_survives_too() -> Result<()> {
    let world = world()?;
    for both in ["--full --dead-after 500ms", ""] {
        let standby = if both.is_empty() { "" } else { "--term 450ms" };
        let mut pair = Pair::start(&world, Wish { both, standby, ..Wish::default() })?;
        let fill = "dd if=/dev/urandom of=/tmp/x bs=1M count=4 2>/dev/null; sha256sum /tmp/x";
        let before = pair.hosts[0].guest.command(fill, Duration::from_secs(60))?;
        let mark = pair.mark();
        for _ in 0..2 {
            let from = pair.mark()[0];
            pair.told(0, "checkpoint", from)?;
        }
        let checkpoint = pair.told(0, "checkpoint", mark[0])?;
        println!("{both:?}: {checkpoint}");
        let whole = checkpoint["device_bytes"].as_u64().is_some_and(|bytes| bytes > 16 << 20);
        ensure!(whole != both.is_empty(), "RAM is not where it should be: {checkpoint}");
        pair.kill_first_host();
        println!("{}", pair.told(1, "promoted", 0)?);
        pair.goes_on()?;
        let after = pair.hosts[1].guest.command("sha256sum /tmp/x", Duration::from_secs(60))?;
        ensure!(before.trim() == after.trim(), "{before} became {after}");
        pair.finish()?;
    }
    Ok(())
}

/// The standby is lost and found: on evidence the operator's choice, on silence the fence; and a new standby for a VM
/// that was never stopped.
#[test]
fn a_lost_standby_is_replaced_while_the_vm_runs() -> Result<()> {
    let world = world()?;
    let mut pair = Pair::start(&world, Wish { guest: "on_backup_lost = \"release\"\n", ..Wish::default() })?;
    let mark = pair.mark();
    pair.standby.signal(Signal::SIGTERM);
    ensure!(pair.ends(1)? == Some(0), "the standby's end is a failure");
    let lost = pair.told(0, "backup-lost", mark[0])?;
    ensure!(lost["mode"] == "open", "release did not open the gate: {lost}");
    pair.goes_on()?;
    pair.take_in()?;
    pair.told(0, "protected", mark[0])?;
    pair.goes_on()?;
    // A standby whose QEMU has ended says so, and ends.
    let mark = pair.mark();
    pair.hosts[1].guest.process().kill();
    pair.told(0, "backup-lost", mark[0])?;
    ensure!(pair.ends(1)? == Some(1), "a standby without a QEMU is none");
    pair.take_in()?;
    pair.told(0, "protected", mark[0])?;
    pair.goes_on()?;
    // A person says that the standby is lost, and it is there: it hears that it may not take over any more.
    let mark = pair.mark();
    let mut desk =
        ControlClient::connect(&pair.hosts[0].scratch().file("desk.sock"), Duration::from_secs(5))?;
    desk.execute("backup-lost", json!({ "evidence": "somebody looked at it" }))?;
    pair.told(1, "given-back", mark[1])?;
    pair.told(0, "backup-lost", mark[0])?;
    pair.told(0, "protected", mark[0])?;
    pair.goes_on()?;
    // Silence is no evidence.
    let mark = pair.mark();
    let standby = [Some(pair.standby.pid())];
    signal_all(&standby, Signal::SIGSTOP);
    pair.told(0, "fenced", mark[0])?;
    pair.stands(A_WHILE)?;
    ensure!(pair.pulse(0)?["mode"] == "protected", "silence opened the gate");
    signal_all(&standby, Signal::SIGCONT);
    // One of them goes on: whichever it is, it is one.
    pair.goes_on()?;
    if pair.backup.count("promoted") == 0 {
        pair.kill_first_host();
        pair.told(1, "promoted", 0)?;
        pair.goes_on()?;
    }
    pair.finish()?;
    Ok(())
}

/// `on_backup_lost = stay` holds, and media goes on; a guest that shuts down is not brought back.
#[test]
fn a_guest_stays_held_and_ends_in_order() -> Result<()> {
    let world = world()?;
    let mut pair = Pair::start(&world, Wish { guest: "on_backup_lost = \"stay\"\n", ..Wish::default() })?;
    let scratch = Scratch::new()?;
    let call = Call::start(&world.network.outside, &scratch, Duration::from_secs(60))?;
    pair.goes_on()?;
    let mark = pair.mark();
    pair.standby.signal(Signal::SIGTERM);
    ensure!(pair.ends(1)? == Some(0), "the standby's end is a failure");
    let lost = pair.told(0, "backup-lost", mark[0])?;
    ensure!(lost["mode"] == "protected", "it did not stay: {lost}");
    pair.stands(A_WHILE)?;
    let heard = call.heard();
    std::thread::sleep(Duration::from_millis(500));
    ensure!(call.heard() > heard, "the call went silent");
    pair.take_in()?;
    pair.told(0, "protected", mark[0])?;
    pair.goes_on()?;

    shut_down(&mut pair)?;
    let (done, said) = pair.desk(1, "failover --primary-is-off")?;
    ensure!(!done && said.contains("dismissed"), "it was brought back by order: {said}");
    let [_, b] = pair.finish()?;
    ensure!(guests(&b) == 0, "the standby's guest spoke");

    // As libvirt has it: QEMU stays when its guest has gone.
    let mut pair = Pair::start(&world, Wish::default())?;
    pair.hosts[0].guest.second_monitor()?.execute("set-action", json!({ "shutdown": "pause" }))?;
    shut_down(&mut pair)?;
    let [_, b] = pair.finish()?;
    ensure!(guests(&b) == 0, "the standby's guest spoke");
    scratch.passed();
    Ok(())
}

/// libvirt reboots a guest by letting it shut down in a QEMU that stays, and resetting that: it is protected on, and nobody
/// brings back an older one.
#[test]
fn a_guest_that_is_rebooted_as_libvirt_does_is_protected_on() -> Result<()> {
    let world = world()?;
    let mut pair = Pair::start(&world, Wish::default())?;
    let mut monitor = pair.hosts[0].guest.second_monitor()?;
    monitor.execute("set-action", json!({ "shutdown": "pause" }))?;
    // It does not live to answer.
    let _ = pair.hosts[0].guest.command("poweroff -f", Duration::from_millis(200));
    while monitor.status()? != "shutdown" {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    monitor.execute("system_reset", json!({}))?;
    monitor.resume()?;
    std::thread::sleep(3 * A_WHILE);
    let mark = pair.mark();
    pair.told(0, "checkpoint", mark[0])?;
    let (ended, promoted) = (pair.primary.count("guest-shutdown"), pair.backup.count("promoted"));
    ensure!(ended == 0 && promoted == 0, "{}", pair.failure("a reboot was taken for an end"));
    // Its clients' connections went with it.
    pair.hosts.iter_mut().for_each(Host::passed);
    Ok(())
}

/// The guest shuts down, which ends the primary in order and brings nobody back.
fn shut_down(pair: &mut Pair<'_>) -> Result<()> {
    let mark = pair.mark();
    // It does not live to answer.
    let _ = pair.hosts[0].guest.command("poweroff -f", Duration::from_millis(200));
    pair.told(0, "guest-shutdown", mark[0])?;
    ensure!(pair.ends(0)? == Some(0), "an orderly end is a failure");
    pair.told(1, "given-back", 0)?;
    std::thread::sleep(A_WHILE);
    ensure!(pair.backup.count("promoted") == 0, "a guest that was shut down came back");
    Ok(())
}

/// What a script does that saves a VM and lets it run on.
fn saved(host: &Host, qmp: &mut Qmp) -> Result<()> {
    qmp.stop()?;
    save(qmp, &host.scratch().file("saved"))?;
    qmp.resume()
}

/// Saves the VM until `client` was served `wanted` times, and says how often that took.
fn served(host: &Host, qmp: &mut Qmp, client: &Client, wanted: u64) -> Result<u64> {
    let begin = client.record().acknowledged;
    for saves in 1..60 {
        let before = client.record().acknowledged;
        saved(host, qmp)?;
        std::thread::sleep(Duration::from_millis(150));
        let after = client.record().acknowledged;
        ensure!(after <= before + 1, "one commit let out {} answers: more than one epoch's", after - before);
        if after >= begin + wanted {
            return Ok(saves);
        }
    }
    Err(Failure::new("60 saves served nobody"))
}

/// Saves the VM a few times; fails when the client is served.
fn unserved(host: &Host, qmp: &mut Qmp, client: &Client, told: &Telling) -> Result<()> {
    let (before, committed) = (client.record().acknowledged, told.count("committed"));
    for _ in 0..4 {
        saved(host, qmp)?;
        std::thread::sleep(Duration::from_millis(150));
    }
    let after = client.record().acknowledged;
    ensure!(after == before, "the client was served {} times", after - before);
    ensure!(told.count("committed") == committed, "something was committed: {:?}", told.events());
    Ok(())
}

/// A VM that somebody else stops, saves and resumes. The end of COLO is put into the monitor by hand: COLO itself begins with
/// QEMU 7.2 (STOP, RESUME), and locks up its primary at the second checkpoint, without a vhost-user NIC or a filter too:
/// main loop and migration thread wait for the same lock.
#[test]
fn a_vm_that_somebody_else_saves_is_followed() -> Result<()> {
    let world = world()?;
    let [mut host, other] = world.hosts()?;
    drop(other);
    let mut qmp = host.guest.second_monitor()?;
    let monitor = host.guest.monitor_socket().to_owned();
    let client = Client::start(&world.network.outside, 1, Habit::Keeps)?;

    // Somebody else would have to say that a resumed VM is safe elsewhere.
    let (mut observe, told) = world.observe(&host, &monitor, "")?;
    saved(&host, &mut qmp)?;
    told.wait("closed", Duration::from_secs(10)).ok_or_else(|| observe.failure("closed nothing"))?;
    std::thread::sleep(Duration::from_millis(300));
    unserved(&host, &mut qmp, &client, &told)?;
    ensure!(observe.stop(Signal::SIGTERM, Duration::from_secs(5))?.success(), "an end by order is a failure");

    let prompted = host.scratch().file("prompted.qmp");
    let prompter = Prompter::open(&prompted, &monitor)?;
    let (mut observe, told) = world.observe(&host, &prompted, "--resume-commits")?;
    let saves = served(&host, &mut qmp, &client, 4)?;
    println!("4 answers in {saves} saves: {:?}", told.events().last());
    // What came after the pause waits for the next one, however long that takes.
    let before = client.record().acknowledged;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(client.record().acknowledged == before, "an open epoch was committed");

    prompter.prompt(r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"COLO_EXIT","data":{"mode":"primary","reason":"error"}}"#)?;
    told.wait("colo-exit", Duration::from_secs(10))
        .ok_or_else(|| observe.failure("missed the end of COLO"))?;
    unserved(&host, &mut qmp, &client, &told)?;
    // QEMU's end releases nothing.
    host.guest.process().kill();
    ensure!(observe.wait(Duration::from_secs(10))?.code() == Some(1), "the VM's end is none");
    ensure!(client.finish().lost == 0, "an acknowledgement was lost");
    host.passed();
    Ok(())
}
