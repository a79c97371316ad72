//! What an incoming packet becomes for one subscriber.

use std::sync::{PoisonError, atomic::Ordering::Relaxed};

use forwarder_common::{Counter, ExtendedSeq, RtpHeader, rtp::FIXED_LEN};

use super::tables::{Subscriber, Tables};
use crate::{clock::boottime_ns, transmit::Transmitter};

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
    let out = Outgoing::new(subscriber, index, header)?;
    let len = FIXED_LEN + payload.len() + subscriber.cipher.tag_len();
    let Some(room) = transmitter.reserve(&subscriber.destination, len) else { return Ok(()) };
    if !out.write(subscriber, payload, room) {
        transmitter.cancel();
        return Err(Counter::DropInternalEgress);
    }
    subscriber.account(payload.len(), out.index, out.timestamp, now_ns);
    Ok(())
}

/// The packet that a subscriber's track has sent under a sequence number, as its viewer lost it.
///
/// It is the same to the byte, so that the one index has one plaintext still: an incoming index is kept once,
/// when the replay list accepts it, with the header and payload that are sealed for all subscribers, and never
/// changed after; and what `Outgoing` makes of them follows from them and from values that are fixed for the
/// life of the track. Indices that the track has not sent yet are refused, and those that its SSRC had used
/// under other offsets lie below `first_in`.
pub(super) fn seal_again(tables: &Tables, track: u32, seq: u16) -> Option<Vec<u8>> {
    let subscriber = tables.subscribers.get(track)?;
    let kept = tables.publishers.get(subscriber.from)?.kept.as_ref()?;
    if subscriber.expires.load(Relaxed) <= boottime_ns() {
        return None;
    }
    if subscriber.stats().packets == 0 {
        return None;
    }
    let last = ExtendedSeq(subscriber.last_index.load(Relaxed));
    let sent = last.estimate(seq).filter(|index| *index <= last)?;
    let index = ExtendedSeq(sent.0.wrapping_sub(subscriber.index_offset));
    let packet = kept.lock().unwrap_or_else(PoisonError::into_inner).find(index)?.clone();
    let out = Outgoing::new(subscriber, packet.index, &packet.header).ok()?;
    let mut room = vec![0; FIXED_LEN + packet.payload.len() + subscriber.cipher.tag_len()];
    out.write(subscriber, &packet.payload, &mut room).then_some(room)
}

/// What an incoming packet becomes for one subscriber: a function of the packet and of what is fixed for the
/// life of the subscriber's track.
struct Outgoing {
    index: ExtendedSeq,
    timestamp: u32,
    header: [u32; 3],
}

impl Outgoing {
    fn new(subscriber: &Subscriber, index: ExtendedSeq, header: &RtpHeader) -> Result<Self, Counter> {
        if index.0 < subscriber.first_in {
            return Err(Counter::DropBeforeJoin);
        }
        let index = ExtendedSeq(index.0.wrapping_add(subscriber.index_offset));
        if index > ExtendedSeq::MAX {
            return Err(Counter::DropInternalEgress);
        }
        let track = &subscriber.track;
        let timestamp = header.timestamp().wrapping_add(track.timestamp_offset);
        let header = header.copy_as(track.payload_type, index.seq(), timestamp, track.ssrc);
        Ok(Self { index, timestamp, header })
    }

    /// Fills `room`, which is as long as the packet. `false`: it is not.
    fn write(&self, subscriber: &Subscriber, payload: &[u8], room: &mut [u8]) -> bool {
        for (place, word) in room.chunks_exact_mut(4).zip(self.header) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        subscriber.cipher.seal_rtp(room, FIXED_LEN, payload, subscriber.track.ssrc, self.index)
    }
}
