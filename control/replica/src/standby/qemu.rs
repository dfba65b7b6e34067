//! The standby of a VM of QEMU: an image of its newest checkpoint, and a QEMU that waits to load it.

use super::{Backup, Loaded, Standby, receive};
use crate::checkpoint::{Image, ImageState};
use crate::disks::DiskGuard;
use crate::link::bulk::BulkReader;
use crate::link::message::Newest;
use crate::link::wire::Wire;
use crate::qmp::RunState;
use crate::vm::Vm;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// How long QEMU may take to load the checkpoint.
const LOAD_WITHIN: Duration = Duration::from_secs(10);

/// See the module's head.
pub struct Qemu {
    vm: Vm,
    image: Mutex<Image>,
    disk_hook: Option<PathBuf>,
}

impl Qemu {
    /// Nothing has come yet.
    pub fn new(vm: Vm, image: Image, disk_hook: Option<PathBuf>) -> Qemu {
        Qemu { vm, image: Mutex::new(image), disk_hook }
    }

    /// The image.
    pub fn image(&self) -> MutexGuard<'_, Image> {
        super::locked(&self.image)
    }
}

impl Backup for Qemu {
    fn has_disk_hook(&self) -> bool {
        self.disk_hook.is_some()
    }

    fn newest(&self) -> Option<Newest> {
        let image = self.image();
        let holds = matches!(image.state(), ImageState::Holding | ImageState::Applying);
        image.newest().filter(|_| holds).map(|id| Newest { id, digest: image.digest() })
    }

    fn look(&self, within: Duration) -> Result<(), String> {
        match self.vm.look(within) {
            Some(Ok(RunState::InMigrate)) | None => Ok(()),
            Some(Ok(state)) => Err(format!("the standby's QEMU is {state}")),
            Some(Err(error)) => Err(format!("the standby's QEMU does not answer: {error}")),
        }
    }

    fn is_gone(&self) -> bool {
        self.vm.is_gone()
    }

    fn receive(&self, standby: &Standby, bulk: BulkReader<Wire>) {
        receive::receive(standby, self, bulk);
    }

    fn load(&self) -> Result<Loaded, String> {
        let mut image = self.image();
        let mut driving = self.vm.drive();
        let newest = image.newest().ok_or("no complete checkpoint is held")?;
        DiskGuard::of_standby(self.disk_hook.as_deref()).promote(newest.epoch)?;
        let timings = image.load(&mut driving, LOAD_WITHIN).map_err(|e| e.to_string())?;
        Ok(Loaded { id: newest, apply: timings.apply, load: timings.load })
    }

    fn run(&self) -> Result<(), String> {
        self.vm.drive().cont().map_err(|e| format!("QEMU does not run the restored VM: {e}"))
    }

    fn promoted(&self) {
        self.vm.give_back();
    }

    fn still_runs(&self) -> bool {
        let _ = self.vm.look(LOAD_WITHIN);
        !self.vm.is_gone()
    }

    fn report(&self) -> Value {
        let image = self.image();
        json!({ "image": format!("{:?}", image.state()).to_lowercase(), "newest": image.newest() })
    }
}
