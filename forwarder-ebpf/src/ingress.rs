//! The way of a packet from the network to the program that opens it.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use forwarder_common::{
    Counter,
    maps::{PublisherState, PublisherTrack, program},
};

use crate::{
    classify::{Rtp, classify},
    counters, direct, fanout,
    handover::Media,
    maps::{FLOWS, PUBLISHER_STATE, PUBLISHER_TRACKS},
    open,
    packet::Frame,
};

#[inline(always)]
pub fn run(frame: &Frame) -> Result<u32, Counter> {
    let (rtp, flow) = classify(frame)?;
    // SAFETY: the value is an aligned number that is read and written whole. An entry that userspace
    // deletes may be used again at once, so the number may be that of another flow; then the track's
    // key is another one too, and the packet fails its authentication.
    let slot = unsafe { FLOWS.get(flow) }.copied().ok_or(Counter::PassUnknownSsrc)?;
    let track = PUBLISHER_TRACKS.get_ptr(slot).ok_or(Counter::DropInternalIngress)?;
    let state = PUBLISHER_STATE.get_ptr_mut(slot).ok_or(Counter::DropInternalIngress)?;
    media(frame, rtp, (slot, track), state).inspect_err(|reason| counters::publisher_dropped(state, *reason))
}

/// A packet of a publisher's SSRC.
#[inline(always)]
fn media(
    frame: &Frame,
    rtp: Rtp,
    (slot, track): (u32, *const PublisherTrack),
    state: *mut PublisherState,
) -> Result<u32, Counter> {
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: both are values of maps that live as long as this program. Userspace writes a track only
    // while no flow leads to it, except `fanout`, `keystream` and `tap`, each of which is read once for a packet:
    // the first and the last below, `keystream` by the program that opens it.
    let (track, shared) = unsafe { (&*track, &*state) };
    if track.diverted != 0 {
        // SAFETY: a map value that lives as long as this program.
        counters::shared_add(unsafe { &raw mut (*state).packets }, 1);
        return Err(Counter::PassDiverted);
    }
    let fanout = fanout::of(track)?;
    // SAFETY: an aligned number in a map value; volatile because userspace changes it under us.
    let tap = unsafe { core::ptr::read_volatile(&raw const track.tap) };
    let admitted = open::admit(frame, &rtp, track, &shared.replay, now_ns)?;
    let media = Media { rtp, admitted, slot, fanout, tap, now_ns };
    if direct::fits(&media) && !open::is_other(&rtp, track) {
        media.pass_on(frame, program::DIRECT);
    }
    media.pass_on(frame, program::FORWARD);
    // Both come back only if there is no such program, and the second one always is.
    Err(Counter::DropInternalIngress)
}
