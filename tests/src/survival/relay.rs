//! The link between the two hosts where it is to fail: a relay that passes bytes on, slowly if it is to, stands still, or
//! hangs up.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::failure::{Context, Result};
use crate::namespace::Namespace;

const PASSES: u8 = 0;
const STANDS: u8 = 1;
const HUNG_UP: u8 = 2;
const ENDED: u8 = 3;
const IS_SLOW: u8 = 4;

/// A slow link's rest after each large piece: 32 MB/s at most. Beats are small, and not delayed.
const SLOWNESS: Duration = Duration::from_millis(2);
const PIECE: usize = 64 << 10;

/// How often a thread looks whether something else is wanted.
const LOOK: Duration = Duration::from_millis(2);

/// See the module's head; ends with its value.
pub struct Relay {
    state: Arc<AtomicU8>,
}

/// The handle by which it is cut, for another thread.
#[derive(Clone)]
pub struct Cut(Arc<AtomicU8>);

impl Cut {
    /// Nothing passes any more, and nobody is told.
    pub fn stand_still(&self) {
        self.0.store(STANDS, Ordering::SeqCst);
    }

    /// Both ends are told that the other has gone; nobody gets through.
    pub fn hang_up(&self) {
        self.0.store(HUNG_UP, Ordering::SeqCst);
    }

    /// Everything passes, but not much at a time.
    pub fn slow_down(&self) {
        self.0.store(IS_SLOW, Ordering::SeqCst);
    }

    /// As before; what stood still goes on its way.
    pub fn heal(&self) {
        self.0.store(PASSES, Ordering::SeqCst);
    }
}

impl Relay {
    /// Listens in the namespace and passes everything on to `to`; where it listens.
    pub fn open(namespace: &Namespace, to: SocketAddr) -> Result<(Relay, SocketAddr)> {
        let listener = namespace.enter(|| {
            TcpListener::bind("127.0.0.1:0").context(|| "the link's relay cannot listen".to_owned())
        })?;
        let address = listener.local_addr().context(|| "the relay has no address".to_owned())?;
        listener.set_nonblocking(true).context(|| "the relay cannot wait".to_owned())?;
        let state = Arc::new(AtomicU8::new(PASSES));
        let own = Arc::clone(&state);
        namespace.thread(move || serve(&listener, to, &own))?;
        Ok((Relay { state }, address))
    }

    /// See [`Cut`].
    pub fn cut(&self) -> Cut {
        Cut(Arc::clone(&self.state))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.store(ENDED, Ordering::SeqCst);
    }
}

fn serve(listener: &TcpListener, to: SocketAddr, state: &Arc<AtomicU8>) {
    loop {
        match state.load(Ordering::SeqCst) {
            ENDED => return,
            PASSES | IS_SLOW => {}
            // A cut cable answers nobody.
            _ => {
                std::thread::sleep(LOOK);
                continue;
            }
        }
        let Ok((near, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        let Ok(far) = TcpStream::connect(to) else { continue };
        let ends = near.try_clone().and_then(|a| far.try_clone().map(|b| (a, b)));
        let Ok((near_too, far_too)) = ends else { continue };
        for (from, into) in [(near, far), (far_too, near_too)] {
            let state = Arc::clone(state);
            std::thread::spawn(move || pass(from, into, &state));
        }
    }
}

fn pass(mut from: TcpStream, mut into: TcpStream, state: &AtomicU8) {
    let quick = from.set_nodelay(true).and_then(|()| into.set_nodelay(true));
    let bounded =
        from.set_nonblocking(false).and_then(|()| from.set_read_timeout(Some(Duration::from_millis(20))));
    if quick.and(bounded).is_err() {
        return;
    }
    let mut bytes = vec![0; 4 * PIECE];
    loop {
        let most = if state.load(Ordering::SeqCst) == IS_SLOW { PIECE } else { bytes.len() };
        let read = from.read(&mut bytes[..most]);
        while state.load(Ordering::SeqCst) == STANDS {
            std::thread::sleep(LOOK);
        }
        let now = state.load(Ordering::SeqCst);
        let goes_on = matches!(now, PASSES | IS_SLOW);
        if now == IS_SLOW && matches!(read, Ok(count) if count > PIECE / 2) {
            std::thread::sleep(SLOWNESS);
        }
        let passed = match read {
            Ok(0) => false,
            Ok(count) => goes_on && into.write_all(&bytes[..count]).is_ok(),
            Err(error) => {
                goes_on
                    && matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    )
            }
        };
        if !passed {
            let _ = from.shutdown(Shutdown::Both);
            let _ = into.shutdown(Shutdown::Both);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The relay without a namespace.
    fn relay() -> (TcpStream, TcpStream, Relay) {
        let far = TcpListener::bind("127.0.0.1:0").expect("a port");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (address, to) = (listener.local_addr().expect("bound"), far.local_addr().expect("bound"));
        listener.set_nonblocking(true).expect("a listener");
        let state = Arc::new(AtomicU8::new(PASSES));
        let own = Arc::clone(&state);
        std::thread::spawn(move || serve(&listener, to, &own));
        let near = TcpStream::connect(address).expect("connected");
        let (far, _) = far.accept().expect("accepted");
        far.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
        (near, far, Relay { state })
    }

    #[test]
    fn it_passes_stands_still_and_goes_on() {
        let (mut near, mut far, relay) = relay();
        let mut got = [0; 3];
        near.write_all(b"one").expect("written");
        far.read_exact(&mut got).expect("passed");
        relay.cut().stand_still();
        near.write_all(b"two").expect("written");
        assert!(far.read_exact(&mut got).is_err(), "it stands still");
        relay.cut().heal();
        far.read_exact(&mut got).expect("late, but whole");
        assert_eq!(&got, b"two");
    }

    #[test]
    fn a_hang_up_is_told_to_both() {
        let (mut near, mut far, relay) = relay();
        near.write_all(b"one").expect("written");
        far.read_exact(&mut [0; 3]).expect("passed");
        relay.cut().hang_up();
        assert_eq!(far.read(&mut [0; 1]).expect("an end"), 0);
        assert_eq!(near.read(&mut [0; 1]).expect("an end"), 0);
    }
}
