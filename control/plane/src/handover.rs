//! What a primary's plane tells its standby's: which streams went how far, and who the guest is.

use crate::guest::GuestPlane;
use crate::nap::{NAP, nap};
use std::time::Instant;
use tidegate_control::config::ReplayGuard;
use tidegate_control::protocol::*;
use tidegate_dataplane::guest::Mode;
use tidegate_dataplane::identities::{Identity, TAG_BYTES};
use tidegate_dataplane::inbox::Handed;
use tidegate_dataplane::rtp::{GoneOut, Inherited, MAX_MARGIN, Through};
use tidegate_dataplane::tsc::TscRate;
use tidegate_dataplane::wire::{address_bytes, display_address};

/// Places of a stream table that one answer looks at: a table of a million must not keep a close waiting.
const PLACES: usize = 16_384;

fn bad(desc: String) -> Failure {
    Failure::new("bad-arguments", desc)
}

/// The streams that went out, and who the guest is.
pub fn tell(guest: &GuestPlane, asked: &Guard, rate: TscRate) -> Result<GuardReport, Failure> {
    let now = guest.now_tsc();
    let since = asked.since.unwrap_or(0);
    if since > now {
        return Err(bad(
            "guard: `since` is no token of this plane; leave it out, and take the new one".into()
        ));
    }
    let from = asked.from.unwrap_or(0);
    let (mut lane, mut place) = (usize::try_from(from >> 32).unwrap_or(usize::MAX), from as u32 as usize);
    let (mut streams, mut looked) = (Vec::new(), 0);
    while let Some(seat) = guest.lanes.get(lane)
        && looked < PLACES
        && streams.len() < GUARD_STREAMS
    {
        let table = &seat.shared.streams;
        if place >= table.capacity() {
            (lane, place) = (lane + 1, 0);
            continue;
        }
        let told = table.gone_out(place, since, now, rate);
        streams.extend(told.map(|stream| row(lane, &stream, secured(guest, &stream))));
        (place, looked) = (place + 1, looked + 1);
    }
    let more = lane < guest.lanes.len();
    let identities = if asked.from.is_none() { identities(guest) } else { Vec::new() };
    let next = more.then_some((lane as u64) << 32 | place as u64);
    Ok(GuardReport { guest: guest.name().into(), token: now, streams, next, identities })
}

/// SRTP where DTLS was seen; otherwise what signalling says of the port. Of what comes through a channel nobody says
/// anything.
fn secured(guest: &GuestPlane, stream: &GoneOut) -> Option<bool> {
    let described = || guest.described.secured(stream.address, stream.port);
    match stream.secure {
        true => Some(true),
        false => stream.channel.is_none().then(described)?,
    }
}

fn row(lane: usize, stream: &GoneOut, secure: Option<bool>) -> GuardedStream {
    GuardedStream {
        lane,
        address: stream.address,
        port: stream.port,
        ssrc: stream.ssrc,
        highest: stream.highest,
        interval_us: stream.interval_ns / 1000,
        secure,
        clock_rate: stream.clock_rate,
        payload_type: stream.payload_type,
        margin: 0,
        channel: stream.channel.map(|at| (at.number, display_address(at.server), at.server_port)),
    }
}

fn identities(guest: &GuestPlane) -> Vec<GuestIdentity> {
    let lanes = guest.lanes.iter().enumerate();
    lanes
        .flat_map(|(n, lane)| lane.shared.identities.snapshot().into_iter().map(move |i| shown(n, &i)))
        .collect()
}

fn shown(lane: usize, identity: &Identity) -> GuestIdentity {
    let pair = |tag: &[u8]| (u16::from_be_bytes([tag[0], tag[1]]), u16::from_be_bytes([tag[2], tag[3]]));
    GuestIdentity {
        lane,
        mac: identity.mac.map(|byte| format!("{byte:02x}")).join(":"),
        vlans: identity.tags().chunks_exact(4).map(pair).collect(),
        address: identity.address.map(display_address),
        confirmed: identity.confirmed,
        router: identity.router,
    }
}

/// Reads an identity as [`shown`] wrote it.
fn identity(told: &GuestIdentity) -> Result<Identity, Failure> {
    let bytes: Vec<u8> = told.mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let mac: Option<[u8; 6]> = bytes.try_into().ok().filter(|mac: &[u8; 6]| mac[0] & 1 == 0);
    let mac = mac.ok_or_else(|| bad(format!("guard: `{}` is no hardware address of one host", told.mac)))?;
    if told.vlans.len() * 4 > TAG_BYTES || told.vlans.iter().any(|(_, id)| *id > 0xfff) {
        return Err(bad(format!("guard: {} has more than 3 VLAN tags, or an id above 4095", told.mac)));
    }
    let mut tags = [0; TAG_BYTES];
    for (tag, (ethertype, id)) in tags.chunks_exact_mut(4).zip(&told.vlans) {
        tag[..2].copy_from_slice(&ethertype.to_be_bytes());
        tag[2..].copy_from_slice(&id.to_be_bytes());
    }
    Ok(Identity {
        tags,
        tag_bytes: 4 * told.vlans.len() as u8,
        address: told.address.map(address_bytes),
        confirmed: told.confirmed,
        router: told.router,
        ..Identity::of_mac(mac)
    })
}

fn inherited(told: &GuardedStream, guard: ReplayGuard, margin_ms: Option<u64>) -> Inherited {
    let guarded = match guard {
        ReplayGuard::All => true,
        ReplayGuard::Srtp => told.secure != Some(false),
        ReplayGuard::Off => false,
    };
    // Sequence numbers count modulo 2^16.
    let margin = margin_ms.map_or(told.margin, |ms| told.margin_after(ms).min(MAX_MARGIN));
    let margin = if guarded { margin } else { 0 };
    Inherited {
        address: address_bytes(told.address),
        port: told.port,
        ssrc: told.ssrc,
        highest: (told.highest as u16).wrapping_add(margin),
        margin,
        guarded,
        secure: told.secure == Some(true),
        clock_rate: told.clock_rate,
        payload_type: told.payload_type,
        channel: told.channel.map(|(number, server, server_port)| Through {
            number,
            server: address_bytes(server),
            server_port,
        }),
    }
}

/// Hands the lanes of a standby what its primary told. Returns once they have it.
pub async fn take_over(guest: &GuestPlane, asked: &Guard) -> Result<HandedOver, Failure> {
    if asked.since.is_some() || asked.from.is_some() {
        return Err(bad(
            "guard: `since` and `from` ask, `streams` and `identities` tell; send two requests".into()
        ));
    }
    let streams = asked.streams.as_deref().unwrap_or_default();
    let identities = asked.identities.as_deref().unwrap_or_default();
    if let Some(wide) = streams.iter().find(|stream| stream.margin > MAX_MARGIN) {
        return Err(bad(format!("guard: a margin is at most {MAX_MARGIN} packets, not {}", wide.margin)));
    }
    let mode = guest.with(|ledger| ledger.mode());
    if mode != Mode::Muted {
        let desc = format!("the guest is {}; only a muted one takes over", mode.name());
        return Err(Failure::new("wrong-mode", desc));
    }
    let guard = guest.config.replay_guard();
    let mut all = Vec::with_capacity(streams.len() + identities.len());
    for told in identities {
        all.push((told.lane, Handed::Identity(identity(told)?)));
    }
    all.extend(
        streams.iter().map(|told| (told.lane, Handed::Stream(inherited(told, guard, asked.margin_ms)))),
    );
    if let Some((lane, _)) = all.iter().find(|(lane, _)| *lane >= guest.lanes.len()) {
        return Err(bad(format!(
            "guard: guest {} has no lane {lane}; give both planes the same lanes",
            guest.name()
        )));
    }
    let counted = || {
        let inboxes = guest.lanes.iter().map(|lane| &lane.shared.inbox);
        inboxes.fold((0, 0), |sum, inbox| (sum.0 + inbox.inherited.get(), sum.1 + inbox.not_inherited.get()))
    };
    let (before, deadline) = (counted(), Instant::now() + crate::guest::ORDER_WITHIN);
    for (lane, handed) in all {
        while !guest.lanes[lane].shared.inbox.hand(handed) {
            in_time(deadline).await?;
        }
    }
    while !guest.lanes.iter().all(|lane| lane.shared.inbox.is_taken()) {
        in_time(deadline).await?;
    }
    let after = counted();
    Ok(HandedOver {
        guest: guest.name().into(),
        inherited: after.0 - before.0,
        not_inherited: after.1 - before.1,
        identities: identities.len(),
    })
}

async fn in_time(deadline: Instant) -> Result<(), Failure> {
    if Instant::now() >= deadline {
        let desc =
            "the lanes did not take all of it in time: look at whether the lcores poll, and send it again";
        return Err(Failure::new("timeout", desc));
    }
    nap(NAP).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_inherited_with_the_channel_that_it_was_told_with() {
        let server = address_bytes([192, 0, 2, 1].into());
        let channel = Some(Through { number: 0x4001, server, server_port: 3478 });
        let address = [10, 0, 0, 2].into();
        let told = GoneOut {
            address,
            port: 4000,
            ssrc: 7,
            highest: 65545,
            interval_ns: 20_000_000,
            secure: true,
            clock_rate: 8000,
            payload_type: 8,
            channel,
        };
        let row = row(0, &told, Some(true));
        assert_eq!(row.channel, Some((0x4001, [192, 0, 2, 1].into(), 3478)));
        let inherited = inherited(&row, ReplayGuard::Srtp, Some(100));
        assert_eq!((inherited.channel, inherited.guarded), (channel, true));
        // Five packets in 100 ms and one more.
        assert_eq!((inherited.address, inherited.highest, inherited.margin), (address_bytes(address), 15, 6));
    }
}
