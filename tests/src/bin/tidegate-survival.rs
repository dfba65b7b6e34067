//! `tidegate-survival`: see `scripts/survival`. Exit code 0: every death went unnoticed; 1: one did not, or something
//! failed; 2: wrong use.

use clap::Parser;

fn main() -> std::process::ExitCode {
    tidegate_tests::survival::cli::main(&tidegate_tests::survival::cli::Args::parse())
}
