//! Reads what the next copies need, all at once, so that their waits for memory overlap.
//!
//! What belongs to one subscriber has left the cache by the time of the next packet, or was written by
//! another CPU, as keystream was. A copy that finds its data piece by piece waits for each piece, and the
//! compare-and-swap on its entry keeps the processor from reading ahead. There is no instruction for that
//! in BPF; but a load whose value nobody wants is waited for by nobody, so a few copies' worth of them
//! costs little more than the slowest.
//!
//! Nothing that is read here is used: what counts is read again, where it is claimed.

use core::{ffi::c_void, ptr::read_volatile};

use aya_ebpf::helpers::generated::bpf_loop;
use forwarder_common::{
    keystream::{ROOM, STEP},
    maps::{FanoutList, MAX_COPIES, Pass},
    rtp::TAG_LEN,
};

use crate::{
    ahead,
    maps::{self, SESSIONS, SUBSCRIBER_KEYSTREAMS, SUBSCRIBER_STATE, SUBSCRIBER_TRACKS},
};

/// Copies that are prepared together: as many as a device's queue makes at once.
const TOGETHER: u32 = 16;

#[repr(C)]
struct Walk {
    list: &'static FanoutList,
    first: u32,
    /// Groups of blocks in a payload.
    groups: u32,
    /// Incoming.
    index: u64,
}

/// Before copy `number` of the `len` whose places in the list begin at `start`.
#[inline(always)]
pub fn copies(list: &'static FanoutList, pass: &Pass, start: u32, number: u32, len: u32) {
    if !number.is_multiple_of(TOGETHER) {
        return;
    }
    let count = (len - number).min(TOGETHER);
    let groups = (pass.payload_len as usize).div_ceil(TAG_LEN * STEP) as u32;
    let mut walk = Walk { list, first: start + number, groups, index: pass.index };
    // SAFETY: `touch` is a function of this program with the signature that the helper calls, and `walk`
    // outlives the call.
    unsafe { bpf_loop(count, touch as *mut c_void, (&raw mut walk).cast(), 0) };
}

/// Loads for one copy.
unsafe extern "C" fn touch(n: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `copies` passes its own walk.
    let walk = unsafe { &*walk };
    let place = (walk.first + n) as usize;
    if place >= MAX_COPIES {
        return 1;
    }
    let member = walk.list.members[place];
    let Some(track) = SUBSCRIBER_TRACKS.get(member) else { return 1 };
    // SAFETY (all below): values of maps, read as integers.
    let entries = unsafe { read_volatile(&track.keystream) };
    let session = track.session;
    if let Some(state) = SUBSCRIBER_STATE.get_ptr(member) {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*state).packets) };
    }
    if let Some(session) = SESSIONS.get_ptr(session) {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*session).path) };
    }
    if let Some(key) = maps::key(session) {
        // SAFETY: as above.
        unsafe { read_volatile(&key.rounds) };
    }
    if let Some(table) = maps::tower(session) {
        // SAFETY: as above.
        unsafe { read_volatile(&table.0[0][0]) };
    }
    if entries == 0 {
        return 0;
    }
    let index = walk.index.wrapping_add(track.index_offset);
    let place = (index % u64::from(entries)) as u32;
    let Some(entry) = SUBSCRIBER_KEYSTREAMS.get(member).and_then(|ring| ahead::entry(ring, place)) else { return 0 };
    entry.blocks();
    let mut group = 0;
    while group < ROOM / STEP && group < walk.groups as usize {
        // SAFETY: as above.
        unsafe { read_volatile(&entry.keystream[group * STEP][0]) };
        group += 1;
    }
    0
}
