//! Who vouches for a port, so that its RTP is media from the first packet on: the operator, or the guest's own
//! signalling. The header check and, once the stream has proven itself, the sequence window hold all the same.

use super::{Sighting, Streams, Track, endpoint, words};
use crate::class::StreamRef;
use crate::ear::{Learned, Lesson};
use crate::endpoints::Endpoint;
use crate::wire::Headers;

impl Streams {
    /// Somebody vouches for the port, and this was sent from it directly.
    pub(super) fn is_trusted(&self, sighting: &Sighting<'_>) -> bool {
        sighting.channel == 0
            && (sighting.policy.is_media_port(sighting.headers.sport)
                || self.is_learned(sighting.headers, Learned::Rtp, sighting.now))
    }

    /// Notes who vouched for a stream that is promoted by its port.
    pub(super) fn vouch(&self, track: Track, sighting: &Sighting<'_>) -> Track {
        if sighting.policy.is_media_port(sighting.headers.sport) { track } else { track.named() }
    }

    /// What signalling said.
    pub fn learn(&mut self, lesson: &Lesson, now: u64) {
        if let Learned::Channel { number, server, server_port } = lesson.what {
            return self.learn_channel(lesson, number, &server, server_port, now);
        }
        let endpoint = Endpoint { address: words(&lesson.address), port: lesson.port, channel: 0 };
        match lesson.open {
            true => self.lessons.learn(endpoint, lesson.what, now),
            false => self.lessons.forget(endpoint, lesson.what),
        }
    }

    /// A stream on probation whose packets wait, from the port that this lesson opened; it is promoted by it. Only the
    /// last ones that began are looked at: media begins when its signalling is under way.
    pub fn vouched(&mut self, lesson: &Lesson) -> Option<StreamRef> {
        let address = words(&lesson.address);
        let waits = |mark: u32| {
            let index = self.index(mark);
            let (run, seen) = (&self.runs[index], &self.table.page(index).seen);
            let waiting = run.mark == mark && run.era == self.era && !run.waiting.positions().is_empty();
            waiting
                && (seen.name.get() >> 16) as u16 == lesson.port
                && (seen.address[0].get(), seen.address[1].get()) == (address[0], address[1])
                && seen.channel.get() == 0
                && !Track(seen.track.get()).is_promoted()
        };
        let mark = self.begun.iter().copied().find(|mark| *mark != 0 && waits(*mark))?;
        let seen = &self.table.page(self.index(mark)).seen;
        let change = seen.version.open();
        seen.track.set(Track(seen.track.get()).vouched().0);
        seen.promoted_at.set(seen.packets.get());
        change.close();
        Some(StreamRef(mark))
    }

    /// True when signalling has named the sender's port for this.
    #[inline]
    pub fn is_learned(&self, headers: &Headers, what: Learned, now: u64) -> bool {
        !self.lessons.is_empty() && self.lessons.learned(endpoint(headers, 0), what, now)
    }

    /// True when signalling has named any port for a fax.
    #[inline(always)]
    pub fn fax_is_learned(&self) -> bool {
        self.lessons.has_fax()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;
    use crate::class::{Class, Verdict};
    use crate::classify::Classifier;
    use crate::policy::{Policy, PolicyName};
    use crate::tsc::TscRate;
    use crate::wire::sample::{self, Chain};

    const MS: u64 = 1_000_000;
    const FAX: [u8; 6] = [0, 1, 1, 6, 0, 0];

    struct Bench(Classifier, u64);

    impl Bench {
        fn new(name: PolicyName, streams: usize) -> Bench {
            let policy = Policy::from(name).compile().unwrap();
            Bench(Classifier::new(policy, streams, TscRate::new(1000 * MS), &mut Heap), 1000 * MS)
        }

        fn teach(&mut self, port: u16, what: Learned, open: bool) {
            let headers = Headers::parse(&sample::udp(port, 1, b"x"), 43);
            self.0.learn(&Lesson { address: headers.src, port, what, open }, self.1);
        }

        fn see(&mut self, frame: &[u8]) -> (Verdict, Class) {
            self.1 += 20 * MS;
            let decision = self.0.classify(&Chain::whole(frame), self.1);
            if let Verdict::Probation(stream) = decision.verdict {
                self.0.waiting(stream, self.1);
            }
            (decision.verdict, decision.class)
        }

        fn rtp(&mut self, port: u16, sequence: u16) -> Verdict {
            self.see(&sample::udp(port, 5004, &sample::rtp(sequence, 7))).0
        }
    }

    fn bench() -> Bench {
        Bench::new(PolicyName::Realtime, 256)
    }

    #[test]
    fn on_a_learned_port_the_first_packet_is_let_go_and_on_others_it_waits() {
        let mut bench = bench();
        bench.teach(40000, Learned::Rtp, true);
        assert_eq!(bench.rtp(40000, 9), Verdict::Bypass);
        assert!(matches!(bench.rtp(40002, 9), Verdict::Probation(_)));
        let other = sample::udp6(40000, 5004, &sample::rtp(1, 1));
        assert!(matches!(bench.see(&other).0, Verdict::Probation(_)), "another address");
        assert_eq!(bench.see(&sample::udp(40000, 5004, b"GET / HTTP/1.1\r\n")).0, Verdict::Hold);
        let mut bad = sample::rtp(10, 7);
        bad[0] = 0x8f;
        bad.truncate(20);
        assert_eq!(bench.see(&sample::udp(40000, 5004, &bad)).0, Verdict::Hold, "the header check holds");
    }

    #[test]
    fn what_is_taken_back_must_prove_itself_unless_it_has() {
        let mut bench = bench();
        for port in [40000, 40002] {
            bench.teach(port, Learned::Rtp, true);
            assert_eq!(bench.rtp(port, 1), Verdict::Bypass);
        }
        for n in 2..6 {
            assert_eq!(bench.rtp(40000, n), Verdict::Bypass);
        }
        bench.teach(40000, Learned::Rtp, false);
        bench.teach(40002, Learned::Rtp, false);
        assert_eq!(bench.rtp(40000, 6), Verdict::Bypass, "it has proven itself");
        assert!(matches!(bench.rtp(40002, 2), Verdict::Probation(_)));
        bench.teach(40004, Learned::Rtp, true);
        bench.1 += crate::lessons::LIFETIME_NS;
        assert!(matches!(bench.rtp(40004, 1), Verdict::Probation(_)), "after an hour");
    }

    #[test]
    fn packets_that_came_before_the_lesson_leave_with_it() {
        let mut bench = bench();
        let mut positions = Vec::new();
        let mut streams = Vec::new();
        for port in [40000, 40002] {
            let Verdict::Probation(stream) = bench.rtp(port, 1) else { panic!("no lesson yet") };
            positions.push(bench.1);
            streams.push(stream);
        }
        let address = Headers::parse(&sample::udp(1, 1, b"x"), 43).src;
        let lesson = |port, what| Lesson { address, port, what, open: true };
        for other in [lesson(40004, Learned::Rtp), lesson(40000, Learned::Udptl)] {
            bench.0.learn(&other, bench.1);
            assert_eq!(bench.0.vouched(&other), None, "{other:?}");
        }
        let lesson = lesson(40000, Learned::Rtp);
        bench.0.learn(&lesson, bench.1);
        assert_eq!(bench.0.vouched(&lesson), Some(streams[0]));
        assert_eq!(bench.0.take_waiting(streams[0]).positions(), [positions[0]]);
        assert_eq!(bench.0.vouched(&lesson), None, "once");
        assert_eq!(bench.rtp(40000, 2), Verdict::Bypass);
        assert!(matches!(bench.rtp(40002, 2), Verdict::Probation(_)), "nobody spoke of this one");
    }

    #[test]
    fn packets_that_came_before_the_lesson_leave_in_order_with_the_next() {
        let mut bench = bench();
        let Verdict::Probation(stream) = bench.rtp(40000, 1) else { panic!("no lesson yet") };
        let waits = bench.1;
        bench.teach(40000, Learned::Rtp, true);
        assert_eq!(bench.rtp(40000, 2), Verdict::Promote(stream));
        assert_eq!(bench.0.take_waiting(stream).positions(), [waits]);
        assert_eq!(bench.rtp(40000, 3), Verdict::Bypass);
    }

    #[test]
    fn a_proven_stream_keeps_its_window_on_a_learned_port() {
        let mut bench = bench();
        bench.teach(40000, Learned::Rtp, true);
        for n in 1..6 {
            assert_eq!(bench.rtp(40000, n), Verdict::Bypass);
        }
        assert!(!matches!(bench.rtp(40000, 30000), Verdict::Bypass));
        assert_eq!(bench.rtp(40000, 6), Verdict::Bypass);
    }

    #[test]
    fn a_flood_of_look_alikes_displaces_no_learned_port() {
        let mut bench = Bench::new(PolicyName::Realtime, 64);
        bench.teach(40000, Learned::Rtp, true);
        for n in 0..20_000u32 {
            let port = 2000 + (n % 30_000) as u16;
            bench.see(&sample::udp(port, 5004, &sample::rtp(n as u16, n.wrapping_mul(0x9e37_79b1))));
            bench.see(&sample::udp(
                port,
                5004,
                &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ));
        }
        assert_eq!(bench.rtp(40000, 1), Verdict::Bypass);
    }

    #[test]
    fn fax_passes_where_it_was_learned_and_nowhere_else() {
        let mut bench = bench();
        let fax = sample::udp(40000, 5004, &FAX);
        assert_eq!(bench.see(&fax), (Verdict::Hold, Class::Udp));
        bench.teach(40000, Learned::Rtp, true);
        assert_eq!(bench.see(&fax), (Verdict::Hold, Class::Udp), "a port for RTP is none for a fax");
        bench.teach(40000, Learned::Rtp, false);
        bench.teach(40000, Learned::Udptl, true);
        assert_eq!(bench.see(&fax), (Verdict::Bypass, Class::Udptl));
        for first in [[0x80, 8], [0x80, 200]] {
            let late = [&first[..], &FAX[2..], &[0; 0]].concat();
            assert_eq!(bench.see(&sample::udp(40000, 5004, &late)).1, Class::Udptl, "packet {first:x?}");
        }
        assert_eq!(bench.see(&sample::udp(40002, 5004, &FAX)), (Verdict::Hold, Class::Udp));
        assert_eq!(bench.see(&sample::udp(40000, 5004, b"GET / HTTP/1.1")), (Verdict::Hold, Class::Udp));
        assert!(matches!(bench.rtp(40000, 1), Verdict::Probation(_)), "and RTP proves itself");
        bench.teach(40000, Learned::Udptl, false);
        assert_eq!(bench.see(&fax), (Verdict::Hold, Class::Udp));
        let mut held = Bench::new(PolicyName::HoldAll, 64);
        held.teach(40000, Learned::Udptl, true);
        held.teach(40002, Learned::Rtp, true);
        assert_eq!(held.see(&fax), (Verdict::Hold, Class::Udptl));
        assert_eq!(held.rtp(40002, 1), Verdict::Hold);
    }

    #[test]
    fn rtcp_on_a_port_of_its_own_goes_with_its_stream() {
        let mut bench = bench();
        let mut report = vec![0x80, 200, 0, 6];
        report.resize(28, 1);
        let rtcp = sample::udp(50000, 5005, &report);
        bench.teach(40000, Learned::Rtp, true);
        bench.teach(50000, Learned::Rtcp { of: 40000 }, true);
        assert_eq!(bench.see(&rtcp).0, Verdict::Hold, "no stream yet");
        assert_eq!(bench.rtp(40000, 1), Verdict::Bypass);
        assert_eq!(bench.see(&rtcp), (Verdict::Bypass, Class::Rtcp));
        bench.teach(50000, Learned::Rtcp { of: 40000 }, false);
        assert_eq!(bench.see(&rtcp).0, Verdict::Hold);
    }
}
