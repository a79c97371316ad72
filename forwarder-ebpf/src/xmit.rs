//! What the egress devices took, as far as devmap reports it (native mode only).

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map, programs::RawTracePointContext};
use forwarder_common::Counter;

use crate::counters;

/// Copies that this CPU's egress runs have seen since the last report of a device.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flush {
    pub copies: u32,
    /// Of these, dropped by the egress program.
    pub dropped: u32,
}

#[btf_map]
pub static FLUSH: PerCpuArray<Flush, 1> = PerCpuArray::new();

/// A copy came to the egress program.
#[inline(always)]
pub fn copy_seen() {
    with(|flush| flush.copies += 1);
}

/// It was dropped there.
#[inline(always)]
pub fn copy_dropped() {
    with(|flush| flush.dropped += 1);
}

/// `xdp_devmap_xmit(from_dev, to_dev, sent, drops, err)`.
///
/// The kernel runs the egress program over a device's bulk and reports the bulk right after, on the
/// same CPU. So a report belongs to us if our program has just seen as many copies as it names;
/// bulks of other XDP programs are not counted. The kernel's `drops` includes those of our program.
///
/// Returns how many copies of ours the device has taken: the first so many of those that the program
/// let pass. `None`: the bulk was not ours.
#[inline(always)]
pub fn run(ctx: &RawTracePointContext) -> Option<u32> {
    let (sent, drops): (u32, u32) = (ctx.arg(2), ctx.arg(3));
    let flush = FLUSH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value; programs of one CPU do not interleave.
    let Flush { copies, dropped } = unsafe { flush.replace(Flush { copies: 0, dropped: 0 }) };
    if copies == 0 || copies != sent + drops {
        return None;
    }
    counters::add(Counter::Transmitted, u64::from(sent));
    counters::add(Counter::DropRingFull, u64::from(drops.saturating_sub(dropped)));
    Some(sent)
}

#[inline(always)]
fn with(change: impl FnOnce(&mut Flush)) {
    if let Some(flush) = FLUSH.get_ptr_mut(0) {
        // SAFETY: this CPU's own value; programs of one CPU do not interleave.
        change(unsafe { &mut *flush });
    }
}
