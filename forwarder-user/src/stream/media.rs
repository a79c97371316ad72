//! Media of the sessions: keys into the engine, SSRCs learnt, viewers attached and detached.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use forwarder_common::ExtendedSeq;
use forwarder_common::rtp::RtpHeader;

use super::clock::boot_ns;
use super::ids::random_ssrc;
use super::report::ReceptionHistory;
use super::session::{Attachment, Budget, Key, Media, Session, Source};
use super::task::Task;
use penstock_engine::{
    EngineError, Event, Kind, NewPublisherTrack, NewSession, NewSubscriberTrack, Profile, Role, SubscriberTrackId,
    Transport,
};
use penstock_srtp::srtcp::{RtcpOpener, RtcpSealer, RtpOpener};
use penstock_webrtc::dtls::Keying;
use penstock_webrtc::keys;
use penstock_webrtc::peer::Pair;

/// RTP packets of unknown SSRCs that one session may have authenticated in a second.
const UNKNOWN_RTP_PER_SECOND: u32 = 200;
/// A second SSRC with a track's payload type replaces the first once that has been silent so long.
const SOURCE_SILENT: Duration = Duration::from_millis(300);
/// A source that never sent another packet than its first is given this long.
const SOURCE_UNHEARD: Duration = Duration::from_secs(1);
/// Former SSRCs of a publisher whose index is remembered.
const FORMER_SSRCS: usize = 16;

impl Task {
    /// DTLS is complete: keys go to the engine now, and not before.
    pub(super) fn connected(&mut self, key: Key, keying: &Keying, pair: Pair, now: Instant) {
        let keys = match keys::derive(keying) {
            Ok(keys) => keys,
            Err(error) => {
                self.counters.refused_srtp_profile += 1;
                if let Some(session) = self.sessions.get(&key) {
                    tracing::warn!(session = session.name, stream = session.stream, peer = %pair.peer, "refused: {error}");
                }
                return self.close(key, "no SRTP profile in common");
            }
        };
        if keys.incoming.rtp.profile == Profile::AesCm128HmacSha1_80 && !self.config.counter_mode {
            self.counters.refused_srtp_profile += 1;
            if let Some(session) = self.sessions.get(&key) {
                let profile = keys.incoming.rtp.profile.name();
                tracing::warn!(
                    session = session.name,
                    stream = session.stream,
                    peer = %pair.peer,
                    "refused: the peer offered only {profile}, which `media.srtp_profiles` does not have"
                );
            }
            return self.close(key, "its SRTP profile is not allowed");
        }
        self.turnover.count(now);
        let (Some(session), Some(transport)) = (self.sessions.get_mut(&key), transport(&self.sockets, pair)) else {
            return;
        };
        let media_key = match session.role {
            Role::Publisher => &keys.incoming.rtp,
            Role::Subscriber => &keys.outgoing.rtp,
        };
        let added = self.engine.add_session(NewSession {
            id: session.name.clone(),
            stream: session.stream.clone(),
            role: session.role,
            key: media_key.clone(),
            transport,
            of_source: session.role == Role::Subscriber && self.sourced.contains_key(&session.stream),
        });
        let engine = match added {
            Ok(engine) => engine,
            Err(error) => {
                match error {
                    EngineError::Profile { .. } => self.counters.refused_srtp_profile += 1,
                    _ => self.counters.refused_by_engine += 1,
                }
                tracing::warn!(
                    session = session.name,
                    stream = session.stream,
                    "the engine refused the session: {error}"
                );
                return self.close(key, "the engine refused it");
            }
        };
        session.media = Some(Media {
            engine,
            profile: media_key.profile,
            pair,
            rtp: (session.role == Role::Publisher).then(|| RtpOpener::new(&keys.incoming.rtp)),
            opener: RtcpOpener::new(&keys.incoming.rtcp),
            sealer: RtcpSealer::new(&keys.outgoing.rtcp),
            ssrc: random_ssrc(),
            connected: now,
            refreshed: now,
            next_report: now + self.config.report_interval,
            next_remb: now,
            budget: Budget::new(now, UNKNOWN_RTP_PER_SECOND),
            clock: None,
            former: VecDeque::new(),
        });
        self.counters.sessions_connected += 1;
        let (profile, by) = (media_key.profile.name(), self.engine.describe_session(engine));
        let (name, stream, role) = (&session.name, session.stream.clone(), session.role);
        tracing::info!(session = name, stream, ?role, peer = %pair.peer, profile, engine = by, "session connected");
        match role {
            Role::Publisher => self.close_mismatched(&stream),
            Role::Subscriber => self.attach_all_of(key, now),
        }
    }

    /// ICE nominated another pair; keys, SSRCs and indices stay.
    pub(super) fn moved(&mut self, key: Key, pair: Pair) {
        let Some(transport) = transport(&self.sockets, pair) else { return };
        let Some((session, media)) = self.with_media(key) else { return };
        media.pair = pair;
        let engine = media.engine;
        tracing::info!(session = session, peer = %pair.peer, "peer moved");
        if let Err(error) = self.engine.move_session(engine, transport) {
            self.counters.refused_by_engine += 1;
            tracing::warn!(peer = %pair.peer, "the engine cannot follow the peer: {error}");
            self.close(key, "its peer moved to where the engine cannot reach it");
        }
    }

    /// The peer is there and wants us to go on (RFC 7675): an authenticated check on the nominated pair.
    pub(super) fn consent(&mut self, key: Key, pair: Pair, now: Instant) {
        let interval = self.config.refresh_interval;
        let Some((_, media)) = self.with_media(key) else { return };
        if media.pair == pair && now.duration_since(media.refreshed) >= interval {
            media.refreshed = now;
            let engine = media.engine;
            self.engine.refresh_session(engine);
        }
    }

    /// RTP that the engine passed up: either an SSRC that it does not know yet, or nothing for us.
    pub(super) fn rtp(&mut self, key: Key, pair: Pair, packet: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
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
        let Some(session) = self.sessions.get_mut(&key) else { return };
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
                });
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
        let Some(session) = self.sessions.get_mut(&key) else { return false };
        let Some(source) = session.publisher_tracks().get(track).and_then(|track| track.source.as_ref()) else {
            return true;
        };
        let (id, ssrc) = (source.id, source.ssrc);
        let stats = self.engine.publisher_stats(id).unwrap_or_default();
        let alive = match stats.last_arrival_ns {
            0 => now.duration_since(source.learnt) < SOURCE_UNHEARD,
            last => Duration::from_nanos(boot_ns().saturating_sub(last)) < SOURCE_SILENT,
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
    fn stop_source(&mut self, key: Key, track: usize, stream: &str) {
        let source = self
            .sessions
            .get_mut(&key)
            .and_then(|session| session.publisher_tracks_mut().get_mut(track).and_then(|track| track.source.take()));
        if let Some(source) = source {
            self.stop_sending(&source, stream);
        }
    }

    /// Takes a publisher's SSRC out of the engine.
    pub(super) fn stop_sending(&mut self, source: &Source, stream: &str) {
        let viewers = self.streams.get(stream).map(|stream| &stream.viewers);
        for viewer in viewers.into_iter().flatten() {
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

    /// Takes a session's media out of the engine. Before DTLS is closed.
    pub(super) fn stop_media(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let stream = session.stream.clone();
        for track in 0..session.publisher_tracks().len() {
            self.stop_source(key, track, &stream);
        }
        let Some(session) = self.sessions.get_mut(&key) else { return };
        for entry in session.viewer_tracks_mut() {
            if let Attachment::Attached { track, .. } = entry.attachment {
                self.engine.remove_subscriber_track(track);
                entry.attachment = Attachment::Stopping { track };
            }
        }
        let goodbye = session.goodbye();
        if let Some(media) = session.media.take() {
            self.engine.remove_session(media.engine);
            if let Some(packet) = goodbye {
                self.send(media.pair.socket, media.pair.peer, &packet);
            }
        }
    }

    /// A new publisher cannot serve viewers that negotiated another codec.
    pub(super) fn close_mismatched(&mut self, stream: &str) {
        let sent = self.sent(stream);
        let mismatched = |viewer: &Session| {
            viewer.viewer_tracks().iter().any(|wanted| {
                let sent = sent.iter().find(|track| track.kind() == wanted.kind());
                sent.is_some_and(|sent| !sent.serves(&wanted.format))
            })
        };
        let viewers = self.streams.get(stream).into_iter().flat_map(|stream| &stream.viewers);
        let gone: Vec<Key> = viewers
            .filter(|viewer| self.sessions.get(viewer).is_some_and(|viewer| mismatched(viewer)))
            .copied()
            .collect();
        for viewer in gone {
            self.close(viewer, "the stream's new publisher sends another codec");
        }
    }

    pub(super) fn attach_viewers(&mut self, stream: &str, kind: Kind, now: Instant) {
        let viewers: Vec<Key> =
            self.streams.get(stream).into_iter().flat_map(|stream| &stream.viewers).copied().collect();
        for viewer in viewers {
            let tracks = self.sessions.get(&viewer).map_or(&[][..], |session| session.viewer_tracks());
            let track = tracks.iter().position(|track| track.kind() == kind);
            if let Some(track) = track {
                self.attach(viewer, track, now);
            }
        }
    }

    fn attach_all_of(&mut self, viewer: Key, now: Instant) {
        let tracks = self.sessions.get(&viewer).map_or(0, |session| session.viewer_tracks().len());
        for track in 0..tracks {
            self.attach(viewer, track, now);
        }
    }

    /// Feeds a viewer's track from its stream's publisher, if both are ready.
    fn attach(&mut self, viewer: Key, track: usize, now: Instant) {
        let Some(session) = self.sessions.get(&viewer) else { return };
        let Some(wanted) = session.viewer_tracks().get(track).filter(|track| track.attachment == Attachment::Idle)
        else {
            return;
        };
        let Some(sent) = self.sent(&session.stream).iter().find(|sent| sent.serves(&wanted.format)) else { return };
        let Some(Source { id: from, first_timestamp, learnt, .. }) = sent.source.as_ref() else { return };
        let (from, since_first) = (*from, now.duration_since(*learnt));
        // A camera's timestamps are made continuous where they come in.
        let timestamp_offset = match sent.any_profile {
            true => wanted.timestamp_offset,
            false => wanted.continued_timestamp(*first_timestamp, since_first, boot_ns()),
        };
        let Some(engine) = session.media.as_ref().map(|media| media.engine) else { return };
        let new = NewSubscriberTrack {
            ssrc: wanted.ssrc,
            kind: wanted.kind(),
            payload_type: wanted.format.payload_type,
            next_out: wanted.next_out,
            timestamp_offset,
        };
        match self.engine.add_subscriber_track(engine, from, new) {
            Ok(id) => {
                self.owners.add(id, (viewer, track));
                let Some(session) = self.sessions.get_mut(&viewer) else { return };
                if let Some(entry) = session.viewer_tracks_mut().get_mut(track) {
                    entry.attachment = Attachment::Attached { track: id, from };
                    entry.timestamp_offset = timestamp_offset;
                }
            }
            Err(error) => {
                self.counters.refused_by_engine += 1;
                tracing::warn!(session = session.name, stream = session.stream, "the engine refused a track: {error}");
                self.close(viewer, "the engine refused its track");
            }
        }
    }

    /// What the engine says by itself.
    pub(super) fn engine_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::PublisherTrackStopped { .. } => {}
            Event::SubscriberTrackStarted { track } => match self.owners.of(track) {
                Some((viewer, index)) => self.want_keyframe(viewer, index, now),
                None => self.counters.engine_events_unmatched += 1,
            },
            Event::SubscriberTrackStopped { track, next_out } => self.stopped(track, next_out, now),
            Event::SubscriberTrackFailed { track } => match self.owners.end(track) {
                // Where its index stands is not known, so its SSRC cannot go on.
                Some((viewer, _)) => {
                    self.counters.refused_by_engine += 1;
                    self.close(viewer, "the engine lost its track");
                }
                None => self.counters.engine_events_unmatched += 1,
            },
        }
    }

    fn stopped(&mut self, track: SubscriberTrackId, next_out: ExtendedSeq, now: Instant) {
        let Some((viewer, index)) = self.owners.end(track) else {
            self.counters.engine_events_unmatched += 1;
            return;
        };
        let Some(session) = self.sessions.get_mut(&viewer) else { return };
        let Some(entry) = session.viewer_tracks_mut().get_mut(index) else { return };
        if let Attachment::Attached { track, .. } = entry.attachment {
            let stats = self.engine.subscriber_stats(track).unwrap_or_default();
            entry.leave(track, &stats);
        }
        entry.next_out = entry.next_out.max(next_out);
        entry.attachment = Attachment::Idle;
        self.attach(viewer, index, now);
    }

    /// Asks the publisher for a keyframe on behalf of a viewer's track.
    pub(super) fn want_keyframe(&mut self, viewer: Key, track: usize, now: Instant) {
        let Some(session) = self.sessions.get(&viewer) else { return };
        let Some(kind) = session.viewer_tracks().get(track).map(|track| track.kind()) else { return };
        if self.sourced.contains_key(&session.stream) {
            // There is no way to ask a camera.
            self.counters.keyframe_requests_to_sources += 1;
            return;
        }
        let Some(publisher) = self.streams.get(&session.stream).and_then(|stream| stream.publisher) else { return };
        let Some(session) = self.sessions.get_mut(&publisher) else { return };
        for entry in session.publisher_tracks_mut() {
            if kind == Kind::Video && entry.kind() == Kind::Video {
                entry.keyframes.want();
            }
        }
        self.report(publisher, now);
        self.arm(publisher, now);
    }

    /// A connected session's name and media.
    pub(super) fn with_media(&mut self, key: Key) -> Option<(&str, &mut Media)> {
        let session = self.sessions.get_mut(&key)?;
        Some((session.name.as_str(), session.media.as_mut()?))
    }
}

fn transport(sockets: &super::sockets::Sockets, pair: Pair) -> Option<Transport> {
    Some(Transport { local: sockets.bound(pair.socket)?, peer: pair.peer })
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
