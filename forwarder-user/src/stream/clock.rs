//! NTP, the clock of RTCP.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds from 1900, where NTP starts, to 1970.
const NTP_TO_UNIX: u64 = 2_208_988_800;

/// Wall clock in NTP format (RFC 3550 §4) that never jumps: read once, then monotonic.
#[derive(Clone, Copy, Debug)]
pub(super) struct NtpClock {
    start: Instant,
    ntp_at_start: u64,
}

impl NtpClock {
    #[expect(clippy::disallowed_methods, reason = "NTP time is the wall clock's; it is read once")]
    pub(super) fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ntp_at_start = to_ntp(unix).wrapping_add(NTP_TO_UNIX << 32);
        Self { start: Instant::now(), ntp_at_start }
    }

    /// 32.32 fixed point seconds since 1900.
    pub(super) fn at(&self, now: Instant) -> u64 {
        self.ntp_at_start.wrapping_add(to_ntp(now.saturating_duration_since(self.start)))
    }
}

fn to_ntp(duration: Duration) -> u64 {
    (duration.as_secs() << 32) | ((u64::from(duration.subsec_nanos()) << 32) / 1_000_000_000)
}

/// Middle 32 bits, as LSR has them (RFC 3550 §6.4.1).
pub(super) const fn middle(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

/// RTP clock units in an NTP interval, which may be negative (the difference has wrapped).
pub(super) fn rtp_units(ntp_interval: u64, clock_rate: u32) -> u32 {
    ((i128::from(ntp_interval as i64) * i128::from(clock_rate)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ntp_advances_with_the_monotonic_clock() {
        let clock = NtpClock::new();
        let start = clock.start;
        assert_eq!(clock.at(start + Duration::from_millis(1500)).wrapping_sub(clock.at(start)), 3 << 31);
        assert!(clock.at(start) >> 32 > 3_900_000_000, "after 2023");
    }

    #[test]
    fn rtp_units_of_intervals() {
        assert_eq!(rtp_units(1 << 32, 90_000), 90_000);
        assert_eq!(rtp_units((1u64 << 31).wrapping_neg(), 48_000), 24_000u32.wrapping_neg());
    }
}
