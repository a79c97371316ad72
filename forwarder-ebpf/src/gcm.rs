//! AES-GCM (RFC 7714, NIST SP 800-38D) over a frame, in place, one pass over the bytes.
//!
//! Blocks are walked by `bpf_loop`, so the verifier sees one block instead of 88. Whole blocks are
//! read and written even where the data ends within one: 16 bytes of tag, or of room for it, always
//! follow.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use forwarder_common::{
    SessionKey,
    aes::CounterBlock,
    checksum,
    gf128::{self, Block},
    keystream::{Entry, FAST_BLOCKS},
    rtp::TAG_LEN,
};

use crate::packet::Frame;

/// Where the parts of an SRTP packet lie in the frame. The tag follows the payload.
#[derive(Clone, Copy)]
pub struct Layout {
    /// The RTP header with CSRCs and extension: authenticated, not encrypted.
    pub aad_offset: usize,
    pub aad_len: usize,
    /// Follows the header.
    pub payload_len: usize,
}

/// A packet that was sealed.
pub struct Sealed {
    pub tag: Block,
    /// Internet checksum over the ciphertext.
    pub sum: u64,
}

/// State of a walk over blocks. Lives on the stack of the program, seen by the callback.
#[repr(C)]
struct Walk<'a> {
    frame: Frame,
    key: &'a SessionKey,
    counter: CounterBlock,
    /// Keystream that was computed ahead of time; null where AES is computed here.
    ahead: *const Entry,
    /// GHASH so far.
    y: Block,
    offset: usize,
    len: usize,
    /// Internet checksum of the ciphertext so far; sealing only.
    sum: u64,
    /// A block lay outside of the frame.
    failed: u64,
}

/// Decrypts in place, by `ahead` or else by AES. Says whether the tag was right; `None` if the layout exceeds the frame.
///
/// If the tag was wrong, the payload is garbage and the packet must be dropped.
#[inline(always)]
pub fn open(frame: &Frame, key: &SessionKey, nonce: [u32; 3], layout: Layout, ahead: Option<&Entry>) -> Option<bool> {
    // Before the walk: it rewrites the last whole block, which may reach into the tag (unchanged,
    // but unknown to the compiler).
    let tag: Block = frame.read(layout.aad_offset + layout.aad_len + layout.payload_len)?;
    let walk = run::<true>(frame, key, nonce, layout, ahead)?;
    Some((tag[0] ^ walk.tag[0]) | (tag[1] ^ walk.tag[1]) == 0)
}

/// Encrypts in place, by `ahead` or else by AES, and writes the tag. `None` if the layout with its tag exceeds the frame.
#[inline(always)]
pub fn seal(frame: &Frame, key: &SessionKey, nonce: [u32; 3], layout: Layout, ahead: Option<&Entry>) -> Option<Sealed> {
    let sealed = run::<false>(frame, key, nonce, layout, ahead)?;
    frame.write(layout.aad_offset + layout.aad_len + layout.payload_len, sealed.tag)?;
    Some(sealed)
}

#[inline(always)]
fn run<const OPEN: bool>(
    frame: &Frame,
    key: &SessionKey,
    nonce: [u32; 3],
    layout: Layout,
    ahead: Option<&Entry>,
) -> Option<Sealed> {
    let mut walk = Walk {
        frame: *frame,
        key,
        counter: CounterBlock::ZERO,
        ahead: core::ptr::null(),
        y: [0, 0],
        offset: layout.aad_offset,
        len: layout.aad_len,
        sum: 0,
        failed: 0,
    };
    if ahead.is_none() {
        gcm_begin(key, &raw const nonce, &raw mut walk.counter);
    }
    each_block(&mut walk, absorb);
    walk.offset += walk.len;
    walk.len = layout.payload_len;
    match ahead {
        Some(entry) => {
            walk.ahead = entry;
            each_block(&mut walk, crypt_ahead::<OPEN>);
        }
        None => each_block(&mut walk, crypt::<OPEN>),
    }
    if walk.failed != 0 {
        return None;
    }
    hash(&mut walk, gf128::lengths(layout.aad_len as u64, layout.payload_len as u64));
    let mask = match ahead {
        Some(entry) => entry.mask,
        None => keystream(&walk, 1),
    };
    Some(Sealed { tag: xor(walk.y, mask), sum: walk.sum })
}

// The functions below are global to the verifier: it checks each on its own, once, for any arguments of
// the right types, and not again for every way that leads to a call. That is the difference between some
// ten thousand instructions and a million. It knows no more of a global function's arguments than their
// types, so none of them holds pointers, and null must be refused.

/// Product of `y` with the key's H.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gcm_multiply(key: *const SessionKey, y: *mut Block) -> u32 {
    // SAFETY: the callers below pass references.
    let (Some(key), Some(y)) = (unsafe { (key.as_ref(), y.as_mut()) }) else { return 1 };
    *y = gf128::multiply(&key.ghash, *y);
    0
}

/// What the counter blocks of a packet have in common.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gcm_begin(key: *const SessionKey, nonce: *const [u32; 3], counter: *mut CounterBlock) -> u32 {
    // SAFETY: as above.
    let (Some(key), Some(nonce), Some(counter)) = (unsafe { (key.as_ref(), nonce.as_ref(), counter.as_mut()) }) else {
        return 1;
    };
    *counter = CounterBlock::new(&key.round_keys, *nonce);
    0
}

/// Encrypted counter block `n`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gcm_keystream(key: *const SessionKey, counter: *const CounterBlock, n: u32, block: *mut Block) -> u32 {
    // SAFETY: as above.
    let (Some(key), Some(counter), Some(block)) = (unsafe { (key.as_ref(), counter.as_ref(), block.as_mut()) }) else {
        return 1;
    };
    *block = counter.keystream(&key.round_keys, key.rounds, n);
    0
}

/// `walk.y` with `block` added, times H.
#[inline(always)]
fn hash(walk: &mut Walk<'_>, block: Block) {
    walk.y = xor(walk.y, block);
    gcm_multiply(walk.key, &raw mut walk.y);
}

#[inline(always)]
fn keystream(walk: &Walk<'_>, n: u32) -> Block {
    let mut block = [0, 0];
    gcm_keystream(walk.key, &raw const walk.counter, n, &raw mut block);
    block
}

type Step = unsafe extern "C" fn(u32, *mut Walk<'_>) -> i64;

#[inline(always)]
fn each_block(walk: &mut Walk<'_>, step: Step) {
    let blocks = walk.len.div_ceil(TAG_LEN) as u32;
    // SAFETY: `step` is a function of this program with the signature that the helper calls, and
    // `walk` outlives the call. A refused call would leave `y` wrong, not memory; lengths are far
    // below the helper's limit of 2^23 rounds.
    unsafe { bpf_loop(blocks, step as *mut c_void, (&raw mut *walk).cast(), 0) };
}

#[inline(always)]
fn xor(a: Block, b: Block) -> Block {
    [a[0] ^ b[0], a[1] ^ b[1]]
}

#[inline(always)]
fn and(a: Block, b: Block) -> Block {
    [a[0] & b[0], a[1] & b[1]]
}

/// Which bits of block `index` belong to the data.
#[inline(always)]
fn inside(walk: &Walk<'_>, index: u32) -> Block {
    let rest = walk.len - index as usize * TAG_LEN;
    if rest < TAG_LEN { gf128::mask(rest as u32) } else { [!0, !0] }
}

/// Takes a block of the header into GHASH.
unsafe extern "C" fn absorb(index: u32, walk: *mut Walk<'_>) -> i64 {
    // SAFETY: `each_block` passes its own `Walk`, which nothing else uses meanwhile.
    let walk = unsafe { &mut *walk };
    let Some(block) = walk.frame.read::<Block>(walk.offset + index as usize * TAG_LEN) else {
        walk.failed = 1;
        return 1;
    };
    let block = and(block, inside(walk, index));
    hash(walk, block);
    0
}

/// Decrypts or encrypts a block of the payload and takes its ciphertext into GHASH.
unsafe extern "C" fn crypt<const OPEN: bool>(index: u32, walk: *mut Walk<'_>) -> i64 {
    // SAFETY: `each_block` passes its own `Walk`, which nothing else uses meanwhile.
    let walk = unsafe { &mut *walk };
    let keystream = keystream(walk, index + 2);
    apply::<OPEN>(walk, index, keystream)
}

/// The same by keystream that was computed ahead of time.
unsafe extern "C" fn crypt_ahead<const OPEN: bool>(index: u32, walk: *mut Walk<'_>) -> i64 {
    // SAFETY: `each_block` passes its own `Walk`, which nothing else uses meanwhile.
    let walk = unsafe { &mut *walk };
    if index as usize >= FAST_BLOCKS {
        walk.failed = 1;
        return 1;
    }
    // SAFETY: `run` has set `ahead` to an entry that its caller holds.
    let keystream = unsafe { (*walk.ahead).keystream[index as usize] };
    apply::<OPEN>(walk, index, keystream)
}

/// XORs a block with its keystream and takes the ciphertext into GHASH.
#[inline(always)]
fn apply<const OPEN: bool>(walk: &mut Walk<'_>, index: u32, keystream: Block) -> i64 {
    let inside = inside(walk, index);
    let at = walk.offset + index as usize * TAG_LEN;
    let Some(before) = walk.frame.read::<Block>(at) else {
        walk.failed = 1;
        return 1;
    };
    // Bytes behind the data keep their value: in a packet to open they are its tag.
    let after = xor(before, and(keystream, inside));
    if walk.frame.write(at, after).is_none() {
        walk.failed = 1;
        return 1;
    }
    let ciphertext = and(if OPEN { before } else { after }, inside);
    if !OPEN {
        walk.sum = checksum::add_block(walk.sum, ciphertext);
    }
    hash(walk, ciphertext);
    0
}
