//! A stream of Xen as frames: its bytes as they come, and after each checkpoint that may be started from what it was.
//!
//! ```text
//! Stream     up to 1 MiB of the stream
//! StreamEnd  generation u64, epoch u64, number u64, length u64, xxh3-128 u128     over the bytes since the one before
//! ```
//!
//! Numbers are big endian. `number` counts the checkpoints of the stream as both sides count them.

use crate::checkpoint::CheckpointId;
use crate::link::LinkError;
use crate::link::bulk::{BulkReader, BulkWriter, Numbers, Sent, Tally};
use crate::link::envelope::{CHUNK, FrameReader, FrameWriter, Kind};
use std::io::{Read, Write};

/// Writes the stream.
#[derive(Debug)]
pub struct StreamWriter<W> {
    frames: FrameWriter<W>,
    tally: Tally,
}

impl<W: Write> StreamWriter<W> {
    /// On a connection that carried no checkpoints.
    pub fn on(bulk: BulkWriter<W>) -> StreamWriter<W> {
        StreamWriter { frames: bulk.into_frames(), tally: Tally::new() }
    }

    /// Sends the next bytes of the stream.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        for piece in bytes.chunks(CHUNK) {
            self.frames.send(Kind::Stream, &[piece])?;
            self.tally.add(piece);
        }
        Ok(())
    }

    /// What was sent since the last call is checkpoint `number` of the stream, and whatever came before it.
    pub fn end(&mut self, id: CheckpointId, number: u64) -> Result<Sent, LinkError> {
        let sent = std::mem::replace(&mut self.tally, Tally::new()).sent(id);
        let words = [id.generation, id.epoch, number, sent.length].map(u64::to_be_bytes);
        self.frames.send(Kind::StreamEnd, &[words.as_flattened(), &sent.checksum.to_be_bytes()])?;
        Ok(sent)
    }
}

/// What comes.
#[derive(Debug, PartialEq, Eq)]
pub enum Streamed<'a> {
    /// The next bytes.
    Bytes(&'a [u8]),
    /// All since the last of these is whole and as it was sent.
    Checkpoint {
        /// What to acknowledge.
        sent: Sent,
        /// Which checkpoint of the stream it is.
        number: u64,
    },
}

/// Reads it.
#[derive(Debug)]
pub struct StreamReader<R> {
    frames: FrameReader<R>,
    tally: Tally,
    newest_epoch: u64,
    broken: bool,
}

fn protocol(what: impl Into<String>) -> LinkError {
    LinkError::Protocol(what.into())
}

impl<R: Read> StreamReader<R> {
    /// On a connection that carried no checkpoints.
    pub fn on(bulk: BulkReader<R>) -> StreamReader<R> {
        StreamReader { frames: bulk.into_frames(), tally: Tally::new(), newest_epoch: 0, broken: false }
    }

    /// The next part. After any error but [`LinkError::Quiet`] every further call fails.
    pub fn receive(&mut self) -> Result<Streamed<'_>, LinkError> {
        if self.broken {
            return Err(protocol("this connection has failed before"));
        }
        let (kind, payload) = self.frames.receive(&[Kind::Stream, Kind::StreamEnd])?;
        if kind == Kind::Stream {
            self.tally.add(payload);
            return Ok(Streamed::Bytes(payload));
        }
        let mut said = Numbers(payload);
        let mut read = || {
            let id = CheckpointId { generation: said.u64()?, epoch: said.u64()? };
            let (number, length, checksum) = (said.u64()?, said.u64()?, said.u128()?);
            said.0.is_empty().then_some((id, number, length, checksum))
        };
        let told = read();
        let checked = match told {
            None => Err("the end of a checkpoint has another length".into()),
            Some((id, number, length, checksum)) => {
                let sent = std::mem::replace(&mut self.tally, Tally::new()).sent(id);
                if (length, checksum) != (sent.length, sent.checksum) {
                    Err(format!("checkpoint {number} is corrupt: its checksum does not match"))
                } else if id.epoch < self.newest_epoch {
                    Err(format!("epoch {} after {}", id.epoch, self.newest_epoch))
                } else {
                    self.newest_epoch = id.epoch;
                    Ok(Streamed::Checkpoint { sent, number })
                }
            }
        };
        checked.map_err(|what| {
            self.broken = true;
            protocol(what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::bulk::BulkLimits;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(1);

    fn id(epoch: u64) -> CheckpointId {
        CheckpointId { generation: 7, epoch }
    }

    fn writer() -> StreamWriter<Vec<u8>> {
        StreamWriter::on(BulkWriter::new(Vec::new(), SOON))
    }

    fn reader(bytes: &[u8]) -> StreamReader<&[u8]> {
        StreamReader::on(BulkReader::new(bytes, BulkLimits { device_max: 0, ram_pages: 0 }, SOON, SOON))
    }

    #[test]
    fn a_stream_comes_out_as_it_went_in_with_its_checkpoints() {
        let mut writer = writer();
        let long = vec![5; CHUNK + 10];
        writer.send(&long).unwrap();
        let first = writer.end(id(1), 2).unwrap();
        let second = {
            writer.send(b"abc").unwrap();
            writer.end(id(1), 3).unwrap()
        };
        assert_eq!((first.length, second.length), (CHUNK as u64 + 10, 3));
        let sent = writer.frames.get_ref().clone();
        let mut reader = reader(&sent);
        let mut bytes = vec![];
        let mut ends = vec![];
        while ends.len() < 2 {
            match reader.receive().unwrap() {
                Streamed::Bytes(piece) => bytes.extend_from_slice(piece),
                Streamed::Checkpoint { sent, number } => ends.push((sent, number)),
            }
        }
        assert_eq!(bytes, [&long[..], b"abc"].concat());
        assert_eq!(ends, [(first, 2), (second, 3)]);
    }

    #[test]
    fn an_end_that_does_not_fit_what_came_is_refused_for_good() {
        let end = |words: [u64; 4], checksum: u128, more: &[u8]| {
            let mut frames = FrameWriter::new(Vec::new(), SOON);
            frames.send(Kind::Stream, &[b"abc"]).unwrap();
            let words = words.map(u64::to_be_bytes);
            let _ = frames.send(Kind::StreamEnd, &[words.as_flattened(), &checksum.to_be_bytes(), more]);
            frames.get_ref().clone()
        };
        let mut tally = Tally::new();
        tally.add(b"abc");
        let right = tally.sent(id(4));
        let good = end([7, 4, 2, 3], right.checksum, &[]);
        let mut reader_of_good = reader(&good);
        reader_of_good.receive().unwrap();
        assert!(reader_of_good.receive().is_ok());
        for bad in [end([7, 4, 2, 4], right.checksum, &[]), end([7, 4, 2, 3], 1, &[])] {
            let mut reader = reader(&bad);
            reader.receive().unwrap();
            assert!(matches!(reader.receive(), Err(LinkError::Protocol(_))));
            assert!(reader.receive().is_err());
        }
    }

    #[test]
    fn an_older_epoch_never_follows_a_newer_one() {
        let mut writer = writer();
        writer.end(id(5), 2).unwrap();
        writer.end(id(4), 3).unwrap();
        let sent = writer.frames.get_ref().clone();
        let mut reader = reader(&sent);
        assert!(reader.receive().is_ok());
        assert!(matches!(reader.receive(), Err(LinkError::Protocol(_))));
    }
}
