//! The walks of the short way over a packet's payload (see `direct`): into the sums, and from one
//! ciphertext to the other.
//!
//! Each walk is a function that is global to the verifier, as those of `gcm` are, and has a stack frame of
//! its own: the ingress program has none to spare. So its arguments are numbers, the context, and values
//! of maps; and a frame's bounds are checked here.

use aya_ebpf::bindings::xdp_md;
use forwarder_common::{
    gf128::Block,
    keystream::{Entry, FAST_BLOCKS, STEP},
    order,
    rtp::TAG_LEN,
    subsets::{self, GROUP, Sums},
};

use crate::{
    packet::Frame,
    walk::{STRIDE, Step, each, inside, share, stride, xor},
};

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
    if crypt::<false, false>(ctx, opening, opening, span).is_some() { 0 } else { 1 }
}

/// From the publisher's ciphertext to the subscriber's.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn direct_reseal(ctx: *mut xdp_md, opening: *const Entry, sealing: *const Entry, span: u64) -> u32 {
    // SAFETY: as above.
    let (Some(opening), Some(sealing)) = (unsafe { (opening.as_ref(), sealing.as_ref()) }) else { return 1 };
    if crypt::<false, true>(ctx, opening, sealing, span).is_some() { 0 } else { 1 }
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
    let Some(sum) = crypt::<true, true>(ctx, opening, sealing, span) else { return 1 };
    sums.checksum = sum;
    0
}

/// XORs the payload, as [`xor`] does.
#[inline(always)]
fn crypt<const SUM: bool, const SEAL: bool>(
    ctx: *mut xdp_md,
    opening: &Entry,
    sealing: &Entry,
    span: u64,
) -> Option<u64> {
    let span = Span(span);
    xor::<SUM, SEAL>(&Frame::of(ctx), opening, sealing, span.offset() + span.header_len(), span.len())
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
    let added = share(entry, len as usize, |first| first, |place, block| subsets::add(sums, place, block));
    if added.is_some() { 0 } else { 1 }
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
    let Some((first, words)) = stride(&walk.frame, walk.offset, index) else {
        walk.failed = 1;
        return 1;
    };
    let keystream = &walk.entry.keystream;
    // SAFETY: `stride` has checked that all of them lie within the frame.
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
    let keystream = walk.entry.keystream[order::below::<FAST_BLOCKS>(index)];
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
