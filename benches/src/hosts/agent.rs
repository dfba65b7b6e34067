//! An agent: does on its host what a coordinator asks for, one coordinator at a time. Whatever it started ends with the
//! coordinator's connection.

use super::clock::Reading;
use super::door::{Secret, admits};
use super::message::{Answer, Request, receive, send};
use super::plane::Plane;
use super::traffic::{Traffic, conditions, file};
use crate::failure::{Context, Failure, Result};
use serde_json::{Value, json};
use std::io::BufReader;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tidegate_tests::scratch::Scratch;

/// Who has not said the secret may have so many connections, each for so long.
const STRANGERS: usize = 8;
const SAYS_WITHIN: Duration = Duration::from_secs(3);
/// A coordinator that says nothing for so long is gone. It asks for progress every few seconds.
const SILENT: Duration = Duration::from_secs(60);

/// Listens, and serves for ever.
pub fn serve(listen: SocketAddr, secret: Secret, tidegate: PathBuf) -> Result<()> {
    let listener = TcpListener::bind(listen).context(|| format!("cannot listen at {listen}"))?;
    let own = listener.local_addr().context(|| "a listener without an address".into())?;
    eprintln!("agent: listening at {own}");
    let (admitted, admit) = mpsc::sync_channel(0);
    let secret = Arc::new(secret);
    let strangers = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if strangers.fetch_add(1, SeqCst) >= STRANGERS {
                strangers.fetch_sub(1, SeqCst);
                continue;
            }
            let (secret, strangers, admitted) =
                (Arc::clone(&secret), Arc::clone(&strangers), admitted.clone());
            std::thread::spawn(move || {
                let known = knows(&stream, &secret);
                strangers.fetch_sub(1, SeqCst);
                match known {
                    // Another coordinator is being served: this one sees its connection end.
                    Ok(true) => drop(admitted.try_send(stream)),
                    _ => eprintln!("agent: somebody who does not know the secret was sent away"),
                }
            });
        }
    });
    // Children die with the thread that started them: this one.
    for stream in admit {
        let peer = stream.peer_addr().map_or_else(|_| "?".to_owned(), |peer| peer.to_string());
        eprintln!("agent: {peer} coordinates");
        match Session::new(&tidegate).and_then(|mut session| session.serve(&stream)) {
            Ok(()) => eprintln!("agent: {peer} has left"),
            Err(failure) => eprintln!("agent: {peer}: {failure}"),
        }
    }
    Ok(())
}

fn knows(stream: &TcpStream, secret: &Secret) -> Result<bool> {
    let what = || "a connection".to_owned();
    stream.set_read_timeout(Some(SAYS_WITHIN)).context(what)?;
    stream.set_write_timeout(Some(SAYS_WITHIN)).context(what)?;
    stream.set_nodelay(true).context(what)?;
    // No more than the proof is read here: the coordinator says nothing before it is answered.
    admits(secret, &mut BufReader::with_capacity(1, stream), &mut &*stream)
}

/// What was started for a coordinator. The fields go in this order.
struct Session {
    traffic: Option<Traffic>,
    plane: Option<Plane>,
    scratch: Scratch,
    tidegate: PathBuf,
}

impl Session {
    fn new(tidegate: &std::path::Path) -> Result<Session> {
        Ok(Session { traffic: None, plane: None, scratch: Scratch::new()?, tidegate: tidegate.to_owned() })
    }

    fn serve(&mut self, stream: &TcpStream) -> Result<()> {
        let what = || "the coordinator".to_owned();
        stream.set_read_timeout(Some(SILENT)).context(what)?;
        stream.set_write_timeout(Some(SILENT)).context(what)?;
        let (mut from, mut to) = (BufReader::new(stream), stream);
        while let Some(request) = receive(&mut from)? {
            if let Request::Fetch { file: name } = &request {
                self.hand_out(name, &mut to)?;
                continue;
            }
            let answer = match self.answer(request) {
                Ok(value) => Answer::Done(value),
                Err(failure) => Answer::Refused(failure.to_string()),
            };
            send(&mut to, &answer)?;
        }
        self.scratch.forget();
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Result<Value> {
        let nothing = || Failure::new("nothing was made ready: ask for `traffic` or `plane` first");
        match request {
            Request::Clock => serde_json::to_value(Reading::here()).context(|| "the clock".into()),
            Request::Traffic { role, port, run } => {
                self.renew()?;
                self.traffic = Some(Traffic::prepare(role, port, run, &self.scratch)?);
                Ok(Value::Null)
            }
            Request::Plane { ports, run } => {
                ports.check().and_then(|()| run.check()).map_err(Failure::new)?;
                self.renew()?;
                self.plane = Some(Plane::start(&self.tidegate, &ports, &run, &self.scratch)?);
                Ok(Value::Null)
            }
            Request::Start => {
                let traffic = self.traffic.as_mut().ok_or_else(nothing)?;
                traffic.start(&self.scratch).map(|()| Value::Null)
            }
            Request::Quiet => {
                let traffic = self.traffic.as_mut().ok_or_else(nothing)?;
                traffic.quiet(&self.scratch).map(|()| Value::Null)
            }
            Request::Progress => match (&mut self.traffic, &self.plane) {
                (Some(traffic), _) => traffic.progress(),
                (None, Some(plane)) => plane.stats(),
                (None, None) => Err(nothing()),
            },
            Request::Stop => match (&mut self.traffic, self.plane.take()) {
                (Some(traffic), _) => traffic.stop(&self.scratch),
                (None, Some(plane)) => {
                    Ok(json!({ "stats": plane.stats()?, "files": [], "conditions": conditions("lo") }))
                }
                (None, None) => Err(nothing()),
            },
            Request::Fetch { .. } => Err(nothing()),
        }
    }

    /// A new run begins with nothing of the one before.
    fn renew(&mut self) -> Result<()> {
        (self.traffic, self.plane) = (None, None);
        self.scratch.forget();
        self.scratch = Scratch::new()?;
        Ok(())
    }

    fn hand_out(&self, name: &str, to: &mut &TcpStream) -> Result<()> {
        let opened = file(&self.scratch, name).and_then(|path| {
            let file = std::fs::File::open(&path).context(|| name.to_owned())?;
            let length = file.metadata().context(|| name.to_owned())?.len();
            Ok((file, length))
        });
        match opened {
            Ok((file, length)) => {
                send(to, &Answer::Done(json!({ "length": length })))?;
                let copied =
                    std::io::copy(&mut std::io::Read::take(file, length), to).context(|| name.to_owned())?;
                if copied == length { Ok(()) } else { Err(Failure::new(format!("{name} became shorter"))) }
            }
            Err(failure) => send(to, &Answer::Refused(failure.to_string())),
        }
    }
}
