//! Those who play by RTSP, as the control task knows them. Their connections live on the thread of the sources; the
//! engine tells them the packets.

use std::{collections::BTreeMap, net::SocketAddr};

use penstock_engine::{Ear, PublisherTrackId};
use penstock_media::codec::Format;
use tokio::sync::oneshot;

use crate::ingest::play::{PlayerId, Reference, Reply, Watching};

/// All of them.
pub(super) type Players = BTreeMap<PlayerId, Player>;

/// One of them.
pub(super) struct Player {
    pub(super) stream: String,
    /// For the log.
    pub(super) peer: SocketAddr,
    /// What it was told that the stream has.
    pub(super) formats: Vec<Format>,
    pub(super) state: State,
}

/// How far it has come.
pub(super) enum State {
    /// Nobody knows yet what the stream has.
    Waiting(Reply),
    /// Sent to or dropped, it ends the player.
    Watching { end: oneshot::Sender<&'static str>, tracks: Vec<PlayerTrack> },
}

/// A track that flows.
pub(super) struct PlayerTrack {
    /// Its place among the formats.
    pub(super) track: usize,
    pub(super) ear: Ear,
    pub(super) reference: Reference,
    /// Whose packets it hears.
    pub(super) from: Option<PublisherTrackId>,
}

impl Player {
    /// Tells it what the stream has. `false`: it has gone.
    pub(super) fn answer(&mut self, formats: Vec<Format>) -> bool {
        let (end, ended) = oneshot::channel();
        self.formats.clone_from(&formats);
        match std::mem::replace(&mut self.state, State::Watching { end, tracks: vec![] }) {
            State::Waiting(reply) => reply.send(Ok(Watching { formats, ended })).is_ok(),
            State::Watching { .. } => false,
        }
    }

    pub(super) fn tracks(&self) -> &[PlayerTrack] {
        match &self.state {
            State::Waiting(_) => &[],
            State::Watching { tracks, .. } => tracks,
        }
    }
}
