//! GHASH by sums of subsets of a packet's blocks, for two keys: `forwarder_common::subsets`.
//!
//! The functions are global to the verifier, as those of `gcm` are.

use forwarder_common::{
    gf128::Block,
    subsets::{self, GROUP, GROUPS, Sums},
};

pub use forwarder_common::subsets::{BLOCKS, Subsets};

use crate::maps::SUMS;

/// This CPU's sums. Used within one run of a program only, and runs of one CPU do not interleave.
#[derive(Clone, Copy)]
pub struct Packet(pub *mut Sums);

impl Packet {
    #[inline(always)]
    pub fn begin() -> Option<Self> {
        SUMS.get_ptr_mut(0).map(Self)
    }

    /// Sets block number `place`, counted from the packet's end.
    #[inline(always)]
    pub fn put(&self, place: usize, block: Block) {
        subsets_put(self.0, place as u64, block[0], block[1]);
    }

    /// All `blocks` are there: sums them up, with zeros behind them.
    #[inline(always)]
    pub fn sum_up(&self, blocks: usize) {
        subsets_sum_up(self.0, blocks as u64);
    }

    /// A block has changed: sums up its group.
    #[inline(always)]
    pub fn sum_up_again(&self, place: usize) {
        subsets_sum_up_again(self.0, place as u64);
    }

    /// So many blocks from `place` on are gone: clears them, and sums up their groups.
    #[inline(always)]
    pub fn clear(&self, place: usize, blocks: usize) {
        subsets_clear(self.0, place as u64, blocks as u64);
    }

    /// What the walk over the payload has left.
    #[inline(always)]
    pub fn checksum(&self) -> u64 {
        // SAFETY: this CPU's own sums.
        unsafe { (*self.0).checksum }
    }

    /// GHASH of the first `blocks` under a key.
    #[inline(always)]
    pub fn total(&self, key: &Subsets, blocks: usize) -> Block {
        subsets_total(self.0, key, blocks as u64);
        // SAFETY: this CPU's own sums.
        unsafe { (*self.0).total }
    }
}

/// Groups for which there is a loop: those of so many blocks, rounded up.
#[inline(always)]
const fn groups(blocks: u64) -> u64 {
    match blocks {
        0..=10 => 2,
        11..=20 => 4,
        21..=40 => 8,
        41..=60 => 12,
        61..=75 => 15,
        76..=80 => 16,
        _ => 19,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn subsets_put(sums: *mut Sums, place: u64, first: u64, second: u64) -> u32 {
    // SAFETY: the callers above pass a value of a map, this CPU's own.
    let Some(sums) = (unsafe { sums.as_mut() }) else { return 1 };
    subsets::put(sums, place as usize, [first, second]);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn subsets_sum_up(sums: *mut Sums, blocks: u64) -> u32 {
    let groups = groups(blocks) as usize;
    let mut zeros = 0;
    while zeros < 4 * GROUP as u64 && blocks + zeros < (groups * GROUP) as u64 {
        // By a call, because LLVM would make a loop of stores a `memset`, byte by byte.
        subsets_put(sums, blocks + zeros, 0, 0);
        zeros += 1;
    }
    // SAFETY: as above.
    let Some(sums) = (unsafe { sums.as_mut() }) else { return 1 };
    let mut group = 0;
    while group < GROUPS && group < groups {
        subsets::sum_up(sums, group);
        group += 1;
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn subsets_clear(sums: *mut Sums, place: u64, blocks: u64) -> u32 {
    let mut n = 0;
    // A header has 76 bytes of CSRCs and an extension that makes it longer than a payload leaves room for.
    while n < blocks && n < BLOCKS as u64 {
        subsets_put(sums, place + n, 0, 0);
        subsets_sum_up_again(sums, place + n);
        n += 1;
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn subsets_sum_up_again(sums: *mut Sums, place: u64) -> u32 {
    // SAFETY: as above.
    let Some(sums) = (unsafe { sums.as_mut() }) else { return 1 };
    subsets::sum_up(sums, (place / GROUP as u64) as usize);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn subsets_total(sums: *mut Sums, key: *const Subsets, blocks: u64) -> u32 {
    // SAFETY: as above, and the key is a value of a map.
    let (Some(sums), Some(key)) = (unsafe { (sums.as_mut(), key.as_ref()) }) else { return 1 };
    sums.total = match groups(blocks) {
        2 => subsets::total::<2>(sums, key),
        4 => subsets::total::<4>(sums, key),
        8 => subsets::total::<8>(sums, key),
        12 => subsets::total::<12>(sums, key),
        15 => subsets::total::<15>(sums, key),
        16 => subsets::total::<16>(sums, key),
        _ => subsets::total::<19>(sums, key),
    };
    0
}
