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

type Ring = Array<[Entry; 1], 1, { MMAPABLE | INNER_MAP }>;

/// The entry at a place of a ring.
#[inline(always)]
pub fn entry(ring: &'static Ring, place: u32) -> Option<&'static Entry> {
    ring.get(place).map(|[entry]| entry)
}

/// The entry of an index, taken.
///
/// `entries` is where to look first: what the track says lies in a line of memory that has been read
/// already, what the ring says does not. While a ring changes its size the track may be late, and names
/// another place. There lies another index, which cannot be claimed; then the ring is asked.
#[inline(always)]
fn claim(ring: Option<&'static Ring>, entries: u32, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    if payload_len > FAST_PAYLOAD {
        return None;
    }
    let ring = ring?;
    let first = (index.0 % u64::from(entries)) as u32;
    if let Some(entry) = entry(ring, first).filter(|entry| entry.claim(index, payload_len)) {
        return Some(entry);
    }
    let place = entry(ring, 0)?.place_of(index)?;
    if place == first {
        return None;
    }
    entry(ring, place).filter(|entry| entry.claim(index, payload_len))
}

/// Entries of a track's ring. `None`: it has been given none, and then it does not count as an underrun that
/// there is no keystream.
#[inline(always)]
fn ring_of(entries: &u32) -> Option<u32> {
    // SAFETY: an aligned number in a map value; volatile because userspace changes it under us.
    let entries = unsafe { core::ptr::read_volatile(entries) };
    (entries != 0).then_some(entries)
}

/// Takes the entry of a publisher's packet. `None`: it is opened by AES.
#[inline(always)]
pub fn claim_to_open(slot: u32, entries: &u32, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    let entry = try_to_open(slot, entries, index, payload_len);
    if entry.is_none() && ring_of(entries).is_some() {
        counters::add(Counter::KeystreamUnderrunOpen, 1);
    }
    entry
}

/// The same for who has another way without it: that is no underrun yet.
#[inline(always)]
pub fn try_to_open(slot: u32, entries: &u32, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    claim(PUBLISHER_KEYSTREAMS.get(slot), ring_of(entries)?, index, payload_len)
}

/// Takes the entry of a subscriber's copy. `None`: it is sealed by AES.
#[inline(always)]
pub fn claim_to_seal(slot: u32, entries: &u32, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    let entry = try_to_seal(slot, entries, index, payload_len);
    if entry.is_none() && ring_of(entries).is_some() {
        counters::add(Counter::KeystreamUnderrun, 1);
    }
    entry
}

/// The same for who has another way without it: that is no underrun yet.
#[inline(always)]
pub fn try_to_seal(slot: u32, entries: &u32, index: ExtendedSeq, payload_len: usize) -> Option<&'static Entry> {
    claim(SUBSCRIBER_KEYSTREAMS.get(slot), ring_of(entries)?, index, payload_len)
}

/// Tells the producer how far and how long the packets of a publisher track are. Wakes it, once, when they
/// reach the index that it has set, or are longer than its entries.
#[inline(always)]
pub fn wake(slot: u32, index: ExtendedSeq, payload_len: usize) {
    let Some(window) = WINDOWS.get_ptr_mut(slot) else { return };
    // SAFETY: aligned numbers in a map value, which userspace changes by atomic operations only. Two CPUs
    // that serve one SSRC at once may leave one of them a packet low: the next one mends that.
    let [low, highest, longest, served] = unsafe {
        [&raw mut (*window).low, &raw mut (*window).highest, &raw mut (*window).longest, &raw mut (*window).served]
            .map(|number| core::sync::atomic::AtomicU64::from_ptr(number))
    };
    if index.0 > atomic::load(highest) {
        atomic::store(highest, index.0);
    }
    let len = payload_len.min(FAST_PAYLOAD) as u64;
    if len > atomic::load(longest) {
        atomic::store(longest, len);
    }
    let at = atomic::load(low);
    if (index.0 >= at || (len > atomic::load(served) && at != u64::MAX)) && atomic::compare_exchange(low, at, u64::MAX)
    {
        // The buffer has room for one record of each track, and a track has one at a time.
        let _ = KEYSTREAM_LOW.output(KeystreamLow { track: slot, reserved: 0 }, 0);
    }
}
