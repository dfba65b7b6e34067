//! The guest's calls: a G.711 A-law packet every 20 ms each.

use super::alaw::{RATE, Tone};
use super::rtp_meter::HEADER_LEN;
use super::stack::Stack;
use super::{MEDIA_PORT, SINK};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;

/// Time that a packet's samples take, ns.
const PERIOD_NS: u64 = 20_000_000;
/// Samples of a packet.
const SAMPLES: usize = RATE as usize / 50;
/// RTP payload type of G.711 A-law (RFC 3551).
const PCMA: u8 = 8;
/// Set in the first packet of a talk spurt.
const MARKER: u8 = 0x80;

struct Call {
    socket: SocketHandle,
    port: u16,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    tone: Tone,
    due_ns: u64,
    sent: u64,
    sent_ns: u64,
    gap_ns_max: u64,
}

/// All of them.
pub(super) struct Calls(Vec<Call>);

impl Calls {
    /// Places `number` calls, spread over one period from `start_ns` on.
    pub(super) fn place(stack: &mut Stack, number: u16, start_ns: u64) -> Calls {
        let call = |n: u16| {
            let port = MEDIA_PORT + 2 * n;
            // Any values will do (RFC 3550, 5.1); these differ from call to call and from run to run.
            let mixed = (start_ns ^ u64::from(n) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Call {
                socket: stack.udp(port),
                port,
                ssrc: (mixed >> 32) as u32,
                sequence: mixed as u16,
                timestamp: mixed as u32,
                tone: Tone::new(300.0 + 40.0 * f64::from(n)),
                due_ns: start_ns + PERIOD_NS * u64::from(n) / u64::from(number),
                sent: 0,
                sent_ns: start_ns,
                gap_ns_max: 0,
            }
        };
        Calls((0..number).map(call).collect())
    }

    /// Gives the stack every packet that is due.
    pub(super) fn speak(&mut self, stack: &mut Stack, now_ns: u64) {
        for call in &mut self.0 {
            while call.due_ns <= now_ns {
                let packet = call.packet();
                let socket = stack.sockets.get_mut::<udp::Socket<'_>>(call.socket);
                if socket.send_slice(&packet, (SINK, call.port)).is_ok() {
                    call.sent += 1;
                    call.gap_ns_max = call.gap_ns_max.max(now_ns - call.sent_ns);
                    call.sent_ns = now_ns;
                    call.sequence = call.sequence.wrapping_add(1);
                }
                call.timestamp = call.timestamp.wrapping_add(SAMPLES as u32);
                call.due_ns += PERIOD_NS;
            }
        }
    }

    /// The largest gap between two packets of a call, ns.
    pub(super) fn gap_ns_max(&self) -> u64 {
        self.0.iter().map(|call| call.gap_ns_max).max().unwrap_or(0)
    }

    /// Each call's SSRC and how many packets it sent.
    pub(super) fn sent(&self) -> Vec<(u32, u64)> {
        self.0.iter().map(|call| (call.ssrc, call.sent)).collect()
    }
}

impl Call {
    fn packet(&mut self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(HEADER_LEN + SAMPLES);
        packet.push(2 << 6);
        packet.push(PCMA | if self.sent == 0 { MARKER } else { 0 });
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.timestamp.to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet.extend((0..SAMPLES).map(|_| self.tone.next_sample()));
        packet
    }
}
