//! Work that others ask for, and how much of it they get.

use std::time::Instant;

/// So much work in a second, no more.
pub(super) struct Budget {
    since: Instant,
    left: u32,
    per_second: u32,
}

impl Budget {
    pub(super) fn new(now: Instant, per_second: u32) -> Self {
        Self { since: now, left: per_second, per_second }
    }

    /// Takes one unit; `false` if there is none left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since).as_secs() >= 1 {
            (self.since, self.left) = (now, self.per_second);
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

/// Packets of SSRCs that come for the first time which are authenticated in a second.
const FIRST_PER_SECOND: u32 = 200;
/// And of those that have come before, lately.
const AGAIN_PER_SECOND: u32 = 1800;
/// Packets of one SSRC that are authenticated in vain before it must wait for the next second.
const OF_ONE: u32 = 8;
/// SSRCs that are remembered, each in the place that its lowest bits name.
const PLACES: usize = 512;

/// Which RTP of unknown SSRCs a publisher has authenticated. Whoever sends from its address, with SSRCs drawn at
/// random, has each once; the publisher's own comes again, and is not drowned by them.
pub(super) struct Unknown {
    first: Budget,
    again: Budget,
    /// SSRCs that had to wait, and how often they were authenticated since: made when one has to.
    seen: Vec<(u32, u32)>,
    since: Instant,
}

impl Unknown {
    pub(super) fn new(now: Instant) -> Self {
        let (first, again) = (Budget::new(now, FIRST_PER_SECOND), Budget::new(now, AGAIN_PER_SECOND));
        Self { first, again, seen: vec![], since: now }
    }

    /// Is a packet of this SSRC authenticated now?
    pub(super) fn admits(&mut self, ssrc: u32, now: Instant) -> bool {
        if self.first.take(now) {
            return true;
        }
        self.seen.resize(PLACES, (0, OF_ONE));
        if now.duration_since(self.since).as_secs() >= 1 {
            self.since = now;
            self.seen.iter_mut().for_each(|(_, times)| *times = 0);
        }
        let place = &mut self.seen[ssrc as usize % PLACES];
        if place.0 != ssrc {
            *place = (ssrc, 0);
            return false;
        }
        place.1 += 1;
        place.1 <= OF_ONE && self.again.take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 11,000 packets a second with random SSRCs, and the publisher's 30 a second among them.
    #[test]
    fn random_ssrcs_do_not_drown_the_publishers() {
        let start = Instant::now();
        let mut random = 1u64;
        let (mut worst, mut checked) = (0, 0);
        for round in 0..20 {
            let mut unknown = Unknown::new(start);
            let (mut waited, mut found) = (0, false);
            for packet in 0..11_000u64 {
                let now = start + Duration::from_micros(packet * 90);
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round + 1);
                checked += u32::from(unknown.admits((random >> 32) as u32, now));
                // Its first packet comes when the second's first budget is used up.
                if packet > 1000 && packet % 366 == 0 && !found {
                    waited += 1;
                    found = unknown.admits(0x1234_5678, now);
                }
            }
            assert!(found);
            worst = worst.max(waited);
        }
        assert!(worst <= 12, "{worst} packets of the publisher were not looked at");
        assert!(checked <= 20 * (FIRST_PER_SECOND + 40), "{checked} authenticated in vain");
    }

    #[test]
    fn one_ssrc_repeated_has_its_share_and_no_more() {
        let now = Instant::now();
        let mut unknown = Unknown::new(now);
        let admitted = (0..10_000).filter(|_| unknown.admits(5, now)).count() as u32;
        assert_eq!(admitted, FIRST_PER_SECOND + OF_ONE);
        let admitted = (0..100_000u32).filter(|n| unknown.admits(n / 3, now)).count() as u32;
        assert!(admitted <= AGAIN_PER_SECOND);
    }
}
