//! Keystream ahead of time, the consumer's side. The protocol: `forwarder_common::keystream`.

use aya_ebpf::btf_maps::Array;
use forwarder_common::{
    Counter, ExtendedSeq, atomic,
    keystream::{Entry, FAST_PAYLOAD},
    maps::KeystreamLow,
};

use crate::{
    counters,
    maps::{INNER_MAP, KEYSTREAM_LOW, MMAPABLE, PUBLISHER_KEYSTREAMS, SUBSCRIBER_KEYSTREAMS, WINDOWS},
};

type Ring = Array<Entry, 1, { MMAPABLE | INNER_MAP }>;

/// The entry of an index, taken.
#[inline(always)]
fn claim(ring: Option<&'static Ring>, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    if payload_len > FAST_PAYLOAD {
        return None;
    }
    let ring = ring?;
    let place = ring.get(0)?.place_of(index)?;
    ring.get(place).filter(|entry| entry.claim(index))
}

/// Has a track been given a ring? Else it does not count as an underrun that there is no keystream.
#[inline(always)]
fn has_ring(entries: &u32) -> bool {
    // SAFETY: an aligned number in a map value; volatile because userspace changes it under us.
    unsafe { core::ptr::read_volatile(entries) != 0 }
}

/// Takes the entry of a publisher's packet. `None`: it is opened by AES.
#[inline(always)]
pub fn claim_to_open(slot: u32, entries: &u32, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    if !has_ring(entries) {
        return None;
    }
    let entry = claim(PUBLISHER_KEYSTREAMS.get(slot), index, payload_len);
    if entry.is_none() {
        counters::add(Counter::KeystreamUnderrunOpen, 1);
    }
    entry
}

/// Takes the entry of a subscriber's copy. `None`: it is sealed by AES.
#[inline(always)]
pub fn claim_to_seal(slot: u32, entries: &u32, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    let entry = try_to_seal(slot, entries, index, payload_len);
    if entry.is_none() && has_ring(entries) {
        counters::add(Counter::KeystreamUnderrun, 1);
    }
    entry
}

/// The same for who has another way without it: that is no underrun yet.
#[inline(always)]
pub fn try_to_seal(slot: u32, entries: &u32, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    if !has_ring(entries) {
        return None;
    }
    claim(SUBSCRIBER_KEYSTREAMS.get(slot), index, payload_len)
}

/// Wakes the producer, once, when a publisher track's packets reach the index that it has set.
#[inline(always)]
pub fn wake(slot: u32, index: ExtendedSeq) {
    let Some(window) = WINDOWS.get_ptr_mut(slot) else { return };
    // SAFETY: an aligned number in a map value, written here alone while the track lives. Two CPUs that
    // serve one SSRC at once may leave it a packet low: the next one mends that.
    let highest = unsafe { core::sync::atomic::AtomicU64::from_ptr(&raw mut (*window).highest) };
    if index.0 > atomic::load(highest) {
        atomic::store(highest, index.0);
    }
    // SAFETY: an aligned number in a map value, changed by atomic operations only.
    let low = unsafe { core::sync::atomic::AtomicU64::from_ptr(&raw mut (*window).low) };
    let at = atomic::load(low);
    if index.0 >= at && atomic::compare_exchange(low, at, u64::MAX) {
        // The buffer has room for one record of each track, and a track has one at a time.
        let _ = KEYSTREAM_LOW.output(KeystreamLow { track: slot, reserved: 0 }, 0);
    }
}
