//! `tidegate observe`: follows a VM that somebody else checkpoints.

use tidegate_control::cli::ObserveArgs;

/// Follows until told to stop.
pub fn run(_args: ObserveArgs) -> Result<(), String> {
    Err("not built yet".into())
}
