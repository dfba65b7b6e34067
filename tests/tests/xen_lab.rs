//! A real domain on a real (emulated) Xen, replicated by `xl remus` through tidegate, with the plane on its vif: nothing
//! leaves before the backup has it, each epoch is closed while the domain is suspended, a policy that holds nothing is
//! found out, and a domain whose xl is killed in the wrong moment runs on. `scripts/xen-lab --long` kills whole hosts.

use std::path::{Path, PathBuf};

use tidegate_tests::ensure;
use tidegate_tests::failure::{Failure, Result};
use tidegate_tests::laboratory::tidegate;
use tidegate_tests::plane::Kind;
use tidegate_tests::xen_lab::cli::{Args, Policy, run};

fn program() -> Result<PathBuf> {
    match tidegate()? {
        Kind::Tidegate(path) => Ok(path),
        Kind::Forwarder => Err(Failure::new("the laboratory has no tidegate")),
    }
}

#[test]
fn a_domain_under_remus_says_nothing_that_its_backup_does_not_know() -> Result<()> {
    let tidegate = program()?;
    let beside = tidegate.parent().unwrap_or(Path::new("."));
    let report = run(&Args {
        failovers: None,
        unsafe_failovers: None,
        policy: Some(Policy::Realtime),
        interval: 400,
        checkpoints: 4,
        json: true,
        cache: Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/xen-lab"),
        bin: beside.to_owned(),
    })?;
    println!("{}", report.to_json());
    let faults = report.faults();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    ensure!(report.rescue_ms.is_some(), "no xl was killed");
    Ok(())
}
