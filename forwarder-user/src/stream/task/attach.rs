//! Which of a stream's tracks its viewers get: attached, detached, and what the engine says of it.

use std::time::{Duration, Instant};

use forwarder_common::ExtendedSeq;

use super::Task;
use crate::stream::ids::Key;
use crate::stream::session::{Attachment, PublisherTrack, Source, ViewerTrack};
use penstock_engine::clock::boottime_ns;
use penstock_engine::{Event, Kind, NewSubscriberTrack, SubscriberTrackId};
use penstock_webrtc::sdp::{self, Sent};

/// Can the viewer decode it, or might it turn out so when the first packet comes?
fn is_played(wanted: &ViewerTrack, sent: &PublisherTrack) -> bool {
    let own = std::iter::once(&wanted.format).chain(&wanted.others);
    let Sent { others, any_profile, .. } = sent.sent();
    wanted.place(sent).is_some() || others.iter().any(|sent| sdp::place(sent, any_profile, own.clone()).is_some())
}

/// What a viewer misses who cannot decode this.
fn without(sent: &PublisherTrack) -> String {
    let thing = match sent.kind() {
        Kind::Audio => "sound",
        Kind::Video => "picture",
    };
    format!("without {thing}: the publisher sends {}, which it did not offer to decode", sent.format)
}

impl Task {
    /// What is published is new, or comes in another codec. Viewers go on with what they can decode of it; those that
    /// can decode nothing make room for their next attempt, which is told what to do.
    pub(super) fn close_mismatched(&mut self, stream: &str) {
        for key in self.streams.viewers(stream) {
            let Some(viewer) = self.sessions.get(key) else { continue };
            let sent = self.streams.sent(stream, &self.sessions);
            let pairs = viewer.viewer_tracks().iter().filter_map(|wanted| {
                let sent = sent.iter().find(|sent| sent.kind() == wanted.kind())?;
                Some((wanted, sent))
            });
            let (played, missed): (Vec<_>, Vec<_>) = pairs.partition(|(wanted, sent)| is_played(wanted, sent));
            if played.is_empty() && !missed.is_empty() {
                self.close(key, "the stream's publisher sends codecs of which this viewer negotiated none");
                continue;
            }
            let without: Vec<String> = missed.iter().map(|(_, sent)| without(sent)).collect();
            let whole = !played.is_empty() && played.len() == sent.len();
            let name = viewer.name.clone();
            let Some(viewer) = self.sessions.get_mut(key) else { continue };
            if !without.is_empty() {
                let without = without.join("; ");
                self.counters.viewers_without_a_kind += 1;
                tracing::warn!(session = name, stream, "the viewer goes on {without}");
                viewer.without = Some(without);
            } else if whole {
                viewer.without = None;
            }
        }
        self.end_mismatched_players(stream);
    }

    pub(super) fn attach_viewers(&mut self, stream: &str, kind: Kind, now: Instant) {
        for viewer in self.streams.viewers(stream) {
            let tracks = self.sessions.get(viewer).map_or(&[][..], |session| session.viewer_tracks());
            let track = tracks.iter().position(|track| track.kind() == kind);
            if let Some(track) = track {
                self.attach(viewer, track, now);
            }
        }
        self.attach_players(stream, kind, now);
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
        let mut forwarded = sent.iter().filter(|sent| sent.is_forwarded());
        let Some(sent) = forwarded.find(|sent| sent.kind() == wanted.kind()) else { return };
        let Some(place) = wanted.place(sent) else { return };
        let Some(Source { id: from, ssrc, first_timestamp, learnt, .. }) = sent.source.as_ref() else { return };
        let (from, mut since_first, mut first_timestamp) = (*from, now.duration_since(*learnt), *first_timestamp);
        // A layer may have waited for long: its last packet says better where its clock is.
        let last = sent.layer.as_ref().and_then(|_| self.engine.publisher_stats(from));
        if let Some(last) = last.filter(|last| last.last_arrival_ns != 0) {
            since_first = Duration::from_nanos(boottime_ns().saturating_sub(last.last_arrival_ns));
            first_timestamp = last.last_timestamp;
        }
        // The same SSRC of the same publisher goes on, be it by another engine: nothing changes but what was lost.
        let feeds = self.streams.publisher(&session.stream).map(|publisher| (publisher, *ssrc));
        let goes_on = feeds.is_some() && wanted.fed_by == feeds;
        // A camera's timestamps are made continuous where they come in.
        let timestamp_offset = match sent.any_profile {
            true => wanted.timestamp_offset,
            false if goes_on => wanted.timestamp_offset,
            false => wanted.continued_timestamp(first_timestamp, since_first, boottime_ns()),
        };
        let Some(engine) = session.media.as_ref().map(|media| media.engine) else { return };
        let Some(session) = self.sessions.get_mut(viewer) else { return };
        let Some(wanted) = session.viewer_tracks_mut().get_mut(track) else { return };
        wanted.take(place);
        let kind = wanted.kind();
        let new = NewSubscriberTrack {
            ssrc: wanted.ssrc,
            kind,
            payload_type: wanted.format.payload_type,
            next_out: wanted.next_out,
            index_offset: wanted.index_offset.filter(|_| goes_on),
            timestamp_offset,
            dscp: match kind {
                Kind::Audio => self.config.dscp[0],
                Kind::Video => self.config.dscp[1],
            },
        };
        match self.engine.add_subscriber_track(engine, from, new) {
            Ok(id) => {
                self.owners.add(id, (viewer, track));
                let Some(session) = self.sessions.get_mut(viewer) else { return };
                if let Some(entry) = session.viewer_tracks_mut().get_mut(track) {
                    entry.attachment = Attachment::Attached { track: id, from };
                    entry.timestamp_offset = timestamp_offset;
                    entry.fed_by = feeds;
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
            Event::PublisherTrackStopped { track, highest } => self.source_stopped(track, highest),
            Event::SubscriberTrackStarted { track } => match self.owners.of(track) {
                Some((viewer, index)) => self.want_keyframe(viewer, index, now),
                None => self.counters.engine_events_unmatched += 1,
            },
            Event::SubscriberTrackStopped { track, next_out, index_offset } => {
                self.stopped(track, (next_out, index_offset), now);
            }
            Event::SubscriberTrackLost { track } => self.lost(track),
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

    /// A viewer's copies do not reach it: the track is taken out, and added anew where they do.
    fn lost(&mut self, track: SubscriberTrackId) {
        let Some((viewer, index)) = self.owners.of(track).filter(|_| self.engine.has_other_ways()) else { return };
        let Some(session) = self.sessions.get(viewer) else { return };
        let entry = session.viewer_tracks().get(index).map(|track| track.attachment);
        if !matches!(entry, Some(Attachment::Attached { track: attached, .. }) if attached == track) {
            return;
        }
        self.counters.viewer_tracks_moved += 1;
        self.detach(viewer, index);
    }

    /// A viewer's tracks are added anew, where they may go the better way again.
    pub(super) fn move_viewer(&mut self, viewer: Key) {
        let Some(session) = self.sessions.get(viewer) else { return };
        tracing::info!(session = session.name, stream = session.stream, "XDP reaches the viewer again: back to it");
        for index in 0..session.viewer_tracks().len() {
            let attached = self.detach(viewer, index);
            self.counters.viewer_tracks_back += u64::from(attached);
        }
    }

    /// Takes a viewer's track out of the engine. When that has said where the index stands, the track is attached anew.
    /// `false`: it was not there.
    pub(super) fn detach(&mut self, viewer: Key, index: usize) -> bool {
        let Some(session) = self.sessions.get_mut(viewer) else { return false };
        let Some(entry) = session.viewer_tracks_mut().get_mut(index) else { return false };
        let Attachment::Attached { track, .. } = entry.attachment else { return false };
        let stats = self.engine.subscriber_stats(track).unwrap_or_default();
        entry.leave(track, &stats);
        self.engine.remove_subscriber_track(track);
        true
    }

    fn stopped(
        &mut self,
        track: SubscriberTrackId,
        (next_out, index_offset): (ExtendedSeq, Option<u64>),
        now: Instant,
    ) {
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
        entry.index_offset = index_offset;
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
        let stream = session.stream.clone();
        if kind == Kind::Video {
            self.ask_for_keyframe(&stream, now);
        }
    }

    /// Asks a stream's publisher for a keyframe.
    pub(super) fn ask_for_keyframe(&mut self, stream: &str, now: Instant) {
        let Some(publisher) = self.streams.publisher(stream) else { return };
        let Some(session) = self.sessions.get_mut(publisher) else { return };
        for entry in session.publisher_tracks_mut() {
            if entry.kind() == Kind::Video && entry.is_forwarded() {
                entry.keyframes.want();
            }
        }
        self.report(publisher, now);
        self.arm(publisher, now);
    }
}
