//! The walks of the short way over a packet's payload (see `direct`): into the sums, and from one
//! ciphertext to the other.
//!
//! Each walk is a function that is global to the verifier, as those of `gcm` are, and has a stack frame of
//! its own: the ingress program has none to spare. So its arguments are numbers, the context, and values
//! of maps; and a frame's bounds are checked here.

use core::ffi::c_void;

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_loop};
use forwarder_common::{
    checksum,
    gf128::{self, Block},
    keystream::{Entry, FAST_BLOCKS, ROOM, STEP, first_step},
    rtp::TAG_LEN,
    subsets::{self, GROUP, Sums},
};

use crate::packet::Frame;

/// Where a packet lies in its frame: offset, length of the header, length of the payload, 16 bits each.
#[derive(Clone, Copy)]
pub struct Span(pub u64);

impl Span {
    #[inline(always)]
    pub fn new(offset: usize, header_len: usize, len: usize) -> Self {
        Self(offset as u64 | (header_len as u64) << 16 | (len as u64) << 32)
    }

    #[inline(always)]
    fn offset(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    #[inline(always)]
    fn header_len(self) -> usize {
        (self.0 >> 16 & 0xffff) as usize
    }

    #[inline(always)]
    fn len(self) -> usize {
        (self.0 >> 32 & 0xffff) as usize
    }
}

/// Takes header and plaintext into the sums. Not 0: a block lay outside of the frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn direct_fill(ctx: *mut xdp_md, sums: *mut Sums, entry: *const Entry, span: u64) -> u32 {
    // SAFETY: the callers pass values of maps: this CPU's sums, and an entry that they hold.
    let (Some(sums), Some(entry)) = (unsafe { (sums.as_mut(), entry.as_ref()) }) else { return 1 };
    let span = Span(span);
    let frame = Frame::of(ctx);
    let (offset, header_len, len) = (span.offset(), span.header_len(), span.len());
    let blocks = len.div_ceil(TAG_LEN);
    let mut walk = Fill { frame, sums, entry, offset, len: header_len, behind: 1 + blocks, failed: 0 };
    each(&mut walk, header_len.div_ceil(TAG_LEN), fill_header as Step<Fill>);
    walk.offset = offset + header_len;
    walk.len = len;
    walk.behind = 1;
    let strides = len / (STRIDE * TAG_LEN);
    each(&mut walk, strides, fill_stride as Step<Fill>);
    each(&mut walk, blocks - strides * STRIDE, fill_rest as Step<Fill>);
    walk.failed as u32
}

/// Decrypts. Not 0: a block lay outside of the frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn direct_open(ctx: *mut xdp_md, opening: *const Entry, span: u64) -> u32 {
    // SAFETY: the callers pass an entry that they hold.
    let Some(opening) = (unsafe { opening.as_ref() }) else { return 1 };
    if xor::<false, false>(Frame::of(ctx), opening, opening, Span(span)).is_some() { 0 } else { 1 }
}

/// From the publisher's ciphertext to the subscriber's.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn direct_reseal(ctx: *mut xdp_md, opening: *const Entry, sealing: *const Entry, span: u64) -> u32 {
    // SAFETY: as above.
    let (Some(opening), Some(sealing)) = (unsafe { (opening.as_ref(), sealing.as_ref()) }) else { return 1 };
    if xor::<false, true>(Frame::of(ctx), opening, sealing, Span(span)).is_some() { 0 } else { 1 }
}

/// The same, with the result's Internet checksum left in `sums`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn direct_reseal_summing(
    ctx: *mut xdp_md,
    sums: *mut Sums,
    opening: *const Entry,
    sealing: *const Entry,
    span: u64,
) -> u32 {
    // SAFETY: as above.
    let (Some(opening), Some(sealing)) = (unsafe { (opening.as_ref(), sealing.as_ref()) }) else { return 1 };
    // SAFETY: this CPU's sums.
    let Some(sums) = (unsafe { sums.as_mut() }) else { return 1 };
    let Some(sum) = xor::<true, true>(Frame::of(ctx), opening, sealing, Span(span)) else { return 1 };
    sums.checksum = sum;
    0
}

// The blocks that a share is added to lie in the group of the length block, which is summed up anew for each
// tag in any case.
const _: () = assert!(STEP < GROUP);

/// Adds the share of an entry's keystream in GHASH, or takes it away again. Not 0: the entry does not reach so
/// far.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn direct_share(sums: *mut Sums, entry: *const Entry, len: u64) -> u32 {
    // SAFETY: the callers pass values of maps: this CPU's sums, and an entry that they hold.
    let (Some(sums), Some(entry)) = (unsafe { (sums.as_mut(), entry.as_ref()) }) else { return 1 };
    let len = len as usize;
    let blocks = len.div_ceil(TAG_LEN);
    let first_step = first_step(entry.blocks());
    // The last stored state that is over fewer blocks than the payload has; without one, nothing.
    let (mut state, mut index) = ([0, 0], 0);
    if blocks > first_step {
        let number = (blocks - 1 - first_step) / STEP;
        if number >= ROOM / STEP {
            return 1;
        }
        (state, index) = (entry.horner[number], number * STEP + first_step);
    }
    // One block for the longest payloads, up to four for others.
    let mut n = 0;
    while n < STEP && index < blocks {
        if index >= FAST_BLOCKS {
            return 1;
        }
        let (keystream, inside) = (entry.keystream[index], inside(len, index));
        let share = [state[0] ^ keystream[0] & inside[0], state[1] ^ keystream[1] & inside[1]];
        // The payload's last block has place 1.
        subsets::add(sums, blocks - index, share);
        state = [0, 0];
        (index, n) = (index + 1, n + 1);
    }
    0
}

/// Which bits of block `index` of `len` bytes belong to the data.
#[inline(always)]
pub fn inside(len: usize, index: usize) -> Block {
    let rest = len - index * TAG_LEN;
    if rest < TAG_LEN { gf128::mask(rest as u32) } else { [!0, !0] }
}

type Step<T> = unsafe extern "C" fn(u32, *mut T) -> i64;

#[inline(always)]
fn each<T>(walk: &mut T, times: usize, step: Step<T>) {
    // SAFETY: `step` is a function of this program with the signature that the helper calls, and `walk`
    // outlives the call. Numbers are far below the helper's limit of 2^23 rounds.
    unsafe { bpf_loop(times as u32, step as *mut c_void, (&raw mut *walk).cast(), 0) };
}

/// A walk over the packet, to take it into the sums.
#[repr(C)]
struct Fill<'a> {
    frame: Frame,
    sums: &'a mut Sums,
    entry: &'a Entry,
    offset: usize,
    len: usize,
    /// Blocks that are counted before the last one.
    behind: usize,
    /// A block lay outside of the frame.
    failed: u64,
}

/// Takes four whole blocks of the payload.
unsafe extern "C" fn fill_stride(index: u32, walk: *mut Fill<'_>) -> i64 {
    // SAFETY: `each` passes its own walk.
    let walk = unsafe { &mut *walk };
    let first = walk.frame.forget(index as usize * STRIDE);
    let Some(words) = walk.frame.words::<{ 2 * STRIDE }>(walk.offset + first * TAG_LEN) else {
        walk.failed = 1;
        return 1;
    };
    if first > FAST_BLOCKS - STRIDE {
        walk.failed = 1;
        return 1;
    }
    let keystream = &walk.entry.keystream;
    // SAFETY: `words` has checked that all of them lie within the frame.
    let plain = |n: usize| unsafe { words.add(n).read_unaligned() } ^ keystream[first + n / 2][n % 2];
    let place = walk.frame.forget(walk.len.div_ceil(TAG_LEN) - first);
    if subsets::put_four(walk.sums, place, plain).is_none() {
        walk.failed = 1;
        return 1;
    }
    0
}

/// Takes one of the blocks behind the last whole stride.
unsafe extern "C" fn fill_rest(index: u32, walk: *mut Fill<'_>) -> i64 {
    // SAFETY: `each` passes its own walk.
    let walk = unsafe { &mut *walk };
    let index = walk.len / (STRIDE * TAG_LEN) * STRIDE + index as usize;
    let index = walk.frame.forget(index);
    if index >= FAST_BLOCKS {
        walk.failed = 1;
        return 1;
    }
    let keystream = walk.entry.keystream[index];
    fill(walk, index, keystream)
}

/// Takes a block of the header.
unsafe extern "C" fn fill_header(index: u32, walk: *mut Fill<'_>) -> i64 {
    // SAFETY: `each` passes its own walk.
    fill(unsafe { &mut *walk }, index as usize, [0, 0])
}

#[inline(always)]
fn fill(walk: &mut Fill<'_>, index: usize, keystream: Block) -> i64 {
    let Some(block) = walk.frame.read::<Block>(walk.offset + index * TAG_LEN) else {
        walk.failed = 1;
        return 1;
    };
    let inside = inside(walk.len, index);
    let place = walk.behind + walk.len.div_ceil(TAG_LEN) - 1 - index;
    subsets::put(walk.sums, place, [(block[0] ^ keystream[0]) & inside[0], (block[1] ^ keystream[1]) & inside[1]]);
    0
}

/// A walk over the payload, from one ciphertext to the other.
#[repr(C)]
struct Xor<'a> {
    frame: Frame,
    opening: &'a Entry,
    sealing: &'a Entry,
    offset: usize,
    len: usize,
    /// Internet checksum of the result so far.
    sum: u64,
    failed: u64,
}

/// Blocks that one step of the walk takes, as long as there are so many.
const STRIDE: usize = 4;

/// XORs the payload with its keystream, where `SEAL` says so with the subscriber's too, and returns the
/// checksum of the result where `SUM` asks for it.
#[inline(always)]
fn xor<const SUM: bool, const SEAL: bool>(frame: Frame, opening: &Entry, sealing: &Entry, span: Span) -> Option<u64> {
    let len = span.len();
    let mut walk = Xor { frame, opening, sealing, offset: span.offset() + span.header_len(), len, sum: 0, failed: 0 };
    let strides = len / (STRIDE * TAG_LEN);
    each(&mut walk, strides, xor_stride::<SUM, SEAL> as Step<Xor>);
    each(&mut walk, len.div_ceil(TAG_LEN) - strides * STRIDE, xor_rest::<SUM, SEAL> as Step<Xor>);
    (walk.failed == 0).then_some(walk.sum)
}

unsafe extern "C" fn xor_stride<const SUM: bool, const SEAL: bool>(index: u32, walk: *mut Xor<'_>) -> i64 {
    // SAFETY: `each` passes its own walk.
    let walk = unsafe { &mut *walk };
    let first = walk.frame.forget(index as usize * STRIDE);
    let Some(words) = walk.frame.words::<{ 2 * STRIDE }>(walk.offset + first * TAG_LEN) else {
        walk.failed = 1;
        return 1;
    };
    if first > FAST_BLOCKS - STRIDE {
        walk.failed = 1;
        return 1;
    }
    let mut n = 0;
    while n < 2 * STRIDE {
        let mut keystream = walk.opening.keystream[first + n / 2][n % 2];
        if SEAL {
            keystream ^= walk.sealing.keystream[first + n / 2][n % 2];
        }
        // SAFETY: `words` has checked that all of them lie within the frame.
        unsafe {
            let word = words.add(n);
            let after = word.read_unaligned() ^ keystream;
            word.write_unaligned(after);
            if SUM {
                walk.sum = checksum::add_block(walk.sum, [after, 0]);
            }
        }
        n += 1;
    }
    0
}

/// One of the blocks behind the last whole stride. Bytes behind the data keep their value.
unsafe extern "C" fn xor_rest<const SUM: bool, const SEAL: bool>(index: u32, walk: *mut Xor<'_>) -> i64 {
    // SAFETY: `each` passes its own walk.
    let walk = unsafe { &mut *walk };
    let index = walk.len / (STRIDE * TAG_LEN) * STRIDE + index as usize;
    let at = walk.offset + index * TAG_LEN;
    let (Some(before), true) = (walk.frame.read::<Block>(at), index < FAST_BLOCKS) else {
        walk.failed = 1;
        return 1;
    };
    let inside = inside(walk.len, index);
    let mut keystream = walk.opening.keystream[index];
    if SEAL {
        let sealing = walk.sealing.keystream[index];
        keystream = [keystream[0] ^ sealing[0], keystream[1] ^ sealing[1]];
    }
    let after = [before[0] ^ keystream[0] & inside[0], before[1] ^ keystream[1] & inside[1]];
    if walk.frame.write(at, after).is_none() {
        walk.failed = 1;
        return 1;
    }
    if SUM {
        walk.sum = checksum::add_block(walk.sum, [after[0] & inside[0], after[1] & inside[1]]);
    }
    0
}
