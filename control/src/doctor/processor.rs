//! CPUs: how many, who else runs on them, whether their clock can be trusted.

use super::{Check, Host};

pub(super) fn checks(host: &Host) -> Vec<Check> {
    let mut checks = vec![count(host), isolation(host), tsc(host)];
    checks.extend(frequency(host));
    checks
}

fn count(host: &Host) -> Check {
    let online = cpus(&host.text("sys/devices/system/cpu/online"));
    match online.len() {
        0 | 1 => Check::warn(
            "cpus",
            "one CPU: lanes and control share it",
            "set eal.idle = \"backoff\"; better: give the host two CPUs",
        ),
        n => Check::ok("cpus", format!("{n} online")),
    }
}

/// `0-3,8` as numbers.
fn cpus(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().take(4096).collect()
}

fn isolation(host: &Host) -> Check {
    const CHECK: &str = "cpu isolation";
    let isolated = cpus(&host.text("sys/devices/system/cpu/isolated"));
    let tickless = cpus(&host.text("sys/devices/system/cpu/nohz_full"));
    // All but the first, which keeps the interrupts and the control thread.
    let lanes = match cpus(&host.text("sys/devices/system/cpu/online")).last() {
        Some(last @ 2..) => format!("1-{last}"),
        _ => "1".into(),
    };
    if isolated.is_empty() {
        return Check::warn(
            CHECK,
            "no CPU is isolated: the scheduler may put other threads on a lane's CPU (gaps of milliseconds)",
            format!(
                "add isolcpus={lanes} nohz_full={lanes} rcu_nocbs={lanes} to the kernel's command line, reboot"
            ),
        );
    }
    if tickless.is_empty() {
        return Check::warn(
            CHECK,
            format!(
                "CPUs {isolated:?} are isolated, but the timer still interrupts them (gaps of microseconds)"
            ),
            format!("add nohz_full={lanes} rcu_nocbs={lanes} to the kernel's command line, reboot"),
        );
    }
    Check::ok(CHECK, format!("CPUs {isolated:?} are isolated, {tickless:?} have no tick"))
}

fn tsc(host: &Host) -> Check {
    let info = host.text("proc/cpuinfo");
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let lacks: Vec<&str> =
        ["constant_tsc", "nonstop_tsc"].into_iter().filter(|f| !flags.split(' ').any(|g| g == *f)).collect();
    if !lacks.is_empty() {
        return Check::warn(
            "tsc",
            format!(
                "the CPU does not say {}: latencies and leases may be measured wrong",
                lacks.join(" and ")
            ),
            "in a VM: give it the host's CPU (-cpu host,+invtsc); else use other hardware for leases",
        );
    }
    let source = host.text("sys/devices/system/clocksource/clocksource0/current_clocksource");
    match source.trim() {
        "" | "tsc" | "kvm-clock" => Check::ok("tsc", "constant and nonstop"),
        other => Check::warn(
            "tsc",
            format!("constant and nonstop, yet the kernel uses {other}: it found the TSC unstable"),
            "dmesg | grep -i tsc; a firmware update may help",
        ),
    }
}

fn frequency(host: &Host) -> Option<Check> {
    let governor = host.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    match governor.trim() {
        "" | "performance" => None,
        other => Some(Check::warn(
            "cpu frequency",
            format!("the governor is {other}: CPUs may slow down between bursts"),
            "cpupower frequency-set -g performance",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;
    use std::fs;
    use std::path::Path;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("has one")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(cpus("0-2,8\n"), [0, 1, 2, 8]);
        assert_eq!(cpus("\n"), [] as [usize; 0]);
        assert_eq!(cpus("(null)"), [] as [usize; 0], "as nohz_full says without any");
    }

    #[test]
    fn isolation_and_the_clock_are_judged_by_what_the_kernel_says() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::bare(root.path());
        write(root.path(), "sys/devices/system/cpu/online", "0-3\n");
        assert!(isolation(&host).mend.contains("isolcpus=1-3"));
        write(root.path(), "sys/devices/system/cpu/isolated", "2-3\n");
        assert!(isolation(&host).mend.contains("nohz_full"));
        write(root.path(), "sys/devices/system/cpu/nohz_full", "2-3\n");
        assert_eq!(isolation(&host).state, State::Ok);
        write(root.path(), "proc/cpuinfo", "flags\t\t: fpu constant_tsc rdtscp\n");
        assert!(tsc(&host).found.contains("nonstop_tsc") && !tsc(&host).found.contains("constant_tsc and"));
        write(root.path(), "proc/cpuinfo", "flags\t\t: fpu constant_tsc rdtscp nonstop_tsc\n");
        assert_eq!(tsc(&host).state, State::Ok);
        write(root.path(), "sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
        assert_eq!(tsc(&host).state, State::Warn);
    }
}
