//! What both ways of a copy need of its subscriber: `egress` and `direct`.

use forwarder_common::{
    Counter, ExtendedSeq,
    maps::{NONE, Path, SubscriberState, SubscriberTrack},
};

use crate::{
    counters::{self, shared_add},
    maps::{PATHS, SESSIONS},
};

/// The index that a packet has for a subscriber. `None`: there is none that its key may still use.
///
/// One outgoing index never carries two plaintexts under one key and SSRC:
/// - the replay list lets each incoming index through once, so one packet has it, and serves each member of its list
///   once;
/// - the offset is fixed for the life of the track, so outgoing indices differ as incoming ones do;
/// - the indices that the SSRC had used before, from another source, lie below `first_in`, which the callers check;
/// - one track at a time uses the SSRC, and nobody else seals media under the session's key.
#[inline(always)]
pub fn outgoing(track: &SubscriberTrack, incoming: ExtendedSeq) -> Option<ExtendedSeq> {
    let index = ExtendedSeq(incoming.0.wrapping_add(track.index_offset));
    (index <= ExtendedSeq::MAX).then_some(index)
}

/// Path of a session, if it leads by the interface of its copy. (It does not in the moment in which
/// a peer moves from one interface to another.)
#[inline(always)]
pub fn path(session: u32, ifindex: u32) -> Option<&'static Path> {
    let session = SESSIONS.get_ptr(session)?;
    // SAFETY: an aligned number in a map value; volatile because userspace changes it under us.
    let slot = unsafe { core::ptr::read_volatile(&raw const (*session).path) };
    if slot == NONE {
        return None;
    }
    let path = PATHS.get(slot)?;
    (path.egress_ifindex == ifindex).then_some(path)
}

/// What the sender reports say. Packets and bytes are exact; the last copy's data may be off by one
/// packet while two CPUs serve one SSRC.
#[inline(always)]
pub fn account(state: *mut SubscriberState, payload_len: usize, now_ns: u64, index: ExtendedSeq, timestamp: u32) {
    counters::add(Counter::Sealed, 1);
    counters::add(Counter::SealedBytes, payload_len as u64);
    // SAFETY: `state` is a map value that lives as long as this program; all fields are integers.
    unsafe {
        shared_add(&raw mut (*state).packets, 1);
        shared_add(&raw mut (*state).octets, payload_len as u64);
        (*state).last_index = index.0;
        (*state).last_timestamp = timestamp;
        (*state).last_sent_ns = now_ns;
    }
}
