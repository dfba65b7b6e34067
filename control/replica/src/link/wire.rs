//! What a connection of the link is made of: a socket, plain or under TLS, and messages of one kind on it.

use crate::link::LinkError;
use crate::link::envelope::{FrameReader, FrameWriter, Kind};
use crate::link::message::{Down, Hello, Reply, Up};
use crate::link::socket::{Patience, Socket};
use crate::link::tls::explain;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::marker::PhantomData;

/// A connection, plain or TLS: what bulk reads from and writes to.
#[derive(Debug)]
pub struct Wire(Inner);

#[derive(Debug)]
enum Inner {
    Plain(Socket),
    Dialed(Box<StreamOwned<ClientConnection, Socket>>),
    Accepted(Box<StreamOwned<ServerConnection, Socket>>),
}

impl Wire {
    pub(crate) fn plain(socket: Socket) -> Wire {
        Wire(Inner::Plain(socket))
    }

    pub(crate) fn dialed(stream: StreamOwned<ClientConnection, Socket>) -> Wire {
        Wire(Inner::Dialed(Box::new(stream)))
    }

    pub(crate) fn accepted(stream: StreamOwned<ServerConnection, Socket>) -> Wire {
        Wire(Inner::Accepted(Box::new(stream)))
    }

    pub(crate) fn socket(&self) -> &Socket {
        match &self.0 {
            Inner::Plain(socket) => socket,
            Inner::Dialed(stream) => &stream.sock,
            Inner::Accepted(stream) => &stream.sock,
        }
    }

    pub(crate) fn settle(&mut self, patience: Patience) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(socket) => socket.settle(patience),
            Inner::Dialed(stream) => stream.sock.settle(patience),
            Inner::Accepted(stream) => stream.sock.settle(patience),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(socket) => socket.read(to),
            Inner::Dialed(stream) => stream.read(to),
            Inner::Accepted(stream) => stream.read(to),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(socket) => socket.write(from),
            Inner::Dialed(stream) => stream.write(from),
            Inner::Accepted(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(socket) => socket.flush(),
            Inner::Dialed(stream) => stream.flush(),
            Inner::Accepted(stream) => stream.flush(),
        }
    }
}

/// A message that is sent as JSON.
pub trait Message: Serialize + DeserializeOwned {
    /// Its frame.
    const KIND: Kind;
}

impl Message for Hello {
    const KIND: Kind = Kind::Hello;
}

impl Message for Reply {
    const KIND: Kind = Kind::Reply;
}

impl Message for Up {
    const KIND: Kind = Kind::Up;
}

impl Message for Down {
    const KIND: Kind = Kind::Down;
}

/// Writes one message as a frame.
pub(crate) fn send<M: Message>(frames: &mut FrameWriter<impl Write>, message: &M) -> Result<(), LinkError> {
    let json = serde_json::to_vec(message)
        .map_err(|e| LinkError::Protocol(format!("a {:?} cannot be written: {e}", M::KIND)))?;
    frames.send(M::KIND, &[&json]).map_err(explain)
}

/// Reads one message from a frame; one that is not understood poisons the reader.
pub(crate) fn receive<M: Message>(frames: &mut FrameReader<impl Read>) -> Result<M, LinkError> {
    let (_, payload) = frames.receive(&[M::KIND]).map_err(explain)?;
    let message = serde_json::from_slice(payload);
    message.map_err(|e| {
        frames.poison();
        LinkError::Protocol(format!("a {:?} is not understood: {e}", M::KIND))
    })
}

/// Sends messages of one kind.
#[derive(Debug)]
pub struct Sender<M, W: Write = Wire> {
    frames: FrameWriter<W>,
    message: PhantomData<fn(M)>,
}

impl<M: Message, W: Write> Sender<M, W> {
    pub(crate) fn new(frames: FrameWriter<W>) -> Sender<M, W> {
        Sender { frames, message: PhantomData }
    }

    /// Blocks at most [`Patience::stall`]. A message that is too long is refused and nothing sent; after any other
    /// error the connection is over.
    pub fn send(&mut self, message: &M) -> Result<(), LinkError> {
        send(&mut self.frames, message)
    }
}

#[cfg(test)]
impl<M, W: Write> Sender<M, W> {
    pub(crate) fn frames(&mut self) -> &mut FrameWriter<W> {
        &mut self.frames
    }

    pub(crate) fn wire(&mut self) -> &mut W {
        self.frames.get_mut()
    }
}

/// Receives messages of one kind.
#[derive(Debug)]
pub struct Receiver<M, R: Read = Wire> {
    frames: FrameReader<R>,
    message: PhantomData<fn() -> M>,
}

impl<M: Message, R: Read> Receiver<M, R> {
    pub(crate) fn new(frames: FrameReader<R>) -> Receiver<M, R> {
        Receiver { frames, message: PhantomData }
    }

    /// The next message, or [`LinkError::Quiet`] after [`Patience::quiet`]. After any other error the connection is
    /// over.
    pub fn receive(&mut self) -> Result<M, LinkError> {
        receive(&mut self.frames)
    }
}
