//! `scripts/cpu-isolation`.

use crate::machine::Machine;

#[test]
fn the_lcores_are_isolated_and_the_rest_is_left_to_the_kernel() {
    let machine = Machine::bare().with_cpus(16);
    for (lcores, cpus, rest) in
        [("2-5,8", "2-5,8", "0-1,6-7,9-15"), ("1", "1", "0,2-15"), ("15,3,4", "3-4,15", "0-2,5-14")]
    {
        let line = format!(
            "isolcpus=domain,managed_irq,{cpus} nohz_full={cpus} rcu_nocbs={cpus} irqaffinity={rest}\n"
        );
        assert_eq!(machine.run("cpu-isolation", &[lcores]).done("").out, line);
    }
}

#[test]
fn a_thread_that_shares_a_core_with_an_lcore_is_told() {
    let machine = Machine::bare().with_cpus(16);
    machine.run("cpu-isolation", &["2-4"]).done("CPU 5 shares a core");
    let status = machine.run("cpu-isolation", &["2-4", "--json"]).json();
    assert_eq!(status["idle_siblings"], serde_json::json!([5]));
    assert_eq!(status["lcores"], serde_json::json!([2, 3, 4]));
}

#[test]
fn check_compares_with_this_boot() {
    let machine = Machine::bare().with_cpus(4);
    machine.run("cpu-isolation", &["2-3", "--check"]).failed("this boot lacks isolcpus=");
    let line = machine.run("cpu-isolation", &["2-3"]).out;
    machine.write("proc/cmdline", &format!("quiet {line}"));
    machine.run("cpu-isolation", &["2-3", "--check"]).done("this boot has all of it");
    let status = machine.run("cpu-isolation", &["2-3", "--check", "--json"]).done("").json();
    assert_eq!(status["missing"], serde_json::json!([]));
    machine.run("cpu-isolation", &["3", "--check"]).failed("lacks");
}

#[test]
fn cpus_that_do_not_exist_or_leave_none_are_refused() {
    let machine = Machine::bare().with_cpus(4);
    machine.run("cpu-isolation", &["4"]).failed("this machine has 0-3");
    machine.run("cpu-isolation", &["0-3"]).failed("no CPU would be left");
    for wrong in ["", "a", "1-", "3-2", "1,,x", "0-99999999999", "1 2;reboot"] {
        machine.run("cpu-isolation", &[wrong]).ended(2, "See: cpu-isolation --help");
    }
}
