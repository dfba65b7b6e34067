//! A primary that dials: whether it is let in, and what takes its session up.

use super::{Standby, hear};
use crate::link::listen::{Accepted, State};
use crate::link::message::{Hello, Role};
use crate::plane::monotonic_ns;
use clap::ValueEnum;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tidegate_control::cli::Decide;

/// What a primary that dials is told.
pub fn greet(standby: &Standby, hello: &Hello) -> Result<State, String> {
    if hello.guest != standby.plane.guest() {
        return Err(format!(
            "this is the standby of guest {}, not of {}",
            standby.plane.guest(),
            hello.guest
        ));
    }
    if hello.role != Role::Primary {
        return Err("a standby is dialed by a primary".into());
    }
    if hello.decide != standby.rules.decide {
        return Err(format!(
            "this standby was told {}, and you were told {}: say the same on both hosts",
            told(standby.rules.decide),
            told(hello.decide)
        ));
    }
    if hello.disk_hook && !standby.backup.has_disk_hook() {
        return Err("your disks are kept in step by a hook (--disks external), and this standby has none to make its own \
                    those of a checkpoint: give it --disk-hook PATH, which is called as PATH promote EPOCH"
            .into());
    }
    // Before the landlord: whoever acknowledges holds the image's lock and takes the view's, whose holder may want this one.
    let newest = standby.backup.newest();
    let landlord = standby.landlord();
    let not_ready = (!standby.able.load(Relaxed)).then(|| "its VM or its plane does not answer".to_owned());
    // From the decision on: the primary that comes back must not go on, whatever becomes of the promotion.
    let taken_over = standby.promoting.load(Relaxed);
    Ok(State { newest, term_ms: landlord.terms().term_ms, not_ready, taken_over })
}

fn told(decide: Decide) -> String {
    let word = decide.to_possible_value().map(|value| value.get_name().to_owned());
    format!("--decide {}", word.unwrap_or_default())
}

/// Takes a session up. The one before has been stopped by the listener.
pub fn begin(standby: &Arc<Standby>, accepted: Accepted) {
    let Accepted { hello, from, up, down, bulk, stopper } = accepted;
    let session = {
        let mut view = standby.view();
        // Nobody of an older session can ask for a lease any more.
        standby.landlord().take_in();
        if view.incarnation != hello.incarnation {
            view.bound = false;
        }
        view.session += 1;
        view.incarnation = hello.incarnation;
        view.surrender = None;
        view.surrendered_ns = None;
        view.link_ended = false;
        view.refused = false;
        view.beat_ns = Some(monotonic_ns());
        view.down = Some(down);
        view.stopper = Some(stopper);
        view.session
    };
    standby.chronicle.tell("session", json!({ "primary": hello.node, "from": from }));
    let hearing = Arc::clone(standby);
    let spawn = |name: &str, job: Box<dyn FnOnce() + Send>| {
        if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(job) {
            log::error!("no thread for a session: {error}");
        }
    };
    spawn("hear", Box::new(move || hear::hear(&hearing, up, session, hello.incarnation)));
    if let Some(bulk) = bulk {
        let receiving = Arc::clone(standby);
        spawn("receive", Box::new(move || receiving.backup.receive(&receiving, bulk)));
    }
}
