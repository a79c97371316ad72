//! The innermost loop: which sum of each group belongs to a coefficient.

use super::{Halves, Subsets, Sums};

/// Sum of the blocks of the first `N` groups whose power of H has the coefficient `bit`.
#[cfg(not(target_arch = "bpf"))]
pub(super) fn sum<const N: usize>(sums: &Sums, key: &Subsets, bit: usize) -> Halves {
    let mut sum = [0, 0];
    for (group, subsets) in sums.sums.iter().zip(&key.0).take(N) {
        let at = usize::from(subsets[bit] / 8);
        sum = [sum[0] ^ group[0][at], sum[1] ^ group[1][at]];
    }
    sum
}

/// The same in six instructions for each group. LLVM would compute all addresses before the first
/// load, and has nowhere to keep them but the 512 bytes of stack that BPF has.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(super) fn sum<const N: usize>(sums: &Sums, key: &Subsets, bit: usize) -> Halves {
    /// From one group to the next.
    const KEY: usize = super::BITS;
    const HALF: usize = 8 * super::SUBSETS;

    let (mut first, mut second) = (0u64, 0u64);
    // SAFETY: `bit` is below `BITS`, so this is the place of the first group's byte.
    let key = unsafe { key.0.as_ptr().cast::<u8>().add(bit) };
    let sums = sums.sums.as_ptr();
    macro_rules! add {
        ($($group:literal)+) => { $(if N > $group {
            // SAFETY: reads the key's byte of this group, and the two halves of the sum to which it
            // leads: a byte is at most 255, and what follows the last table belongs to `Sums`.
            unsafe {
                core::arch::asm!(
                    "{at} = *(u8 *)({key} + {byte})",
                    "{at} += {sums}",
                    "{word} = *(u64 *)({at} + {first_half})",
                    "{first} ^= {word}",
                    "{word} = *(u64 *)({at} + {second_half})",
                    "{second} ^= {word}",
                    at = out(reg) _, word = out(reg) _,
                    key = in(reg) key, sums = in(reg) sums,
                    first = inout(reg) first, second = inout(reg) second,
                    byte = const $group * KEY,
                    first_half = const $group * 2 * HALF,
                    second_half = const $group * 2 * HALF + HALF,
                    options(readonly, nostack, preserves_flags),
                );
            }
        })+ };
    }
    add!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
    [first, second]
}
