//! Packets of an SSRC that came up to the sockets although the kernel engine has it: a few are a coincidence, more are
//! another way.

use std::time::{Duration, Instant};

/// So many within [`WINDOW`] are no coincidence: a fragmented keyframe every few seconds is enough to make a picture
/// useless.
const MANY: u32 = 3;
const WINDOW: Duration = Duration::from_secs(10);

/// After an SSRC was learnt, what had arrived before still comes up for so long.
const SETTLING: Duration = Duration::from_millis(500);

/// What has come up of one SSRC.
#[derive(Debug, Default)]
pub(super) struct Strays {
    count: u32,
    since: Option<Instant>,
    told: bool,
}

impl Strays {
    /// One more, of an SSRC that was learnt at `learnt`. `true`: it is time to do something about it.
    pub(super) fn add(&mut self, learnt: Instant, now: Instant) -> bool {
        if now.saturating_duration_since(learnt) < SETTLING {
            return false;
        }
        if self.since.is_none_or(|since| now.saturating_duration_since(since) > WINDOW) {
            (self.count, self.since) = (0, Some(now));
        }
        self.count += 1;
        self.count >= MANY
    }

    /// Nothing can be done about it: `true` the first time, when it is to be told.
    pub(super) fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_in_a_while_are_a_way() {
        let learnt = Instant::now();
        let at = |ms: u64| learnt + Duration::from_millis(ms);
        let mut strays = Strays::default();
        assert!((0..20).all(|_| !strays.add(learnt, at(100))), "what was on its way before");
        assert!(!strays.add(learnt, at(600)) && !strays.add(learnt, at(5_000)) && strays.add(learnt, at(10_000)));
        let mut seldom = Strays::default();
        assert!((1..50).all(|time| !seldom.add(learnt, at(6_000 * time))));
        assert!(seldom.tell() && !seldom.tell());
    }
}
