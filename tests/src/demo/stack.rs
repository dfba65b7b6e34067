//! A TCP/IP stack in user space on a [`Nic`].

use super::clock::{instant, now_ns};
use super::nic::Nic;
use super::{PREFIX, pattern};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, IpCidr};
use std::net::Ipv4Addr;

/// Bytes of a TCP socket's buffer in each direction: what may be under way.
const WINDOW: usize = 128 << 10;
/// Packets of a UDP socket's buffer in each direction, and their bytes.
const DATAGRAMS: (usize, usize) = (64, 32 << 10);

/// See the module's head.
pub(super) struct Stack {
    /// The card.
    pub nic: Nic,
    /// The stack.
    pub iface: Interface,
    /// Its sockets.
    pub sockets: SocketSet<'static>,
}

impl Stack {
    /// A stack with one address.
    pub(super) fn new(mut nic: Nic, mac: [u8; 6], address: Ipv4Addr) -> Stack {
        let mut config = Config::new(EthernetAddress(mac).into());
        config.random_seed = now_ns(); // So that two demos do not share their initial sequence numbers.
        let mut iface = Interface::new(config, &mut nic, instant(now_ns()));
        iface.update_ip_addrs(|addresses| {
            // There is room for one.
            let _ = addresses.push(IpCidr::new(address.into(), PREFIX));
        });
        Stack { nic, iface, sockets: SocketSet::new(Vec::new()) }
    }

    /// Lets the stack do what is due, and hands its frames to the ring.
    pub(super) fn poll(&mut self) {
        self.iface.poll(instant(now_ns()), &mut self.nic, &mut self.sockets);
        self.nic.flush();
    }

    /// A TCP socket, without Nagle's delay.
    pub(super) fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; WINDOW]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    /// A UDP socket on `port`.
    pub(super) fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS.0], vec![0; DATAGRAMS.1]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        // Fails for port 0 only.
        let _ = socket.bind(port);
        self.sockets.add(socket)
    }
}

/// Sends as much of the pattern as the socket takes; `place` is where the stream stands.
pub(super) fn send_pattern(socket: &mut tcp::Socket<'_>, place: &mut u64) {
    while socket.can_send() {
        let sent = socket.send(|room| {
            pattern::fill(room, *place);
            (room.len(), room.len())
        });
        match sent {
            Ok(sent) if sent > 0 => *place += sent as u64,
            _ => return,
        }
    }
}

/// Receives what there is.
pub(super) fn receive_pattern(socket: &mut tcp::Socket<'_>, check: &mut pattern::Check) {
    while socket.can_recv() {
        let received = socket.recv(|bytes| {
            check.take(bytes);
            (bytes.len(), bytes.len())
        });
        if !matches!(received, Ok(received) if received > 0) {
            return;
        }
    }
}
