//! `tidegate observe`: follows a VM that somebody else checkpoints (COLO, `virsh`, a script). STOP closes an epoch; the
//! RESUME that ends that very pause commits it, where the operator says that it means so.
//!
//! An event is old when it is read. So an epoch counts as closed in a pause only if QEMU, asked *after* the close, is
//! still paused and has said no RESUME since: then nothing that the guest did later can be in it. Whatever else
//! happened, the epoch merges into a later one, which is always safe.

use crate::checkpoint::CheckpointId;
use crate::chronicle::Chronicle;
use crate::orders::Orders;
use crate::plane::Plane;
use crate::qmp::{Event, Qmp, QmpError, RunState};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tidegate_control::cli::ObserveArgs;

/// How often it is looked whether the process shall end.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait for QEMU's monitor at the start.
const MONITOR_WITHIN: Duration = Duration::from_secs(10);

/// What the events of a VM mean for its epochs. Pure: the plane and QEMU are asked by the caller.
#[derive(Debug, Default, PartialEq, Eq)]
struct Follower {
    resume_commits: bool,
    /// COLO has ended: a RESUME means that the VM runs alone.
    exited: bool,
    /// What the pause that is going on has closed.
    closed: Option<CheckpointId>,
}

/// What to do about an event.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Close the epoch; then say with [`Follower::closed`] whether the pause went on.
    Close,
    /// Commit this.
    Commit(CheckpointId),
    /// COLO has ended.
    Exited,
    /// Nothing.
    Nothing,
}

impl Follower {
    /// Whoever begins to follow after the end of COLO has missed its event: QEMU knows.
    fn begins(&mut self, colo: &Value) -> Step {
        let was = colo["last-mode"].as_str().unwrap_or("none");
        if colo["mode"] == "none" && was != "none" { self.event("COLO_EXIT") } else { Step::Nothing }
    }

    fn event(&mut self, name: &str) -> Step {
        match name {
            "STOP" => {
                self.closed = None;
                Step::Close
            }
            "RESUME" => match self.closed.take() {
                Some(id) if self.resume_commits && !self.exited => Step::Commit(id),
                _ => Step::Nothing,
            },
            "COLO_EXIT" => {
                self.exited = true;
                self.closed = None;
                Step::Exited
            }
            _ => Step::Nothing,
        }
    }

    /// An epoch was closed; `paused`: QEMU was asked after that, and the pause goes on.
    fn closed(&mut self, id: CheckpointId, paused: bool) {
        self.closed = paused.then_some(id);
    }
}

/// Follows until told to stop, or until QEMU has ended.
pub fn run(args: ObserveArgs) -> Result<(), String> {
    let orders = Orders::listen()?;
    let plane = Plane::connect(&args.vm.socket, args.vm.guest.as_deref()).map_err(|e| e.to_string())?;
    if args.vm.takeover {
        plane.take_over().map_err(|e| e.to_string())?;
    }
    let mut qmp = Qmp::connect(&args.vm.qmp, MONITOR_WITHIN).map_err(|e| e.to_string())?;
    let chronicle = Chronicle::new("observe", args.vm.json);
    let stop = Arc::new(AtomicBool::new(false));
    orders.on_stop({
        let stop = Arc::clone(&stop);
        move || stop.store(true, Relaxed)
    });
    let mut follower = Follower { resume_commits: args.resume_commits, ..Follower::default() };
    chronicle.tell("following", json!({ "guest": plane.guest(), "resume_commits": args.resume_commits }));
    let colo = match qmp.execute("query-colo-status", json!({})) {
        Ok(status) => status,
        // A QEMU without COLO.
        Err(QmpError::Refused { .. }) => Value::Null,
        Err(error) => return Err(ended(&plane, &error)),
    };
    if follower.begins(&colo) == Step::Exited {
        exited(&plane, &chronicle);
    }
    while !stop.load(Relaxed) {
        let Some(event) = qmp.next_event(Instant::now() + LOOK).map_err(|e| ended(&plane, &e))? else {
            continue;
        };
        follow(&plane, &mut qmp, &chronicle, &mut follower, &event).map_err(|e| ended(&plane, &e))?;
    }
    chronicle.tell("stopped", json!({ "guest": plane.guest() }));
    Ok(())
}

/// QEMU is gone. What its guest left behind stays held; whoever checkpoints it knows what to do.
fn ended(plane: &Plane, error: &QmpError) -> String {
    format!("guest {}: its monitor ended: {error}; what is held stays held", plane.guest())
}

fn follow(
    plane: &Plane,
    qmp: &mut Qmp,
    chronicle: &Chronicle,
    follower: &mut Follower,
    event: &Event,
) -> Result<(), QmpError> {
    match follower.event(&event.name) {
        Step::Close => {
            match close(plane) {
                Ok((id, begins)) => {
                    let paused = !matches!(qmp.status()?, RunState::Running) && !resumed(qmp);
                    // Before protection nothing was held: there is nothing to commit.
                    follower.closed(id, paused && !begins);
                    chronicle.tell(
                        "closed",
                        json!({ "epoch": id.epoch, "generation": id.generation, "sound": paused }),
                    );
                }
                // The rings run again already, say: the epoch merges into the next.
                Err(reason) => chronicle.tell("merged", json!({ "reason": reason })),
            }
        }
        Step::Commit(id) => match plane.commit(id) {
            Ok(()) => chronicle.tell("committed", json!({ "epoch": id.epoch, "generation": id.generation })),
            Err(error) => {
                chronicle.tell("refused", json!({ "epoch": id.epoch, "reason": error.to_string() }))
            }
        },
        Step::Exited => exited(plane, chronicle),
        Step::Nothing => {}
    }
    Ok(())
}

fn exited(plane: &Plane, chronicle: &Chronicle) {
    chronicle.tell(
        "colo-exit",
        json!({ "guest": plane.guest(), "advice": "nothing is committed any more; tidegate unprotect says what becomes of what is held" }),
    );
}

/// Ends the open epoch; the first pause begins protection, and nothing waits for its commit.
fn close(plane: &Plane) -> Result<(CheckpointId, bool), String> {
    let pulse = plane.pulse().map_err(|e| e.to_string())?;
    let begins = pulse.mode != "protected";
    let id = if begins {
        plane.protect(pulse.epoch + 1, false, None)
    } else {
        plane.close(false).map(|closed| closed.id)
    };
    id.map(|id| (id, begins)).map_err(|e| e.to_string())
}

/// True when QEMU has said a RESUME that was not read yet: it was said before its last answer, so it is here.
fn resumed(qmp: &mut Qmp) -> bool {
    qmp.has_event("RESUME")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(epoch: u64) -> CheckpointId {
        CheckpointId { generation: 3, epoch }
    }

    fn colo() -> Follower {
        Follower { resume_commits: true, ..Follower::default() }
    }

    #[test]
    fn a_resume_commits_the_epoch_of_the_pause_that_it_ends() {
        let mut follower = colo();
        for epoch in 1..4 {
            assert_eq!(follower.event("STOP"), Step::Close);
            follower.closed(id(epoch), true);
            assert_eq!(follower.event("RESUME"), Step::Commit(id(epoch)));
            assert_eq!(follower.event("RESUME"), Step::Nothing, "once");
        }
    }

    #[test]
    fn an_epoch_that_was_closed_too_late_is_not_committed_by_an_older_resume() {
        let mut follower = colo();
        follower.event("STOP");
        // The VM ran on, and stopped again, before the close: this epoch holds frames of after the first pause.
        follower.closed(id(7), false);
        assert_eq!(follower.event("RESUME"), Step::Nothing);
        follower.event("STOP");
        follower.closed(id(8), true);
        follower.event("STOP");
        assert_eq!(
            follower.event("RESUME"),
            Step::Nothing,
            "another pause has begun, which closed nothing yet"
        );
    }

    #[test]
    fn a_follower_that_begins_after_the_end_of_colo_commits_nothing_either() {
        let status = |mode, last| json!({ "mode": mode, "last-mode": last, "reason": "error" });
        for (status, ends) in [
            (status("none", "primary"), true),
            (status("none", "none"), false),
            (status("primary", "none"), false),
            (Value::Null, false),
        ] {
            let mut follower = colo();
            assert_eq!(follower.begins(&status) == Step::Exited, ends, "{status}");
            follower.event("STOP");
            follower.closed(id(1), true);
            assert_eq!(follower.event("RESUME") == Step::Nothing, ends, "{status}");
        }
    }

    #[test]
    fn after_the_end_of_colo_and_without_the_operators_word_nothing_is_committed() {
        let mut follower = colo();
        follower.event("STOP");
        follower.closed(id(1), true);
        assert_eq!(follower.event("COLO_EXIT"), Step::Exited);
        assert_eq!(follower.event("RESUME"), Step::Nothing);
        follower.event("STOP");
        follower.closed(id(2), true);
        assert_eq!(follower.event("RESUME"), Step::Nothing);
        let mut virsh = Follower::default();
        virsh.event("STOP");
        virsh.closed(id(1), true);
        assert_eq!(virsh.event("RESUME"), Step::Nothing);
    }
}
