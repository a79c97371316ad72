//! Atomics for both sides. On the BPF target `core` has no read-modify-write operations, although the
//! instruction set does (kernel 5.12), so that target gets them from assembly.

use core::sync::atomic::AtomicU64;

/// Reads `cell`.
#[inline(always)]
pub fn load(cell: &AtomicU64) -> u64 {
    #[cfg(not(target_arch = "bpf"))]
    return cell.load(core::sync::atomic::Ordering::Relaxed);
    #[cfg(target_arch = "bpf")]
    // SAFETY: `cell` is valid for reads. LLVM has atomic loads for BPF only from instruction set v4
    // on; a volatile load of eight aligned bytes is one instruction, which the kernel does not tear.
    unsafe {
        core::ptr::read_volatile(cell.as_ptr())
    }
}

/// Writes `cell`.
#[inline(always)]
pub fn store(cell: &AtomicU64, value: u64) {
    #[cfg(not(target_arch = "bpf"))]
    cell.store(value, core::sync::atomic::Ordering::Relaxed);
    #[cfg(target_arch = "bpf")]
    // SAFETY: `cell` is valid for writes; see `load`.
    unsafe {
        core::ptr::write_volatile(cell.as_ptr(), value);
    }
}

/// Stores `new` if `cell` still holds `old`; says whether it did.
#[inline(always)]
pub fn compare_exchange(cell: &AtomicU64, old: u64, new: u64) -> bool {
    #[cfg(not(target_arch = "bpf"))]
    return cell
        .compare_exchange(old, new, core::sync::atomic::Ordering::AcqRel, core::sync::atomic::Ordering::Relaxed)
        .is_ok();
    #[cfg(target_arch = "bpf")]
    {
        let found: u64;
        // SAFETY: `cell` is valid for reads and writes of eight aligned bytes; BPF_CMPXCHG takes the
        // expected value in r0 and leaves there what it found.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({cell} + 0, r0, {new})",
                cell = in(reg) cell.as_ptr(),
                new = in(reg) new,
                inlateout("r0") old => found,
                options(nostack),
            );
        }
        found == old
    }
}

/// Adds `n` to `cell`.
#[inline(always)]
pub fn add(cell: &AtomicU64, n: u64) {
    #[cfg(not(target_arch = "bpf"))]
    cell.fetch_add(n, core::sync::atomic::Ordering::Relaxed);
    #[cfg(target_arch = "bpf")]
    // SAFETY: `cell` is valid for reads and writes of eight aligned bytes.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({cell} + 0) += {n}",
            cell = in(reg) cell.as_ptr(),
            n = in(reg) n,
            options(nostack),
        );
    }
}
