//! When did the first frame leave after an unmute, and when the first RTP: the parts of an outage that only the lane sees.

use crate::class::Class;
use crate::counters::Counters;
use crate::egress::Gone;

/// What is still awaited.
#[derive(Debug, Default)]
pub(super) struct Firsts {
    frame: bool,
    rtp: bool,
}

impl Firsts {
    /// The lane was unmuted at `now`.
    pub fn begin(&mut self, now: u64, counters: &Counters) {
        counters.first_frame_tsc.set(0);
        counters.first_taken_tsc.set(0);
        counters.first_rtp_tsc.set(0);
        counters.unmuted_tsc.set(now);
        *self = Firsts { frame: true, rtp: true };
    }

    /// Frames have left at `now`.
    #[inline(always)]
    pub fn see(&mut self, gone: &Gone<'_>, now: u64, counters: &Counters) {
        if self.rtp {
            self.look(gone, now, counters);
        }
    }

    #[cold]
    fn look(&mut self, gone: &Gone<'_>, now: u64, counters: &Counters) {
        if std::mem::take(&mut self.frame) {
            counters.first_frame_tsc.set(now);
            counters.first_taken_tsc.set(gone.runs().next().map_or(now, |(run, _)| run.received_tsc));
        }
        if gone.runs().any(|(run, _)| run.class == Class::Rtp) {
            counters.first_rtp_tsc.set(now);
            self.rtp = false;
        }
    }
}
