//! A packet on its way from one program to the next.
//!
//! Ingress finds out whose packet it is and what may be said without a key; another program opens it. So each is small
//! enough for every kernel's verifier, and has the stack for itself. A tail call keeps nothing but the frame: what
//! ingress knows waits in a map of this CPU.

use aya_ebpf::helpers::generated::bpf_tail_call;
use forwarder_common::{ExtendedSeq, maps::Handover};

use crate::{
    classify::Rtp,
    fanout::Fanout,
    maps::{HANDOVER, PROGRAMS},
    open::Admitted,
    packet::Frame,
};

/// A packet that may be opened, and who gets it.
#[derive(Clone, Copy)]
pub struct Media {
    pub rtp: Rtp,
    pub admitted: Admitted,
    /// Of its publisher track.
    pub slot: u32,
    pub fanout: Fanout,
    /// Number of the track's tap, or 0.
    pub tap: u32,
    /// When it arrived, ns of CLOCK_BOOTTIME.
    pub now_ns: u64,
}

impl Media {
    /// Goes on with the program in this place of `PROGRAMS`. Comes back if there is none.
    #[inline(always)]
    pub fn pass_on(&self, frame: &Frame, program: u32) {
        let Some(handover) = HANDOVER.get_ptr_mut(0) else { return };
        let Self { rtp, admitted, slot, fanout, tap, now_ns } = *self;
        let handed_over = Handover {
            now_ns,
            index: admitted.index.0,
            header: rtp.header,
            track: slot,
            fanout: fanout.slot,
            copies: fanout.copies,
            tap,
            offset: rtp.offset as u32,
            len: rtp.len as u32,
            header_len: admitted.header_len as u32,
            payload_len: admitted.payload_len as u32,
        };
        // SAFETY: this CPU's own; programs of one CPU do not interleave.
        unsafe { *handover = handed_over };
        go_on(frame, program);
    }

    /// What was passed on to this program.
    #[inline(always)]
    pub fn take() -> Option<Self> {
        let handover = HANDOVER.get_ptr(0)?;
        // SAFETY: as above. Every bit pattern is a valid value.
        let handover = unsafe { *handover };
        Some(Self {
            rtp: Rtp { offset: handover.offset as usize, len: handover.len as usize, header: handover.header },
            admitted: Admitted {
                index: ExtendedSeq(handover.index),
                header_len: handover.header_len as usize,
                payload_len: handover.payload_len as usize,
            },
            slot: handover.track,
            fanout: Fanout { slot: handover.fanout, copies: handover.copies },
            tap: handover.tap,
            now_ns: handover.now_ns,
        })
    }
}

/// Passes on what was passed on to this program, as it came.
#[inline(always)]
pub fn go_on(frame: &Frame, program: u32) {
    // SAFETY: the context is the kernel's, and nothing here waits to be dropped.
    unsafe { bpf_tail_call(frame.context().cast(), (&raw const PROGRAMS).cast_mut().cast(), program) };
}
