//! Which of a stream's tracks its viewers get: attached, detached, and what the engine says of it.

use std::time::Instant;

use forwarder_common::ExtendedSeq;

use super::Task;
use crate::stream::ids::Key;
use crate::stream::session::{Attachment, Session, Source};
use penstock_engine::clock::boottime_ns;
use penstock_engine::{Event, Kind, NewSubscriberTrack, SubscriberTrackId};

impl Task {
    /// A new publisher cannot serve viewers that negotiated another codec.
    pub(super) fn close_mismatched(&mut self, stream: &str) {
        let sent = self.streams.sent(stream, &self.sessions);
        let mismatched = |viewer: &Session| {
            viewer.viewer_tracks().iter().any(|wanted| {
                let sent = sent.iter().find(|track| track.kind() == wanted.kind());
                sent.is_some_and(|sent| !sent.serves(&wanted.format))
            })
        };
        let viewers = self.streams.viewers(stream).into_iter();
        let gone: Vec<Key> = viewers.filter(|viewer| self.sessions.get(*viewer).is_some_and(mismatched)).collect();
        for viewer in gone {
            self.close(viewer, "the stream's new publisher sends another codec");
        }
    }

    pub(super) fn attach_viewers(&mut self, stream: &str, kind: Kind, now: Instant) {
        for viewer in self.streams.viewers(stream) {
            let tracks = self.sessions.get(viewer).map_or(&[][..], |session| session.viewer_tracks());
            let track = tracks.iter().position(|track| track.kind() == kind);
            if let Some(track) = track {
                self.attach(viewer, track, now);
            }
        }
    }

    pub(super) fn attach_all_of(&mut self, viewer: Key, now: Instant) {
        let tracks = self.sessions.get(viewer).map_or(0, |session| session.viewer_tracks().len());
        for track in 0..tracks {
            self.attach(viewer, track, now);
        }
    }

    /// Feeds a viewer's track from its stream's publisher, if both are ready.
    fn attach(&mut self, viewer: Key, track: usize, now: Instant) {
        let Some(session) = self.sessions.get(viewer) else { return };
        let Some(wanted) = session.viewer_tracks().get(track).filter(|track| track.attachment == Attachment::Idle)
        else {
            return;
        };
        let sent = self.streams.sent(&session.stream, &self.sessions);
        let Some(sent) = sent.iter().find(|sent| sent.serves(&wanted.format)) else { return };
        let Some(Source { id: from, first_timestamp, learnt, .. }) = sent.source.as_ref() else { return };
        let (from, since_first) = (*from, now.duration_since(*learnt));
        // A camera's timestamps are made continuous where they come in.
        let timestamp_offset = match sent.any_profile {
            true => wanted.timestamp_offset,
            false => wanted.continued_timestamp(*first_timestamp, since_first, boottime_ns()),
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
                let Some(session) = self.sessions.get_mut(viewer) else { return };
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
    pub(in crate::stream) fn engine_event(&mut self, event: Event, now: Instant) {
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
        let Some(session) = self.sessions.get_mut(viewer) else { return };
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
        let Some(session) = self.sessions.get(viewer) else { return };
        let Some(kind) = session.viewer_tracks().get(track).map(|track| track.kind()) else { return };
        if self.streams.has_source(&session.stream) {
            // There is no way to ask a camera.
            self.counters.keyframe_requests_to_sources += 1;
            return;
        }
        let Some(publisher) = self.streams.publisher(&session.stream) else { return };
        let Some(session) = self.sessions.get_mut(publisher) else { return };
        for entry in session.publisher_tracks_mut() {
            if kind == Kind::Video && entry.kind() == Kind::Video {
                entry.keyframes.want();
            }
        }
        self.report(publisher, now);
        self.arm(publisher, now);
    }
}
