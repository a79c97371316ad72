//! Access to the bytes of a frame, in the one form that the verifier follows everywhere.

use core::{arch::asm, mem::size_of};

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};

/// Offsets beyond this are refused. The verifier wants every packet offset below 2^16.
const MAX_OFFSET: usize = 0x7fff;

/// A frame in front of the program.
#[derive(Clone, Copy)]
pub struct Frame {
    ctx: *mut xdp_md,
}

impl Frame {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }

    /// The frame in a function that got the context.
    #[inline(always)]
    pub fn of(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    /// For helpers, and such functions.
    #[inline(always)]
    pub fn context(&self) -> *mut xdp_md {
        self.ctx
    }

    // `data` and `data_end` come by assembly: LLVM knows the fields as 32-bit numbers and would
    // compute with that, but the verifier turns the loads into pointers.

    #[inline(always)]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "a context never changes while a program runs")]
    fn data(&self) -> usize {
        let data: usize;
        // SAFETY: reads the `data` field of the context that the kernel gave us.
        unsafe {
            asm!("{d} = *(u32 *)({c} + 0)", d = out(reg) data, c = in(reg) self.ctx,
                options(nomem, nostack, preserves_flags));
        }
        data
    }

    #[inline(always)]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "a context never changes while a program runs")]
    fn data_end(&self) -> usize {
        let end: usize;
        // SAFETY: reads the `data_end` field of the context that the kernel gave us.
        unsafe {
            asm!("{d} = *(u32 *)({c} + 4)", d = out(reg) end, c = in(reg) self.ctx,
                options(nomem, nostack, preserves_flags));
        }
        end
    }

    /// Returns `value` in such a way that the verifier no longer knows it.
    ///
    /// The verifier walks what follows once for every combination of offsets that it has seen; behind
    /// this call, once. Accesses check their bounds anyway.
    #[inline(always)]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "a context never changes while a program runs")]
    pub fn forget(&self, mut value: usize) -> usize {
        // SAFETY: reads `rx_queue_index` of the context that the kernel gave us. Twice XORed, it leaves
        // the value as it was.
        unsafe {
            asm!("{n} = *(u32 *)({c} + 16)", "{v} ^= {n}", "{v} ^= {n}",
                n = out(reg) _, v = inout(reg) value, c = in(reg) self.ctx,
                options(nomem, nostack, preserves_flags));
        }
        value
    }

    /// Length of the frame in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.data_end() - self.data()
    }

    /// Address of the `T` at `offset`, if the frame holds all of it.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        if offset > MAX_OFFSET {
            return None;
        }
        // The checked pointer must be the used one: keep LLVM from computing it twice. And so must the checked offset.
        let start = opaque(self.data() + short(offset));
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        Some(start as *mut T)
    }

    /// The `T` at `offset`, in place, if the frame holds all of it.
    ///
    /// Better than [`read`](Self::read) for headers of which some fields are wanted. Not to be kept
    /// across `adjust_head` and `adjust_tail`: the verifier refuses that.
    #[inline(always)]
    pub fn view<T: Plain>(&self, offset: usize) -> Option<&T> {
        let at = self.at::<T>(offset)?;
        // SAFETY: `at` has checked that the whole value lies within the frame; `Plain` types take any
        // bytes and need no alignment.
        Some(unsafe { &*at })
    }

    /// Reads the `T` at `offset`, if the frame holds all of it.
    #[inline(always)]
    pub fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let at = self.at::<T>(offset)?;
        // SAFETY: `at` has checked that the whole value lies within the frame; `Plain` types take any
        // bytes; no alignment is assumed.
        Some(unsafe { at.read_unaligned() })
    }

    /// Writes `value` at `offset`, if the frame has room for all of it.
    #[inline(always)]
    pub fn write<T: Plain>(&self, offset: usize, value: T) -> Option<()> {
        let at = self.at::<T>(offset)?;
        // SAFETY: `at` has checked that the whole value lies within the frame; no alignment is assumed.
        unsafe { at.write_unaligned(value) };
        Some(())
    }

    /// Address of `N` words from `offset` on, if the frame holds all of them: for loops over more bytes
    /// than fit registers. Valid until the next `adjust_head` or `adjust_tail`, and not aligned.
    #[inline(always)]
    pub fn words<const N: usize>(&self, offset: usize) -> Option<*mut u64> {
        self.at::<[u64; N]>(offset).map(|words| words.cast())
    }

    /// Cuts `delta` bytes off the front (negative: grows by them). `None`: the frame has no room.
    #[inline(always)]
    pub fn adjust_head(&self, delta: i32) -> Option<()> {
        // SAFETY: the context is the kernel's; pointers into the frame are made anew on every access.
        let failed = unsafe { bpf_xdp_adjust_head(self.ctx, delta) };
        (failed == 0).then_some(())
    }

    /// Grows the frame by `delta` bytes at the end (negative: cuts). `None`: the frame has no room.
    #[inline(always)]
    pub fn adjust_tail(&self, delta: i32) -> Option<()> {
        // SAFETY: as in `adjust_head`.
        let failed = unsafe { bpf_xdp_adjust_tail(self.ctx, delta) };
        (failed == 0).then_some(())
    }

    /// Interface by which a copy leaves. Only the devmap program has one.
    #[inline(always)]
    pub fn egress_ifindex(&self) -> u32 {
        // SAFETY: the context is the kernel's, and the field is readable in devmap programs.
        unsafe { (*self.ctx).egress_ifindex }
    }
}

/// `offset`, which is at most [`MAX_OFFSET`], in a form in which every verifier knows it: see
/// [`order::below`](forwarder_common::order::below). The limit is a mask, and a mask costs less than a comparison.
#[inline(always)]
fn short(mut offset: usize) -> usize {
    const { assert!((MAX_OFFSET + 1).is_power_of_two()) };
    // SAFETY: an instruction on a register.
    unsafe { asm!("{0} &= {1}", inout(reg) offset, const MAX_OFFSET, options(nomem, nostack, preserves_flags, pure)) };
    offset
}

/// Hides a value from LLVM. Must emit an instruction: the kernel refuses line info that points into
/// nothing at the start of a subprogram.
#[inline(always)]
fn opaque(mut value: usize) -> usize {
    // SAFETY: a move of a register onto itself.
    unsafe { asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags, pure)) };
    value
}

/// Types of which every bit pattern is a valid value, and whose references are made only where their
/// alignment is 1.
///
/// # Safety
/// As it says.
pub unsafe trait Plain: Copy {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u16 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: an array of plain values is plain.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: `repr(C)` of integers and byte arrays.
unsafe impl Plain for network_types::eth::EthHdr {}
// SAFETY: `repr(C)` of integers and byte arrays.
unsafe impl Plain for network_types::ip::Ipv4Hdr {}
// SAFETY: `repr(C)` of integers and byte arrays.
unsafe impl Plain for network_types::ip::Ipv6Hdr {}
// SAFETY: `repr(C)` of byte arrays.
unsafe impl Plain for network_types::udp::UdpHdr {}
