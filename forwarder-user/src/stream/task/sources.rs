//! Streams that have a source instead of a WHIP publisher.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::Task;
use crate::config;
use crate::ingest::{Event, Handle, SourceTrack, State};
use crate::stream::keyframe::Keyframes;
use crate::stream::report::{LastSr, ReceptionHistory, SenderClock};
use crate::stream::session::{Others, PublisherTrack, Source};
use crate::stream::strays::Strays;
use crate::stream::streams::Reply;
use crate::stream::{DRAINING, Refusal, Visitor};
use penstock_engine::Role;
use penstock_webrtc::sdp::Offer;

/// Viewers of one stream that may wait for its source to be described.
const MAX_WAITING: usize = 512;
/// And of one address, whose viewers may come from a large house.
const MAX_WAITING_OF_ONE: usize = 320;

impl Task {
    /// Keeps an offer until the source is described, or fails.
    pub(super) fn wait_for_description(&mut self, stream: &str, offer: Box<Offer>, visitor: Visitor, reply: Reply) {
        let Some(sourced) = self.streams.source_mut(stream) else { return };
        // Those whose client has given up.
        sourced.waiting.retain(|(_, _, reply)| !reply.is_closed());
        let of_one = sourced.waiting.iter().filter(|(_, other, _)| other.from == visitor.from).count();
        let status = self.ingest.sources.get(stream).map(|source| source.status()).unwrap_or_default();
        let refusal = if status.state == State::Waiting {
            Some(format!("the source of {stream:?} has failed: {}", status.error_text.unwrap_or_default()))
        } else if of_one >= MAX_WAITING_OF_ONE {
            Some(format!("{of_one} viewers of your address wait for the source of {stream:?} already"))
        } else if sourced.waiting.len() >= MAX_WAITING {
            Some(format!("{MAX_WAITING} viewers wait for the source of {stream:?} already"))
        } else {
            None
        };
        match refusal {
            Some(text) => {
                self.counters.refused_offers += 1;
                let _ = reply.send(Err(Refusal::Unavailable(text)));
            }
            None => sourced.waiting.push((offer, visitor, reply)),
        }
        self.update_demand(stream);
    }

    /// Tells a source whether somebody watches.
    pub(super) fn update_demand(&self, stream: &str) {
        let Some(source) = self.ingest.sources.get(stream) else { return };
        source.want(self.streams.is_watched(stream));
    }

    /// What a source reports.
    pub(super) fn ingest_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Publish { stream, handle, reply } => {
                let _ = reply.send(self.publish(&stream, handle, now));
            }
            Event::Player { player, asked } => self.player_asks(player, asked, now),
            Event::Released { stream } => self.release(&stream),
            Event::Described { stream, tracks } => self.described(&stream, tracks, now),
            Event::Failed { stream, why } => {
                self.tell_ready(&stream, false);
                let Some(sourced) = self.streams.source_mut(&stream) else { return };
                for (_, _, reply) in std::mem::take(&mut sourced.waiting) {
                    self.counters.refused_offers += 1;
                    let text = format!("the source of {stream:?} has failed: {why}");
                    let _ = reply.send(Err(Refusal::Unavailable(text)));
                }
                self.answer_players(&stream, Some(&format!("the source of {stream:?} has failed: {why}")));
                self.update_demand(&stream);
            }
            Event::SenderReport { stream, track, ntp, rtp, at, first } => {
                let our_ntp = self.ntp.at(at);
                let Some(sourced) = self.streams.source_mut(&stream) else { return };
                let mut sources = sourced.tracks.iter_mut().filter_map(|track| track.source.as_mut());
                if first {
                    // Another connection, perhaps another wall clock.
                    sourced.clock = Some(SenderClock::new(our_ntp, ntp));
                    for source in sources {
                        let report = (source.id == track).then_some(LastSr { ntp, rtp, arrived: at });
                        source.reception.last_sr = report;
                    }
                } else if let Some(source) = sources.find(|source| source.id == track) {
                    source.reception.last_sr = Some(LastSr { ntp, rtp, arrived: at });
                }
            }
        }
    }

    /// Other sources than before. Viewers stay, and get the new media when it comes.
    pub(super) fn set_sources(&mut self, wanted: BTreeMap<String, config::Stream>) {
        let former = std::mem::replace(&mut self.config.ingest.streams, wanted.clone());
        for name in former.keys().filter(|name| !wanted.contains_key(*name)) {
            self.end_source(name);
        }
        for (name, config) in wanted.iter().filter(|(name, config)| former.get(*name) != Some(*config)) {
            if !former.contains_key(name) {
                self.release(name);
                if let Some(publisher) = self.streams.publisher(name) {
                    self.close(publisher, "the configuration has given its stream a source");
                }
                self.streams.add_source(name);
            }
            if let Err(error) = self.ingest.add(name, config, &self.engine) {
                tracing::error!(stream = name, "no source: {error}");
            }
            self.update_demand(name);
        }
    }

    fn end_source(&mut self, name: &str) {
        self.ingest.sources.remove(name);
        self.forget_source(name, format!("{name:?} has no source any more"));
    }

    /// Takes what a source sends out of the engine; whoever waits for it is told why in vain.
    fn forget_source(&mut self, name: &str, why: String) {
        self.tell_ready(name, false);
        let Some(sourced) = self.streams.end_source(name) else { return };
        for source in sourced.tracks.iter().filter_map(|track| track.source.as_ref()) {
            self.stop_sending(source, name);
        }
        for (_, _, reply) in sourced.waiting {
            self.counters.refused_offers += 1;
            let _ = reply.send(Err(Refusal::NotFound(why.clone())));
        }
        self.answer_players(name, Some(&why));
    }

    /// Gives a stream to somebody who publishes by RTSP. `Err`: why not.
    fn publish(&mut self, stream: &str, handle: Handle, now: Instant) -> Result<(), String> {
        if self.draining {
            return Err(DRAINING.into());
        }
        self.make_way(stream, now).map_err(|refusal| refusal.to_string())?;
        handle.want(self.streams.is_watched(stream));
        self.ingest.sources.insert(stream.to_owned(), handle);
        self.streams.add_source(stream);
        Ok(())
    }

    /// Ends what somebody published by RTSP who has gone. Viewers stay, as after a WHIP publisher.
    pub(super) fn release(&mut self, stream: &str) {
        if self.ingest.sources.get(stream).is_none_or(|source| !source.pushed) {
            return;
        }
        self.ingest.sources.remove(stream);
        self.forget_source(stream, format!("nobody publishes {stream:?} now"));
    }

    fn described(&mut self, stream: &str, tracks: Vec<SourceTrack>, now: Instant) {
        if !self.streams.has_source(stream) {
            // Its last word came after it was released, or the configuration had dropped it.
            tracks.iter().for_each(|track| self.engine.remove_publisher_track(track.id));
            return;
        }
        let new = tracks.into_iter().enumerate().map(|(index, SourceTrack { format, id })| PublisherTrack {
            format,
            others: vec![],
            source: Some(Source {
                ssrc: index as u32,
                id,
                learnt: now,
                first_timestamp: 0,
                repairs: None,
                passed_up: 0,
                strays: Strays::default(),
                charged: 0,
                reception: ReceptionHistory::default(),
                gaps: None,
                others: Others::default(),
            }),
            keyframes: Keyframes::default(),
            nack: false,
            any_profile: true,
            rtx: None,
            sequence: None,
            layer: None,
        });
        let Some(sourced) = self.streams.source_mut(stream) else { return };
        let former = std::mem::replace(&mut sourced.tracks, new.collect());
        sourced.clock = None;
        let is_ready = !sourced.tracks.is_empty();
        let kinds: Vec<_> = sourced.tracks.iter().map(PublisherTrack::kind).collect();
        let waiting = std::mem::take(&mut sourced.waiting);
        for source in former.iter().filter_map(|track| track.source.as_ref()) {
            self.stop_sending(source, stream);
        }
        self.tell_ready(stream, is_ready);
        self.close_mismatched(stream);
        for kind in kinds {
            self.attach_viewers(stream, kind, now);
        }
        for (offer, visitor, reply) in waiting {
            self.answer(Role::Subscriber, stream.to_owned(), visitor, Ok(offer), reply, now);
        }
        self.answer_players(stream, None);
        self.update_demand(stream);
    }

    /// A stream's source for the API, and whether one can watch it.
    pub(super) fn source(&self, stream: &str) -> Option<(bool, Value)> {
        let source = self.ingest.sources.get(stream)?;
        let status = source.status();
        let on_demand = source.on_demand && status.state != State::Waiting;
        let live = status.state == State::Playing || on_demand;
        let codecs: Vec<String> =
            self.streams.sent(stream, &self.sessions).iter().map(|track| track.format.to_string()).collect();
        let sources = self.streams.sent(stream, &self.sessions).iter().filter_map(|track| track.source.as_ref());
        let cache = sources.clone().find_map(|source| self.engine.sources()?.kept_stats(source.id));
        let mut value = json!({
            "url": source.url,
            "on_demand": source.on_demand,
            "codecs": codecs,
            "keyframe_cache": cache,
        });
        if let (Some(all), Ok(Value::Object(status))) = (value.as_object_mut(), serde_json::to_value(&status)) {
            all.extend(status);
        }
        Some((live, value))
    }
}
