//! Pictures that come in several layers (simulcast): each layer is a track of its publisher, and one of them goes to
//! the viewers. Which one: `penstock_webrtc::layers`.
//!
//! How large a layer is, its keyframes say, and those are in the clear only here: so packets of a new layer come up
//! until one has been seen. From then on the engine has it. A layer that nobody gets is opened there all the same:
//! its roll-over counter would be lost otherwise after 2^15 packets (RFC 3711 §3.3.1), and a layer that rests for
//! minutes could never be taken again.

use std::time::{Duration, Instant};

use forwarder_common::rtp::{RtpHeader, extension};

use super::Task;
use crate::stream::ids::Key;
use crate::stream::session::{Attachment, PublisherTrack, Session, Tracks};
use penstock_engine::clock::boottime_ns;
use penstock_engine::{Engine, Kind};
use penstock_rtp::picture;
use penstock_webrtc::layers::Seen;

/// Time between two looks at the layers of a picture.
const LOOK: Duration = Duration::from_millis(200);
/// A layer of which no keyframe comes for so long is taken without its size.
const UNSEEN: Duration = Duration::from_millis(1500);

/// Whose a packet is whose SSRC nobody knows.
pub(super) enum Found {
    /// Its place in the session.
    Track(usize),
    /// What it repairs, by its place.
    Repairs(usize),
    OtherPayloadType,
    /// It does not say of which layer it is.
    UnknownLayer,
}

/// The track of an authentic packet: by its payload type, and by the layer that it names. `was`: the track that its SSRC
/// has had, since senders name a layer only until they know that it has arrived.
pub(super) fn track_of(tracks: &[PublisherTrack], packet: &[u8], header: &RtpHeader, was: Option<usize>) -> Found {
    let fits = |track: &PublisherTrack| track.accepts(header.payload_type());
    let mut fitting = tracks.iter().enumerate().filter(|(_, track)| fits(track)).peekable();
    let Some((first, track)) = fitting.peek() else { return repaired(tracks, packet, header) };
    let Some(layer) = &track.layer else { return Found::Track(*first) };
    let name = extension(packet, layer.extension);
    let is_it = |(place, track): &(usize, &PublisherTrack)| {
        was == Some(*place)
            || track.ssrc() == Some(header.ssrc())
            || name.is_some_and(|name| track.layer.as_ref().is_some_and(|layer| layer.name.as_bytes() == name))
    };
    fitting.find(is_it).map_or(Found::UnknownLayer, |(place, _)| Found::Track(place))
}

/// The track that a packet of repairs is for: by its payload type, and by the layer that it names.
fn repaired(tracks: &[PublisherTrack], packet: &[u8], header: &RtpHeader) -> Found {
    let fits = |track: &PublisherTrack| track.rtx.is_some_and(|rtx| rtx.payload_type == header.payload_type());
    let mut fitting = tracks.iter().enumerate().filter(|(_, track)| fits(track)).peekable();
    let Some((first, track)) = fitting.peek() else { return Found::OtherPayloadType };
    if track.layer.is_none() {
        return Found::Repairs(*first);
    }
    let name = track.rtx.and_then(|rtx| rtx.extension).and_then(|number| extension(packet, number));
    let names = |track: &PublisherTrack| track.layer.as_ref().is_some_and(|layer| Some(layer.name.as_bytes()) == name);
    fitting.find(|(_, track)| names(track)).map_or(Found::UnknownLayer, |(place, _)| Found::Repairs(place))
}

impl Task {
    /// Is it known how large the track's picture is, or no longer waited for? Then the engine may have its SSRC.
    pub(super) fn is_seen(&mut self, key: Key, track: usize, ssrc: u32, payload: &[u8], now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let Some(entry) = session.publisher_tracks_mut().get_mut(track) else { return false };
        let codec = entry.format.codec;
        let Some(layer) = entry.layer.as_mut() else { return true };
        layer.size = picture::size(codec, payload).or(layer.size);
        let since = layer.unseen.filter(|(known, _)| *known == ssrc).map_or(now, |(_, since)| since);
        if layer.size.is_some() || now.duration_since(since) >= UNSEEN {
            layer.unseen = None;
            return true;
        }
        layer.unseen = Some((ssrc, since));
        entry.keyframes.want();
        self.report(key, now);
        self.arm(key, now);
        false
    }

    /// As [`look_at_layers`](Self::look_at_layers), if it is time.
    pub(super) fn look_at_layers_in_time(&mut self, key: Key, now: Instant) {
        let media = self.sessions.get(key).and_then(|session| session.media.as_ref());
        if media.and_then(|media| media.next_layers).is_some_and(|next| next <= now) {
            self.look_at_layers(key, now);
        }
    }

    /// Finds the layer that viewers are to get, and gives it to them if it is another one than before.
    pub(super) fn look_at_layers(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Session { tracks: Tracks::Publisher(tracks), media: Some(media), .. } = session else { return };
        let layered = |track: &PublisherTrack| track.layer.is_some();
        let Some(first) = tracks.iter().position(layered) else { return };
        media.next_layers = Some(now + LOOK);
        // One section has video, so its layers stand side by side.
        let seen: Vec<_> =
            tracks.iter().filter(|track| layered(track)).map(|track| seen(track, &*self.engine, now)).collect();
        let before = media.choice.current();
        let chosen = media.choice.look(now, &seen);
        if let Some(chosen) = chosen.filter(|_| chosen != before) {
            self.forward_layer(key, first + chosen, before.is_some(), now);
        }
    }

    fn forward_layer(&mut self, key: Key, chosen: usize, another: bool, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (name, stream) = (session.name.clone(), session.stream.clone());
        let mut former = None;
        for (place, track) in session.publisher_tracks_mut().iter_mut().enumerate() {
            let Some(layer) = track.layer.as_mut() else { continue };
            let was = std::mem::replace(&mut layer.is_forwarded, place == chosen);
            if place == chosen {
                let (width, height) = layer.size.unwrap_or_default();
                tracing::info!(session = name, stream, layer = layer.name, width, height, "viewers get this layer");
            }
            let Some(source) = track.source.as_mut() else { continue };
            if was != (place == chosen) {
                // Nobody asks for what a layer lacks that nobody gets.
                source.gaps = None;
            }
            former = former.or(Some(source.id).filter(|_| was));
        }
        self.counters.layers_changed += u64::from(another);
        self.asking.begin(key, now);
        for viewer in self.streams.viewers(&stream) {
            let tracks = self.sessions.get(viewer).map_or(&[][..], |session| session.viewer_tracks());
            let of_former =
                |attachment| matches!(attachment, Attachment::Attached { from, .. } if Some(from) == former);
            let leaving: Vec<usize> =
                tracks.iter().enumerate().filter(|(_, track)| of_former(track.attachment)).map(|(at, _)| at).collect();
            for index in leaving {
                self.detach(viewer, index);
            }
        }
        self.attach_viewers(&stream, Kind::Video, now);
    }
}

/// What is known of a layer. `None`: it has no SSRC.
fn seen(track: &PublisherTrack, engine: &dyn Engine, now: Instant) -> Option<Seen> {
    let source = track.source.as_ref()?;
    let (width, height) = track.layer.as_ref()?.size.unwrap_or_default();
    // The packet by which its SSRC was learnt has not come to the engine.
    let learnt = boottime_ns().saturating_sub(now.saturating_duration_since(source.learnt).as_nanos() as u64);
    let last = engine.publisher_stats(source.id).map_or(0, |stats| stats.last_arrival_ns).max(learnt);
    Some(Seen { area: u64::from(width) * u64::from(height), last: Duration::from_nanos(last) })
}
