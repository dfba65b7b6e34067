//! The program in the test guest that numbers what it sends.
//!
//! A counter lives in a page of its own, marked so that the host finds it in the guest's memory. The
//! counter is raised **before** a frame with the new number is sent: whoever reads `n` while the VM is
//! paused knows that every frame above `n` will be made after that pause.
//!
//! Words: `udp4=ADDRESS:PORT`, `udp6=[ADDRESS]:PORT`, `vlan=ADDRESS:PORT`, `tcp=ADDRESS:PORT`,
//! `every_us=N` (the pause between frames of one kind, default 10000), `wait=FILE`.
//! It prints `BEACON boot=N` when the page is marked, and sends nothing before FILE exists: so the page
//! can be found, and counted on, before there is a frame to be judged.

#[path = "../beacon_record.rs"]
#[allow(dead_code)]
mod beacon_record;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use beacon_record::{Carrier, Record, page_magic};

/// The page that the host looks for. A guest without swap and without a second process that shares it
/// keeps it in one place, or copies it: then the host takes the larger counter of the two.
#[repr(C, align(4096))]
struct Page {
    magic: [AtomicU64; 2],
    boot: AtomicU64,
    counter: AtomicU64,
}

static PAGE: Page = Page {
    magic: [AtomicU64::new(0), AtomicU64::new(0)],
    boot: AtomicU64::new(0),
    counter: AtomicU64::new(0),
};

fn next(boot: u64, carrier: Carrier, sequence: u64) -> [u8; beacon_record::RECORD] {
    // Sequentially consistent, and followed by a system call: in memory before the frame exists.
    let number = PAGE.counter.fetch_add(1, Ordering::SeqCst) + 1;
    Record { boot, carrier, number, sequence }.to_bytes()
}

fn open_udp(carrier: Carrier) -> std::io::Result<UdpSocket> {
    let any = if carrier == Carrier::Udp6 { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    if carrier == Carrier::Vlan {
        socket.set_broadcast(true)?;
    }
    Ok(socket)
}

/// Streams records for ever; a broken connection is made again.
fn stream(boot: u64, to: SocketAddr, every: Duration) {
    let mut sequence = 0;
    loop {
        if let Ok(mut stream) = TcpStream::connect(to) {
            let _ = stream.set_nodelay(true);
            while stream.write_all(&next(boot, Carrier::Tcp, sequence)).is_ok() {
                sequence += 1;
                std::thread::sleep(every);
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn usage(word: &str) -> ! {
    eprintln!(
        "beacon: {word:?} is none of udp4=ADDRESS:PORT udp6=[ADDRESS]:PORT vlan=ADDRESS:PORT tcp=ADDRESS:PORT every_us=N wait=FILE"
    );
    std::process::exit(2);
}

fn main() -> std::io::Result<()> {
    let mut targets = Vec::new();
    let mut every = Duration::from_millis(10);
    let mut wait = None;
    for word in std::env::args().skip(1) {
        let Some((key, value)) = word.split_once('=') else { usage(&word) };
        let carrier = match key {
            "udp4" => Carrier::Udp4,
            "udp6" => Carrier::Udp6,
            "vlan" => Carrier::Vlan,
            "tcp" => Carrier::Tcp,
            "every_us" => {
                every = Duration::from_micros(value.parse().unwrap_or_else(|_| usage(&word)));
                continue;
            }
            "wait" => {
                wait = Some(value.to_owned());
                continue;
            }
            _ => usage(&word),
        };
        let to: SocketAddr = value.parse().unwrap_or_else(|_| usage(&word));
        targets.push((carrier, to));
    }

    let mut drawn = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut drawn)?;
    let boot = u64::from_ne_bytes(drawn);
    PAGE.boot.store(boot, Ordering::SeqCst);
    for (word, magic) in PAGE.magic.iter().zip(page_magic()) {
        word.store(magic, Ordering::SeqCst);
    }
    println!("BEACON boot={boot}");
    while wait.as_ref().is_some_and(|file| !std::path::Path::new(file).exists()) {
        std::thread::sleep(Duration::from_millis(10));
    }

    let mut datagrams = Vec::new();
    for &(carrier, to) in &targets {
        if carrier == Carrier::Tcp {
            std::thread::spawn(move || stream(boot, to, every));
        } else {
            datagrams.push((carrier, to, open_udp(carrier)?, 0));
        }
    }
    loop {
        for (carrier, to, socket, sequence) in &mut datagrams {
            // A datagram that the guest's own kernel refuses was not sent: its number is never seen, and
            // its place in the sequence goes to the next.
            if socket.send_to(&next(boot, *carrier, *sequence), *to).is_ok() {
                *sequence += 1;
            }
        }
        std::thread::sleep(every);
    }
}
