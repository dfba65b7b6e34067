//! What each verb does.

use crate::announce;
use crate::guest::{GuestPlane, failure};
use crate::handover;
use crate::moment::monotonic_ns;
use crate::nap::{NAP, nap};
use crate::promotion;
use crate::pulse;
use crate::report;
use crate::server::Server;
use crate::session::Session;
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tidegate_control::config::{OnBackupLost, PolicySpec, Source};
use tidegate_control::protocol::*;
use tidegate_dataplane::gate;
use tidegate_dataplane::guest::{Closer, Guest, Mode};
use tidegate_dataplane::tsc::TscRate;

type Answer = Result<Value, Failure>;

fn value(report: impl Serialize) -> Answer {
    serde_json::to_value(report).map_err(|e| Failure::new("internal", e.to_string()))
}

/// Does what a session asks. What was done is in the log, and so is what was refused.
pub async fn execute(server: &Server, session: &mut Session, verb: Verb) -> Answer {
    let name = verb.name();
    // Refusals of these are everyday (a close while rings run), or change nothing.
    let level = match verb {
        Verb::Protect(_) | Verb::Unprotect(_) | Verb::BackupLost(_) | Verb::Mute(_) | Verb::Unmute(_) => {
            log::Level::Warn
        }
        Verb::Fence(_) | Verb::Policy(_) | Verb::Takeover(_) => log::Level::Warn,
        _ => log::Level::Debug,
    };
    let answer = act(server, session, verb).await;
    if let Err(failure) = &answer {
        log::log!(level, "session {}: {name} refused: {failure}", by(session.peer));
    }
    answer
}

/// A session, for the log: "27 (process 4711)".
fn by(peer: Peer) -> String {
    format!("{} (process {})", peer.session, peer.pid)
}

async fn act(server: &Server, session: &mut Session, verb: Verb) -> Answer {
    let plane = &server.plane;
    match verb {
        Verb::Hello => value(About::this_process()),
        Verb::Guests => {
            let guests = plane.guests.iter().enumerate();
            let report = |(n, guest): (usize, &Arc<GuestPlane>)| {
                report::guest(guest, plane.rate, server.controller(n))
            };
            value(Guests { guests: guests.map(report).collect() })
        }
        Verb::Pulse(which) => value(pulse::of(plane.guest(which.guest.as_deref())?.1, plane.rate)),
        Verb::Stats(which) => {
            let lcores = plane.lcores.iter();
            let lcores =
                lcores.map(|(cpu, l)| LcoreStats { lcore: *cpu, polls: l.polls(), sleeps: l.sleeps() });
            value(Stats {
                guests: plane
                    .guests(which.guest.as_deref())?
                    .into_iter()
                    .map(|g| report::guest_stats(g))
                    .collect(),
                lcores: lcores.collect(),
                control: server.stats(),
            })
        }
        Verb::Streams(which) => {
            let guests = plane.guests(which.guest.as_deref())?.into_iter();
            value(Streams { streams: guests.flat_map(|guest| report::streams(guest, plane.rate)).collect() })
        }
        Verb::Histograms(asked) => value(report::histograms(plane, &asked)?),
        Verb::Explain(asked) => {
            value(report::explain(plane.guest(asked.guest.as_deref())?.1, plane.rate, &asked)?)
        }
        Verb::Subscribe(asked) => subscribe(server, session, asked),
        Verb::Takeover(which) => {
            let (n, guest) = plane.guest(which.guest.as_deref())?;
            let from = server.take_over(n, session.peer).map(|peer| peer.session);
            Ok(json!({ "guest": guest.name(), "session": session.peer.session, "from": from }))
        }
        Verb::Fence(which) => fence(plane.guest(which.guest.as_deref())?.1, session.peer).await,
        Verb::Shutdown => {
            log::info!("session {} says shutdown", by(session.peer));
            server.stop();
            Ok(json!({}))
        }
        Verb::Close(asked) => {
            let guest = driven(server, session, asked.guest.as_deref())?;
            let by = if asked.vouched { Closer::VouchingSource } else { Closer::Source };
            value(report::closed(guest.name(), &guest.close(by).await?))
        }
        Verb::Seal(asked) => {
            let guest = driven(server, session, asked.guest.as_deref())?;
            let sealed = guest.with(|ledger| ledger.seal(asked.epoch));
            Ok(json!({ "guest": guest.name(), "epoch": asked.epoch, "sealed": sealed }))
        }
        Verb::Commit(asked) => {
            let guest = driven(server, session, asked.guest.as_deref())?;
            let now = guest.now_tsc();
            let epochs = guest.with(|l| l.commit(asked.generation, asked.epoch, now)).map_err(failure)?;
            Ok(json!({ "guest": guest.name(), "epoch": asked.epoch, "epochs": epochs }))
        }
        Verb::Resumed(which) => {
            let guest = controlled(server, session, which.guest.as_deref())?;
            guest.order(Guest::begin_resumed).await?;
            Ok(json!({ "guest": guest.name() }))
        }
        Verb::Protect(asked) => protect(server, session, asked).await,
        Verb::Unprotect(asked) => {
            let guest = controlled(server, session, asked.guest.as_deref())?;
            unprotect(guest, session.peer, asked.mode, asked.evidence.as_deref()).await
        }
        Verb::BackupLost(asked) => {
            let guest = controlled(server, session, asked.guest.as_deref())?;
            backup_lost(guest, session.peer, &asked.evidence).await
        }
        Verb::Mute(which) => {
            let guest = controlled(server, session, which.guest.as_deref())?;
            guest.order(Guest::begin_mute).await?;
            log::info!("guest {}: muted by session {}", guest.name(), by(session.peer));
            Ok(standing(guest))
        }
        Verb::Unmute(asked) => {
            let guest = controlled(server, session, asked.guest.as_deref())?;
            let lease = asked
                .term_ms
                .map(|term| lease(guest, plane.rate, (term, asked.media_ms), asked.since_ns))
                .transpose()?;
            let answer = promotion::unmute(guest, &asked, generation(server)?, lease, plane.rate).await?;
            log::info!("guest {}: unmuted by session {}: {answer}", guest.name(), by(session.peer));
            Ok(answer)
        }
        Verb::Announce(which) => {
            let guest = controlled(server, session, which.guest.as_deref())?;
            let (frames, times) = announce::begin(guest)?;
            Ok(json!({ "guest": guest.name(), "frames": frames, "times": times }))
        }
        Verb::Guard(asked) if !asked.tells() => {
            value(handover::tell(plane.guest(asked.guest.as_deref())?.1, &asked, plane.rate)?)
        }
        Verb::Guard(asked) => {
            let guest = controlled(server, session, asked.guest.as_deref())?;
            value(handover::take_over(guest, &asked).await?)
        }
        Verb::Lease(asked) => {
            let guest = controlled(server, session, asked.guest.as_deref())?;
            let lease = lease(guest, plane.rate, (asked.term_ms, asked.media_ms), asked.since_ns)?;
            let now = guest.now_tsc();
            guest.with(|ledger| ledger.lease(asked.generation, lease, now)).map_err(failure)?;
            let left_ms = plane.rate.ns(lease.end.saturating_sub(now)) / 1_000_000;
            Ok(json!({ "guest": guest.name(), "left_ms": left_ms }))
        }
        Verb::Policy(asked) => {
            policy(controlled(server, session, asked.guest.as_deref())?, session.peer, asked).await
        }
    }
}

/// A guest that this session controls from now on.
fn controlled<'s>(
    server: &'s Server,
    session: &Session,
    name: Option<&str>,
) -> Result<&'s Arc<GuestPlane>, Failure> {
    let (n, guest) = server.plane.guest(name)?;
    server.claim(n, session.peer)?;
    Ok(guest)
}

/// The same for verbs that only the guest's source may use.
fn driven<'s>(
    server: &'s Server,
    session: &Session,
    name: Option<&str>,
) -> Result<&'s Arc<GuestPlane>, Failure> {
    let (_, guest) = server.plane.guest(name)?;
    if guest.config.source != Source::Socket {
        let desc = format!(
            "the timer closes and commits the epochs of guest {}; set source = \"socket\" to do it yourself",
            guest.name()
        );
        return Err(Failure::new("other-source", desc));
    }
    controlled(server, session, name)
}

fn generation(server: &Server) -> Result<u64, Failure> {
    server.plane.generations.next().map_err(|e| Failure::new("internal", format!("no random bytes: {e}")))
}

/// What a guest has become.
fn standing(guest: &GuestPlane) -> Value {
    guest.with(|ledger| {
        json!({
            "guest": guest.name(),
            "mode": ledger.mode().name(),
            "generation": ledger.generation(),
            "epoch": ledger.open_epoch(),
        })
    })
}

fn subscribe(server: &Server, session: &mut Session, asked: Subscribe) -> Answer {
    if let Some(unknown) = asked.events.iter().find(|name| !EVENTS.contains(&name.as_str())) {
        let desc = format!("no event `{unknown}`; there are {}", EVENTS.join(", "));
        return Err(Failure::new("bad-arguments", desc));
    }
    let events = if asked.events.is_empty() { EVENTS.map(String::from).into() } else { asked.events.clone() };
    session.subscription = Some(server.plane.hub.subscribe(asked.events));
    Ok(json!({ "events": events }))
}

async fn fence(guest: &GuestPlane, peer: Peer) -> Answer {
    guest.with(Guest::fence);
    log::warn!("guest {}: fenced by session {}", guest.name(), by(peer));
    // The word is set; the lanes compare it before their next burst. Tell when they have.
    let deadline = Instant::now() + guest.close_timeout().max(Duration::from_millis(20));
    while !guest.all_fenced() && Instant::now() < deadline {
        nap(NAP).await;
    }
    Ok(json!({ "guest": guest.name(), "fenced": true, "seen_by_all_lanes": guest.all_fenced() }))
}

async fn protect(server: &Server, session: &Session, asked: Protect) -> Answer {
    let guest = controlled(server, session, asked.guest.as_deref())?;
    let lease = asked
        .term_ms
        .map(|term| lease(guest, server.plane.rate, (term, asked.media_ms), asked.since_ns))
        .transpose()?;
    let generation = generation(server)?;
    let vouched = asked.vouched || guest.config.source == Source::Timer;
    guest
        .order(|ledger| ledger.begin_protect(generation, asked.first_epoch, vouched, lease, guest.now_tsc()))
        .await?;
    log::info!("guest {}: protected by session {}, generation {generation}", guest.name(), by(session.peer));
    Ok(standing(guest))
}

async fn unprotect(guest: &GuestPlane, peer: Peer, mode: UnprotectMode, evidence: Option<&str>) -> Answer {
    let release = mode == UnprotectMode::Release;
    let evidence = evidence.filter(|text| !text.trim().is_empty());
    guest.order(|ledger| ledger.begin_unprotect(release, evidence.is_some())).await?;
    log::warn!(
        "guest {}: unprotected ({mode:?}) by session {}, evidence {evidence:?}",
        guest.name(),
        by(peer)
    );
    Ok(standing(guest))
}

async fn backup_lost(guest: &GuestPlane, peer: Peer, evidence: &str) -> Answer {
    if evidence.trim().is_empty() {
        let desc = "backup-lost acts on evidence that the standby cannot take over: say what it is";
        return Err(Failure::new("bad-arguments", desc));
    }
    let mode = guest.with(|ledger| ledger.mode());
    if mode != Mode::Protected {
        return Err(Failure::new("wrong-mode", format!("the guest is {}", mode.name())));
    }
    match guest.config.on_backup_lost {
        OnBackupLost::Stay => {
            let now = guest.now_tsc();
            guest.with(|ledger| ledger.lift_lease(now));
            log::warn!("guest {}: goes on holding, says session {}: {evidence}", guest.name(), by(peer));
            Ok(standing(guest))
        }
        OnBackupLost::Drop => unprotect(guest, peer, UnprotectMode::Drop, Some(evidence)).await,
        OnBackupLost::Release => unprotect(guest, peer, UnprotectMode::Release, Some(evidence)).await,
    }
}

/// A lease of a term, and of the part of it in which frames may bypass, on the lcores' clock: never later than asked.
fn lease(
    guest: &GuestPlane,
    rate: TscRate,
    (term_ms, media_ms): (u64, Option<u64>),
    since_ns: Option<u64>,
) -> Result<gate::Lease, Failure> {
    if !(1..=TERM_MAX_MS).contains(&term_ms) {
        return Err(Failure::new("bad-arguments", format!("term_ms must be 1 to {TERM_MAX_MS}")));
    }
    let media_ms = media_ms.unwrap_or(term_ms);
    if !(1..=term_ms).contains(&media_ms) {
        return Err(Failure::new("bad-arguments", format!("media_ms must be 1 to term_ms, {term_ms}")));
    }
    let now_tsc = guest.now_tsc();
    let gone_ns = match since_ns {
        None => 0,
        Some(since) => monotonic_ns().checked_sub(since).ok_or_else(|| {
            let desc =
                "since_ns lies in the future; read CLOCK_MONOTONIC on this host before asking for the lease";
            Failure::new("bad-arguments", desc)
        })?,
    };
    let after = |ms: u64| {
        let left_ns = (ms * 1_000_000).saturating_sub(gone_ns);
        now_tsc + rate.ticks(left_ns).saturating_sub(1)
    };
    Ok(gate::Lease::new(after(media_ms), after(term_ms)))
}

async fn policy(guest: &GuestPlane, peer: Peer, asked: Policy) -> Answer {
    let spec = {
        let current = guest.policy.lock().unwrap_or_else(PoisonError::into_inner);
        PolicySpec {
            name: asked.name.unwrap_or(current.name),
            media_ports: asked.media_ports.unwrap_or_else(|| current.media_ports.clone()),
            rules: asked.rules.unwrap_or_else(|| current.rules.clone()),
        }
    };
    let compile = || spec.compile().map_err(|problem| Failure::new("bad-policy", problem.to_string()));
    for lane in &guest.lanes {
        lane.shared.policy.put(compile()?);
    }
    guest.order(Guest::begin_policy).await?;
    log::info!("guest {}: policy {} by session {}", guest.name(), spec.name.name(), by(peer));
    let answer = json!({ "guest": guest.name(), "name": spec.name, "media_ports": spec.media_ports,
        "rules": spec.rules });
    *guest.policy.lock().unwrap_or_else(PoisonError::into_inner) = spec;
    Ok(answer)
}
