//! What LLVM must be told for the BPF target: the order of computation in table ciphers, and limits that the verifier
//! sees.
//!
//! LLVM moves the index computations of dozens of lookups in front of the first load, and has nowhere
//! to keep them but the 512 bytes of stack that BPF has. These functions are plain XORs that also
//! say: the inputs of later lookups depend on this result. (An empty statement would say it too, but
//! the kernel refuses line information for code that is not there.)

/// `column ^= value`; what is computed from `state` afterwards comes after it.
#[inline(always)]
pub fn xor_column(column: &mut u32, value: u32, state: &mut [u32; 4]) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one instruction on registers.
    unsafe {
        let [a, b, c, d] = state;
        core::arch::asm!("{0} ^= {1} # {2} {3} {4} {5}",
            inout(wreg) *column, in(wreg) value,
            inout(wreg) *a, inout(wreg) *b, inout(wreg) *c, inout(wreg) *d,
            options(pure, nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = state;
        *column ^= value;
    }
}

/// `block ^= value`; what is computed from `rest` afterwards comes after it.
#[inline(always)]
pub fn xor_block(block: &mut [u64; 2], value: [u64; 2], rest: &mut u64) {
    block[0] ^= value[0];
    #[cfg(target_arch = "bpf")]
    // SAFETY: one instruction on registers.
    unsafe {
        let [first, second] = block;
        core::arch::asm!("{0} ^= {1} # {2} {3}",
            inout(reg) *second, in(reg) value[1], inout(reg) *first, inout(reg) *rest,
            options(pure, nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = rest;
        block[1] ^= value[1];
    }
}

/// `words ^= values`; what is computed from `rest` afterwards comes after it.
#[inline(always)]
pub fn xor_words(words: &mut [u64; 4], values: [u64; 4], rest: &mut u64) {
    for i in 0..3 {
        words[i] ^= values[i];
    }
    #[cfg(target_arch = "bpf")]
    // SAFETY: one instruction on registers.
    unsafe {
        let [a, b, c, d] = words;
        core::arch::asm!("{0} ^= {1} # {2} {3} {4} {5}",
            inout(reg) *d, in(reg) values[3],
            inout(reg) *a, inout(reg) *b, inout(reg) *c, inout(reg) *rest,
            options(pure, nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = rest;
        words[3] ^= values[3];
    }
}

/// `value`, which the caller has found to be below `LIMIT`, in a form in which every verifier knows it.
///
/// LLVM checks one copy of a number and uses another, or a difference of the two, or keeps it on the stack meanwhile.
/// What a verifier learns from the check then stays with the copy: numbers on the stack have had an identity since
/// Linux 6.8 (commit 713274f1f2c8), and a register that is another one plus a negative constant since 6.18.20 or so.
/// This checks the very register that is used.
#[inline(always)]
pub fn below<const LIMIT: usize>(value: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut known = value;
        // SAFETY: instructions on a register. They change no value that is below the limit, which `value` is.
        unsafe {
            core::arch::asm!("if {0} < {1} goto +1", "{0} = 0", inout(reg) known, const LIMIT,
                options(pure, nomem, nostack, preserves_flags));
            core::hint::assert_unchecked(known < LIMIT);
        }
        known
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        debug_assert!(value < LIMIT);
        value
    }
}
