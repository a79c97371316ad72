//! Every verdict is counted, once, here.

use core::sync::atomic::AtomicU64;

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use aya_log_ebpf::error;
use forwarder_common::{
    Counter, atomic,
    counter::Kind,
    maps::{PublisherState, SubscriberState, publisher_drop, subscriber_drop},
};

use crate::maps::COUNTERS;

/// Turns the outcome of a program into the XDP action, and counts what ended a packet's way.
#[inline(always)]
pub fn verdict(ctx: &XdpContext, outcome: Result<u32, Counter>) -> u32 {
    match outcome {
        Ok(action) => action,
        Err(reason) => {
            let count = add(reason, 1);
            // Maps that contradict each other are a bug of ours: say so, but less and less often.
            if matches!(reason, Counter::DropInternalIngress | Counter::DropInternalEgress) && count.is_power_of_two() {
                error!(ctx, "internal drop, counter {}: {} so far on this CPU", reason as u32, count);
            }
            match reason.kind() {
                Kind::Pass => xdp_action::XDP_PASS,
                Kind::Drop | Kind::Work => xdp_action::XDP_DROP,
            }
        }
    }
}

/// Adds `n` to this CPU's `counter` and returns what it is then.
#[inline(always)]
pub fn add(counter: Counter, n: u64) -> u64 {
    let Some(value) = COUNTERS.get_ptr_mut(counter as u32) else { return 0 };
    // SAFETY: the lookup gave this CPU's own slot, and programs of one CPU do not interleave.
    unsafe {
        *value += n;
        *value
    }
}

/// Adds `n` to a number in a map value that several CPUs write.
#[inline(always)]
pub fn shared_add(value: *mut u64, n: u64) {
    // SAFETY: callers pass the address of an aligned `u64` within a map value that they looked up;
    // the datapath changes it by this function only.
    atomic::add(unsafe { AtomicU64::from_ptr(value) }, n);
}

/// Counts a drop for its incoming SSRC too.
#[inline(always)]
pub fn publisher_dropped(state: *mut PublisherState, reason: Counter) {
    if let Some(i) = publisher_drop(reason) {
        // SAFETY: `state` is a map value that the caller looked up; the index is within its list.
        shared_add(unsafe { &raw mut (*state).drops[i] }, 1);
    }
}

/// Counts a drop for its outgoing SSRC too.
#[inline(always)]
pub fn subscriber_dropped(state: *mut SubscriberState, reason: Counter) {
    if let Some(i) = subscriber_drop(reason) {
        // SAFETY: `state` is a map value that the caller looked up; the index is within its list.
        shared_add(unsafe { &raw mut (*state).drops[i] }, 1);
    }
}
