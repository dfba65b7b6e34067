//! The guest's TCP, and a UDP conversation that is no media: an upload, a download, transactions, lookups.

use super::clock::ms;
use super::pattern::Check;
use super::reports::TransfersSeen;
use super::stack::{Stack, receive_pattern, send_pattern};
use super::{
    ANSWER_LEN, DOWNLOAD_PORT, GUEST, LOOKUP_PORT, REQUEST_LEN, SINK, TRANSACTION_PORT, UPLOAD_PORT,
};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};

/// Between two lookups, ns.
const LOOKUP_EVERY_NS: u64 = 100_000_000;
/// The guest's own port for lookups.
const LOOKUP_FROM: u16 = 40000;
/// The first of the guest's own TCP ports; the two others follow.
const TCP_FROM: u16 = 50000;

/// See the module's head.
pub(super) struct Transfers {
    upload: SocketHandle,
    download: SocketHandle,
    transactions: SocketHandle,
    lookups: SocketHandle,
    uploaded: u64,
    downloaded: Check,
    /// When the request that waits for its answer was made, and how much of the answer is there.
    request: Option<(u64, usize)>,
    answered: Times,
    next_lookup_ns: u64,
    asked: u64,
    looked_up: Times,
}

#[derive(Debug, Default)]
struct Times {
    number: u64,
    sum_ns: u64,
}

impl Times {
    fn add(&mut self, ns: u64) {
        self.number += 1;
        self.sum_ns += ns;
    }

    fn mean_ms(&self) -> f64 {
        ms(self.sum_ns) / self.number.max(1) as f64
    }
}

impl Transfers {
    /// Opens all connections.
    pub(super) fn start(stack: &mut Stack, now_ns: u64) -> Result<Transfers, String> {
        let mut connect = |number: u16, port: u16| {
            let handle = stack.tcp();
            let context = stack.iface.context();
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
            socket
                .connect(context, (SINK, port), (GUEST, TCP_FROM + number))
                .map(|()| handle)
                .map_err(|e| format!("TCP to {SINK}:{port}: {e}"))
        };
        Ok(Transfers {
            upload: connect(0, UPLOAD_PORT)?,
            download: connect(1, DOWNLOAD_PORT)?,
            transactions: connect(2, TRANSACTION_PORT)?,
            lookups: stack.udp(LOOKUP_FROM),
            uploaded: 0,
            downloaded: Check::default(),
            request: None,
            answered: Times::default(),
            next_lookup_ns: now_ns,
            asked: 0,
            looked_up: Times::default(),
        })
    }

    /// Sends and receives what can be.
    pub(super) fn step(&mut self, stack: &mut Stack, now_ns: u64) {
        send_pattern(stack.sockets.get_mut(self.upload), &mut self.uploaded);
        receive_pattern(stack.sockets.get_mut(self.download), &mut self.downloaded);
        self.transact(stack.sockets.get_mut(self.transactions), now_ns);
        self.look_up(stack.sockets.get_mut(self.lookups), now_ns, true);
    }

    fn transact(&mut self, socket: &mut tcp::Socket<'_>, now_ns: u64) {
        if let Some((since_ns, received)) = &mut self.request {
            if let Ok(more) = socket.recv(|bytes| (bytes.len(), bytes.len())) {
                *received += more;
            }
            if *received >= ANSWER_LEN {
                self.answered.add(now_ns - *since_ns);
                self.request = None;
            }
        } else if socket.can_send() && socket.send_slice(&[b'?'; REQUEST_LEN]) == Ok(REQUEST_LEN) {
            self.request = Some((now_ns, 0));
        }
    }

    fn look_up(&mut self, socket: &mut udp::Socket<'_>, now_ns: u64, ask: bool) {
        // A question is the time at which it was asked; the answer repeats it.
        while let Ok((answer, _)) = socket.recv() {
            if let Ok(asked) = answer.try_into().map(u64::from_be_bytes) {
                self.looked_up.add(now_ns.saturating_sub(asked));
            }
        }
        if ask && now_ns >= self.next_lookup_ns {
            self.next_lookup_ns = now_ns + LOOKUP_EVERY_NS;
            self.asked += u64::from(socket.send_slice(&now_ns.to_be_bytes(), (SINK, LOOKUP_PORT)).is_ok());
        }
    }

    /// Ends the connections: what was given to the stack still travels, nothing more is.
    pub(super) fn stop(&mut self, stack: &mut Stack) {
        stack.sockets.get_mut::<tcp::Socket<'_>>(self.upload).close();
        stack.sockets.get_mut::<tcp::Socket<'_>>(self.transactions).close();
        // The sink would go on sending for ever.
        stack.sockets.get_mut::<tcp::Socket<'_>>(self.download).abort();
    }

    /// After `stop`: takes what still comes; true when all connections are gone.
    pub(super) fn wind_down(&mut self, stack: &mut Stack, now_ns: u64) -> bool {
        self.transact_last(stack.sockets.get_mut(self.transactions));
        self.look_up(stack.sockets.get_mut(self.lookups), now_ns, false);
        [self.upload, self.transactions, self.download].into_iter().all(|handle| {
            let state = stack.sockets.get::<tcp::Socket<'_>>(handle).state();
            matches!(state, tcp::State::Closed | tcp::State::TimeWait)
        }) && self.looked_up.number == self.asked
    }

    fn transact_last(&mut self, socket: &mut tcp::Socket<'_>) {
        while matches!(socket.recv(|bytes| (bytes.len(), bytes.len())), Ok(received) if received > 0) {}
    }

    /// What it came to.
    pub(super) fn seen(&self, stack: &Stack) -> TransfersSeen {
        let unacknowledged = stack.sockets.get::<tcp::Socket<'_>>(self.upload).send_queue();
        TransfersSeen {
            uploaded: self.uploaded - unacknowledged as u64,
            downloaded: self.downloaded.bytes,
            downloaded_wrong: self.downloaded.wrong,
            transactions: self.answered.number,
            transaction_ms_mean: self.answered.mean_ms(),
            lookups: self.asked,
            lookups_answered: self.looked_up.number,
            lookup_ms_mean: self.looked_up.mean_ms(),
        }
    }
}
