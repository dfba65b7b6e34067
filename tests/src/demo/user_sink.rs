//! The sink in user space, where there is no root for a veth: a stack like the guest's on a vhost-user wire.

use super::capture::Capture;
use super::cli::Stdin;
use super::clock::{ms, now_ns};
use super::nic::{Nic, Notes};
use super::pattern::Check;
use super::reports::{SinkProgress, SinkReport, WORD_EVERY_NS, write_seen};
use super::stack::{Stack, receive_pattern, send_pattern};
use super::{
    ANSWER_LEN, DOWNLOAD_PORT, LOOKUP_PORT, MEDIA_PORT, REQUEST_LEN, SINK, SINK_MAC, TRANSACTION_PORT,
    UPLOAD_PORT,
};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};
use std::path::Path;
use std::time::Duration;

/// Between two looks at the card.
const TICK: Duration = Duration::from_micros(250);

/// Serves until standard input ends, then reports.
pub(super) fn run(socket: &Path, calls: u16, frames: &Path) -> Result<(), String> {
    let nic = Nic::connect(socket, Notes::Seen(Capture::default()))?;
    let mut stack = Stack::new(nic, SINK_MAC, SINK);
    let mut services = Services::listen(&mut stack, calls)?;
    let stdin = Stdin::watch();
    super::cli::say(&SinkProgress::default())?; // Ready.
    let mut next_word_ns = now_ns() + WORD_EVERY_NS;
    while !stdin.has_ended() {
        stack.poll();
        services.serve(&mut stack);
        let now = now_ns();
        if let (true, Notes::Seen(capture)) = (now >= next_word_ns, &mut stack.nic.notes) {
            next_word_ns += WORD_EVERY_NS;
            let gap_ms = ms(capture.meter.take_recent_gap());
            super::cli::say(&SinkProgress { gap_ms, frames: capture.seen.len() as u64 })?;
        }
        std::thread::sleep(TICK);
    }
    let (uploaded, uploaded_wrong) = (services.uploaded.bytes, services.uploaded.wrong);
    let Notes::Seen(capture) = stack.nic.close()? else { return Err("the sink kept no notes".into()) };
    write_seen(frames, &capture.seen)?;
    super::cli::say(&SinkReport { streams: capture.meter.streams(), uploaded, uploaded_wrong })
}

struct Services {
    upload: SocketHandle,
    download: SocketHandle,
    transactions: SocketHandle,
    lookups: SocketHandle,
    media: Vec<SocketHandle>,
    uploaded: Check,
    downloaded: u64,
    /// Bytes of the request that is arriving.
    request: usize,
}

impl Services {
    fn listen(stack: &mut Stack, calls: u16) -> Result<Services, String> {
        let mut listen = |port: u16| {
            let handle = stack.tcp();
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
            socket.listen(port).map(|()| handle).map_err(|e| format!("TCP port {port}: {e}"))
        };
        Ok(Services {
            upload: listen(UPLOAD_PORT)?,
            download: listen(DOWNLOAD_PORT)?,
            transactions: listen(TRANSACTION_PORT)?,
            lookups: stack.udp(LOOKUP_PORT),
            media: (0..calls).map(|n| stack.udp(MEDIA_PORT + 2 * n)).collect(),
            uploaded: Check::default(),
            downloaded: 0,
            request: 0,
        })
    }

    fn serve(&mut self, stack: &mut Stack) {
        let upload = stack.sockets.get_mut::<tcp::Socket<'_>>(self.upload);
        receive_pattern(upload, &mut self.uploaded);
        close_after_peer(upload);
        send_pattern(stack.sockets.get_mut(self.download), &mut self.downloaded);
        let transactions = stack.sockets.get_mut::<tcp::Socket<'_>>(self.transactions);
        if let Ok(received) = transactions.recv(|bytes| (bytes.len(), bytes.len())) {
            self.request += received;
        }
        while self.request >= REQUEST_LEN && transactions.send_slice(&[b'!'; ANSWER_LEN]) == Ok(ANSWER_LEN) {
            self.request -= REQUEST_LEN;
        }
        close_after_peer(transactions);
        let lookups = stack.sockets.get_mut::<udp::Socket<'_>>(self.lookups);
        while let Ok((question, from)) = lookups.recv() {
            let question = question.to_vec();
            if lookups.send_slice(&question, from.endpoint).is_err() {
                break;
            }
        }
        for call in &self.media {
            // The capture has seen them; a phone would play them.
            while stack.sockets.get_mut::<udp::Socket<'_>>(*call).recv().is_ok() {}
        }
    }
}

fn close_after_peer(socket: &mut tcp::Socket<'_>) {
    if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
        socket.close();
    }
}
