//! One session, as whoever has it may see it: what arrives of a publisher, and why a viewer sees nothing. In the words
//! of people who know nothing of RTP; the log and the state have the engineer's.

use std::time::Instant;

use serde_json::{Value, json};

use super::Task;
use super::snapshot::{publisher_track, viewer_track};
use crate::ingest::State;
use crate::stream::session::Session;
use penstock_engine::Role;

/// What a player says while it has nothing to show, by name and in words.
type Said = (&'static str, &'static str);

const CONNECTING: Said = ("connecting", "The connection is being set up.");
const LIVE: Said = ("live", "");
const AWAY: Said = ("away", "Nobody publishes this stream at the moment. It goes on by itself.");
const JOINING: Said = ("joining", "Its publisher is connecting. It goes on by itself.");
const SILENT: Said = ("silent", "Its publisher is connected, but sends nothing at the moment. It goes on by itself.");
const CAMERA_JOINING: Said = ("joining", "The camera is being connected. It goes on by itself.");
const CAMERA_AWAY: Said = ("away", "The camera does not answer at the moment. It is tried again and again.");
const KEPT_BACK: Said =
    ("kept_back", "The server has this stream and does not get it to you. Its log says why; tell whoever runs it.");
const UNHEARD: Said = (
    "unheard",
    "The server sends this stream to you, and nothing arrives. Something on the way keeps it back: try another network, \
     or ask whoever runs this one.",
);

impl Task {
    /// The session with this id, which only its owner knows; `None`: there is none.
    pub(in crate::stream) fn view(&self, id: &str, now: Instant) -> Option<Value> {
        let session = self.sessions.get(self.sessions.by_id(id)?)?;
        let engine = self.engine.as_ref();
        let publishing = session.publisher_tracks().iter().map(|track| publisher_track(track, engine));
        let viewing = session.viewer_tracks().iter().map(|track| viewer_track(track, engine));
        let (state, message) = match session.role {
            Role::Publisher => self.said_to_publisher(session, now),
            Role::Subscriber => self.said_to_viewer(session, now),
        };
        Some(json!({
            "role": session.role,
            "stream": session.stream,
            "state": state,
            "message": message,
            "warning": session.silence.warning,
            "notes": self.notes(&session.stream),
            "tracks": publishing.chain(viewing).collect::<Vec<_>>(),
        }))
    }

    fn said_to_publisher(&self, session: &Session, now: Instant) -> Said {
        match session.media {
            None => CONNECTING,
            Some(_) if session.silence.moves(now) => LIVE,
            Some(_) => ("silent", "Nothing of it arrives at the server."),
        }
    }

    fn said_to_viewer(&self, session: &Session, now: Instant) -> Said {
        if session.media.is_none() {
            return CONNECTING;
        }
        match session.silence.warning {
            Some(super::silence::UNHEARD) => return UNHEARD,
            Some(_) => return KEPT_BACK,
            None => {}
        }
        if let Some(source) = self.ingest.sources.get(&session.stream) {
            return match (source.status().state, source.pushed) {
                (State::Playing, _) => LIVE,
                (State::Idle | State::Connecting, false) => CAMERA_JOINING,
                (State::Idle | State::Connecting, true) => JOINING,
                (State::Waiting, false) => CAMERA_AWAY,
                (State::Waiting, true) => AWAY,
            };
        }
        let publisher = self.streams.publisher(&session.stream).and_then(|key| self.sessions.get(key));
        match publisher {
            None => AWAY,
            Some(publisher) if publisher.media.is_none() => JOINING,
            Some(publisher) if publisher.silence.moves(now) => LIVE,
            Some(_) => SILENT,
        }
    }

    /// What viewers should know of a stream: what its camera sends that browsers do not play, or play badly.
    fn notes(&self, stream: &str) -> Vec<String> {
        let source = self.source(stream).map(|(_, source)| source).unwrap_or_default();
        let words = |key| source.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let left_out = words("left_out").map(|what| format!("left out: {what}"));
        left_out.chain(words("warnings").map(str::to_owned)).collect()
    }
}
