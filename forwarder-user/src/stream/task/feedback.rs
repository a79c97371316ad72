//! RTCP: this task is its only sender and reader.

use std::time::Instant;

use super::Task;
use super::arrivals::Reports;
use crate::stream::StreamConfig;
use crate::stream::ids::Key;
use crate::stream::report::{LastSr, SenderClock, delay_units, loss_for_encoder};
use crate::stream::resend::Refused;
use crate::stream::session::{Attachment, PublisherTrack, Session};
use penstock_engine::clock::boottime_ns;
use penstock_engine::{Engine, Kind, PublisherTrackId, Role, Unrepaired};
use penstock_srtp::srtcp::RtcpRefused;
use penstock_webrtc::estimate::Arrived;
use penstock_webrtc::rtcp::{self, Feedback, Incoming, Sent};

impl Session {
    /// When the next report, REMB or keyframe request is due. `None` before the session has keys.
    pub(super) fn next_report(&self, now: Instant, config: &StreamConfig) -> Option<Instant> {
        let media = self.media.as_ref()?;
        if self.role == Role::Subscriber {
            return Some(media.next_report);
        }
        let keyframes = self.publisher_tracks().iter().filter(|track| track.ssrc().is_some());
        let keyframe = keyframes.filter_map(|track| track.keyframes.due(now, config.keyframe_interval)).min();
        let others = keyframe.into_iter().chain(media.next_layers).chain(media.transport.as_ref().map(Reports::due));
        Some(others.fold(media.next_report.min(media.next_remb), Instant::min))
    }

    /// BYE for what we sent, sealed.
    pub(super) fn goodbye(&mut self) -> Option<Vec<u8>> {
        let ssrcs: Vec<u32> = match self.role {
            Role::Publisher => self.media.as_ref().map(|media| media.ssrc).into_iter().collect(),
            Role::Subscriber => self.viewer_tracks().iter().map(|track| track.ssrc).collect(),
        };
        let plain = rtcp::bye(&ssrcs, &self.cname).ok()?;
        self.media.as_mut()?.sealer.seal(&plain)
    }
}

impl Task {
    /// SRTCP of a session's peer.
    pub(in crate::stream) fn rtcp(&mut self, key: Key, packet: &[u8], now: Instant) {
        // Before anything is computed.
        if packet.len() > rtcp::MAX_COMPOUND {
            self.counters.rtcp_malformed += 1;
            return;
        }
        let Some((_, media)) = self.with_media(key) else {
            self.counters.rtcp_without_keys += 1;
            return;
        };
        let plain = match media.opener.open(packet) {
            Ok(plain) => plain,
            Err(RtcpRefused::Replayed) => {
                self.counters.rtcp_replayed += 1;
                return;
            }
            Err(_) => {
                self.counters.rtcp_auth_failed += 1;
                return;
            }
        };
        if let Some(ssrc) = sender(packet) {
            self.sessions.sends_under(key, ssrc);
        }
        let parsed = rtcp::parse(&plain);
        self.counters.rtcp_malformed += parsed.malformed;
        parsed.found.into_iter().for_each(|one| self.incoming(key, one, now));
    }

    fn incoming(&mut self, key: Key, incoming: Incoming, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        match incoming {
            Incoming::SenderReport { ssrc, ntp, rtp } => {
                let source = session
                    .publisher_tracks_mut()
                    .iter_mut()
                    .find_map(|track| track.source.as_mut().filter(|source| source.ssrc == ssrc));
                let Some(source) = source else { return };
                source.reception.last_sr = Some(LastSr { ntp, rtp, arrived: now });
                let our_ntp = self.ntp.at(now);
                if let Some(media) = session.media.as_mut() {
                    media.clock.get_or_insert_with(|| SenderClock::new(our_ntp, ntp));
                }
            }
            Incoming::Reception(reception) => {
                let track = session.viewer_tracks_mut().iter_mut().find(|track| track.ssrc == reception.ssrc);
                if let Some(track) = track {
                    track.report.received(reception, now);
                }
            }
            Incoming::ReferenceTime { ssrc, ntp } => {
                if let Some(media) = session.media.as_mut() {
                    media.reference = Some((ntp, ssrc, now));
                }
            }
            Incoming::Missing { ssrc, seq } => self.missing(key, ssrc, seq, now),
            Incoming::KeyframeRequest { ssrc } => {
                if let Some(track) = session.viewer_tracks().iter().position(|track| track.ssrc == ssrc) {
                    self.counters.keyframe_requests_received += 1;
                    self.want_keyframe(key, track, now);
                }
            }
        }
    }

    /// A viewer lacks a packet of one of our SSRCs.
    fn missing(&mut self, key: Key, ssrc: u32, seq: u16, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(pair) = session.media.as_ref().map(|media| media.pair) else { return };
        let mut tracks = session.viewer_tracks_mut().iter_mut().enumerate();
        let Some((index, track)) = tracks.find(|(_, track)| track.ssrc == ssrc) else { return };
        // Not offered, or nothing was sent.
        let (Some(resend), Attachment::Attached { track: id, .. }) = (&mut track.resend, track.attachment) else {
            self.counters.retransmissions_not_offered += 1;
            return;
        };
        let octets = || self.engine.subscriber_stats(id).unwrap_or_default().octets;
        let repaired = match resend.admit(seq, now, track.report.rtt, octets) {
            Ok(()) => Some(self.engine.repair(id, seq, resend.rtx.as_mut())),
            Err(Refused::TooSoon) => {
                self.counters.retransmissions_too_soon += 1;
                return;
            }
            Err(Refused::TooMany) => None,
        };
        match repaired {
            Some(Ok(packet)) => {
                resend.sent(seq, now, packet.len());
                self.counters.retransmissions += 1;
                return self.send(pair.socket, pair.peer, &packet);
            }
            None => self.counters.retransmissions_rate_limited += 1,
            Some(Err(Unrepaired::NeverSent)) => {
                self.counters.retransmissions_never_sent += 1;
                return;
            }
            Some(Err(Unrepaired::Missing(lost))) => {
                if self.is_awaited(key, index, lost.0) {
                    // It goes to all viewers when it comes.
                    self.counters.retransmissions_awaited += 1;
                    return;
                }
                self.counters.retransmissions_not_kept += 1;
            }
            Some(Err(Unrepaired::Damaged)) => self.counters.retransmissions_damaged += 1,
        }
        // Nothing else will end the freeze.
        let track = self.sessions.get_mut(key).and_then(|session| session.viewer_tracks_mut().get_mut(index));
        let resend = track.and_then(|track| track.resend.as_mut());
        if resend.is_some_and(|resend| resend.wants_keyframe(now)) {
            self.counters.keyframe_requests_unrepaired += 1;
            self.want_keyframe(key, index, now);
        }
    }

    /// Sends what is due of a session's reports.
    pub(super) fn report(&mut self, key: Key, now: Instant) {
        let worst = self.worst_audio_loss(key, now);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let engine = self.engine.as_ref();
        let plain = match session.role {
            Role::Publisher => {
                let (plain, keyframes) = publisher_report(session, engine, &self.config, worst, now);
                self.counters.keyframe_requests_sent += keyframes;
                plain
            }
            Role::Subscriber => {
                let due = session.media.as_ref().is_some_and(|media| media.next_report <= now);
                due.then(|| self.viewer_report(key, now)).flatten()
            }
        };
        let Some(plain) = plain else { return };
        let Some((_, media)) = self.with_media(key) else { return };
        let pair = media.pair;
        if let Some(sealed) = media.sealer.seal(&plain) {
            self.send(pair.socket, pair.peer, &sealed);
        }
    }

    /// The worst loss of sound, of 256, that a publisher's viewers report; 0 where no report is due.
    fn worst_audio_loss(&self, key: Key, now: Instant) -> u8 {
        let Some(session) = self.sessions.get(key).filter(|session| session.role == Role::Publisher) else { return 0 };
        if session.media.as_ref().is_none_or(|media| media.next_report > now) {
            return 0;
        }
        let viewers = self.streams.viewers(&session.stream).into_iter().filter_map(|viewer| self.sessions.get(viewer));
        let audio = viewers.flat_map(Session::viewer_tracks).filter(|track| track.kind() == Kind::Audio);
        audio.map(|track| track.report.loss(now)).max().unwrap_or(0)
    }

    /// SR and SDES for what a viewer has been sent.
    fn viewer_report(&mut self, key: Key, now: Instant) -> Option<Vec<u8>> {
        let our_ntp = self.ntp.at(now);
        let mut sent = vec![];
        let viewer = self.sessions.get(key)?;
        let (tracks, clock) =
            (self.streams.sent(&viewer.stream, &self.sessions), self.streams.clock(&viewer.stream, &self.sessions));
        for (index, track) in viewer.viewer_tracks().iter().enumerate() {
            let Attachment::Attached { track: id, from } = track.attachment else { continue };
            let Some(stats) = self.engine.subscriber_stats(id).filter(|stats| stats.packets > 0) else { continue };
            let Some(rtp) = rtp_now(tracks, clock, from, our_ntp, self.engine.as_ref()) else { continue };
            let report = Sent {
                ssrc: track.ssrc,
                ntp: our_ntp,
                rtp: rtp.wrapping_add(track.timestamp_offset),
                packets: (track.sent_before.0 + stats.packets) as u32,
                octets: (track.sent_before.1 + stats.octets) as u32,
            };
            sent.push((index, report));
        }
        let viewer = self.sessions.get_mut(key)?;
        // Sound and picture are not together before the first report: while there is none to send, the
        // next look comes soon, however rare reports are.
        let rarely = !sent.is_empty() && self.streams.has_source(&viewer.stream);
        let interval = if rarely { self.config.source_report_interval } else { self.config.report_interval };
        viewer.media.as_mut()?.next_report = now + interval;
        for (index, _) in &sent {
            if let Some(track) = viewer.viewer_tracks_mut().get_mut(*index) {
                track.report.sent(our_ntp, now);
            }
        }
        let sent: Vec<Sent> = sent.into_iter().map(|(_, report)| report).collect();
        let first = sent.first()?.ssrc;
        let mut plain = rtcp::to_viewer(&sent, &viewer.cname).ok()?;
        if let Some((ntp, receiver, came)) = viewer.media.as_ref().and_then(|media| media.reference) {
            rtcp::append_answers(&mut plain, first, receiver, ntp, delay_units(now.duration_since(came)));
        }
        Some(plain)
    }
}

/// Who sends a compound (RFC 3550 §6.4): in the clear in SRTCP too.
pub(super) fn sender(packet: &[u8]) -> Option<u32> {
    packet.get(4..8)?.try_into().ok().map(u32::from_be_bytes)
}

/// RR, REMB and keyframe requests that are due, and the number of the last.
fn publisher_report(
    session: &mut Session,
    engine: &dyn Engine,
    config: &StreamConfig,
    worst_audio_loss: u8,
    now: Instant,
) -> (Option<Vec<u8>>, u64) {
    let Some(media) = session.media.as_mut() else { return (None, 0) };
    let our_ssrc = media.ssrc;
    let report_due = media.next_report <= now;
    let remb_due = media.next_remb <= now;
    if report_due {
        media.next_report = now + config.report_interval;
    }
    if remb_due {
        media.next_remb = now + config.remb_interval;
    }
    let (mut receptions, mut feedback, mut video) = (vec![], vec![], vec![]);
    let mut arrived = Arrived::default();
    let mut keyframes = 0;
    for track in session.publisher_tracks_mut() {
        let kind = track.kind();
        if kind == Kind::Video
            && let Some(ssrc) = track.ssrc()
            && track.keyframes.take(now, config.keyframe_interval)
        {
            keyframes += 1;
            let only_fir = track.format.offers("ccm fir") && !track.format.offers("nack pli");
            feedback.push(match only_fir {
                true => Feedback::Fir { ssrc, seq: track.keyframes.seq },
                false => Feedback::Pli { ssrc },
            });
        }
        let Some(source) = track.source.as_mut() else { continue };
        let stats = (report_due || remb_due).then(|| engine.publisher_stats(source.id)).flatten();
        if let Some(mut stats) = stats.filter(|stats| stats.packets > 0) {
            stats.packets += source.passed_up;
            source.add_to(&mut arrived, &stats);
            if report_due {
                let mut reception = source.reception.report(source.ssrc, &stats, now);
                // Where REMB drives the encoder, it might send less for loss that it does not have.
                if let Some(reception) = reception.as_mut().filter(|_| kind == Kind::Audio && track.sequence.is_some())
                {
                    reception.fraction_lost = loss_for_encoder(reception.fraction_lost, worst_audio_loss);
                }
                receptions.extend(reception);
            }
        }
        if kind == Kind::Video {
            video.push(source.ssrc);
        }
    }
    if remb_due
        && !video.is_empty()
        && let Some(media) = session.media.as_mut()
    {
        // Who is told of each packet needs no estimate of ours; the configuration's bound holds for all.
        let bitrate = match media.transport {
            Some(_) => config.remb_max,
            None => media.estimate.update(now, arrived, config.remb_max),
        };
        feedback.push(Feedback::Remb { bitrate, ssrcs: video });
    }
    if receptions.is_empty() && feedback.is_empty() {
        return (None, keyframes);
    }
    (rtcp::to_publisher(our_ssrc, &session.cname, &receptions, &feedback).ok(), keyframes)
}

/// The publisher's RTP timestamp now: from its last SR, or while there is none from the arrival of
/// its last packet.
pub(super) fn rtp_now(
    tracks: &[PublisherTrack],
    clock: Option<SenderClock>,
    from: PublisherTrackId,
    our_ntp: u64,
    engine: &dyn Engine,
) -> Option<u32> {
    let found = tracks.iter().filter_map(|track| Some((track, track.source.as_ref()?)));
    let (track, source) = found.into_iter().find(|(_, source)| source.id == from)?;
    let clock_rate = track.format.codec.clock_rate();
    if let (Some(clock), Some(sr)) = (clock, source.reception.last_sr) {
        return Some(clock.rtp_at(our_ntp, &sr, clock_rate));
    }
    let stats = engine.publisher_stats(from).filter(|stats| stats.last_arrival_ns != 0)?;
    let since = u128::from(boottime_ns().saturating_sub(stats.last_arrival_ns));
    Some(stats.last_timestamp.wrapping_add((since * u128::from(clock_rate) / 1_000_000_000) as u32))
}
