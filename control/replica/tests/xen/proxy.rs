//! A way from one host to the other that the test can cut, or close for what comes back.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// See the module's head.
pub struct Proxy {
    pub address: SocketAddr,
    mute: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mute, streams) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(vec![])));
        let (muted, open) = (Arc::clone(&mute), Arc::clone(&streams));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(target) else { continue };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                open.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                pass(near.try_clone().unwrap(), far.try_clone().unwrap(), None);
                pass(far, near, Some(Arc::clone(&muted)));
            }
        });
        Proxy { address, mute, streams }
    }

    /// What the backup says does not arrive any more; what it is told does.
    pub fn silence_the_backup(&self) {
        self.mute.store(true, SeqCst);
    }

    /// It does again.
    pub fn let_it_speak(&self) {
        self.mute.store(false, SeqCst);
    }

    /// Both ways, at once and for good.
    pub fn cut(&self) {
        for stream in self.streams.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mute: Option<Arc<AtomicBool>>) {
    std::thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            while mute.as_ref().is_some_and(|mute| mute.load(SeqCst)) {
                std::thread::sleep(Duration::from_millis(1));
                if to.peer_addr().is_err() {
                    return;
                }
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
