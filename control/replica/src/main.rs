//! `tidegate-replica`: what `tidegate replicate`, `tidegate standby` and their kin become.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
