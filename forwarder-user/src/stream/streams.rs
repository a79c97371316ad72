//! The streams: who publishes and who plays under each name. The one place that changes either.
//!
//! A stream is there while it has a publisher, a source or a viewer.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::oneshot;

use super::ids::Key;
use super::report::SenderClock;
use super::session::{PublisherTrack, Session};
use super::sessions::Sessions;
use super::{Answer, Refusal, Visitor};
use crate::ingest::play::PlayerId;
use penstock_engine::Role;
use penstock_webrtc::sdp::Offer;

/// Whom an answer goes to.
pub(super) type Reply = oneshot::Sender<Result<Answer, Refusal>>;

/// All streams.
#[derive(Default)]
pub(super) struct Streams(BTreeMap<String, Stream>);

/// Who publishes and who plays under one name.
#[derive(Default)]
pub(super) struct Stream {
    publisher: Option<Key>,
    viewers: BTreeSet<Key>,
    /// Who plays it by RTSP, or waits to.
    players: BTreeSet<PlayerId>,
    /// In place of a WHIP publisher.
    source: Option<Sourced>,
}

/// What the control task keeps of a source.
#[derive(Default)]
pub(super) struct Sourced {
    /// What it sends. They stay while it is disconnected.
    pub(super) tracks: Vec<PublisherTrack>,
    /// Its wall clock against ours, from the first SR of its present connection.
    pub(super) clock: Option<SenderClock>,
    /// Offers that wait until it is known what it sends.
    pub(super) waiting: Vec<(Box<Offer>, Visitor, Reply)>,
}

impl Streams {
    /// Streams with nothing but a source.
    pub(super) fn with_sources<'a>(names: impl Iterator<Item = &'a String>) -> Self {
        let mut streams = Self::default();
        names.for_each(|name| streams.add_source(name));
        streams
    }

    /// By name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Stream)> {
        self.0.iter()
    }

    /// A session publishes or plays.
    pub(super) fn join(&mut self, name: &str, role: Role, key: Key) {
        let stream = self.0.entry(name.to_owned()).or_default();
        match role {
            Role::Publisher => stream.publisher = Some(key),
            Role::Subscriber => drop(stream.viewers.insert(key)),
        }
    }

    /// It does not any more.
    pub(super) fn leave(&mut self, name: &str, key: Key) {
        let Some(stream) = self.0.get_mut(name) else { return };
        stream.viewers.remove(&key);
        stream.publisher.take_if(|publisher| *publisher == key);
        self.tidy(name);
    }

    /// Somebody plays it by RTSP.
    pub(super) fn join_player(&mut self, name: &str, player: PlayerId) {
        self.0.entry(name.to_owned()).or_default().players.insert(player);
    }

    /// He does not any more.
    pub(super) fn leave_player(&mut self, name: &str, player: PlayerId) {
        let Some(stream) = self.0.get_mut(name) else { return };
        stream.players.remove(&player);
        self.tidy(name);
    }

    /// Who plays it by RTSP.
    pub(super) fn players(&self, name: &str) -> Vec<PlayerId> {
        self.0.get(name).into_iter().flat_map(|stream| &stream.players).copied().collect()
    }

    /// A stream has a source of its own from now on, of which nothing is known yet.
    pub(super) fn add_source(&mut self, name: &str) {
        self.0.entry(name.to_owned()).or_default().source = Some(Sourced::default());
    }

    /// It has none any more. What was known of it.
    pub(super) fn end_source(&mut self, name: &str) -> Option<Sourced> {
        let source = self.0.get_mut(name)?.source.take();
        self.tidy(name);
        source
    }

    fn tidy(&mut self, name: &str) {
        let nobody = |stream: &Stream| {
            let watched = !stream.viewers.is_empty() || !stream.players.is_empty();
            stream.publisher.is_none() && !watched && stream.source.is_none()
        };
        if self.0.get(name).is_some_and(nobody) {
            self.0.remove(name);
        }
    }

    pub(super) fn publisher(&self, name: &str) -> Option<Key> {
        self.0.get(name)?.publisher
    }

    pub(super) fn viewers(&self, name: &str) -> Vec<Key> {
        self.0.get(name).into_iter().flat_map(|stream| &stream.viewers).copied().collect()
    }

    /// How many play it, by WHEP and RTSP.
    pub(super) fn watching(&self, name: &str) -> usize {
        self.0.get(name).map_or(0, |stream| stream.viewers.len() + stream.players.len())
    }

    /// Whether somebody plays it, or waits to.
    pub(super) fn is_watched(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|stream| {
            let watched = !stream.viewers.is_empty() || !stream.players.is_empty();
            watched || stream.source.as_ref().is_some_and(|source| !source.waiting.is_empty())
        })
    }

    pub(super) fn has_source(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|stream| stream.source.is_some())
    }

    /// Has it a source that nothing is known of yet?
    pub(super) fn is_undescribed(&self, name: &str) -> bool {
        let source = self.0.get(name).and_then(|stream| stream.source.as_ref());
        source.is_some_and(|source| source.tracks.is_empty())
    }

    pub(super) fn source_mut(&mut self, name: &str) -> Option<&mut Sourced> {
        self.0.get_mut(name)?.source.as_mut()
    }

    /// What a stream's publisher or source sends.
    pub(super) fn sent<'a>(&'a self, name: &str, sessions: &'a Sessions) -> &'a [PublisherTrack] {
        let Some(stream) = self.0.get(name) else { return &[] };
        match &stream.source {
            Some(source) => &source.tracks,
            None => stream.session(sessions).map_or(&[], Session::publisher_tracks),
        }
    }

    /// The wall clock of a stream's publisher or source.
    pub(super) fn clock(&self, name: &str, sessions: &Sessions) -> Option<SenderClock> {
        let stream = self.0.get(name)?;
        match &stream.source {
            Some(source) => source.clock,
            None => stream.session(sessions)?.media.as_ref()?.clock,
        }
    }

    #[cfg(test)]
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Stream {
    /// Its publisher's session.
    pub(super) fn session<'a>(&self, sessions: &'a Sessions) -> Option<&'a Session> {
        sessions.get(self.publisher?)
    }

    pub(super) fn viewers(&self) -> usize {
        self.viewers.len()
    }

    pub(super) fn players(&self) -> usize {
        self.players.len()
    }
}
