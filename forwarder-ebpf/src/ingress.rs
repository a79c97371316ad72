//! The way of a packet from the network to its copies.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use forwarder_common::{
    Counter,
    maps::{PublisherState, PublisherTrack},
};

use crate::{
    ahead,
    classify::{Rtp, classify},
    counters, direct, fanout,
    maps::{DIRECT, FLOWS, PUBLISHER_STATE, PUBLISHER_TRACKS},
    open,
    packet::Frame,
    tap,
};

#[inline(always)]
pub fn run(frame: &Frame) -> Result<u32, Counter> {
    let rtp = classify(frame)?;
    // SAFETY: the value is an aligned number that is read and written whole. An entry that userspace
    // deletes may be used again at once, so the number may be that of another flow; then the track's
    // key is another one too, and the packet fails its authentication.
    let slot = unsafe { FLOWS.get(&rtp.flow) }.copied().ok_or(Counter::PassUnknownSsrc)?;
    let track = PUBLISHER_TRACKS.get_ptr(slot).ok_or(Counter::DropInternalIngress)?;
    let state = PUBLISHER_STATE.get_ptr_mut(slot).ok_or(Counter::DropInternalIngress)?;
    media(frame, &rtp, (slot, track), state).inspect_err(|reason| counters::publisher_dropped(state, *reason))
}

/// A packet of a publisher's SSRC.
#[inline(always)]
fn media(
    frame: &Frame,
    rtp: &Rtp,
    (slot, track): (u32, *const PublisherTrack),
    state: *mut PublisherState,
) -> Result<u32, Counter> {
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: both are values of maps that live as long as this program. Userspace writes a track only
    // while no flow leads to it, except `fanout`, `keystream` and `tap`, each of which is read once, below.
    let (track, shared) = unsafe { (&*track, &*state) };
    let fanout = fanout::of(track)?;
    // SAFETY: an aligned number in a map value; volatile because userspace changes it under us.
    let tap = unsafe { core::ptr::read_volatile(&raw const track.tap) };
    let admitted = open::admit(frame, rtp, track, &shared.replay, now_ns)?;
    let ahead = ahead::claim_to_open(slot, &track.keystream, admitted.index, admitted.payload_len);
    let direct = match ahead {
        Some(entry) if tap == 0 && DIRECT.load() != 0 => {
            direct::find(frame, fanout, track.session, &admitted, entry, now_ns)
        }
        _ => None,
    };
    let opened = match &direct {
        Some(direct) => direct.open(frame, rtp, &admitted, &shared.replay)?,
        None => open::open(frame, rtp, track.session, fanout.copies, &admitted, ahead, &shared.replay)?,
    };
    ahead::wake(slot, opened.index, opened.payload_len);
    open::account(state, track, rtp, &opened, now_ns);
    if let Some(direct) = direct
        && let Some(action) = direct.send(frame, rtp, &opened, fanout, now_ns)?
    {
        return Ok(action);
    }
    if tap != 0 {
        tap::copy(frame, rtp, tap, &opened, now_ns);
    }
    fanout::send(frame, rtp, track, fanout, &opened, now_ns)
}
