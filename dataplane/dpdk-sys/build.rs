//! Finds the system's DPDK, binds the functions that tidegate calls, compiles the shim.
//!
//! `pkg-config` is asked directly: the crate of that name drops `-include rte_config.h` and `-march`,
//! without which DPDK's headers do not compile.

use std::{env, path::PathBuf, process::Command, process::exit};

const OLDEST: &str = "22.11";

const FUNCTIONS: &[&str] = &[
    "shim_.*",
    "if_indextoname",
    "if_nametoindex",
    "sched_getaffinity",
    "sched_setaffinity",
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_eal_get_runtime_dir",
    "rte_eal_init",
    "rte_eal_lcore_role",
    "rte_eal_remote_launch",
    "rte_eal_wait_lcore",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_callback_register",
    "rte_eth_dev_callback_unregister",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_link_get_nowait",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_disable",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_eth_vhost_get_vid_from_port_id",
    "rte_get_tsc_hz",
    "rte_mempool_avail_count",
    "rte_mempool_free",
    "rte_mempool_in_use_count",
    "rte_pktmbuf_free_bulk",
    "rte_strerror",
    "rte_vhost_driver_disable_features",
    "rte_vhost_extern_callback_register",
    "rte_vhost_get_negotiated_features",
];

const CONSTANTS: &[&str] = &[
    "TX_CHECKSUMS",
    "TX_MULTI_SEGS",
    "RX_CHECKSUMS",
    "RX_SCATTER",
    "RSS_IP_L4",
    "SPEED_UNKNOWN",
    "MAX_LCORE",
    "MAX_PORTS",
    "ANY_SOCKET",
    "HEADROOM",
    "MBUF_.*",
];

fn main() {
    println!("cargo::rerun-if-changed=wrapper.h");
    println!("cargo::rerun-if-changed=src/shim.c");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    pkg_config(&[&format!("--atleast-version={OLDEST}"), "libdpdk"]);
    let cflags = pkg_config(&["--cflags", "libdpdk"]);
    let libs = pkg_config(&["--libs", "libdpdk"]);

    // The vhost driver's own calls live in its plug-in, which `--libs` leaves out. The plug-in directory
    // is loaded by EAL at start in any case.
    for word in libs.iter().map(String::as_str).chain(["-lrte_net_vhost"]) {
        if let Some(dir) = word.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={dir}");
        } else if let Some(lib) = word.strip_prefix("-l") {
            println!("cargo::rustc-link-lib=dylib={lib}");
        }
    }

    let mut shim = cc::Build::new();
    shim.file("src/shim.c").opt_level(3).warnings(false);
    for flag in &cflags {
        shim.flag(flag);
    }
    shim.compile("tidegate_shim");

    let mut bindings = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(&cflags)
        .allowlist_recursively(true)
        .opaque_type("rte_mbuf|rte_mempool|rte_device|rte_bus|rte_driver|rte_ether_addr")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_debug(false)
        .layout_tests(false)
        .generate_comments(false);
    for function in FUNCTIONS {
        bindings = bindings.allowlist_function(function);
    }
    for constant in CONSTANTS {
        bindings = bindings.allowlist_var(constant);
    }
    for name in ["RTE_ETH_MQ_RX_.*", "RTE_ETH_EVENT_INTR_LSC", "RTE_VHOST_MSG_RESULT_.*"] {
        bindings = bindings.allowlist_var(name);
    }
    let Ok(bindings) = bindings.generate() else {
        stop("DPDK's headers could not be read (the lines above say why).");
    };
    let Some(out) = env::var_os("OUT_DIR") else { stop("OUT_DIR is not set: build this with cargo.") };
    if let Err(error) = bindings.write_to_file(PathBuf::from(out).join("bindings.rs")) {
        stop(&format!("the bindings could not be written: {error}"));
    }
}

fn pkg_config(args: &[&str]) -> Vec<String> {
    match Command::new("pkg-config").args(args).output() {
        Ok(out) if out.status.success() => {
            String::from_utf8_lossy(&out.stdout).split_whitespace().map(String::from).collect()
        }
        Ok(out) => stop(&format!(
            "libdpdk {OLDEST} or later was not found (pkg-config {}: {}).",
            args.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        )),
        Err(error) => stop(&format!("pkg-config cannot be run: {error}.")),
    }
}

fn stop(why: &str) -> ! {
    eprintln!(
        "dpdk-sys: {why}\n  On Debian or Ubuntu: apt-get install pkg-config libdpdk-dev libclang-dev clang\n  \
         For a DPDK of your own, set PKG_CONFIG_PATH to the directory of its libdpdk.pc.\n  \
         Without any DPDK: cargo build -p tidegate-dataplane --no-default-features (the pure parts)."
    );
    exit(1);
}
