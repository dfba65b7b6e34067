//! Sends what the cycle takes, in its order, as fast as the link goes; the VM does not wait for it.

use super::flight::Receipt;
use super::{News, Primary};
use crate::checkpoint::{Checkpoint, Pages, Ram, RamDigest};
use crate::link::bulk::BulkWriter;
use crate::link::wire::Wire;
use std::sync::mpsc;

/// Something to send.
#[derive(Debug)]
pub enum Freight {
    /// A part of the first copy.
    Seed(Pages),
    /// Its end.
    SeedEnd(RamDigest),
    /// A checkpoint; the flight knows of it.
    Checkpoint(Checkpoint),
}

/// Sends until the session ends or nobody loads any more.
pub fn carry(primary: &Primary, mut bulk: BulkWriter<Wire>, loads: &mpsc::Receiver<Freight>) {
    for load in loads.iter() {
        let sent = match load {
            Freight::Seed(pages) => bulk.seed(&pages),
            Freight::SeedEnd(digest) => bulk.seed_end(digest),
            Freight::Checkpoint(checkpoint) => {
                primary.chronicle.step("send", checkpoint.id.epoch);
                let digest = match checkpoint.ram {
                    Ram::Difference { digest, .. } => Some(digest),
                    Ram::Streamed => None,
                };
                bulk.send(&checkpoint, &mut |_| {}).map(|sent| {
                    let receipt =
                        Receipt { id: sent.id, length: sent.length, checksum: sent.checksum, digest };
                    primary.flight.sent(receipt);
                })
            }
        };
        if let Err(error) = sent {
            return primary.tell(News::LinkLost(error.to_string()));
        }
    }
}
