//! What viewers lost and ask for again (generic NACK, RFC 4585 §6.2.1): how much of it they get.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use penstock_engine::RtxSource;

use super::budget::Budget;

/// Packets that one track of a viewer may ask for in a second. Each costs a look at what is kept.
const ASKED_PER_SECOND: u32 = 1000;
/// Of the media that a track sends in a second, the part that it may send once more. A line that loses more is too
/// narrow for the stream, and more packets make it worse.
const SHARE: u64 = 5;
/// Bytes that it may send once more in any case, while little or nothing has been sent.
const LEAST: u64 = 4000;
/// A packet, as long as they come.
const PACKET: u64 = 1500;
/// Least and longest time in which a packet is not sent again twice, and that for a viewer whose round trip is
/// not known yet.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
const UNKNOWN_RTT: Duration = Duration::from_millis(100);
/// A viewer that lost what cannot be sent again gets a keyframe, and no other for this time: on a line that is beyond
/// repair it would cost all others theirs.
const KEYFRAME_DISTANCE: Duration = Duration::from_secs(3);

/// What one track of a viewer has been sent again.
pub(super) struct Resend {
    asked: Budget,
    share: Share,
    /// Sequence numbers and when they were sent again, oldest first.
    lately: VecDeque<(u16, Instant)>,
    /// By which repairs go. `None`: the very same packets once more.
    pub(super) rtx: Option<RtxSource>,
    keyframe: Option<Instant>,
    /// Requests, and packets sent again, in all.
    pub(super) requests: u64,
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
    pub(super) fn new(now: Instant, rtx: Option<RtxSource>) -> Self {
        Self {
            asked: Budget::new(now, ASKED_PER_SECOND),
            share: Share { since: now, octets: 0, before: 0, spent: 0 },
            lately: VecDeque::new(),
            rtx,
            keyframe: None,
            requests: 0,
            packets: 0,
        }
    }

    /// May the packet be sent again now? `octets`: media of the track in all.
    pub(super) fn admit(
        &mut self,
        seq: u16,
        now: Instant,
        rtt: Option<Duration>,
        octets: impl FnOnce() -> u64,
    ) -> Result<(), Refused> {
        self.requests += 1;
        if !self.asked.take(now) {
            return Err(Refused::TooMany);
        }
        // A viewer asks again when its own idea of the round trip has passed, which is not exactly ours.
        let patience = rtt.map_or(UNKNOWN_RTT, |rtt| rtt * 3 / 4).clamp(PATIENCE.0, PATIENCE.1);
        while self.lately.front().is_some_and(|(_, at)| now.duration_since(*at) >= patience) {
            self.lately.pop_front();
        }
        if self.lately.iter().any(|(sent, _)| *sent == seq) {
            return Err(Refused::TooSoon);
        }
        if self.share.is_spent(now, octets()) { Err(Refused::TooMany) } else { Ok(()) }
    }

    /// It was sent, with so many bytes.
    pub(super) fn sent(&mut self, seq: u16, now: Instant, len: usize) {
        self.share.spent += len as u64;
        self.lately.push_back((seq, now));
        self.packets += 1;
    }

    /// Is a keyframe to be asked for, since something cannot be sent again? Then it counts as asked for.
    pub(super) fn wants_keyframe(&mut self, now: Instant) -> bool {
        let wanted = self.keyframe.is_none_or(|last| now.duration_since(last) >= KEYFRAME_DISTANCE);
        if wanted {
            self.keyframe = Some(now);
        }
        wanted
    }
}

/// A part of the media, second by second.
struct Share {
    /// When this second began, and how much media had been sent by then.
    since: Instant,
    octets: u64,
    /// Media of a second before it.
    before: u64,
    /// Sent once more in this second.
    spent: u64,
}

impl Share {
    /// Is there nothing left of it for one more packet?
    fn is_spent(&mut self, now: Instant, octets: u64) -> bool {
        let passed = now.duration_since(self.since).as_millis() as u64;
        // A new publisher: its track counts from 0.
        if passed >= 1000 || octets < self.octets {
            self.before = octets.saturating_sub(self.octets) * 1000 / passed.max(1000);
            (self.since, self.octets, self.spent) = (now, octets, 0);
        }
        let sent = octets - self.octets;
        self.spent + PACKET > (self.before.max(sent) / SHARE).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 1000;

    /// How many of a thousand packets are sent again at once.
    fn all(resend: &mut Resend, now: Instant, octets: u64) -> usize {
        let mut sent = |seq: &u16| {
            let admitted = resend.admit(*seq, now, None, || octets).is_ok();
            if admitted {
                resend.sent(*seq, now, LEN);
            }
            admitted
        };
        (0..1000).filter(|seq| sent(seq)).count()
    }

    #[test]
    fn a_packet_is_sent_again_once_in_a_round_trip() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut resend = Resend::new(start, None);
        let mut ask = |seq, now, rtt| resend.admit(seq, now, rtt, || 100_000_000).map(|()| resend.sent(seq, now, LEN));
        assert_eq!(ask(7, start, None), Ok(()));
        assert_eq!(ask(7, at(99), None), Err(Refused::TooSoon));
        assert_eq!(ask(8, at(99), None), Ok(()));
        assert_eq!(ask(7, at(100), None), Ok(()));
        // The round trip is known now, and short; then a longer one, then that of another planet.
        assert_eq!(ask(7, at(110), Some(Duration::from_millis(1))), Ok(()));
        assert_eq!(ask(7, at(259), Some(Duration::from_millis(200))), Err(Refused::TooSoon));
        assert_eq!(ask(7, at(260), Some(Duration::from_millis(200))), Ok(()));
        assert_eq!(ask(7, at(759), Some(Duration::from_secs(60))), Err(Refused::TooSoon));
        assert_eq!(ask(7, at(760), Some(Duration::from_secs(60))), Ok(()));
    }

    #[test]
    fn no_more_than_a_fifth_of_the_media_in_a_second() {
        let start = Instant::now();
        let mut resend = Resend::new(start, None);
        let (mut octets, mut seq) = (0, 0u16);
        for second in 0..10 {
            let (mut sent, began) = (0, octets);
            for ms in 0..100 {
                let now = start + Duration::from_millis(second * 1000 + ms * 10);
                // 2 Mbit/s, and a viewer that asks for each packet.
                octets += 2500;
                for _ in 0..3 {
                    seq += 1;
                    if resend.admit(seq, now, None, || octets).is_ok() {
                        resend.sent(seq, now, LEN);
                        sent += LEN as u64;
                    }
                }
            }
            assert!(sent <= (octets - began) / SHARE + 500, "{sent} in second {second}");
            assert!(second == 0 || sent >= 48_000, "{sent} in second {second}");
        }
        assert!(resend.lately.len() <= 100);
        // After a silence: what was sent in it, spread over it.
        let later = start + Duration::from_secs(110);
        let sent = all(&mut resend, later, octets + 5_000_000);
        assert_eq!(sent, 50_000 / SHARE as usize / LEN - 1);
    }

    #[test]
    fn little_may_be_sent_again_at_once() {
        let mut resend = Resend::new(Instant::now(), None);
        assert_eq!(all(&mut resend, Instant::now(), 0) as u64, LEAST / LEN as u64 - 1);
    }

    #[test]
    fn only_so_many_are_looked_for_in_a_second() {
        let start = Instant::now();
        let mut resend = Resend::new(start, None);
        let admitted = (0..5000).filter(|seq| resend.admit(*seq, start, None, || 0).is_ok()).count();
        assert_eq!((admitted, resend.requests), (ASKED_PER_SECOND as usize, 5000));
        assert_eq!(resend.admit(5000, start + Duration::from_secs(1), None, || 0), Ok(()));
    }

    #[test]
    fn what_cannot_be_sent_again_asks_for_a_keyframe_now_and_then() {
        let start = Instant::now();
        let mut resend = Resend::new(start, None);
        let wanted: Vec<u64> =
            (0..70).filter(|at| resend.wants_keyframe(start + Duration::from_millis(at * 100))).collect();
        assert_eq!(wanted, [0, 30, 60]);
    }
}
