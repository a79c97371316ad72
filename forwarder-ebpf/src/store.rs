//! Keeps packets for viewers who lose some: `forwarder_common::store`.
//!
//! Once for a packet, whoever opens it, and however many viewers it has: the bytes that lie in the frame, which are
//! read already, go to memory that nobody waits for.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_load_bytes};
use forwarder_common::{
    Counter,
    store::{ROOM, Range, Stored},
};

use crate::{classify::Rtp, counters, maps::STORES, packet::Frame};

/// What became of the payload when a packet is kept.
#[derive(Clone, Copy)]
pub enum Form {
    /// As it came.
    Sealed = 0,
    /// In the clear, and the tag behind it as it came.
    Opened = 1,
}

/// Keeps an authentic packet with the incoming index `index`, whose track has `store`. After the replay list has
/// accepted it, so nobody else brings this index.
#[inline(always)]
pub fn keep(frame: &Frame, rtp: &Rtp, store: &u32, index: u64, form: Form, now_ns: u64) {
    // SAFETY: an aligned number in a map value; volatile because userspace changes it under us.
    let store = unsafe { core::ptr::read_volatile(store) };
    if store == 0 {
        return;
    }
    let span = rtp.offset as u64 | (rtp.len as u64) << 16 | (form as u64) << 32;
    if store_keep(frame.context(), store, index, span, now_ns) != 0 {
        counters::add(Counter::NotKept, 1);
    }
}

/// Global to the verifier, as the functions of `gcm` are. Not 0: the packet is too long, or there is no such chunk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn store_keep(ctx: *mut xdp_md, store: u32, index: u64, span: u64, now_ns: u64) -> u32 {
    if try_keep(ctx, store, index, span, now_ns).is_some() { 0 } else { 1 }
}

#[inline(always)]
fn try_keep(ctx: *mut xdp_md, store: u32, index: u64, span: u64, now_ns: u64) -> Option<()> {
    let (chunk, place) = Range::unpack(store)?.place(index);
    let stored: *mut Stored = STORES.get(chunk)?.get_ptr_mut(place)?.cast();
    let (offset, len) = (span & 0xffff, (span >> 16 & 0xffff) as usize);
    // One less, and one more behind the check, as in `tap`.
    let last = Frame::of(ctx).forget(len.wrapping_sub(1));
    if last >= ROOM {
        return None;
    }
    let len = last + 1;
    // SAFETY: a value of a map. Another CPU may write it at the same time, and userspace may read it: whoever reads
    // finds out whether it is a packet of the publisher's.
    unsafe {
        // A late packet does not take the place of a newer one.
        if (*stored).number > index {
            return Some(());
        }
        (*stored).number = 0;
        (*stored).received_ns = now_ns;
        (*stored).len = len as u32;
        (*stored).opened = (span >> 32) as u32;
        let failed = bpf_xdp_load_bytes(ctx, offset as u32, (&raw mut (*stored).bytes).cast(), len as u32);
        if failed != 0 {
            return None;
        }
        (*stored).number = index + 1;
    }
    Some(())
}
