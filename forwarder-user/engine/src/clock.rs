//! CLOCK_BOOTTIME, the clock of leases and time stamps in the maps.

/// Now, in ns since boot, time asleep included: the clock that `bpf_ktime_get_boot_ns` reads.
pub fn boottime_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for a timespec. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
