//! From one plaintext packet to n clones on their way to the egress program.

use aya_ebpf::{bindings::xdp_action, helpers::generated::bpf_get_smp_processor_id};
use forwarder_common::{
    Counter,
    maps::{MAX_EGRESS, NONE, PASS_SLOTS, Pass, PublisherTrack},
    rtp::{FIXED_LEN, TAG_LEN},
};

use crate::{
    classify::Rtp,
    maps::{FANOUT_LISTS, FANOUTS, PASS_NUMBER, PASSES},
    open::Opened,
    packet::Frame,
};

/// Where the payload starts in the frame between ingress and egress: behind Ethernet, IPv4, UDP and
/// fixed RTP header. What came in longer is cut to this, so each egress run starts from one layout.
pub const PAYLOAD_OFFSET: usize = 14 + 20 + 8 + FIXED_LEN;

/// Where the frame carries the number of its pass: over the Ethernet addresses, which egress writes
/// anew. (XDP metadata would be the natural place, but generic mode loses it, and not every driver
/// has it.)
pub const PASS_OFFSET: usize = 0;

/// `BPF_F_BROADCAST`, alone: `BPF_F_EXCLUDE_INGRESS` would exclude every copy that leaves by the
/// interface on which the packet came.
const BROADCAST: u64 = 8;

/// Who gets a packet.
#[derive(Clone, Copy)]
pub struct Fanout {
    /// Fan-out slot, or [`NONE`].
    pub slot: u32,
    /// Number of subscribers.
    pub copies: u32,
}

/// The fan-out of a track, read once for a packet.
#[inline(always)]
pub fn of(track: &PublisherTrack) -> Result<Fanout, Counter> {
    // SAFETY: an aligned number in a map value; volatile because userspace changes it under us, and
    // list and devmap must belong together.
    let slot = unsafe { core::ptr::read_volatile(&raw const track.fanout) };
    if slot == NONE {
        return Ok(Fanout { slot, copies: 0 });
    }
    let list = FANOUT_LISTS.get_ptr(slot).ok_or(Counter::DropInternalIngress)?;
    // SAFETY: a map value that userspace does not write while a track points to it.
    Ok(Fanout { slot, copies: unsafe { (*list).copies } })
}

/// Sends a clone of the frame to the egress program for each subscriber. `tap`: who is served by userspace has had it.
#[inline(always)]
pub fn send(frame: &Frame, rtp: &Rtp, tap: u32, fanout: Fanout, opened: &Opened, now_ns: u64) -> Result<u32, Counter> {
    if fanout.slot == NONE {
        // Nobody for the kernel to serve. Whoever is served by userspace has had the packet.
        return if tap == 0 { Err(Counter::DropNoSubscriber) } else { Ok(xdp_action::XDP_DROP) };
    }
    if fanout.copies == 0 {
        return Err(Counter::DropNoSubscriber);
    }
    let devmap = FANOUTS.get(fanout.slot).ok_or(Counter::DropInternalIngress)?;

    let id = new_pass(rtp, opened, fanout.slot, now_ns, None).ok_or(Counter::DropInternalIngress)?;
    normalise(frame, rtp, opened).ok_or(Counter::DropInternalIngress)?;
    frame.write(PASS_OFFSET, id).ok_or(Counter::DropInternalIngress)?;
    devmap.redirect(0, BROADCAST).map_err(|_| Counter::DropInternalIngress)
}

/// Sends a frame that is its only subscriber's packet already, past the egress program. `None`: the fan-out is broken.
#[inline(always)]
pub fn send_finished(frame: &Frame, rtp: &Rtp, opened: &Opened, fanout: Fanout, now_ns: u64) -> Option<u32> {
    let devmap = FANOUTS.get(fanout.slot)?;
    let front: u64 = frame.read(PASS_OFFSET)?;
    let id = new_pass(rtp, opened, fanout.slot, now_ns, Some(front))?;
    frame.write(PASS_OFFSET, id)?;
    devmap.redirect(0, 0).ok()
}

/// Opens the next pass of this CPU and returns its number.
///
/// Slots are taken in turn. One may be used again although nobody frees it: copies wait for their
/// egress run in a queue per device that the kernel flushes at 16 frames and at the end of each poll,
/// so far fewer passes than `PASS_SLOTS` can have copies that wait. If that ever failed, a copy with
/// this packet's payload would be sealed under another packet's index, which must not happen at any
/// price: so the frame carries the whole number, and egress refuses a slot that has another one.
#[inline(always)]
fn new_pass(rtp: &Rtp, opened: &Opened, fanout: u32, now_ns: u64, finished: Option<u64>) -> Option<u64> {
    const COUNT_BITS: u32 = 48;
    let number = PASS_NUMBER.get_ptr_mut(0)?;
    // SAFETY: this CPU's own number; programs of one CPU do not interleave.
    let count = unsafe {
        *number += 1;
        *number & ((1 << COUNT_BITS) - 1)
    };
    // SAFETY: a plain helper call.
    let id = u64::from(unsafe { bpf_get_smp_processor_id() }) << COUNT_BITS | count;
    let pass = PASSES.get_ptr_mut(slot(id))?;
    // SAFETY: this CPU's own slot, see above.
    unsafe {
        *pass = Pass {
            id,
            now_ns,
            index: opened.index.0,
            fanout,
            payload_len: opened.payload_len as u32,
            header: rtp.header,
            cursor: [0; MAX_EGRESS],
            rows: opened.rows,
            finished: finished.is_some().into(),
            front: finished.unwrap_or(0),
        };
    }
    Some(id)
}

/// Slot of `PASSES` that a pass uses.
#[inline(always)]
pub fn slot(id: u64) -> u32 {
    id as u32 & (PASS_SLOTS as u32 - 1)
}

/// Cuts the frame so that the payload starts at `PAYLOAD_OFFSET` and only room for a tag follows.
#[inline(always)]
fn normalise(frame: &Frame, rtp: &Rtp, opened: &Opened) -> Option<()> {
    let end = rtp.offset + opened.header_len + opened.payload_len + TAG_LEN;
    let surplus = frame.len() as i32 - end as i32;
    if surplus > 0 {
        frame.adjust_tail(-surplus)?;
    }
    let front = (rtp.offset + opened.header_len) as i32 - PAYLOAD_OFFSET as i32;
    if front > 0 {
        frame.adjust_head(front)?;
    }
    Some(())
}
