//! Walks over a packet in its frame, block by block or four at a time, with keystream that was computed ahead of
//! time: what `tower` and `recrypt` share.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use forwarder_common::{
    checksum,
    gf128::{self, Block},
    keystream::{Entry, FAST_BLOCKS, ROOM, STEP, first_step},
    order,
    rtp::TAG_LEN,
};

use crate::packet::Frame;

/// Blocks that one step of a walk takes, as long as there are so many.
pub const STRIDE: usize = 4;

/// Which bits of block `index` of `len` bytes belong to the data.
#[inline(always)]
pub fn inside(len: usize, index: usize) -> Block {
    let rest = len - index * TAG_LEN;
    if rest < TAG_LEN { gf128::mask(rest as u32) } else { [!0, !0] }
}

/// A step of a walk: what number it has, and the walk. Not 0 ends it.
pub type Step<T> = unsafe extern "C" fn(u32, *mut T) -> i64;

/// Runs `step` so many times.
#[inline(always)]
pub fn each<T>(walk: &mut T, times: usize, step: Step<T>) {
    // SAFETY: `step` is a function of this program with the signature that the helper calls, and `walk`
    // outlives the call. Numbers are far below the helper's limit of 2^23 rounds.
    unsafe { bpf_loop(times as u32, step as *mut c_void, (&raw mut *walk).cast(), 0) };
}

/// The whole blocks of stride number `index`, of data that begin at `offset`: the number of the first, and where its
/// words lie. `None`: they exceed the frame, or the keystream of an entry.
#[inline(always)]
pub fn stride(frame: &Frame, offset: usize, index: u32) -> Option<(usize, *mut u64)> {
    let first = frame.forget(index as usize * STRIDE);
    let words = frame.words::<{ 2 * STRIDE }>(offset + first * TAG_LEN)?;
    (first <= FAST_BLOCKS - STRIDE).then(|| (order::below::<{ FAST_BLOCKS - STRIDE + 1 }>(first), words))
}

/// Hands out the share of an entry's keystream in the GHASH of `len` bytes, as blocks to be added to those of the
/// payload; the payload's last block has place 1. One block for the longest payloads, up to four for others, in the
/// places from 1 to [`STEP`]. `forget` is [`Frame::forget`], or nothing where the verifier needs none.
///
/// `None`: the entry does not reach so far.
#[inline(always)]
pub fn share(
    entry: &Entry,
    len: usize,
    forget: impl Fn(usize) -> usize,
    mut add: impl FnMut(usize, Block),
) -> Option<()> {
    let blocks = len.div_ceil(TAG_LEN);
    let first_step = first_step(entry.blocks());
    // The last stored state that is over fewer blocks than the payload has; without one, nothing.
    let (mut state, mut first) = ([0, 0], 0);
    if blocks > first_step {
        let number = (blocks - 1 - first_step) / STEP;
        if number >= ROOM / STEP {
            return None;
        }
        (state, first) = (entry.horner[number], number * STEP + first_step);
    }
    let (mut index, mut step) = (forget(first), 0);
    while step < STEP && index < blocks {
        if index >= FAST_BLOCKS {
            return None;
        }
        let (keystream, inside) = (entry.keystream[order::below::<FAST_BLOCKS>(index)], inside(len, index));
        add(blocks - index, [state[0] ^ keystream[0] & inside[0], state[1] ^ keystream[1] & inside[1]]);
        state = [0, 0];
        (index, step) = (index + 1, step + 1);
    }
    Some(())
}

/// A walk over the payload, to encrypt or decrypt it, or from one ciphertext to the other.
#[repr(C)]
struct Xor<'a> {
    frame: Frame,
    one: &'a Entry,
    other: &'a Entry,
    offset: usize,
    len: usize,
    /// Internet checksum of the result so far.
    sum: u64,
    failed: u64,
}

/// XORs `len` bytes with the keystream of `one`, where `BOTH` says so with that of `other` too, and returns the
/// checksum of the result where `SUM` asks for it. `None`: a block lay outside of the frame.
#[inline(always)]
pub fn xor<const SUM: bool, const BOTH: bool>(
    frame: &Frame,
    one: &Entry,
    other: &Entry,
    offset: usize,
    len: usize,
) -> Option<u64> {
    let mut walk = Xor { frame: *frame, one, other, offset, len, sum: 0, failed: 0 };
    let strides = len / (STRIDE * TAG_LEN);
    each(&mut walk, strides, xor_stride::<SUM, BOTH> as Step<Xor>);
    each(&mut walk, len.div_ceil(TAG_LEN) - strides * STRIDE, xor_rest::<SUM, BOTH> as Step<Xor>);
    (walk.failed == 0).then_some(walk.sum)
}

unsafe extern "C" fn xor_stride<const SUM: bool, const BOTH: bool>(index: u32, walk: *mut Xor<'_>) -> i64 {
    // SAFETY: `each` passes its own walk.
    let walk = unsafe { &mut *walk };
    let Some((first, words)) = stride(&walk.frame, walk.offset, index) else {
        walk.failed = 1;
        return 1;
    };
    let mut n = 0;
    while n < 2 * STRIDE {
        let mut keystream = walk.one.keystream[first + n / 2][n % 2];
        if BOTH {
            keystream ^= walk.other.keystream[first + n / 2][n % 2];
        }
        // SAFETY: `stride` has checked that all of them lie within the frame.
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

/// One of the blocks behind the last whole stride. Bytes behind the data keep their value: in a packet to open
/// they are its tag.
unsafe extern "C" fn xor_rest<const SUM: bool, const BOTH: bool>(index: u32, walk: *mut Xor<'_>) -> i64 {
    // SAFETY: `each` passes its own walk.
    let walk = unsafe { &mut *walk };
    let index = walk.len / (STRIDE * TAG_LEN) * STRIDE + index as usize;
    let at = walk.offset + index * TAG_LEN;
    let (Some(before), true) = (walk.frame.read::<Block>(at), index < FAST_BLOCKS) else {
        walk.failed = 1;
        return 1;
    };
    let inside = inside(walk.len, index);
    let index = order::below::<FAST_BLOCKS>(index);
    let mut keystream = walk.one.keystream[index];
    if BOTH {
        let other = walk.other.keystream[index];
        keystream = [keystream[0] ^ other[0], keystream[1] ^ other[1]];
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
