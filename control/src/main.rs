//! The tidegate command. See [`tidegate_control::cli`].

fn main() -> std::process::ExitCode {
    tidegate_control::cli::Cli::main()
}
