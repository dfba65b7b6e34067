//! `tidegate-xen-lab`: see `scripts/xen-lab`. Exit code 0: nothing was noticed; 1: something was, or something failed; 2:
//! wrong use.

use clap::Parser;

fn main() -> std::process::ExitCode {
    tidegate_tests::xen_lab::cli::main(&tidegate_tests::xen_lab::cli::Args::parse())
}
