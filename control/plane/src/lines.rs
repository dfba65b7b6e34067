//! Lines of bounded length from a socket, whatever the pieces they arrive in.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line without its newline.
    Text(Vec<u8>),
    /// More bytes than allowed without a newline. Nothing sensible follows.
    TooLong,
    /// The peer has said everything. A last line without a newline counts as a line.
    End,
}

/// See the module's head. Holds at most one line and one read's worth of bytes.
pub struct Lines<R> {
    source: R,
    read: Vec<u8>,
    looked_at: usize,
    ended: bool,
    max: usize,
}

/// Bytes asked for at a time.
const CHUNK: usize = 4096;

impl<R: AsyncRead + Unpin> Lines<R> {
    /// `max`: bytes of a line, its newline not counted.
    pub fn new(source: R, max: usize) -> Self {
        Self { source, read: Vec::with_capacity(CHUNK), looked_at: 0, ended: false, max }
    }

    /// The next line. Safe to cancel: bytes that were read stay.
    pub async fn next(&mut self) -> io::Result<Line> {
        loop {
            let fresh = &self.read[self.looked_at..];
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let end = self.looked_at + end;
                self.looked_at = 0;
                let mut line: Vec<u8> = self.read.drain(..=end).collect();
                line.pop();
                return Ok(if line.len() > self.max { Line::TooLong } else { Line::Text(line) });
            }
            self.looked_at = self.read.len();
            if self.looked_at > self.max {
                return Ok(Line::TooLong);
            }
            if self.ended {
                self.looked_at = 0;
                let rest = std::mem::take(&mut self.read);
                return Ok(if rest.is_empty() { Line::End } else { Line::Text(rest) });
            }
            self.read.reserve(CHUNK);
            let mut room = (&mut self.source).take(CHUNK as u64);
            self.ended = room.read_buf(&mut self.read).await? == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(pieces: &[&[u8]], max: usize) -> Vec<Line> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut source = tokio_pieces(pieces);
            let mut lines = Lines::new(&mut source, max);
            let mut seen = Vec::new();
            loop {
                let line = lines.next().await.expect("memory does not fail");
                let last = matches!(line, Line::End | Line::TooLong);
                seen.push(line);
                if last {
                    return seen;
                }
            }
        })
    }

    fn tokio_pieces(pieces: &[&[u8]]) -> impl AsyncRead + Unpin {
        let mut source: Box<dyn AsyncRead + Unpin> = Box::new(tokio::io::empty());
        for piece in pieces.iter().rev() {
            source = Box::new(std::io::Cursor::new(piece.to_vec()).chain(source));
        }
        source
    }

    fn text(line: &str) -> Line {
        Line::Text(line.into())
    }

    #[test]
    fn an_endless_line_is_noticed_before_it_fills_the_memory() {
        let endless = vec![b'x'; 100_000];
        assert_eq!(all(&[&endless], 64), [Line::TooLong]);
        assert_eq!(all(&[b"12345\n"], 4), [Line::TooLong]);
        assert_eq!(all(&[b"1234\n"], 4), [text("1234"), Line::End]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_pieces_they_come_in(
            bytes in "[a-c\n]{0,60}",
            cuts in proptest::collection::vec(0usize..60, 0..6),
        ) {
            let bytes = bytes.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c <= bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).filter(|p| !p.is_empty()).collect();
            prop_assert_eq!(all(&pieces, 64), all(&[bytes], 64));
        }
    }
}
