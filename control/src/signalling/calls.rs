//! The account of calls: whose description names which of the guest's ports, and how long that counts.
//!
//! A call has sides, told apart by their tags: with forking, several of one Call-ID. What a side offers counts at once
//! (media may come before the answer), beside what it had before; when the offer is accepted it replaces that, when it is
//! refused it goes. A call ends with BYE, with the refusal of its first INVITE, or an hour after the guest last said
//! what it has. After a refusal its ports stay for half a minute: announcements ("is not available") are played then.

use super::media::{self, Use};
use super::message::{Kind, Message};
use rsipstack::sip::Method;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use tidegate_dataplane::ear::Lesson;
use tidegate_dataplane::wire::address_bytes;

/// Calls that are known at once.
const CALLS: usize = 16_384;
/// Ports of all of them.
const USES: usize = 65_536;
/// Sides of a call, and dialogs.
const SIDES: usize = 8;
/// Offers of a side that await their answer.
const OFFERS: usize = 4;
/// How long what was said counts, nanoseconds.
const LIFETIME_NS: u64 = 3_600_000_000_000;
/// How long ports stay after a refusal, nanoseconds: as long as the transaction itself (RFC 3261, 64 * T1).
const LINGERING_NS: u64 = 32_000_000_000;
/// Refusals whose ports stay at once; beyond that the oldest go at once.
const LINGERING: usize = 4096;

#[derive(Debug)]
struct Offer {
    cseq: (u32, Method),
    uses: BTreeSet<Use>,
}

/// One party's description.
#[derive(Debug)]
struct Side {
    tag: String,
    agreed: BTreeSet<Use>,
    /// Number of the offer that it came from.
    settled: u32,
    offers: Vec<Offer>,
}

#[derive(Debug)]
struct Call {
    turn: u64,
    heard: u64,
    sides: Vec<Side>,
    /// Accepted: both tags.
    dialogs: Vec<[String; 2]>,
}

/// How many descriptions name each port; lessons are what changes that to or from none.
#[derive(Debug, Default)]
struct Uses(HashMap<Use, u32>);

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Calls {
    calls: HashMap<String, Call>,
    /// The one heard of longest ago first.
    order: BTreeMap<u64, String>,
    turn: u64,
    uses: Uses,
    /// What was refused, and until when it stays.
    lingering: VecDeque<(u64, BTreeSet<Use>)>,
}

fn lesson((address, port, what): Use, open: bool) -> Lesson {
    Lesson { address: address_bytes(address), port, what, open }
}

impl Uses {
    /// Named once more. Said again even when it was known: lessons end by themselves.
    fn hold(&mut self, uses: &BTreeSet<Use>, lessons: &mut Vec<Lesson>) {
        for of in uses {
            *self.0.entry(*of).or_default() += 1;
            lessons.push(lesson(*of, true));
        }
    }

    fn release(&mut self, uses: &BTreeSet<Use>, lessons: &mut Vec<Lesson>) {
        for of in uses {
            if let Some(count) = self.0.get_mut(of) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(of);
                    lessons.push(lesson(*of, false));
                }
            }
        }
    }

    fn release_side(&mut self, side: &Side, lessons: &mut Vec<Lesson>) {
        self.release(&side.agreed, lessons);
        side.offers.iter().for_each(|offer| self.release(&offer.uses, lessons));
    }
}

impl Side {
    fn offer(
        &mut self,
        cseq: (u32, Method),
        uses: &BTreeSet<Use>,
        all: &mut Uses,
        lessons: &mut Vec<Lesson>,
    ) {
        if let Some(known) = self.offers.iter_mut().find(|offer| offer.cseq == cseq) {
            // Said again; a forking proxy may name other ports towards each branch.
            let room = media::PORTS.saturating_sub(known.uses.len());
            let new: BTreeSet<Use> = uses.difference(&known.uses).take(room).copied().collect();
            all.hold(&new, lessons);
            lessons.extend(uses.intersection(&known.uses).map(|of| lesson(*of, true)));
            known.uses.extend(new);
            return;
        }
        if self.settled >= cseq.0 && self.settled != 0 {
            // An old one, repeated after its answer.
            return;
        }
        if self.offers.len() == OFFERS {
            let oldest = self.offers.remove(0);
            all.release(&oldest.uses, lessons);
        }
        all.hold(uses, lessons);
        self.offers.push(Offer { cseq, uses: uses.clone() });
    }

    fn agree(&mut self, uses: BTreeSet<Use>, all: &mut Uses, lessons: &mut Vec<Lesson>) {
        all.hold(&uses, lessons);
        let before = std::mem::replace(&mut self.agreed, uses);
        all.release(&before, lessons);
    }

    /// The other side accepted: earlier offers are over.
    fn accepted(&mut self, cseq: (u32, Method), all: &mut Uses, lessons: &mut Vec<Lesson>) {
        let Some(at) = self.offers.iter().position(|offer| offer.cseq == cseq) else { return };
        let offer = self.offers.remove(at);
        let over = self.offers.extract_if(.., |other| other.cseq.0 < cseq.0);
        over.for_each(|other| all.release(&other.uses, lessons));
        if cseq.0 >= self.settled {
            self.settled = cseq.0;
            let before = std::mem::replace(&mut self.agreed, offer.uses);
            all.release(&before, lessons);
        } else {
            all.release(&offer.uses, lessons);
        }
    }
}

impl Calls {
    /// Ends what nobody has spoken of for an hour, and what was refused half a minute ago.
    pub fn expire(&mut self, now: u64, lessons: &mut Vec<Lesson>) {
        while self.lingering.front().is_some_and(|(until, _)| *until <= now)
            && let Some((_, uses)) = self.lingering.pop_front()
        {
            self.uses.release(&uses, lessons);
        }
        while let Some(oldest) = self.order.first_key_value().map(|(_, name)| name.clone())
            && self.calls.get(&oldest).is_none_or(|call| now.saturating_sub(call.heard) > LIFETIME_NS)
        {
            self.end(&oldest, lessons);
        }
    }

    /// Hears a message that `src` sent. `homes`: the guest's addresses.
    pub fn hear(
        &mut self,
        message: &Message,
        from_guest: bool,
        src: IpAddr,
        homes: &[IpAddr],
        now: u64,
        lessons: &mut Vec<Lesson>,
    ) {
        let description = message.description.as_deref().filter(|_| from_guest);
        let uses = description.and_then(|text| media::uses(text, src, homes));
        let (call, method) = (&message.call, message.cseq.1);
        match message.kind {
            Kind::Request(Method::Bye) => self.hung_up(message, lessons),
            Kind::Request(Method::Invite | Method::Update | Method::PRack) => {
                if let Some(uses) = uses {
                    self.with_side(
                        call,
                        &message.from,
                        !uses.is_empty(),
                        now,
                        lessons,
                        |side, all, lessons| {
                            side.offer(message.cseq, &uses, all, lessons);
                        },
                    );
                }
            }
            Kind::Request(Method::Ack) => {
                if let Some(uses) = uses {
                    self.with_side(
                        call,
                        &message.from,
                        !uses.is_empty(),
                        now,
                        lessons,
                        |side, all, lessons| {
                            side.agree(uses, all, lessons);
                        },
                    );
                    self.met(message);
                }
            }
            Kind::Response(101..=299)
                if matches!(method, Method::Invite | Method::Update | Method::PRack) =>
            {
                if let Some(uses) = uses
                    && !message.to.is_empty()
                {
                    self.with_side(
                        call,
                        &message.to,
                        !uses.is_empty(),
                        now,
                        lessons,
                        |side, all, lessons| {
                            side.agree(uses, all, lessons);
                        },
                    );
                }
                if matches!(message.kind, Kind::Response(200..)) {
                    self.with_side(call, &message.from, false, now, lessons, |side, all, lessons| {
                        side.accepted(message.cseq, all, lessons);
                    });
                    if method == Method::Invite {
                        self.met(message);
                    }
                }
            }
            Kind::Response(300..) => self.refused(message, now, lessons),
            _ => {}
        }
    }

    /// Does something with a side of a call; both are made if need be and `make` says so.
    fn with_side(
        &mut self,
        name: &str,
        tag: &str,
        make: bool,
        now: u64,
        lessons: &mut Vec<Lesson>,
        act: impl FnOnce(&mut Side, &mut Uses, &mut Vec<Lesson>),
    ) {
        if !self.calls.contains_key(name) {
            if !make {
                return;
            }
            let call = Call { turn: 0, heard: now, sides: Vec::new(), dialogs: Vec::new() };
            self.calls.insert(name.to_owned(), call);
        }
        let Calls { calls, order, turn, uses, .. } = self;
        let Some(call) = calls.get_mut(name) else { return };
        order.remove(&call.turn);
        *turn += 1;
        (call.turn, call.heard) = (*turn, now);
        order.insert(*turn, name.to_owned());
        let at = match call.sides.iter().position(|side| side.tag == tag) {
            Some(at) => at,
            None if !make => return,
            None => {
                if call.sides.len() == SIDES {
                    uses.release_side(&call.sides.remove(0), lessons);
                }
                let (agreed, offers) = (BTreeSet::new(), Vec::new());
                call.sides.push(Side { tag: tag.to_owned(), agreed, settled: 0, offers });
                call.sides.len() - 1
            }
        };
        act(&mut call.sides[at], uses, lessons);
        while (self.calls.len() > CALLS || self.uses.0.len() > USES)
            && let Some(oldest) = self.order.first_key_value().map(|(_, name)| name.clone())
        {
            self.end(&oldest, lessons);
        }
    }

    /// The two have a dialog.
    fn met(&mut self, message: &Message) {
        if let Some(call) = self.calls.get_mut(&message.call)
            && !call.dialogs.iter().any(|pair| is_between(pair, message))
        {
            if call.dialogs.len() == SIDES {
                call.dialogs.remove(0);
            }
            call.dialogs.push([message.from.clone(), message.to.clone()]);
        }
    }

    /// One of two has hung up. What either has in another dialog of the call stays.
    fn hung_up(&mut self, message: &Message, lessons: &mut Vec<Lesson>) {
        if let Some(call) = self.calls.get_mut(&message.call) {
            call.dialogs.retain(|pair| !is_between(pair, message));
            let gone = self.leave(message, lessons, |_| true);
            gone.iter().for_each(|side| self.uses.release_side(side, lessons));
        }
    }

    /// A request was refused: its offer is over, and with a first INVITE the call.
    fn refused(&mut self, message: &Message, now: u64, lessons: &mut Vec<Lesson>) {
        let Some(call) = self.calls.get_mut(&message.call) else { return };
        let mut over = Vec::new();
        if let Some(side) = call.sides.iter_mut().find(|side| side.tag == message.from) {
            over.extend(
                side.offers.extract_if(.., |offer| offer.cseq == message.cseq).map(|offer| offer.uses),
            );
        }
        if message.cseq.1 == Method::Invite {
            for side in self.leave(message, lessons, |side| side.offers.is_empty()) {
                over.push(side.agreed);
                over.extend(side.offers.into_iter().map(|offer| offer.uses));
            }
        }
        over.retain(|uses| !uses.is_empty());
        self.lingering.extend(over.into_iter().map(|uses| (now.saturating_add(LINGERING_NS), uses)));
        while self.lingering.len() > LINGERING
            && let Some((_, uses)) = self.lingering.pop_front()
        {
            self.uses.release(&uses, lessons);
        }
    }

    /// Both sides of a message go that are in no dialog any more and for which `done` holds; what they named is the
    /// caller's to release.
    fn leave(
        &mut self,
        message: &Message,
        lessons: &mut Vec<Lesson>,
        done: impl Fn(&Side) -> bool,
    ) -> Vec<Side> {
        let Some(call) = self.calls.get_mut(&message.call) else { return Vec::new() };
        let Call { sides, dialogs, .. } = call;
        let gone = sides.extract_if(.., |side| {
            (side.tag == message.from || side.tag == message.to)
                && !dialogs.iter().flatten().any(|tag| *tag == side.tag)
                && done(side)
        });
        let gone = gone.collect();
        if sides.is_empty() {
            self.end(&message.call, lessons);
        }
        gone
    }

    fn end(&mut self, name: &str, lessons: &mut Vec<Lesson>) {
        if let Some(call) = self.calls.remove(name) {
            self.order.remove(&call.turn);
            call.sides.iter().for_each(|side| self.uses.release_side(side, lessons));
        }
    }

    /// Calls and ports that are known.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        assert_eq!(self.calls.len(), self.order.len());
        (self.calls.len(), self.uses.0.len())
    }
}

fn is_between([a, b]: &[String; 2], message: &Message) -> bool {
    (*a == message.from && *b == message.to) || (*a == message.to && *b == message.from)
}
