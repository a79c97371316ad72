//! From a packet that ingress has admitted to its copies: opened in the frame, and cloned for everybody.

use forwarder_common::{
    Counter,
    maps::{PublisherState, PublisherTrack},
};

use crate::{
    ahead, arrivals, counters, fanout,
    handover::Media,
    maps::{PUBLISHER_STATE, PUBLISHER_TRACKS},
    open,
    packet::Frame,
    store, tap,
};

#[inline(always)]
pub fn run(frame: &Frame) -> Result<u32, Counter> {
    let media = Media::take().ok_or(Counter::DropInternalIngress)?;
    let track = PUBLISHER_TRACKS.get_ptr(media.slot).ok_or(Counter::DropInternalIngress)?;
    let state = PUBLISHER_STATE.get_ptr_mut(media.slot).ok_or(Counter::DropInternalIngress)?;
    forward(frame, &media, track, state).inspect_err(|reason| counters::publisher_dropped(state, *reason))
}

#[inline(always)]
fn forward(
    frame: &Frame,
    media: &Media,
    track: *const PublisherTrack,
    state: *mut PublisherState,
) -> Result<u32, Counter> {
    // SAFETY: as in `ingress`.
    let (track, shared) = unsafe { (&*track, &*state) };
    let Media { rtp, admitted, slot, fanout, .. } = media;
    let ahead = ahead::claim_to_open(*slot, &track.keystream, admitted.index, admitted.payload_len);
    let mut opened = open::open(frame, rtp, track.session, fanout.copies, admitted, ahead, &shared.replay)?;
    // Read once more, which is cheaper than to keep it: the stack is for the cipher.
    let Media { rtp, slot, fanout, tap, now_ns, .. } = &Media::take().ok_or(Counter::DropInternalIngress)?;
    ahead::wake(*slot, opened.index, opened.payload_len);
    open::account(state, track, rtp, &opened, *now_ns);
    arrivals::note(frame, rtp, track, *slot, *now_ns);
    if open::is_other(rtp, track) {
        // Not kept: what is sent again under an index must be what was sent.
        open::other(state, rtp);
        opened.empty();
    } else {
        store::keep(frame, rtp, &track.store, opened.index.0, store::Form::Opened, *now_ns);
    }
    if *tap != 0 {
        tap::copy(frame, rtp, *tap, &opened, *now_ns);
    }
    fanout::send(frame, rtp, *tap, *fanout, &opened, *now_ns)
}
