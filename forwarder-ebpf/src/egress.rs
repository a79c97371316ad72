//! The way of one copy: next subscriber → rewrite → seal → send.

use aya_ebpf::bindings::xdp_action;
use forwarder_common::{
    Counter, ExtendedSeq, SessionKey,
    maps::{FanoutList, MAX_COPIES, MAX_EGRESS, MAX_PAYLOAD, Pass, SubscriberState, SubscriberTrack},
};

use crate::{
    ahead, counters,
    fanout::{self, PASS_OFFSET, PAYLOAD_OFFSET},
    maps::{self, FANOUT_LISTS, PASSES, SUBSCRIBER_STATE, SUBSCRIBER_TRACKS, lease},
    packet::Frame,
    rewrite, seal, subscriber,
    tower::Tower,
    warm, xmit,
};

/// A drop here is for rare cases: subscribers that are gone leave the fan-out list.
#[inline(always)]
pub fn run(frame: &Frame) -> Result<u32, Counter> {
    xmit::copy_seen();
    copy(frame).inspect_err(|_| xmit::copy_dropped())
}

#[inline(always)]
fn copy(frame: &Frame) -> Result<u32, Counter> {
    const BROKEN: Counter = Counter::DropInternalEgress;
    let id: u64 = frame.read(PASS_OFFSET).ok_or(BROKEN)?;
    let pass = PASSES.get_ptr_mut(fanout::slot(id)).ok_or(BROKEN)?;
    // SAFETY: this CPU's own slot: copies are made on the CPU on which their packet came, and
    // programs of one CPU do not interleave.
    let pass = unsafe { &mut *pass };
    if pass.id != id {
        return Err(BROKEN);
    }
    if pass.finished != 0 {
        // See `direct`: nothing is left to do but what made room for the number.
        return frame.write(PASS_OFFSET, pass.front).map(|()| xdp_action::XDP_PASS).ok_or(BROKEN);
    }
    let (member, last) = next_member(frame, pass).ok_or(BROKEN)?;
    let track = SUBSCRIBER_TRACKS.get(member).ok_or(BROKEN)?;
    let state = SUBSCRIBER_STATE.get_ptr_mut(member).ok_or(BROKEN)?;
    let Err(reason) = copy_for(frame, pass, (member, track), state) else { return Ok(xdp_action::XDP_PASS) };
    counters::subscriber_dropped(state, reason);
    // Of a device's last bulk of 16 frames one must go out, or the kernel leaves out the kick of the
    // device's queue, and the copies before it wait for the next packet (devmap's `bq_xmit_all`:
    // nothing to send, no flush).
    if last && kick(frame, track.session).is_some() {
        counters::add(reason, 1);
        counters::add(Counter::Kicks, 1);
        return Ok(xdp_action::XDP_PASS);
    }
    Err(reason)
}

/// Makes the copy a short frame from us to us, which no host takes: EtherType "local experimental 2".
/// `None`: the session has no path by this device. A function of its own, because it is rare and needs stack.
#[inline(never)]
fn kick(frame: &Frame, session: u32) -> Option<()> {
    const MIN_FRAME: usize = 60;
    let path = subscriber::path(session, frame.egress_ifindex())?;
    let source: [u8; 6] = *path.header[6..].first_chunk()?;
    frame.adjust_tail(MIN_FRAME as i32 - frame.len() as i32)?;
    frame.write(0, [0u8; MIN_FRAME])?;
    frame.write(0, source)?;
    frame.write(6, source)?;
    frame.write(12, [0x88u8, 0xb6])
}

/// The subscriber of this copy, and whether it is the last that leaves by its interface. Copies leave
/// each interface in the order of the list.
#[inline(always)]
fn next_member(frame: &Frame, pass: &mut Pass) -> Option<(u32, bool)> {
    let list: &'static FanoutList = FANOUT_LISTS.get(pass.fanout)?;
    let ifindex = frame.egress_ifindex();
    let mut group = 0;
    while group < MAX_EGRESS {
        if list.groups[group].ifindex == ifindex && (group as u32) < list.groups_len {
            let number = pass.cursor[group];
            pass.cursor[group] = number + 1;
            if number >= list.groups[group].len {
                return None;
            }
            warm::copies(list, pass, list.groups[group].start, number, list.groups[group].len);
            let place = (list.groups[group].start + number) as usize;
            let last = number + 1 == list.groups[group].len;
            return if place < MAX_COPIES { Some((list.members[place], last)) } else { None };
        }
        group += 1;
    }
    None
}

/// Makes the frame the copy of one subscriber.
#[inline(always)]
fn copy_for(
    frame: &Frame,
    pass: &Pass,
    (member, track): (u32, &SubscriberTrack),
    state: *mut SubscriberState,
) -> Result<(), Counter> {
    const BROKEN: Counter = Counter::DropInternalEgress;
    if lease(track.session).ok_or(BROKEN)? <= pass.now_ns {
        return Err(Counter::DropSubscriberExpired);
    }
    if pass.index < track.first_in {
        return Err(Counter::DropBeforeJoin);
    }
    let index = subscriber::outgoing(track, ExtendedSeq(pass.index)).ok_or(BROKEN)?;
    let path = subscriber::path(track.session, frame.egress_ifindex()).ok_or(BROKEN)?;
    let key: &SessionKey = maps::key(track.session).ok_or(BROKEN)?;
    if key.rounds == 0 {
        return Err(BROKEN);
    }
    let timestamp = pass.header.timestamp().wrapping_add(track.timestamp_offset);
    let payload_len = pass.payload_len as usize;
    if payload_len > MAX_PAYLOAD {
        return Err(BROKEN);
    }
    if payload_len > usize::from(path.max_payload) {
        return Err(Counter::DropTooBigForPath);
    }
    let rtp = pass.header.copy_as(track.payload_type, index.seq(), timestamp, track.ssrc);
    rewrite::rewrite(frame, (path, track.ds), rtp, payload_len, PAYLOAD_OFFSET).ok_or(BROKEN)?;
    let ahead = ahead::claim_to_seal(member, &track.keystream, index, payload_len);
    let tower = Tower::of(pass.rows, track.session);
    let sealed = seal::seal(frame, path, key, (track.ssrc, index), rtp, payload_len, ahead, tower);
    if let Some(entry) = ahead {
        entry.release();
    }
    sealed.ok_or(BROKEN)?;
    subscriber::account(state, payload_len, pass.now_ns, index, timestamp);
    Ok(())
}
