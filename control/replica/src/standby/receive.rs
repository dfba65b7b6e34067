//! Takes what the primary sends of its VM: the first copy, then checkpoints. A checkpoint is acknowledged when it is
//! complete, verified, and what a promotion would load; its RAM is written after that.

use super::Standby;
use super::qemu::Qemu;
use crate::checkpoint::ImageState;
use crate::chronicle::ms;
use crate::link::LinkError;
use crate::link::bulk::{BulkReader, Carried};
use crate::link::message::Down;
use crate::link::wire::Wire;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Takes until the session ends.
pub fn receive(standby: &Standby, qemu: &Qemu, mut bulk: BulkReader<Wire>) {
    let mut seeding = false;
    loop {
        let incoming = bulk.incoming();
        match bulk.receive() {
            Ok(carried) => {
                if let Err(problem) = take(standby, qemu, carried, &mut seeding) {
                    standby.chronicle.tell("refused", json!({ "problem": problem }));
                    return standby.refuse_session();
                }
            }
            Err(LinkError::Quiet) => {}
            Err(error) => {
                if let Some(id) = incoming {
                    standby.say(&Down::Refused { id, reason: error.to_string() });
                }
                return standby.end_session();
            }
        }
    }
}

fn take(standby: &Standby, qemu: &Qemu, carried: Carried, seeding: &mut bool) -> Result<(), String> {
    let mut image = qemu.image();
    match carried {
        Carried::Seed(pages) => {
            if !std::mem::replace(seeding, true) {
                image.begin().map_err(|e| e.to_string())?;
            }
            image.seed(&pages).map_err(|e| e.to_string())
        }
        Carried::SeedEnd(digest) => {
            if !std::mem::take(seeding) {
                // A guest whose RAM is all zero.
                image.begin().map_err(|e| e.to_string())?;
            }
            if image.digest() != Some(digest) {
                return Err("the first copy is not what the primary sent".into());
            }
            standby.say(&Down::Seeded { digest });
            Ok(())
        }
        Carried::Checkpoint(checkpoint, sent) => {
            let (id, bytes) = (sent.id, sent.length);
            let digest = checkpoint.ram.digest();
            if let Err(error) = image.admit(checkpoint) {
                standby.say(&Down::Refused { id, reason: error.to_string() });
                return Err(error.to_string());
            }
            standby.stale.store(false, Relaxed);
            // Under the image's lock: what is acknowledged is what a promotion loads, and nothing is after it.
            standby.say(&Down::Acked { id, length: sent.length, checksum: sent.checksum, digest });
            match image.apply() {
                Ok(applied) => {
                    drop(image);
                    standby.chronicle.committed(applied);
                    standby.chronicle.checkpoint(
                        Duration::ZERO,
                        bytes,
                        json!({ "epoch": id.epoch, "bytes": bytes, "apply_ms": ms(applied) }),
                    );
                    Ok(())
                }
                Err(error) => {
                    let torn = image.state() == ImageState::Torn;
                    drop(image);
                    if torn {
                        // Nothing here can take over any more.
                        standby.give_back(&format!("its RAM could not be written: {error}"));
                        standby.fail(format!("the checkpoint was not applied: {error}"));
                    }
                    Err(error.to_string())
                }
            }
        }
    }
}
