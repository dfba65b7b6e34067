//! Reads what the lcores overheard of SIP and TURN, and teaches them what it says: a thread of its own, so that a flood of
//! signalling delays no commit and no lease.

use crate::guest::GuestPlane;
use crate::plane::Plane;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidegate_control::signalling::{Learned, Learner, Lesson};
use tidegate_dataplane::ear::{Heard, Protocol};

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(1);
/// Copies that one look reads of a lane, a protocol and a direction, so that every lane has its turn.
const COPIES: usize = 64;
/// Lessons that may await a lane that takes none. What is more is not learned: media is then found by itself.
const BACKLOG: usize = 16_384;

/// One guest: what is known of its calls, and what its lanes have not been told yet.
struct Pupil {
    guest: Arc<GuestPlane>,
    learner: Learner,
    untold: Vec<VecDeque<Lesson>>,
    /// What came to the guest and is read behind what it sent, with its lane.
    answers: Vec<(usize, Heard)>,
}

/// The thread. Ends when dropped.
pub struct Listening {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    /// Listens to all guests that have a SIP port or learn TURN channels; `None` when there is none.
    pub fn start(plane: &Arc<Plane>) -> Result<Option<Listening>, String> {
        let listens =
            |guest: &&Arc<GuestPlane>| guest.config.learn_turn || !guest.config.sip_ports.is_empty();
        let mut pupils: Vec<Pupil> = plane.guests.iter().filter(listens).map(Pupil::new).collect();
        if pupils.is_empty() {
            return Ok(None);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let job = move || {
            let (begin, mut lessons) = (Instant::now(), Vec::new());
            while !stopped.load(Relaxed) {
                let now = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
                pupils.iter_mut().for_each(|pupil| pupil.listen(now, &mut lessons));
                std::thread::sleep(EVERY);
            }
        };
        let thread = std::thread::Builder::new().name("signalling".into()).spawn(job);
        let thread = thread.map_err(|e| format!("cannot start the thread that reads SIP and TURN: {e}"))?;
        Ok(Some(Listening { stop, thread: Some(thread) }))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Pupil {
    fn new(guest: &Arc<GuestPlane>) -> Pupil {
        Pupil {
            guest: Arc::clone(guest),
            learner: Learner::new(&guest.config.sip_ports, guest.config.learn_turn),
            untold: vec![VecDeque::new(); guest.lanes.len()],
            answers: Vec::with_capacity(guest.lanes.len() * Protocol::ALL.len() * COPIES),
        }
    }

    /// One look. What one lane hears, all lanes of the guest learn: media may take another NIC.
    fn listen(&mut self, now: u64, lessons: &mut Vec<Lesson>) {
        let lanes = &self.guest.lanes;
        // What came to the guest is taken out first and read last: to each answer in it, the question is there.
        for (n, lane) in lanes.iter().enumerate() {
            for protocol in Protocol::ALL {
                let heard = std::iter::from_fn(|| lane.shared.ear.next(protocol, false));
                self.answers.extend(heard.take(COPIES).map(|heard| (n, heard)));
            }
        }
        for lane in lanes {
            let ear = &lane.shared.ear;
            for protocol in Protocol::ALL {
                for heard in std::iter::from_fn(|| ear.next(protocol, true)).take(COPIES) {
                    self.learner.hear_frame(heard.frame(), true, now, lessons);
                    ear.give_back(heard);
                }
            }
        }
        for (n, heard) in self.answers.drain(..) {
            self.learner.hear_frame(heard.frame(), false, now, lessons);
            lanes[n].shared.ear.give_back(heard);
        }
        lessons.retain(|lesson| match lesson.what {
            Learned::Secured(secured) => {
                self.guest.described.note(lesson, secured);
                false
            }
            _ => true,
        });
        for (lane, untold) in self.guest.lanes.iter().zip(&mut self.untold) {
            let room = BACKLOG - untold.len();
            untold.extend(lessons.iter().take(room));
            while let Some(lesson) = untold.front()
                && lane.shared.ear.teach(*lesson)
            {
                untold.pop_front();
            }
        }
        lessons.clear();
    }
}
