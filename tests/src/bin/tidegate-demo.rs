//! The programs around a plane that `scripts/demo` starts: see `tidegate-demo --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate_tests::demo::main()
}
