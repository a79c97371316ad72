//! Read-modify-write atomics. Rust's `core` offers the BPF target loads and stores only, although
//! the instruction set has more (kernel 5.12), so that target gets them from assembly.

use core::sync::atomic::AtomicU64;

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
