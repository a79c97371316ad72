//! What an incoming packet becomes for one subscriber.

use std::sync::{PoisonError, atomic::Ordering::Relaxed};

use forwarder_common::{Counter, ExtendedSeq, RtpHeader, rtp::FIXED_LEN};

use super::tables::{Subscriber, Tables};
use crate::{RtxSource, Unrepaired, clock::boottime_ns, repair::Outgoing, transmit::Transmitter};

/// Makes one packet the subscriber's own, in the transmitter's memory.
///
/// One outgoing index never carries two plaintexts under one key and SSRC, for the same reasons as in
/// `forwarder-ebpf/src/egress.rs`: the replay list lets each incoming index through once, on whatever
/// thread; each is sealed once per member, be it as it comes or, kept before, by `catch_up` (there stands
/// why never by both); the offset is fixed for the life of the track; indices that the SSRC had used
/// before lie below `first_in`; and an SSRC belongs to one track of one engine at a time. `seal_again`
/// seals the same plaintext under the same index once more.
pub(super) fn seal(
    transmitter: &mut dyn Transmitter,
    subscriber: &Subscriber,
    index: ExtendedSeq,
    header: &RtpHeader,
    payload: &[u8],
    now_ns: u64,
) -> Result<(), Counter> {
    let out = outgoing(subscriber, index, header)?;
    let len = FIXED_LEN + payload.len() + subscriber.cipher.tag_len();
    let Some(room) = transmitter.reserve(&subscriber.destination, len) else { return Ok(()) };
    if !out.write(&subscriber.cipher, payload, room) {
        transmitter.cancel();
        return Err(Counter::DropInternalEgress);
    }
    subscriber.account(payload.len(), out.index, out.timestamp, now_ns);
    Ok(())
}

/// The packet that a subscriber's track has sent under a sequence number, as its viewer lost it.
///
/// Without `rtx` it is the same to the byte, so that the one index has one plaintext still: an incoming index is kept
/// once, when the replay list accepts it, with the header and payload that are sealed for all subscribers, and never
/// changed after; and what `Outgoing` makes of them follows from them and from values that are fixed for the
/// life of the track. Indices that the track has not sent yet are refused, and those that its SSRC had used
/// under other offsets lie below `first_in`.
pub(super) fn seal_again(
    tables: &Tables,
    track: u32,
    seq: u16,
    rtx: Option<&mut RtxSource>,
) -> Result<Vec<u8>, Unrepaired> {
    let subscriber = tables.subscribers.get(track).ok_or(Unrepaired::NeverSent)?;
    if subscriber.expires.load(Relaxed) <= boottime_ns() || subscriber.stats().packets == 0 {
        return Err(Unrepaired::NeverSent);
    }
    let last = ExtendedSeq(subscriber.last_index.load(Relaxed));
    let sent = last.estimate(seq).filter(|index| *index <= last).ok_or(Unrepaired::NeverSent)?;
    let index = ExtendedSeq(sent.0.wrapping_sub(subscriber.index_offset));
    if index.0 < subscriber.first_in || index > ExtendedSeq::MAX {
        return Err(Unrepaired::NeverSent);
    }
    let kept = tables.publishers.get(subscriber.from).and_then(|publisher| publisher.kept.as_ref());
    let packet = kept.and_then(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner).find(index).cloned());
    let packet = packet.ok_or(Unrepaired::Missing(index))?;
    let out = outgoing(subscriber, packet.index, &packet.header).map_err(|_| Unrepaired::NeverSent)?;
    out.again(&subscriber.cipher, &packet.payload, rtx).ok_or(Unrepaired::Damaged)
}

fn outgoing(subscriber: &Subscriber, index: ExtendedSeq, header: &RtpHeader) -> Result<Outgoing, Counter> {
    Outgoing::new(&subscriber.track, (subscriber.index_offset, subscriber.first_in), index, header)
}
