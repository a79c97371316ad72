//! What viewers lost and ask for again (generic NACK, RFC 4585 §6.2.1): how much of it they get.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::budget::Budget;

/// Packets that one track of a viewer may have again in a second. A line that loses more is too narrow for the
/// stream, and more packets make it worse.
const PER_SECOND: u32 = 400;
/// Least and longest time in which a packet is not sent again twice, and that for a viewer whose round trip is
/// not known yet.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
const UNKNOWN_RTT: Duration = Duration::from_millis(100);

/// What one track of a viewer has been sent again.
pub(super) struct Resend {
    budget: Budget,
    /// Sequence numbers and when they were sent again, oldest first.
    lately: VecDeque<(u16, Instant)>,
    /// In all.
    pub(super) packets: u64,
}

/// Why a packet is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is on its way.
    TooSoon,
    TooMany,
}

impl Resend {
    pub(super) fn new(now: Instant) -> Self {
        Self { budget: Budget::new(now, PER_SECOND), lately: VecDeque::new(), packets: 0 }
    }

    /// May the packet be sent again now? Then it counts as sent.
    pub(super) fn admit(&mut self, seq: u16, now: Instant, rtt: Option<Duration>) -> Result<(), Refused> {
        let patience = rtt.unwrap_or(UNKNOWN_RTT).clamp(PATIENCE.0, PATIENCE.1);
        while self.lately.front().is_some_and(|(_, at)| now.duration_since(*at) >= patience) {
            self.lately.pop_front();
        }
        if self.lately.iter().any(|(sent, _)| *sent == seq) {
            return Err(Refused::TooSoon);
        }
        if !self.budget.take(now) {
            return Err(Refused::TooMany);
        }
        self.lately.push_back((seq, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_sent_again_once_in_a_round_trip() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut resend = Resend::new(start);
        assert_eq!(resend.admit(7, start, None), Ok(()));
        assert_eq!(resend.admit(7, at(99), None), Err(Refused::TooSoon));
        assert_eq!(resend.admit(8, at(99), None), Ok(()));
        assert_eq!(resend.admit(7, at(100), None), Ok(()));
        // The round trip is known now, and short; then the one of another planet.
        assert_eq!(resend.admit(7, at(110), Some(Duration::from_millis(1))), Ok(()));
        assert_eq!(resend.admit(7, at(609), Some(Duration::from_secs(60))), Err(Refused::TooSoon));
        assert_eq!(resend.admit(7, at(610), Some(Duration::from_secs(60))), Ok(()));
    }

    #[test]
    fn only_so_many_in_a_second() {
        let start = Instant::now();
        let mut resend = Resend::new(start);
        let admitted = (0..1000).filter(|seq| resend.admit(*seq, start, None).is_ok()).count();
        assert_eq!(admitted, PER_SECOND as usize);
        assert_eq!(resend.admit(5000, start, None), Err(Refused::TooMany));
        assert_eq!(resend.admit(5000, start + Duration::from_secs(1), None), Ok(()));
        assert!(resend.lately.len() <= PER_SECOND as usize);
    }
}
