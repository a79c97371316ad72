//! Plaintext for the userspace engine: subscribers that the kernel cannot serve cost one copy of each
//! packet, however many they are.

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_xdp_load_bytes};
use forwarder_common::{
    Counter,
    maps::{MAX_PAYLOAD, TapRecord},
    rtp::FIXED_LEN,
};

use crate::{classify::Rtp, counters, maps::TAPS, open::Opened, packet::Frame};

/// Copies an opened packet, whose track has the number `tap`.
#[inline(always)]
pub fn copy(frame: &Frame, rtp: &Rtp, tap: u32, opened: &Opened, now_ns: u64) {
    let Some(mut record) = TAPS.reserve(0) else {
        counters::add(Counter::TapFull, 1);
        return;
    };
    match fill(frame, rtp, tap, opened, now_ns, record.as_mut_ptr()) {
        Some(()) => {
            counters::add(Counter::Tapped, 1);
            record.submit(0);
        }
        None => record.discard(0),
    }
}

#[inline(always)]
fn fill(frame: &Frame, rtp: &Rtp, tap: u32, opened: &Opened, now_ns: u64, record: *mut TapRecord) -> Option<()> {
    let header: [u8; FIXED_LEN] = frame.read(rtp.offset)?;
    // SAFETY: a reserved record has room for all of it; every field is written before it is submitted,
    // but for the payload's rest, which nobody reads.
    unsafe {
        (*record).tap = tap;
        (*record).payload_len = opened.payload_len as u32;
        (*record).index = opened.index.0;
        (*record).received_ns = now_ns;
        (*record).header = header;
        (*record).cpu = bpf_get_smp_processor_id();
    }
    if opened.payload_len == 0 {
        return Some(());
    }
    // One less, and one more behind the check: verifiers before Linux 6.8 learn nothing from a comparison with 0.
    let last = frame.forget(opened.payload_len - 1);
    if last >= MAX_PAYLOAD {
        return None;
    }
    let len = last + 1;
    let offset = (rtp.offset + opened.header_len) as u32;
    // SAFETY: the payload has room for `len` bytes; the helper checks the frame's bounds.
    let failed =
        unsafe { bpf_xdp_load_bytes(frame.context(), offset, (&raw mut (*record).payload).cast(), len as u32) };
    (failed == 0).then_some(())
}
