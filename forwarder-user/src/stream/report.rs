//! What RTCP reports are made of: reception of a publisher's SSRC, the publisher's clock, and what
//! a viewer says of ours.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::clock::{middle, rtp_units};
use penstock_engine::PublisherStats;
use penstock_webrtc::rtcp::Reception;

/// Last SR of a publisher's SSRC.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastSr {
    pub(super) ntp: u64,
    pub(super) rtp: u32,
    pub(super) arrived: Instant,
}

/// State between two report blocks about one SSRC (RFC 3550 §A.3).
#[derive(Debug, Default)]
pub(super) struct ReceptionHistory {
    expected_prior: u64,
    received_prior: u64,
    pub(super) last_sr: Option<LastSr>,
    /// Of 256, as last reported.
    pub(super) fraction_lost: u8,
    /// As last reported; duplicates make it negative.
    pub(super) cumulative_lost: i64,
    /// Payload bytes at the last report, and the bitrate since the one before.
    octets_prior: u64,
    reported: Option<Instant>,
    pub(super) bitrate: u64,
}

impl ReceptionHistory {
    /// The next report block. `None` while no packet has come.
    pub(super) fn report(&mut self, ssrc: u32, stats: &PublisherStats, now: Instant) -> Option<Reception> {
        if stats.packets == 0 {
            return None;
        }
        let expected = (stats.highest.0 + 1).saturating_sub(stats.first.0);
        let expected_interval = expected.saturating_sub(self.expected_prior);
        let received_interval = stats.packets.saturating_sub(self.received_prior);
        let lost_interval = expected_interval.saturating_sub(received_interval);
        // Truncation at 255 instead of wrapping: everything lost is not nothing lost.
        self.fraction_lost = (lost_interval * 256).checked_div(expected_interval).unwrap_or(0).min(255) as u8;
        self.cumulative_lost = expected as i64 - stats.packets as i64;
        (self.expected_prior, self.received_prior) = (expected, stats.packets);
        self.measure(stats, now);
        Some(Reception {
            ssrc,
            fraction_lost: self.fraction_lost,
            cumulative_lost: self.cumulative_lost.clamp(i32::MIN.into(), i32::MAX.into()) as i32,
            highest: stats.highest.0 as u32,
            jitter: stats.jitter,
            last_sr: self.last_sr.map_or(0, |sr| middle(sr.ntp)),
            delay_since_last_sr: self.last_sr.map_or(0, |sr| delay_units(now.duration_since(sr.arrived))),
        })
    }

    fn measure(&mut self, stats: &PublisherStats, now: Instant) {
        if let Some(reported) = self.reported {
            let ms = now.duration_since(reported).as_millis().max(1) as u64;
            self.bitrate = stats.octets.saturating_sub(self.octets_prior) * 8_000 / ms;
        }
        self.octets_prior = stats.octets;
        self.reported = Some(now);
    }
}

/// 1/65,536 s (RFC 3550 §6.4.1).
pub(super) fn delay_units(delay: Duration) -> u32 {
    (delay.as_nanos() * 65_536 / 1_000_000_000).min(u32::MAX.into()) as u32
}

/// A publisher's wall clock against ours, fixed at its first SR: one offset for audio and video, so
/// that their distance is the publisher's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct SenderClock {
    /// Ours minus the publisher's, wrapping.
    offset: u64,
}

impl SenderClock {
    pub(super) fn new(our_ntp: u64, sender_ntp: u64) -> Self {
        Self { offset: our_ntp.wrapping_sub(sender_ntp) }
    }

    /// The publisher's RTP timestamp at a time of our clock, from its last SR.
    pub(super) fn rtp_at(&self, our_ntp: u64, sr: &LastSr, clock_rate: u32) -> u32 {
        let sender_ntp = our_ntp.wrapping_sub(self.offset);
        sr.rtp.wrapping_add(rtp_units(sender_ntp.wrapping_sub(sr.ntp), clock_rate))
    }
}

/// Most that an encoder of sound is told to be lost for its viewers' sake, of 256: 15 of 100. More redundancy would take
/// more from the sound than the loss does.
const FOR_VIEWERS: u8 = 38;
/// A viewer's report says how things are for so long.
const FRESH: Duration = Duration::from_secs(10);

/// Loss, of 256, that an encoder of sound is told, so that it sends as much redundancy as its viewers need (Opus in-band
/// FEC): what it has lost on its way here, or the worst of what they report.
///
/// Only the fraction says it. Chromium's bandwidth estimate goes by transport-wide feedback and by cumulative loss, so
/// the picture does not suffer for it.
pub(super) fn loss_for_encoder(own: u8, worst: u8) -> u8 {
    own.max(worst.min(FOR_VIEWERS))
}

/// SRs that a receiver may still refer to.
const SENT_SRS: usize = 8;

/// What a viewer reports of one of our SSRCs.
#[derive(Debug, Default)]
pub(super) struct ViewerReport {
    /// Middle NTP bits of our last SRs and when they left.
    sent: VecDeque<(u32, Instant)>,
    pub(super) last: Option<Reception>,
    /// When that came.
    came: Option<Instant>,
    pub(super) rtt: Option<Duration>,
}

impl ViewerReport {
    /// An SR with this NTP time leaves.
    pub(super) fn sent(&mut self, ntp: u64, now: Instant) {
        if self.sent.len() == SENT_SRS {
            self.sent.pop_front();
        }
        self.sent.push_back((middle(ntp), now));
    }

    /// A report block arrives. The round trip is what has passed since the SR that it names, less
    /// what the viewer says it kept it (RFC 3550 §6.4.1).
    pub(super) fn received(&mut self, reception: Reception, now: Instant) {
        let sent = self.sent.iter().find(|(lsr, _)| *lsr == reception.last_sr && reception.last_sr != 0);
        if let Some((_, left)) = sent {
            let kept = Duration::from_nanos(u64::from(reception.delay_since_last_sr) * 1_000_000_000 / 65_536);
            self.rtt = now.duration_since(*left).checked_sub(kept).or(Some(Duration::ZERO));
        }
        (self.last, self.came) = (Some(reception), Some(now));
    }

    /// Loss of 256 that the viewer reports at the moment.
    pub(super) fn loss(&self, now: Instant) -> u8 {
        let fresh = self.came.is_some_and(|came| now.saturating_duration_since(came) < FRESH);
        self.last.filter(|_| fresh).map_or(0, |last| last.fraction_lost)
    }
}

#[cfg(test)]
mod tests {
    use forwarder_common::ExtendedSeq;

    use super::*;

    fn stats(first: u64, highest: u64, packets: u64) -> PublisherStats {
        let (first, highest) = (ExtendedSeq(first), ExtendedSeq(highest));
        PublisherStats { first, highest, packets, octets: packets * 1000, ..Default::default() }
    }

    #[test]
    fn loss_is_counted_per_interval_and_in_all() {
        let start = Instant::now();
        let mut history = ReceptionHistory::default();
        assert_eq!(history.report(1, &stats(100, 99, 0), start), None);
        let report = history.report(1, &stats(100, 199, 75), start).unwrap();
        assert_eq!((report.fraction_lost, report.cumulative_lost, report.highest), (64, 25, 199));
        let report = history.report(1, &stats(100, 299, 175), start + Duration::from_secs(1)).unwrap();
        assert_eq!((report.fraction_lost, report.cumulative_lost), (0, 25));
        assert_eq!(history.bitrate, 800_000);
        // Late packets of the interval before: more received than expected.
        let report = history.report(1, &stats(100, 300, 201), start).unwrap();
        assert_eq!((report.fraction_lost, report.cumulative_lost), (0, 0));
        // Nothing of an interval arrived but its last packet.
        let report = history.report(1, &stats(100, 3000, 202), start).unwrap();
        assert_eq!(report.fraction_lost, 255);
    }

    #[test]
    fn sequence_numbers_wrap_into_the_extended_one() {
        let mut history = ReceptionHistory::default();
        let report = history.report(1, &stats(0xfff0, 0x1_000f, 32), Instant::now()).unwrap();
        assert_eq!((report.highest, report.cumulative_lost), (0x1_000f, 0));
    }

    #[test]
    fn delay_since_the_last_sr() {
        let start = Instant::now();
        let mut history = ReceptionHistory {
            last_sr: Some(LastSr { ntp: 0x1122_3344_5566_7788, rtp: 0, arrived: start }),
            ..Default::default()
        };
        let report = history.report(1, &stats(0, 0, 1), start + Duration::from_millis(500)).unwrap();
        assert_eq!((report.last_sr, report.delay_since_last_sr), (0x3344_5566, 32_768));
    }

    #[test]
    fn round_trip_of_a_viewer() {
        let start = Instant::now();
        let mut report = ViewerReport::default();
        (0..20u64).for_each(|i| report.sent(i << 32 | 5 << 16, start + Duration::from_secs(i)));
        let reception = Reception { last_sr: 19 << 16 | 5, delay_since_last_sr: 65_536, ..Default::default() };
        report.received(reception, start + Duration::from_millis(20_040));
        assert_eq!(report.rtt, Some(Duration::from_millis(40)));
        report.received(Reception { last_sr: 5, ..reception }, start);
        assert_eq!(report.rtt, Some(Duration::from_millis(40)), "an SR that we have forgotten");
    }

    #[test]
    fn encoders_of_sound_learn_what_viewers_lose_up_to_a_bound() {
        assert_eq!(
            [(0, 0), (0, 20), (0, 255), (60, 255)].map(|(own, worst)| loss_for_encoder(own, worst)),
            [0, 20, 38, 60]
        );
        let start = Instant::now();
        let mut report = ViewerReport::default();
        assert_eq!(report.loss(start), 0);
        report.received(Reception { fraction_lost: 50, ..Default::default() }, start);
        assert_eq!((report.loss(start + FRESH / 2), report.loss(start + FRESH)), (50, 0));
    }

    #[test]
    fn publisher_clock_keeps_audio_and_video_together() {
        let start = Instant::now();
        let clock = SenderClock::new(1000 << 32, 7 << 32);
        let video = LastSr { ntp: 7 << 32, rtp: 1000, arrived: start };
        let audio = LastSr { ntp: (7 << 32) + (1 << 31), rtp: 500_000, arrived: start };
        assert_eq!(clock.rtp_at(1002 << 32, &video, 90_000), 181_000);
        assert_eq!(clock.rtp_at(1002 << 32, &audio, 48_000), 572_000);
    }
}
