//! Which SSRCs a publisher sends: learnt from authenticated packets, and forgotten when they fall silent.

use std::time::{Duration, Instant};

use forwarder_common::ExtendedSeq;
use forwarder_common::rtp::RtpHeader;

use super::Task;
use crate::stream::ids::Key;
use crate::stream::report::ReceptionHistory;
use crate::stream::session::{Attachment, Source};
use penstock_engine::clock::boottime_ns;
use penstock_engine::{NewPublisherTrack, Role};
use penstock_srtp::srtcp::RtpOpener;
use penstock_webrtc::peer::Pair;

/// A second SSRC with a track's payload type replaces the first once that has been silent so long.
const SOURCE_SILENT: Duration = Duration::from_millis(300);
/// A source that never sent another packet than its first is given this long.
const SOURCE_UNHEARD: Duration = Duration::from_secs(1);
/// Former SSRCs of a publisher whose index is remembered.
const FORMER_SSRCS: usize = 16;

impl Task {
    /// RTP that the engine passed up: either an SSRC that it does not know yet, or nothing for us.
    pub(in crate::stream) fn rtp(&mut self, key: Key, pair: Pair, packet: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let publisher = session.role == Role::Publisher;
        let Some(media) = session.media.as_mut().filter(|media| publisher && media.pair == pair) else {
            self.counters.rtp_unexpected += 1;
            return;
        };
        let Some((header, _)) = RtpHeader::parse(packet) else {
            self.counters.rtp_auth_failed += 1;
            return;
        };
        if !media.budget.take(now) {
            self.counters.rtp_rate_limited += 1;
            return;
        }
        let former = media.former.iter().rev().find(|(ssrc, _)| *ssrc == header.ssrc()).map(|(_, index)| *index);
        let index = media.rtp.as_ref().and_then(|rtp| authenticate(rtp, header.seq(), packet, former));
        let Some(index) = index else {
            self.counters.rtp_auth_failed += 1;
            return;
        };
        let tracks = session.publisher_tracks_mut();
        let known =
            tracks.iter_mut().filter_map(|track| track.source.as_mut()).find(|known| known.ssrc == header.ssrc());
        if let Some(source) = known {
            source.passed_up += u64::from(now.duration_since(source.learnt) < SOURCE_UNHEARD);
            self.counters.rtp_known_ssrc += 1;
            return;
        }
        let track = tracks.iter().position(|track| track.format.payload_type == header.payload_type());
        match track {
            Some(track) => self.learn(key, track, &header, index, now),
            None => self.counters.rtp_other_payload_type += 1,
        }
    }

    /// Gives the engine an SSRC that an authenticated packet has shown.
    fn learn(&mut self, key: Key, track: usize, header: &RtpHeader, first: ExtendedSeq, now: Instant) {
        if !self.replace_source(key, track, now) {
            self.counters.rtp_known_ssrc += 1;
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(engine) = session.media.as_ref().map(|media| media.engine) else { return };
        let Some(entry) = session.publisher_tracks_mut().get_mut(track) else { return };
        let codec = entry.format.codec;
        let new = NewPublisherTrack {
            ssrc: header.ssrc(),
            kind: codec.kind(),
            payload_type: header.payload_type(),
            clock_rate: codec.clock_rate(),
            first,
        };
        let added = self.engine.add_publisher_track(engine, new);
        match added {
            Ok(id) => {
                entry.source = Some(Source {
                    ssrc: header.ssrc(),
                    id,
                    learnt: now,
                    first_timestamp: header.timestamp(),
                    passed_up: 0,
                    reception: ReceptionHistory::default(),
                    gaps: None,
                });
                if entry.nack {
                    self.asking.begin(key, now);
                }
                // The packet that taught us the SSRC, and what came before it, is not forwarded.
                entry.keyframes.want();
                self.counters.ssrcs_learnt += 1;
                let (name, stream) = (&session.name, session.stream.clone());
                tracing::info!(session = name, stream, ssrc = header.ssrc(), codec = codec.name(), "track started");
                self.attach_viewers(&stream, codec.kind(), now);
                self.arm(key, now);
            }
            Err(error) => {
                self.counters.refused_by_engine += 1;
                tracing::warn!(session = session.name, "the engine refused a track: {error}");
            }
        }
    }

    /// Makes room for a new SSRC of a track. `false`: the present one is alive and stays.
    fn replace_source(&mut self, key: Key, track: usize, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let Some(source) = session.publisher_tracks().get(track).and_then(|track| track.source.as_ref()) else {
            return true;
        };
        let (id, ssrc) = (source.id, source.ssrc);
        let stats = self.engine.publisher_stats(id).unwrap_or_default();
        let alive = match stats.last_arrival_ns {
            0 => now.duration_since(source.learnt) < SOURCE_UNHEARD,
            last => Duration::from_nanos(boottime_ns().saturating_sub(last)) < SOURCE_SILENT,
        };
        if alive {
            return false;
        }
        if let Some(media) = session.media.as_mut() {
            media.former.truncate(FORMER_SSRCS - 1);
            media.former.push_front((ssrc, stats.highest));
        }
        let stream = session.stream.clone();
        self.stop_source(key, track, &stream);
        true
    }

    /// Stops a publisher's SSRC. Its viewers wait for what comes after it.
    pub(super) fn stop_source(&mut self, key: Key, track: usize, stream: &str) {
        let source = self
            .sessions
            .get_mut(key)
            .and_then(|session| session.publisher_tracks_mut().get_mut(track).and_then(|track| track.source.take()));
        if let Some(source) = source {
            self.stop_sending(&source, stream);
        }
    }

    /// Takes a publisher's SSRC out of the engine.
    pub(super) fn stop_sending(&mut self, source: &Source, stream: &str) {
        for viewer in self.streams.viewers(stream) {
            let Some(session) = self.sessions.get_mut(viewer) else { continue };
            for entry in session.viewer_tracks_mut() {
                if let Attachment::Attached { track, from } = entry.attachment
                    && from == source.id
                {
                    let stats = self.engine.subscriber_stats(track).unwrap_or_default();
                    entry.leave(track, &stats);
                }
            }
        }
        self.engine.remove_publisher_track(source.id);
    }
}

/// The index under which a packet of an SSRC that the engine does not know is authentic. A new
/// SSRC starts with ROC 0; its first packet may be lost and the sequence number wrap before the
/// first one that we see. An SSRC that was learnt before goes on above its `former` highest index:
/// whoever plays back what it sent until then must not be believed again.
fn authenticate(opener: &RtpOpener, seq: u16, packet: &[u8], former: Option<ExtendedSeq>) -> Option<ExtendedSeq> {
    let first = ExtendedSeq(u64::from(seq));
    let wrapped = (seq < 0x8000).then_some(ExtendedSeq(first.0 + (1 << 16)));
    let guesses = [former.and_then(|highest| highest.estimate(seq)), Some(first), wrapped];
    let new = |index: &ExtendedSeq| former.is_none_or(|highest| *index > highest);
    guesses.into_iter().flatten().filter(new).find(|index| opener.authenticate(packet, *index))
}
