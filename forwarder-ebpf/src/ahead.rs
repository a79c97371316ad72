//! Keystream ahead of time, the consumer's side. The protocol: `forwarder_common::keystream`.

use forwarder_common::{
    Counter, ExtendedSeq, atomic,
    keystream::{Entry, FAST_PAYLOAD},
    maps::KeystreamLow,
};

use crate::{
    counters,
    maps::{KEYSTREAM_LOW, PUBLISHER_KEYSTREAMS, SUBSCRIBER_KEYSTREAMS, WINDOWS},
};

/// Where an index's entry lies, if the track has a ring and the payload fits an entry.
#[inline(always)]
fn place(entries: &u32, index: ExtendedSeq) -> Option<u32> {
    // SAFETY: an aligned number in a map value; volatile because userspace changes it under us. An old
    // number leads to an entry of another index, which is not claimed.
    match unsafe { core::ptr::read_volatile(entries) } {
        0 => None,
        entries => Some((index.0 % u64::from(entries)) as u32),
    }
}

/// Takes the entry of a publisher's packet. `None`: it is opened by AES.
#[inline(always)]
pub fn claim_to_open(slot: u32, entries: &u32, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    let place = place(entries, index)?;
    let entry = PUBLISHER_KEYSTREAMS.get_value(slot, &place).filter(|_| payload_len <= FAST_PAYLOAD);
    let entry = entry.filter(|entry| entry.claim(index));
    if entry.is_none() {
        counters::add(Counter::KeystreamUnderrunOpen, 1);
    }
    entry
}

/// Takes the entry of a subscriber's copy. `None`: it is sealed by AES.
#[inline(always)]
pub fn claim_to_seal(slot: u32, entries: &u32, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    let place = place(entries, index)?;
    let entry = SUBSCRIBER_KEYSTREAMS.get_value(slot, &place).filter(|_| payload_len <= FAST_PAYLOAD);
    let entry = entry.filter(|entry| entry.claim(index));
    if entry.is_none() {
        counters::add(Counter::KeystreamUnderrun, 1);
    }
    entry
}

/// Wakes the producer, once, when a publisher track's packets reach the index that it has set.
#[inline(always)]
pub fn wake(slot: u32, index: ExtendedSeq) {
    let Some(window) = WINDOWS.get_ptr_mut(slot) else { return };
    // SAFETY: an aligned number in a map value, changed by atomic operations only.
    let low = unsafe { core::sync::atomic::AtomicU64::from_ptr(&raw mut (*window).low) };
    let at = atomic::load(low);
    if index.0 >= at && atomic::compare_exchange(low, at, u64::MAX) {
        // The buffer has room for one record of each track, and a track has one at a time.
        let _ = KEYSTREAM_LOW.output(KeystreamLow { track: slot, reserved: 0, index: index.0 }, 0);
    }
}
