//! Keys into the engine when DTLS is complete, and out of it at the end; peers that move, and their consent.

use std::collections::HashMap;
use std::time::Instant;

use super::Task;
use super::arrivals::Reports;
use super::learn::SEARCHES_PER_SECOND;
use crate::stream::What;
use crate::stream::allowance::Allowance;
use crate::stream::budget::{Budget, Unknown};
use crate::stream::ids::{Key, random_ssrc};
use crate::stream::session::{Attachment, Media};
use penstock_engine::{EngineError, NewSession, Profile, Role, SessionId};
use penstock_srtp::kdf::Keys;
use penstock_srtp::srtcp::{RtcpOpener, RtcpSealer, RtpOpener};
use penstock_webrtc::dtls::Keying;
use penstock_webrtc::estimate::Estimate;
use penstock_webrtc::keys;
use penstock_webrtc::layers::Choice;
use penstock_webrtc::peer::Pair;

/// Packets with a session's SSRC, from addresses that no session has, that are authenticated in a second.
const STRAYS_PER_SECOND: u32 = 20;
/// Packets of layers of unknown size that are looked into in a second: a large keyframe of each of three layers.
const UNSEEN_PER_SECOND: u32 = 1000;

impl Task {
    /// DTLS is complete: keys go to the engine now, and not before.
    pub(in crate::stream) fn connected(&mut self, key: Key, keying: &Keying, pair: Pair, now: Instant) {
        let keys = match self.session_keys(key, keying, pair) {
            Ok(keys) => keys,
            Err(why) => {
                self.counters.refused_srtp_profile += 1;
                return self.close(key, why);
            }
        };
        if let Err(why) = self.take_name(key, now) {
            return self.close(key, &why);
        }
        self.sessions.connected(key);
        self.turnover.count(now);
        let Some(engine) = self.carry(key, &keys, pair) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(ends) = session.grant.ends_ns {
            self.engine.end_session_at(engine, ends);
        }
        session.media = Some(Media {
            engine,
            profile: keys.incoming.rtp.profile,
            pair,
            rtp: (session.role == Role::Publisher).then(|| RtpOpener::new(&keys.incoming.rtp)),
            opener: RtcpOpener::new(&keys.incoming.rtcp),
            sealer: RtcpSealer::new(&keys.outgoing.rtcp),
            ssrc: random_ssrc(),
            connected: now,
            refreshed: now,
            next_report: now + self.config.report_interval,
            next_remb: now,
            estimate: Estimate::new(self.config.remb_start),
            allowance: Allowance::default(),
            strays: Budget::new(now, STRAYS_PER_SECOND),
            transport: session.has_transport_feedback().then(|| Reports::new(now)),
            unknown: Unknown::new(now),
            unseen: Budget::new(now, UNSEEN_PER_SECOND),
            choice: Choice::default(),
            next_layers: None,
            clock: None,
            reference: None,
            former: HashMap::new(),
            heard: HashMap::new(),
            searches: Budget::new(now, SEARCHES_PER_SECOND),
        });
        self.counters.sessions_connected += 1;
        let (profile, by) = (keys.incoming.rtp.profile.name(), self.engine.describe_session(engine));
        let (name, stream, role) = (&session.name, session.stream.clone(), session.role);
        tracing::info!(session = name, stream, ?role, peer = %pair.peer, profile, engine = by, "session connected");
        self.notices.tell(&stream, What::SessionConnected { session: session.name.clone(), role });
        match role {
            Role::Publisher => {
                self.tell_ready(&stream, true);
                self.close_mismatched(&stream);
            }
            Role::Subscriber => self.attach_all_of(key, now),
        }
    }

    /// A publisher has shown who it is: the stream's name is its own, unless somebody else has it.
    fn take_name(&mut self, key: Key, now: Instant) -> Result<(), String> {
        let Some(session) = self.sessions.get(key).filter(|session| session.role == Role::Publisher) else {
            return Ok(());
        };
        let stream = session.stream.clone();
        self.make_way(&stream, now).map_err(|refusal| refusal.to_string())?;
        self.streams.join(&stream, Role::Publisher, key);
        Ok(())
    }

    /// The keys that the handshake gave, if their profile is allowed. `Err`: why the session ends.
    fn session_keys(&self, key: Key, keying: &Keying, pair: Pair) -> Result<Keys, &'static str> {
        let refused = |why: &dyn std::fmt::Display| {
            if let Some(session) = self.sessions.get(key) {
                tracing::warn!(session = session.name, stream = session.stream, peer = %pair.peer, "refused: {why}");
            }
        };
        let keys = keys::derive(keying).map_err(|error| {
            refused(&error);
            "no SRTP profile in common"
        })?;
        let profile = keys.incoming.rtp.profile;
        if profile == Profile::AesCm128HmacSha1_80 && !self.config.counter_mode {
            let name = profile.name();
            refused(&format_args!("the peer offered only {name}, which `media.srtp_profiles` does not have"));
            return Err("its SRTP profile is not allowed");
        }
        Ok(keys)
    }

    /// Gives the session to the engine. `None`: it is refused, and closed.
    fn carry(&mut self, key: Key, keys: &Keys, pair: Pair) -> Option<SessionId> {
        let Some(transport) = self.sockets.transport(pair) else {
            self.close(key, "its peer's connection is gone");
            return None;
        };
        let session = self.sessions.get(key)?;
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
            of_source: session.role == Role::Subscriber && self.streams.has_source(&session.stream),
        });
        let error = match added {
            Ok(engine) => return Some(engine),
            Err(error) => error,
        };
        match error {
            EngineError::Profile { .. } => self.counters.refused_srtp_profile += 1,
            _ => self.counters.refused_by_engine += 1,
        }
        tracing::warn!(session = session.name, stream = session.stream, "the engine refused the session: {error}");
        self.close(key, "the engine refused it");
        None
    }

    /// ICE nominated another pair; keys, SSRCs and indices stay.
    pub(super) fn moved(&mut self, key: Key, pair: Pair) {
        let Some(transport) = self.sockets.transport(pair) else { return };
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

    /// Takes a session's media out of the engine. Before DTLS is closed.
    pub(super) fn stop_media(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let stream = session.stream.clone();
        for track in 0..session.publisher_tracks().len() {
            self.stop_source(key, track, &stream);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
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
}
