//! One connection to the control socket: its lines, its answers, its subscription.

use crate::events::Subscription;
use crate::lines::{Line, Lines};
use crate::server::{Server, WRITE_WITHIN, too_many};
use crate::verbs;
use serde_json::{Value, json};
use tidegate_control::protocol::*;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

/// What a session has beside its stream.
pub struct Session {
    /// Who it is.
    pub peer: Peer,
    /// Set by `subscribe`.
    pub subscription: Option<Subscription>,
}

/// Writes a line; false when the peer is gone or takes nothing.
async fn write(half: &mut OwnedWriteHalf, line: &str) -> bool {
    let written = tokio::time::timeout(WRITE_WITHIN, half.write_all(line.as_bytes())).await;
    matches!(written, Ok(Ok(())))
}

async fn write_value(half: &mut OwnedWriteHalf, value: &Value) -> bool {
    write(half, &format!("{value}\n")).await
}

async fn next_event(subscription: &mut Option<Subscription>) -> Option<String> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

/// Serves a connection until either side ends it.
pub async fn run(server: &Server, stream: UnixStream, peer: Peer) {
    let (read, mut half) = stream.into_split();
    let mut lines = Lines::new(read, LINE_MAX);
    let mut session = Session { peer, subscription: None };
    let greeting = json!(Greeting { tidegate: About::this_process() });
    if !write_value(&mut half, &greeting).await {
        return;
    }
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            event = next_event(&mut session.subscription) => match event {
                Some(event) if write(&mut half, &event).await => continue,
                _ => break,
            },
            () = server.stopped() => {
                while let Some(event) = session.subscription.as_mut().and_then(Subscription::try_next) {
                    if !write(&mut half, &event).await {
                        break;
                    }
                }
                break;
            }
        };
        let answer = match line {
            Ok(Line::Text(text)) if text.iter().all(u8::is_ascii_whitespace) => continue,
            Ok(Line::Text(text)) => answer_to(server, &mut session, &text).await,
            Ok(Line::TooLong) => {
                server.count_refused();
                let desc = format!("a line has at most {LINE_MAX} bytes; the connection is closed");
                write_value(&mut half, &answer(&Value::Null, Err(Failure::new("too-long", desc)))).await;
                break;
            }
            Ok(Line::End) | Err(_) => break,
        };
        if !write_value(&mut half, &answer).await {
            break;
        }
    }
    log::debug!("session {} ended", peer.session);
}

/// Serves a connection when all seats are taken: one request within [`WRITE_WITHIN`], which must be `fence`.
pub async fn run_fencer(server: &Server, stream: UnixStream, peer: Peer) {
    let (read, mut half) = stream.into_split();
    let mut lines = Lines::new(read, LINE_MAX);
    let greeting = json!(Greeting { tidegate: About::this_process() });
    if !write_value(&mut half, &greeting).await {
        return;
    }
    let asked = tokio::time::timeout(WRITE_WITHIN, lines.next()).await;
    let request = match &asked {
        Ok(Ok(Line::Text(text))) => Request::parse(text),
        _ => Err((Value::Null, too_many())),
    };
    let answer = match request {
        Ok(request) if request.execute == "fence" => {
            let mut session = Session { peer, subscription: None };
            let result = match Verb::read(&request.execute, request.arguments) {
                Ok(verb) => verbs::execute(server, &mut session, verb).await,
                Err(failure) => Err(failure),
            };
            answer(&request.id, result)
        }
        Ok(request) => answer(&request.id, Err(too_many())),
        Err((id, _)) => answer(&id, Err(too_many())),
    };
    if answer["error"].is_object() {
        server.count_refused();
    }
    write_value(&mut half, &answer).await;
}

async fn answer_to(server: &Server, session: &mut Session, line: &[u8]) -> Value {
    let (id, result) = match Request::parse(line) {
        Err((id, failure)) => (id, Err(failure)),
        Ok(request) => {
            let result = match Verb::read(&request.execute, request.arguments) {
                Ok(verb) => verbs::execute(server, session, verb).await,
                Err(failure) => Err(failure),
            };
            (request.id, result)
        }
    };
    if let Err(failure) = &result {
        server.count_refused();
        log::debug!("session {}: refused: {failure}", session.peer.session);
    }
    answer(&id, result)
}
