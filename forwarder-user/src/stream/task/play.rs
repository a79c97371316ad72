//! Players by RTSP: what they are told of a stream, and from which of its tracks they hear.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Task;
use super::feedback::rtp_now;
use crate::ingest::State as SourceState;
use crate::ingest::play::{Asked, Listening, Moment, PlayerId, Reply, Unplayable};
use crate::stream::Refusal;
use crate::stream::players::{Player, PlayerTrack, State};
use penstock_engine::Kind;
use penstock_media::codec::Format;
use penstock_webrtc::sdp::Sent;

/// How often players are told of the clocks that their sender reports need.
const CLOCKS: Duration = Duration::from_secs(1);
/// Players of one stream that may wait for its source to be described.
const MAX_WAITING: usize = 64;

const OTHER_CODEC: &str = "the stream's new publisher sends another codec";

impl Task {
    pub(super) fn player_asks(&mut self, player: PlayerId, asked: Asked, now: Instant) {
        match asked {
            Asked::Watch { stream, peer, reply } => self.watch(player, stream, peer, reply),
            Asked::Listen(tracks) => self.listen(player, tracks, now),
            Asked::Leave => self.end_player(player, None),
        }
    }

    fn watch(&mut self, id: PlayerId, stream: String, peer: SocketAddr, reply: Reply) {
        let formats = match self.streams.is_undescribed(&stream) {
            true => self.may_wait(&stream).map(|()| None),
            false => self.formats_told(&stream).map(Some).map_err(|refusal| match refusal {
                Refusal::NotFound(why) | Refusal::NobodyPublishes(why) => Unplayable::NotFound(why),
                other => Unplayable::Unavailable(other.to_string()),
            }),
        };
        let room = self.takes_viewer(&stream).map_err(|refusal| Unplayable::Unavailable(refusal.to_string()));
        let formats = match formats.and_then(|formats| room.map(|()| formats)) {
            Ok(formats) => formats,
            Err(why) => {
                self.counters.refused_players += 1;
                let _ = reply.send(Err(why));
                return;
            }
        };
        let mut player = Player { stream: stream.clone(), peer, formats: vec![], state: State::Waiting(reply) };
        if formats.is_some_and(|formats| !player.answer(formats)) {
            return;
        }
        self.counters.players += 1;
        self.players.insert(id, player);
        self.streams.join_player(&stream, id);
        self.update_demand(&stream);
    }

    /// What players are told of a stream. Should its publisher send otherwise, they end, and are told anew.
    fn formats_told(&self, stream: &str) -> Result<Vec<Format>, Refusal> {
        let mut formats: Vec<Format> = vec![];
        // Of several layers of a picture one is played.
        for Sent { format, .. } in self.stream_formats(stream)? {
            if formats.iter().all(|told| told.codec.kind() != format.codec.kind()) {
                formats.push(format);
            }
        }
        Ok(formats)
    }

    /// May one more wait until it is known what a source sends?
    fn may_wait(&self, stream: &str) -> Result<(), Unplayable> {
        let status = self.ingest.sources.get(stream).map(|source| source.status()).unwrap_or_default();
        if status.state == SourceState::Waiting {
            let why = status.error_text.unwrap_or_default();
            return Err(Unplayable::Unavailable(format!("the source of {stream:?} has failed: {why}")));
        }
        let waits = |id: &PlayerId| matches!(self.players.get(id).map(|one| &one.state), Some(State::Waiting(_)));
        match self.streams.players(stream).iter().filter(|id| waits(id)).count() < MAX_WAITING {
            true => Ok(()),
            false => Err(Unplayable::Unavailable(format!("{MAX_WAITING} players wait for {stream:?} already"))),
        }
    }

    /// It is known now what the source of a stream sends, or why it sends nothing.
    pub(super) fn answer_players(&mut self, stream: &str, failed: Option<&str>) {
        for id in self.streams.players(stream) {
            if !matches!(self.players.get(&id).map(|player| &player.state), Some(State::Waiting(_))) {
                continue;
            }
            let formats = match failed {
                None => self.formats_told(stream).map_err(|refusal| refusal.to_string()),
                Some(why) => Err(why.to_owned()),
            };
            match formats {
                Ok(formats) => {
                    if self.players.get_mut(&id).is_some_and(|player| !player.answer(formats)) {
                        self.end_player(id, None);
                    }
                }
                Err(why) => {
                    let waiting = self.players.remove(&id);
                    self.streams.leave_player(stream, id);
                    if let Some(Player { state: State::Waiting(reply), .. }) = waiting {
                        let _ = reply.send(Err(Unplayable::Unavailable(why)));
                    }
                }
            }
        }
    }

    fn listen(&mut self, id: PlayerId, listening: Vec<Listening>, now: Instant) {
        let Some(player) = self.players.get_mut(&id) else { return };
        let State::Watching { tracks, .. } = &mut player.state else { return };
        *tracks = listening
            .into_iter()
            .map(|Listening { track, ear, reference }| PlayerTrack { track, ear, reference, from: None })
            .collect();
        let stream = player.stream.clone();
        tracing::info!(stream, peer = %player.peer, player = id, "RTSP player plays");
        for kind in [Kind::Audio, Kind::Video] {
            self.attach_player(id, kind);
        }
        // What was sent before is of no use to it without one.
        self.ask_for_keyframe(&stream, now);
    }

    /// A stream's tracks of one kind are in the engine, perhaps others than before.
    pub(super) fn attach_players(&mut self, stream: &str, kind: Kind, now: Instant) {
        let mut any = false;
        for id in self.streams.players(stream) {
            any |= self.attach_player(id, kind);
        }
        if any && kind == Kind::Video {
            self.ask_for_keyframe(stream, now);
        }
    }

    /// Lets a player hear what its stream's publisher sends of one kind. `false`: it does so already, or cannot.
    fn attach_player(&mut self, id: PlayerId, kind: Kind) -> bool {
        let Some(player) = self.players.get_mut(&id) else { return false };
        let sent = self.streams.sent(&player.stream, &self.sessions);
        let sent = sent.iter().find(|track| track.kind() == kind && track.is_forwarded());
        let Some((sent, source)) = sent.and_then(|sent| Some((sent, sent.source.as_ref()?))) else { return false };
        let Player { formats, state: State::Watching { tracks, .. }, stream, .. } = player else { return false };
        let is_it = |track: &&mut PlayerTrack| formats.get(track.track).is_some_and(|f| f.codec == sent.format.codec);
        let Some(track) = tracks.iter_mut().find(is_it).filter(|track| track.from != Some(source.id)) else {
            return false;
        };
        let former = track.from.replace(source.id);
        if former.is_some() {
            track.ear = track.ear.for_another();
        }
        let listens = self.engine.listen(source.id, track.ear.clone());
        // It may go on without us: another layer.
        former.into_iter().for_each(|former| self.engine.forget_listeners(former));
        match listens {
            Ok(()) => true,
            Err(error) => {
                self.counters.refused_by_engine += 1;
                tracing::warn!(stream, player = id, "the engine refused a track to an RTSP player: {error}");
                false
            }
        }
    }

    /// A new publisher cannot serve players that were told of another codec.
    pub(super) fn end_mismatched_players(&mut self, stream: &str) {
        let sent = self.streams.sent(stream, &self.sessions);
        let other = |player: &Player| {
            player.formats.iter().any(|told| {
                let sent = sent.iter().find(|track| track.kind() == told.codec.kind() && track.is_forwarded());
                sent.is_some_and(|sent| sent.format.codec != told.codec)
            })
        };
        let gone = self.streams.players(stream).into_iter();
        let gone: Vec<_> = gone.filter(|id| self.players.get(id).is_some_and(other)).collect();
        for id in gone {
            self.end_player(id, Some(OTHER_CODEC));
        }
    }

    /// Takes a player out. `why`: it is told so, since it has not left by itself.
    fn end_player(&mut self, id: PlayerId, why: Option<&'static str>) {
        let Some(player) = self.players.remove(&id) else { return };
        let Player { stream, peer, state, .. } = player;
        self.streams.leave_player(&stream, id);
        self.update_demand(&stream);
        tracing::info!(stream, %peer, player = id, "RTSP player gone: {}", why.unwrap_or("it left"));
        let State::Watching { end, tracks } = state else { return };
        if let Some(why) = why {
            // It may leave at the same moment.
            let _ = end.send(why);
        }
        let heard: Vec<_> = tracks.into_iter().filter_map(|track| track.from).collect();
        for from in heard {
            self.engine.forget_listeners(from);
        }
    }

    /// What players' sender reports are made of (RFC 3550 §6.4.1): a moment of the publisher's clock, as for viewers.
    pub(super) fn tell_players_the_time(&mut self, now: Instant) {
        if self.players.is_empty() || now < self.players_told + CLOCKS {
            return;
        }
        self.players_told = now;
        let ntp = self.ntp.at(now);
        for player in self.players.values() {
            let sent = self.streams.sent(&player.stream, &self.sessions);
            let clock = self.streams.clock(&player.stream, &self.sessions);
            for track in player.tracks() {
                let rtp = track.from.and_then(|from| rtp_now(sent, clock, from, ntp, self.engine.as_ref()));
                if let Some(rtp) = rtp {
                    track.reference.set(Moment { turn: track.ear.turn(), at: now, ntp, rtp });
                }
            }
        }
    }
}
